//! Every maximum of the store, in one place, with the relations between them checked at compile time.
//!
//! A limit that a user can meet has an error of its own where it is enforced; a limit on a queue or buffer
//! shows in metrics when it is hit. Sizes are in bytes unless the name says otherwise.

use std::time::Duration;

/// Longest key of a user.
pub const KEY_MAX: usize = 4 * 1024;
/// Largest value of a user.
pub const VALUE_MAX: usize = 8 * 1024 * 1024;
/// Most siblings (concurrent versions) one key may hold; a put that would make more is refused.
pub const SIBLINGS_MAX: usize = 32;
/// Most bytes all siblings of one key may hold together; a put that would make more is refused.
pub const SIBLINGS_BYTES_MAX: usize = 16 * 1024 * 1024;
/// Requests one version remembers as superseded by it, the latest ones.
pub const SUPERSEDED_MAX: usize = 8;
/// Most actors one causal context may name. Each owner adds one per storage epoch, so this is never met in health.
pub const CONTEXT_ACTORS_MAX: usize = 512;
/// Longest namespace name.
pub const NAMESPACE_NAME_MAX: usize = 64;
/// Longest node name (a DNS label).
pub const NODE_NAME_MAX: usize = 63;
/// Longest zone name.
pub const ZONE_NAME_MAX: usize = 64;
/// Longest cluster name.
pub const CLUSTER_NAME_MAX: usize = 64;

/// Most copies of a key.
pub const REPLICAS_MAX: usize = 16;
/// Trees that a node fetches at the same time when it is to own more, or drops when it owns them no more.
pub const COPIES_AT_ONCE: usize = 4;

/// Longest name of a task that is taken in an order.
pub const TASK_ID_MAX: usize = 128;
/// Tasks that have ended and that a node still tells of; older ones are forgotten.
pub const TASKS_ENDED_MAX: usize = 16;
/// Tasks that an administrator holds, by name, at one node. Beyond, an order to hold another is refused.
pub const TASKS_PAUSED_MAX: usize = 64;

/// Most nodes of one cluster.
pub const MEMBERS_MAX: usize = 1024;
/// Namespaces of a cluster.
pub const NAMESPACES_MAX: usize = 1024;
/// Fewest partitions of the hash space.
pub const PARTITIONS_MIN: u32 = 16;
/// Most partitions of the hash space.
pub const PARTITIONS_MAX: u32 = 65_536;
/// Partitions of a cluster that does not say otherwise.
pub const PARTITIONS_DEFAULT: u32 = 1024;
/// Largest weight of a node.
pub const WEIGHT_MAX: u32 = 1_000;
/// Searches for room on other nodes that may fail before placement leaves the remaining nodes above their limits:
/// failures are expensive. None has been seen in tens of thousands of random rings.
pub const RING_SEARCHES_FAILED_MAX: u32 = 8;

/// Most bytes a record takes beside the values it holds: context, dots, stamps and header.
pub const RECORD_OVERHEAD_MAX: usize = 64 * 1024;
/// Largest encoded record. Coordinators that cannot see each other may each fill a key, so a merged record can hold
/// what three of them took.
pub const RECORD_MAX: usize = 3 * SIBLINGS_BYTES_MAX + RECORD_OVERHEAD_MAX;

