//! What is said to Redis: the keys, the scripts, and the commands made of them.
//!
//! A bucket is a hash of records and a sorted set of their keys, all scores equal, which orders them by bytes. One
//! more hash holds the sentinel, the number of writes, and the number of records. Each script checks the sentinel
//! before it does anything. Commands of Redis 6.0 only. Nothing here talks to a server.

use std::collections::BTreeMap;

use bytes::Bytes;
use redis::Cmd;
use redis::Pipeline;
use redis::Script;
use redis::Value;

use crate::store::Mutation;
use crate::store::ScanPage;
use crate::store::ScanRange;
use crate::store::Slot;
use crate::store::prefix_end;
use crate::types::Bucket;

/// Returns `{1}` when the sentinel is not ARGV[1], or fewer writes were counted than ARGV[2].
const GUARD: &str = r"
local meta = redis.call('HMGET', KEYS[1], 'id', 'seq')
if meta[1] ~= ARGV[1] or tonumber(meta[2] or '0') < tonumber(ARGV[2]) then return {1} end
";

/// ARGV from 3: for a put, the position of the hash in KEYS, field and value; for a deletion, minus the position and
/// the field. The sorted set follows the hash in KEYS.
const WRITE: &str = r"
local count, i = 0, 3
while i <= #ARGV do
  local at = tonumber(ARGV[i])
  if at > 0 then
    if redis.call('HSET', KEYS[at], ARGV[i + 1], ARGV[i + 2]) == 1 then
      redis.call('ZADD', KEYS[at + 1], 0, ARGV[i + 1])
      count = count + 1
    end
    i = i + 3
  else
    if redis.call('HDEL', KEYS[-at], ARGV[i + 1]) == 1 then
      redis.call('ZREM', KEYS[1 - at], ARGV[i + 1])
      count = count - 1
    end
    i = i + 2
  end
end
if count ~= 0 then redis.call('HINCRBY', KEYS[1], 'keys', count) end
return {0, redis.call('HINCRBY', KEYS[1], 'seq', 1)}
";

/// ARGV from 3: lower and upper bound, most records, most bytes. The last element says whether there is more.
const SCAN: &str = r"
local limit, room = tonumber(ARGV[5]), tonumber(ARGV[6])
local names = redis.call('ZRANGEBYLEX', KEYS[3], ARGV[3], ARGV[4], 'LIMIT', 0, limit + 1)
local items, size, more = {}, 0, 0
for i, name in ipairs(names) do
  if i > limit or size >= room then
    more = 1
    break
  end
  local value = redis.call('HGET', KEYS[2], name)
  if value then
    items[#items + 1] = name
    items[#items + 1] = value
    size = size + #name + #value
  end
end
return {0, tonumber(meta[2] or '0'), items, more}
";

const DROP: &str = r"
local gone = redis.call('HLEN', KEYS[2])
redis.call('UNLINK', KEYS[2], KEYS[3])
if gone > 0 then redis.call('HINCRBY', KEYS[1], 'keys', -gone) end
return {0, redis.call('HINCRBY', KEYS[1], 'seq', 1), gone}
";

/// Puts the sentinel ARGV[2] in the place of ARGV[1], which is empty for none, and raises the number of writes above
/// ARGV[3] and what it was.
const TAKE: &str = r"
if (redis.call('HGET', KEYS[1], 'id') or '') ~= ARGV[1] then return {1} end
local seq = math.max(tonumber(redis.call('HGET', KEYS[1], 'seq') or '0'), tonumber(ARGV[3])) + 1
redis.call('HSET', KEYS[1], 'id', ARGV[2], 'seq', string.format('%.0f', seq))
return {0, seq}
";

/// Most bytes that a scan is asked for, so that the number is exact in a script.
const SCAN_BYTES_MAX: usize = 1 << 40;

/// The scripts and names of one database.
#[derive(Debug)]
pub(super) struct Scripts {
    prefix: String,
    meta: String,
    pub(super) write: Script,
    pub(super) scan: Script,
    pub(super) drop: Script,
    pub(super) take: Script,
}

/// What the engine must know of the state of the database for a command to be carried out.
#[derive(Debug, Clone, Copy)]
pub(super) struct Guard<'a> {
    pub(super) sentinel: &'a str,
    pub(super) seen: u64,
}

/// The answer of a guarded script or pipeline.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Reply<T> {
    /// It was done when the database counted so many writes.
    Done(u64, T),
    /// It was not done: the sentinel was another.
    Stale,
}

impl Scripts {
    pub(super) fn new(prefix: &str) -> Self {
        let guarded = |body: &str| Script::new(&format!("{GUARD}{body}"));
        Self {
            prefix: prefix.to_owned(),
            meta: format!("{prefix}meta"),
            write: guarded(WRITE),
            scan: guarded(SCAN),
            drop: guarded(DROP),
            take: Script::new(TAKE),
        }
    }

    pub(super) fn write(&self, guard: Guard<'_>, batch: &[Mutation]) -> Cmd {
        // Positions in KEYS begin at 1, which is the meta hash; two for each bucket.
        let mut places = BTreeMap::new();
        let mut buckets = Vec::new();
        for mutation in batch {
            let bucket = mutation.slot().bucket;
            places.entry(bucket).or_insert_with(|| {
                buckets.push(bucket);
                buckets.len() * 2
            });
        }
        let mut cmd = evalsha(&self.write, 1 + 2 * buckets.len());
        cmd.arg(&self.meta);
        for bucket in buckets {
            cmd.arg(self.hash(bucket)).arg(self.index(bucket));
        }
        cmd.arg(guard.sentinel).arg(guard.seen);
        for mutation in batch {
            let at = places.get(&mutation.slot().bucket).copied().unwrap_or_default();
            match mutation {
                Mutation::Put { slot, value } => cmd.arg(at).arg(&slot.key[..]).arg(&value[..]),
                Mutation::Delete { slot } => cmd.arg(format!("-{at}")).arg(&slot.key[..]),
            };
        }
        cmd
    }