/// Largest frame on a lane; what is larger travels on a stream of its own at lower priority.
pub const LANE_FRAME_MAX: usize = 64 * 1024;
/// Largest frame at all.
pub const FRAME_MAX: usize = 64 * 1024 * 1024;
/// Most bytes that are packed for a far path; more would hold a thread for longer than requests should wait for it.
pub const PACKED_MAX: usize = 1024 * 1024;
/// Bytes one lane may hold unsent before its senders wait.
pub const LANE_BUFFER_MAX: usize = 1024 * 1024;
/// Requests one connection may have unanswered before its reader waits.
pub const REQUESTS_PER_CONNECTION_MAX: usize = 8 * 1024;
/// Bytes of unanswered requests one connection may hold before its reader waits.
pub const REQUEST_BYTES_PER_CONNECTION_MAX: usize = 128 * 1024 * 1024;
/// Bytes of requests on bulk streams that one endpoint reads or works on at once, of nodes, and as many of all others. With
/// more, streams wait unread.
pub const BULK_REQUEST_BYTES_MAX: usize = 256 * 1024 * 1024;
/// Bytes asked of the system for each of a UDP socket's two buffers.
pub const SOCKET_BUFFER: usize = 4 * 1024 * 1024;
/// Lanes one peer may open on a connection.
pub const LANES_MAX: u32 = 16;
/// Bulk streams one peer may have open on a connection.
pub const BULK_STREAMS_MAX: u32 = 64;
/// Clients that may wait for news of the cluster at one node: one request of each connection.
pub const WATCHERS_MAX: usize = CONNECTIONS_MAX;
/// Longest time a client waits for news of the cluster in one request.
pub const WATCH_MAX: Duration = Duration::from_secs(30);
/// Operations one client has under way at once; further ones wait. One with a large request counts as several, one for
/// each [`CLIENT_OPERATION_BYTES`].
pub const CLIENT_OPERATIONS_MAX: usize = 16 * 1024;
/// Bytes of an operation's request that are free of charge beside the operation itself.
pub const CLIENT_OPERATION_BYTES: usize = 16 * 1024;
/// Attempts at one operation that are under way at once, at different nodes.
pub const CLIENT_ATTEMPTS_MAX: usize = 3;
/// Nodes that own nothing of a key and are asked all the same, in one round, when its owners have failed.
pub const CLIENT_STRANGERS_MAX: usize = 4;
/// Keys of which one session remembers what it has seen; beyond, those not used for longest are forgotten.
pub const SESSION_KEYS_MAX: usize = 64 * 1024;
/// Connections one node accepts, from clients and peers together.
pub const CONNECTIONS_MAX: usize = 10_000;

/// Connections that may be in their handshake at once; beyond it new ones are refused.
pub const HANDSHAKES_MAX: usize = 512;
/// Handshakes in progress above which a new peer must first prove that it owns its address.
pub const HANDSHAKES_UNPROVEN_MAX: usize = 64;
/// Nodes and directions that an endpoint tells apart in the count of its connections.
pub const CENSUS_MAX: usize = 2 * MEMBERS_MAX;
/// Refused peers (address and reason) a node remembers, so that it logs each once.
pub const REFUSALS_REMEMBERED_MAX: usize = 1024;
/// Longest time a handshake may take.
pub const HANDSHAKE_PATIENCE: Duration = Duration::from_secs(10);
/// Time between signs of life on a connection on which nothing is awaited. Firewalls remember UDP for two minutes as a rule; an
/// address translator that forgets sooner does no harm, since a connection survives another address of its client.
pub const QUIET_KEEP_ALIVE: Duration = Duration::from_secs(100);
/// Silence after which such a connection is lost.
pub const QUIET_IDLE: Duration = Duration::from_secs(330);
/// Longest time that a peer which takes no more requests may take to answer those it has.
pub const DRAIN_MAX: Duration = Duration::from_secs(10);
/// Shortest time between looks at connections on which something is awaited.
pub const VIGIL_PAUSE_MIN: Duration = Duration::from_millis(20);
/// Bytes that a connection keeps of signs of life that nobody reads, their bookkeeping included.
pub const SIGNS_OF_LIFE_BYTES: usize = 256;
/// Bytes a peer may have under way on one connection before it must wait for the reader.
pub const RECEIVE_WINDOW: u32 = 32 * 1024 * 1024;
/// Bytes a peer may have under way on one stream before it must wait for the reader.
pub const STREAM_RECEIVE_WINDOW: u32 = 8 * 1024 * 1024;
/// Bytes one connection keeps sent but not yet acknowledged: the largest frame, and room for the lanes beside it.
pub const SEND_WINDOW: usize = FRAME_MAX + 8 * 1024 * 1024;
/// Bytes that a new connection sends before the first acknowledgement: as many packets as some twenty small requests to begin with take.
pub const INITIAL_WINDOW: u64 = 48 * 1024;
/// Grants one client certificate may carry.
pub const GRANTS_MAX: usize = 64;
/// Longest name of a client or an administrator.
pub const CLIENT_NAME_MAX: usize = 64;
/// Addresses one peer may be reached at.
pub const ADDRESSES_MAX: usize = 16;

/// Keys of one multi-get or multi-put.
pub const BATCH_KEYS_MAX: usize = 1_000;
/// Bytes of keys and values of one multi-put.
pub const BATCH_BYTES_MAX: usize = 16 * 1024 * 1024;
/// Longest line of a file of writes: the largest value and key, each byte as the six of a JSON escape, and a bit.
pub const BATCH_LINE_MAX: usize = 6 * (VALUE_MAX + KEY_MAX) + 1024;
/// Keys one page of a scan holds at most.
pub const SCAN_PAGE_MAX: usize = 1_000;
/// Bytes after which a page of a scan ends early.
pub const SCAN_PAGE_BYTES: usize = 1024 * 1024;
/// Operations the replica takes into one storage batch.
pub const STORE_BATCH_MAX: usize = 256;
/// Longest key inside a partition of the storage: a user's key, its namespace, and what the layer above puts around.
pub const STORE_KEY_MAX: usize = KEY_MAX + NAMESPACE_NAME_MAX + 16;
/// Reads, or mutations, of one call to the storage.
pub const STORE_CALL_MAX: usize = 4 * STORE_BATCH_MAX;
/// Average time of a storage call above which the storage counts as slow.
pub const STORE_SLOW: Duration = Duration::from_millis(250);
/// Time without any storage call finishing, while some are under way, after which the storage counts as down.
pub const STORE_STALLED: Duration = Duration::from_secs(10);
/// How often a storage engine looks after itself: retries what failed, checks its server.
pub const STORE_UPKEEP: Duration = Duration::from_secs(1);
/// How often the node writes down how far its storage has come, to notice later that it was rolled back.
pub const STORE_MEMO_INTERVAL: Duration = Duration::from_secs(10);
/// How often the embedded engine syncs when it was told to sync never.
pub const STORE_UNSYNCED_MAX: Duration = Duration::from_secs(60);
/// Shortest interval between syncs of the embedded engine.
pub const STORE_SYNC_INTERVAL_MIN: Duration = Duration::from_millis(1);
/// Keys the embedded engine deletes of a partition before it lets other writes through.
pub const STORE_DELETE_STEP: usize = 1_000;
/// Bytes the embedded engine writes to find out whether a full disk has room again.
pub const STORE_ROOM_PROBE: usize = 256 * 1024;
/// Most bytes the embedded engine collects in memory before it writes them to a table of their own.
pub const STORE_MEMTABLE_MAX: u64 = 16 * 1024 * 1024;
/// Fewest bytes the same, when the cache is small.
pub const STORE_MEMTABLE_MIN: u64 = 64 * 1024;
/// Full collections of the embedded engine that may wait to be written; with more, writers wait.
pub const STORE_MEMTABLES_WAITING: usize = 3;
/// New tables of the embedded engine that may wait to be merged; with more, writers wait.
pub const STORE_TABLES_NEW_MAX: usize = 20;
/// How long a writer waits before it looks again whether the embedded engine has caught up.
pub const STORE_CROWDED_PAUSE: Duration = Duration::from_millis(2);
/// Bytes from which on the embedded engine keeps values apart from their keys, so that merging tables need not copy
/// them.
pub const STORE_VALUE_APART: u32 = 4 * 1024;
/// Largest value that the embedded engine keeps among the records that were used lately.
pub const STORE_RECENT_VALUE_MAX: usize = 64 * 1024;
/// Files of its own that the embedded engine keeps open.
pub const STORE_OPEN_FILES: usize = 256;
/// Entries of the embedded engine up to which it counts its records; beyond, it estimates, since counting reads them, and
/// whoever asks a cluster how it is has all nodes count at once.
pub const STORE_COUNTED_MAX: usize = 2_000;
/// Bytes of the file that the embedded engine writes beside its store to find out the same before it tries itself.
pub const STORE_ROOM_FILE: usize = 16 * 1024 * 1024;
/// Longest pause between attempts to write to a failed disk again, in intervals of upkeep.
pub const STORE_RECOVERY_PAUSE_MAX: u32 = 64;
/// Longest wait between attempts to reach Redis again.
pub const REDIS_BACKOFF_MAX: Duration = Duration::from_secs(2);
/// First wait between attempts to reach Redis again.
pub const REDIS_BACKOFF_MIN: Duration = Duration::from_millis(50);
/// Longest file in which a node remembers the state of its storage.
pub const STORE_MEMO_MAX: u64 = 4 * 1024;