    pub(super) fn scan(&self, guard: Guard<'_>, range: &ScanRange) -> Cmd {
        let lower = match &range.after {
            Some(after) => [b"(", &after[..]].concat(),
            None => [b"[", &range.prefix[..]].concat(),
        };
        let upper = prefix_end(&range.prefix).map_or(b"+".to_vec(), |end| [b"(", &end[..]].concat());
        let mut cmd = evalsha(&self.scan, 3);
        cmd.arg(&self.meta).arg(self.hash(range.bucket)).arg(self.index(range.bucket));
        cmd.arg(guard.sentinel).arg(guard.seen).arg(lower).arg(upper);
        cmd.arg(range.limit).arg(range.bytes.clamp(1, SCAN_BYTES_MAX));
        cmd
    }

    pub(super) fn drop_bucket(&self, guard: Guard<'_>, bucket: Bucket) -> Cmd {
        let mut cmd = evalsha(&self.drop, 3);
        cmd.arg(&self.meta).arg(self.hash(bucket)).arg(self.index(bucket));
        cmd.arg(guard.sentinel).arg(guard.seen);
        cmd
    }

    pub(super) fn take(&self, found: &[u8], new: &str, above: u64) -> Cmd {
        let mut cmd = evalsha(&self.take, 1);
        cmd.arg(&self.meta).arg(found).arg(new).arg(above);
        cmd
    }

    /// Reads the records, and after them the sentinel: so what was read was there under that sentinel.
    pub(super) fn get_many(&self, slots: &[Slot]) -> Pipeline {
        let mut pipeline = redis::pipe();
        for slot in slots {
            pipeline.cmd("HGET").arg(self.hash(slot.bucket)).arg(&slot.key[..]);
        }
        pipeline.cmd("HMGET").arg(&self.meta).arg("id").arg("seq").arg("keys");
        pipeline
    }

    /// The sentinel, the number of writes and the number of records.
    pub(super) fn meta(&self) -> Cmd {
        let mut cmd = redis::cmd("HMGET");
        cmd.arg(&self.meta).arg("id").arg("seq").arg("keys");
        cmd
    }

    /// Loads all scripts.
    pub(super) fn load(&self) -> Pipeline {
        let mut pipeline = redis::pipe();
        let bodies = [(WRITE, true), (SCAN, true), (DROP, true), (TAKE, false)];
        for (body, guarded) in bodies {
            let text = format!("{}{body}", if guarded { GUARD } else { "" });
            pipeline.cmd("SCRIPT").arg("LOAD").arg(text).ignore();
        }
        pipeline
    }

    fn hash(&self, bucket: Bucket) -> String {
        format!("{}h:{bucket}", self.prefix)
    }

    fn index(&self, bucket: Bucket) -> String {
        format!("{}z:{bucket}", self.prefix)
    }
}

fn evalsha(script: &Script, keys: usize) -> Cmd {
    let mut cmd = redis::cmd("EVALSHA");
    cmd.arg(script.get_hash()).arg(keys);
    cmd
}

/// The meta hash as it was found.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Meta {
    pub(super) sentinel: Option<Vec<u8>>,
    pub(super) commits: u64,
    pub(super) keys: u64,
}

/// Reads the answer to [`Scripts::meta`]; `None` when it is no such answer.
pub(super) fn read_meta(value: Value) -> Option<Meta> {
    let Value::Array(fields) = value else { return None };
    let [id, commits, keys] = <[Value; 3]>::try_from(fields).ok()?;
    let sentinel = match id {
        Value::BulkString(text) => Some(text),
        Value::Nil => None,
        _ => return None,
    };
    Some(Meta { sentinel, commits: read_number(&commits)?, keys: read_number(&keys)? })
}

/// Reads the answer of a guarded script whose further elements `rest` understands.
pub(super) fn read_reply<T>(value: Value, rest: impl FnOnce(Vec<Value>) -> Option<T>) -> Option<Reply<T>> {
    let Value::Array(mut parts) = value else { return None };
    match parts.first()? {
        Value::Int(1) => Some(Reply::Stale),
        Value::Int(0) => {
            let commits = read_number(parts.get(1)?)?;
            Some(Reply::Done(commits, rest(parts.split_off(2))?))
        }
        _ => None,
    }
}

/// Reads the elements of a scan's answer.
pub(super) fn read_page(parts: Vec<Value>) -> Option<ScanPage> {
    let [Value::Array(items), Value::Int(more)] = <[Value; 2]>::try_from(parts).ok()? else { return None };
    let mut items = items.into_iter();
    let mut page = ScanPage { items: Vec::with_capacity(items.len() / 2), more: more == 1, damaged: 0 };
    while let Some(key) = items.next() {
        page.items.push((read_bytes(key)??, read_bytes(items.next()?)??));
    }
    Some(page)
}

/// Reads one record; the outer `None` says that it is no record.
pub(super) fn read_bytes(value: Value) -> Option<Option<Bytes>> {
    match value {
        Value::BulkString(bytes) => Some(Some(Bytes::from(bytes))),
        Value::Nil => Some(None),
        _ => None,
    }
}

/// Reads a number that may be missing, be an integer, or be a text.
pub(super) fn read_number(value: &Value) -> Option<u64> {
    match value {
        Value::Nil => Some(0),
        Value::Int(number) => u64::try_from(*number).ok(),
        Value::BulkString(text) => std::str::from_utf8(text).ok()?.parse().ok(),
        _ => None,
    }
}