/// Keys that clients have a node read or write at the same time, as their coordinator.
pub const CLIENT_WORK_MAX: usize = 2 * 1024;
/// Keys that may wait for that. Beyond, requests are turned away.
pub const CLIENT_WORK_WAITING_MAX: usize = 16 * 1024;
/// Keys that other nodes have a node read or write at the same time. Beyond, their requests are turned away.
pub const NODE_WORK_MAX: usize = 64 * 1024;
/// Bytes of the requests that a node works on or that wait there: those of clients, and as many of other nodes.
pub const WORK_BYTES_MAX: usize = 256 * 1024 * 1024;
/// Operations that may wait for the replica before callers wait too.
pub const REPLICA_QUEUE_MAX: usize = 4 * 1024;

/// Bytes asked of the system for each of the gossip socket's two buffers.
pub const GOSSIP_SOCKET_BUFFER: usize = 1024 * 1024;
/// Requests that gossip has under way over connections at the same time. Beyond, pings and synchronisations fail.
pub const GOSSIP_STREAMS_MAX: usize = 256;
/// Orders that may wait for the task of gossip before those who give them wait.
pub const GOSSIP_QUEUE_MAX: usize = 1024;
/// Datagrams that the task of gossip takes in one after the other while orders wait for it.
pub const GOSSIP_DATAGRAMS_IN_A_ROW: usize = 64;
/// How long the task of gossip has to answer what is asked of it.
pub const GOSSIP_ANSWER_PATIENCE: Duration = Duration::from_millis(500);
/// Messages of gossip kept until the certificate has come that their records need. Beyond, the oldest are dropped.
pub const GOSSIP_PUT_ASIDE_MAX: usize = 64;
/// Members greeted at the same time.
pub const GREETINGS_AT_ONCE: usize = 16;
/// Certificates of members that are remembered.
pub const CREDENTIALS_MAX: usize = 4 * MEMBERS_MAX;
/// Certificates asked for in one greeting.
pub const CREDENTIALS_WANTED_MAX: usize = 64;
/// Longest file in which a node remembers the other members, their certificates, or keys.
pub const MEMBERS_FILE_MAX: u64 = 64 * 1024 * 1024;
/// Keys one gossip keyring holds, removed ones among them, which must be remembered.
pub const KEYS_MAX: usize = 256;
/// How long a node has had a key before it seals with it, while the one before still works: the others need it too.
pub const KEY_SETTLE: Duration = Duration::from_secs(10);
/// Gossip datagrams of one sender that may arrive out of order; older ones count as seen. A multiple of 64.
pub const REPLAY_WINDOW: usize = 1024;
/// Senders of gossip whose counters a node remembers. With more, the one silent for longest is forgotten.
pub const GOSSIP_SENDERS_MAX: usize = 2 * MEMBERS_MAX;
/// Silence of a sender's present life after which one that seems to be earlier is believed: its clock went back.
pub const BOOT_SILENCE: Duration = Duration::from_secs(10);

/// Longest time a request may ask for.
pub const DEADLINE_MAX: Duration = Duration::from_secs(300);
/// Writes and repairs one node finishes in the background after their requests were answered. Beyond, requests wait for
/// their slow replicas.
pub const BACKGROUND_MAX: usize = 4 * 1024;
/// Keys of one node that are reserved for conditional writes at the same time.
pub const RESERVATIONS_MAX: usize = 16 * 1024;
/// Longest time for which a key is reserved before its write begins.
pub const RESERVATION_LEASE_MAX: Duration = Duration::from_secs(10);
/// Shortest age at which a record without a live version may be dropped: whatever was asked for before has ended by then.
pub const REAP_AFTER_MIN: Duration = Duration::from_secs(2 * DEADLINE_MAX.as_secs());
/// Longest wait for the work that a node had begun.
pub const REAP_SETTLING_MAX: Duration = Duration::from_secs(60);
/// Longest time from the first question about a dead record to the order to drop it.
pub const REAP_ROUND_MAX: Duration = DEADLINE_MAX;
/// Dead records of one round.
pub const REAP_KEYS_MAX: usize = 4 * 1024;
/// Dead records in one message.
pub const REAP_MESSAGE_KEYS_MAX: usize = 128;
/// Largest count of a node's own dots in a record that is dropped: it becomes the least for all keys, and clients name
/// counts, too.
pub const REAP_COUNT_MAX: u64 = 1 << 60;
/// Counts, as a power of two, that a start of a node keeps apart from those of other starts: as many versions as it may name
/// of one key before it is started again.
pub const COUNTS_PER_START_BITS: u32 = 32;
/// Starts on one storage whose counts are kept apart.
pub const STARTS_MAX: u64 = (1 << 26) - 1;
/// Keys that another owner is asked about in one message, whether they were dropped there.
pub const DROPPED_KEYS_MAX: usize = 256;
/// How long a node remembers the context of a record that was dropped.
pub const GRAVE_LASTS: Duration = Duration::from_secs(3 * DEADLINE_MAX.as_secs());
/// Bytes of all contexts that are remembered so. Beyond, nothing more is dropped until some lapse.
pub const GRAVES_BYTES_MAX: usize = 32 * 1024 * 1024;
/// Hints that one node keeps one by one for one target, at most. Those beyond collapse to marks, one for each bucket.
pub const HINTS_PER_TARGET_MAX: u64 = 1_000_000;
/// Hints for one target that are delivered before trees are compared with it. With more, both go on together.
pub const HINTS_BEFORE_SYNC_MAX: u64 = 10_000;
/// Hints that are read, delivered and forgotten together.
pub const HINT_PAGE_MAX: usize = 256;
/// Hints in one message; fewer when their records fill [`SYNC_BYTES`].
pub const HINTS_IN_MESSAGE_MAX: usize = 128;
/// Bytes of records in a message of hints from which on the target is asked first which of them it has.
pub const HINTS_ASKED_BYTES: usize = 256 * 1024;
/// Longest text of log filters that a node takes while it runs.
pub const LOG_FILTER_MAX: usize = 4 * 1024;
/// Slow requests that are logged within one second; the others are counted.
pub const SLOW_LOGGED_PER_SECOND: u32 = 10;
/// Connections that the admin listener serves at once; further ones wait in the system's queue.
pub const ADMIN_CONNECTIONS_MAX: usize = 64;
/// Bytes of one request to the admin listener, its headers included.
pub const ADMIN_REQUEST_MAX: usize = 16 * 1024;
/// Headers of one request to the admin listener.
pub const ADMIN_HEADERS_MAX: usize = 64;
/// Longest time in which the headers of a request to the admin listener must have come.
pub const ADMIN_HEADERS_PATIENCE: Duration = Duration::from_secs(5);
/// Longest life of a connection to the admin listener, which is for one request.
pub const ADMIN_PATIENCE: Duration = Duration::from_secs(30);
/// Longest time that the storage is asked how much it holds, for metrics and status.
pub const STORE_SIZE_PATIENCE: Duration = Duration::from_secs(1);
/// For how long what it said is told again.
pub const STORE_SIZE_FRESH: Duration = Duration::from_secs(1);
/// Leaves of all hash trees of one node, for one replica count; 16 bytes each.
pub const TREE_LEAVES_MAX: u32 = 1 << 18;
/// Fewest leaves of one hash tree.
pub const TREE_LEAVES_MIN: u32 = 4;
/// Writes to one partition that are remembered while a page of it is read for its trees. With more, it is read again.
pub const TREE_WRITTEN_MAX: usize = 16 * 1024;
/// Records of one page that is read for the trees.
pub const TREE_PAGE_MAX: usize = 256;
/// Bytes after which such a page ends early.
pub const TREE_PAGE_BYTES: usize = 256 * 1024;
/// How often each partition is read again to check its trees.
pub const TREE_CHECK_INTERVAL: Duration = Duration::from_secs(24 * 3600);
/// Largest file of kept trees.
pub const TREE_FILE_MAX: u64 = 128 * 1024 * 1024;
/// About how often a node at rest looks at what nobody tells it of: its storage, its connections, what is due. Looks ride on what
/// wakes it up anyway (`Env::look`), since waking up is most of what they cost.
pub const LOOK_EVERY: Duration = Duration::from_secs(1);
/// Shortest time between two looks, which are five kinds.
pub const LOOK_TURN: Duration = Duration::from_millis(200);
/// How often each tree is compared with each other owner's.
pub const SYNC_INTERVAL: Duration = Duration::from_secs(30);
/// The same where this side's tree has not changed since: if the other's has, that side asks.
pub const SYNC_INTERVAL_UNCHANGED: Duration = Duration::from_secs(300);
/// Trees compared in one message.
pub const SYNC_ROOTS_MAX: usize = 512;
/// Sums of one message.
pub const SYNC_SUMS_MAX: usize = 1024;
/// Records that one message says the sender holds.
pub const SYNC_HELD_MAX: usize = 2 * 1024;
/// Records one answer goes through before it ends early.
pub const SYNC_SCANNED_MAX: usize = 4 * 1024;
/// Bytes of records after which an answer, or a message of records, ends early.
pub const SYNC_BYTES: usize = 64 * 1024;
/// Records of one message of records.
pub const SYNC_RECORDS_MAX: usize = 64;
/// Records that work in the background writes in one piece, between which requests get their turn.
pub const PIECE_RECORDS: usize = 16;
/// The same of records that it drops, which takes less.
pub const DROPPED_RECORDS: usize = 64;
/// Pages of records a node puts together for its peers at the same time.
pub const SYNC_ANSWERS_MAX: usize = 4;
/// Longest configuration file that is read.
pub const CONFIG_FILE_MAX: u64 = 1024 * 1024;
/// Longest validity of a certificate that is issued, in days.
pub const CERTIFICATE_DAYS_MAX: u32 = 36_500;
/// Host names and addresses one node certificate may carry beside the node's own name.
pub const CERTIFICATE_HOSTS_MAX: usize = 64;
/// Longest certificate or key file that is read.
pub const PEM_FILE_MAX: u64 = 1024 * 1024;

/// Bytes of one gossip datagram as it leaves, sealing included: what passes every usual network in one piece.
pub const GOSSIP_DATAGRAM_MAX: usize = 1_400;
/// Bytes that sealing a gossip datagram may add.
pub const GOSSIP_SEAL_MAX: usize = 64;
/// Fewest bytes a gossip datagram must be able to hold before it is sealed: a record with its signature and the rest.
pub const GOSSIP_PLAIN_MIN: usize = GOSSIP_RECORD_MAX + GOSSIP_HEADER_MAX + 32;
/// Most bytes that a gossip datagram says about its sender and receiver before its parts.
pub const GOSSIP_HEADER_MAX: usize = 64;
/// Messages in one gossip datagram.
pub const GOSSIP_PARTS_MAX: usize = 256;
/// Largest record of a member with its signature.
pub const GOSSIP_RECORD_MAX: usize = 1_024;
/// Longest address in a member's record: a host name and a port.
pub const GOSSIP_ADDRESS_MAX: usize = 200;
/// Longest software version in a member's record.
pub const GOSSIP_SOFTWARE_MAX: usize = 32;
/// Longest public key in a member's record.
pub const GOSSIP_KEY_MAX: usize = 96;
/// Longest signature under a member's record.
pub const GOSSIP_SIGNATURE_MAX: usize = 128;
/// Largest incarnation a member may give itself; there is room above every clock in microseconds.
pub const INCARNATION_MAX: u64 = 1 << 56;
/// Members, dead and departed ones included, that are remembered. Beyond, those longest gone are forgotten.
pub const MEMBERS_REMEMBERED_MAX: usize = 2 * MEMBERS_MAX;
/// Members named as those who accuse one.
pub const ACCUSERS_MAX: usize = 4;
/// Members that one node probes at the same time.
pub const PROBES_MAX: usize = 128;
/// Pings that one node sends on behalf of others at the same time.
pub const RELAYS_MAX: usize = 256;
/// Bytes of one message of a synchronisation of members.
pub const GOSSIP_SYNC_MAX: usize = 512 * 1024;
/// Bytes of records in one such message; the rest follows in further ones.
pub const GOSSIP_SYNC_RECORDS: usize = 256 * 1024;
/// Messages of one synchronisation, each way.
pub const GOSSIP_SYNC_ROUNDS: u32 = 16;
/// Seed addresses that are tried.
pub const SEEDS_MAX: usize = 64;

/// Most nodes of a cluster that `dynamomini dev` runs on one machine.
pub const DEV_NODES_MAX: u16 = 32;
/// Bytes of a log's end that are looked at for its last lines.
pub const LOG_TAIL_MAX: u64 = 16 * 1024;
/// Bytes of an answer to a plain question to a redis-server of `dynamomini dev`.
pub const DEV_REDIS_ANSWER_MAX: u64 = 64 * 1024;

/// Most clients of `dynamomini bench`, each with connections of its own.
pub const BENCH_CLIENTS_MAX: usize = 256;
/// Most operations of `dynamomini bench` under way at once.
pub const BENCH_IN_FLIGHT_MAX: usize = 64 * 1024;
/// Most operations a second of an open loop of `dynamomini bench`.
pub const BENCH_RATE_MAX: u64 = 10_000_000;
/// Most keys of a data set of `dynamomini bench`, whose numbers have twelve digits; inserts may add as many again.
pub const BENCH_KEYS_MAX: u64 = 500_000_000_000;
/// Keys whose causal contexts `dynamomini bench` remembers. Beyond, writes go without, and the report says so.
pub const BENCH_CONTEXTS_MAX: usize = 1_000_000;
/// Longest latency that `dynamomini bench` tells from longer ones.
pub const BENCH_LATENCY_MAX: Duration = Duration::from_secs(600);
/// Intervals of a run of `dynamomini bench` that are kept; later ones are left out of its line of time.
pub const BENCH_POINTS_MAX: usize = 10_000;

const _: () = assert!(DEADLINE_MAX.as_secs() < BENCH_LATENCY_MAX.as_secs(), "an operation's latency must be told");
const _: () = assert!(BENCH_CLIENTS_MAX <= CONNECTIONS_MAX && BENCH_CLIENTS_MAX <= BENCH_IN_FLIGHT_MAX);
const _: () = assert!(FRAME_MAX <= BULK_REQUEST_BYTES_MAX && BULK_REQUEST_BYTES_MAX <= WORK_BYTES_MAX);
const _: () = assert!(FRAME_MAX <= WORK_BYTES_MAX, "the largest request must be admitted");
const _: () = assert!(BATCH_KEYS_MAX <= CLIENT_WORK_MAX && BATCH_KEYS_MAX <= NODE_WORK_MAX);
const _: () =
    assert!(CLIENT_WORK_MAX < NODE_WORK_MAX, "what was let in at one node must not be turned away at the next");
const _: () = assert!(VALUE_MAX <= SIBLINGS_BYTES_MAX, "one value must fit among the siblings");
const _: () = assert!(RECORD_MAX + KEY_MAX + 1024 <= FRAME_MAX, "a record with its key must fit a frame");
const _: () = assert!(BATCH_BYTES_MAX + BATCH_KEYS_MAX * 64 <= FRAME_MAX, "a batch must fit a frame");
const _: () = assert!(STORE_CALL_MAX >= BATCH_KEYS_MAX, "a multi-get must fit one call to the storage");
const _: () = assert!(STORE_RECENT_VALUE_MAX <= RECORD_MAX, "no record is larger than a record may be");
const _: () = assert!(BATCH_BYTES_MAX / CLIENT_OPERATION_BYTES < CLIENT_OPERATIONS_MAX, "a batch must be admitted");
const _: () = assert!(SYNC_BYTES <= PACKED_MAX && PACKED_MAX <= FRAME_MAX, "what moves in bulk is packed");
const _: () = assert!(LANE_FRAME_MAX < LANE_BUFFER_MAX, "a lane must hold more than one frame");
const _: () = assert!(FRAME_MAX <= REQUEST_BYTES_PER_CONNECTION_MAX, "the largest request must be admitted");
const _: () = assert!(3 * QUIET_KEEP_ALIVE.as_secs() < QUIET_IDLE.as_secs(), "two signs of life may be lost");
const _: () = assert!(HANDSHAKES_UNPROVEN_MAX < HANDSHAKES_MAX && HANDSHAKES_MAX < CONNECTIONS_MAX);
const _: () = assert!(REPLAY_WINDOW.is_multiple_of(64) && GOSSIP_SENDERS_MAX >= MEMBERS_MAX);
const _: () =
    assert!(ADMIN_HEADERS_PATIENCE.as_secs() < ADMIN_PATIENCE.as_secs(), "a request must leave time for its answer");
const _: () = assert!(PARTITIONS_MIN.is_power_of_two() && PARTITIONS_MAX.is_power_of_two());
const _: () = assert!(SCAN_PAGE_BYTES + RECORD_MAX <= FRAME_MAX, "a page ends after the record that fills it");
const _: () = assert!(GOSSIP_PLAIN_MIN <= GOSSIP_DATAGRAM_MAX - GOSSIP_SEAL_MAX, "a record must fit a datagram");
const _: () = assert!(
    NODE_NAME_MAX
        + ZONE_NAME_MAX
        + 2 * GOSSIP_ADDRESS_MAX
        + GOSSIP_SOFTWARE_MAX
        + GOSSIP_KEY_MAX
        + GOSSIP_SIGNATURE_MAX
        <= GOSSIP_RECORD_MAX - 192,
    "a record must hold the longest of everything, and 192 bytes of numbers"
);
const _: () = assert!(GOSSIP_SYNC_RECORDS + MEMBERS_REMEMBERED_MAX * 96 <= GOSSIP_SYNC_MAX);
const _: () = assert!(TREE_LEAVES_MAX.is_power_of_two() && TREE_LEAVES_MIN.is_power_of_two());
const _: () = assert!(TREE_LEAVES_MIN * PARTITIONS_MAX <= TREE_LEAVES_MAX, "all trees of a node stay within bounds");
const _: () = assert!(TREE_PAGE_MAX <= SCAN_PAGE_MAX && SYNC_RECORDS_MAX <= BATCH_KEYS_MAX);
const _: () = assert!(PIECE_RECORDS <= SYNC_RECORDS_MAX && PIECE_RECORDS <= STORE_BATCH_MAX);
const _: () = assert!(PIECE_RECORDS <= DROPPED_RECORDS && DROPPED_RECORDS <= STORE_BATCH_MAX);
const _: () = assert!(SYNC_BYTES + RECORD_MAX + SYNC_HELD_MAX * 16 <= FRAME_MAX, "an answer ends after what fills it");
const _: () = assert!(SYNC_ROOTS_MAX * 32 <= LANE_FRAME_MAX && SYNC_SUMS_MAX * 32 <= LANE_FRAME_MAX);
const _: () = assert!(REAP_AFTER_MIN.as_secs() > DEADLINE_MAX.as_secs(), "no request is older than what is dropped");
const _: () = assert!(SYNC_INTERVAL.as_secs() < SYNC_INTERVAL_UNCHANGED.as_secs());
const _: () = assert!(
    REAP_AFTER_MIN.as_secs() > SYNC_INTERVAL_UNCHANGED.as_secs() + SYNC_INTERVAL.as_secs(),
    "all owners were found to agree since whatever is dropped had died"
);
const _: () =
    assert!(STARTS_MAX << COUNTS_PER_START_BITS < REAP_COUNT_MAX, "what was counted after a start may be dropped");
const _: () = assert!(2 * REAP_SETTLING_MAX.as_secs() < REAP_ROUND_MAX.as_secs(), "a round must end");
const _: () = assert!(GRAVE_LASTS.as_secs() >= 2 * REAP_ROUND_MAX.as_secs(), "graves outlast the round that dug them");
const _: () = assert!(REAP_MESSAGE_KEYS_MAX * (STORE_KEY_MAX + CONTEXT_ACTORS_MAX * 32 + 64) <= FRAME_MAX);
