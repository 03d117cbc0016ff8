//! Nodes in this process for benches: whole ones, on loopback, each with an engine that the bench chooses.
#![allow(dead_code)]

#[path = "../../tests/support/certs.rs"]
pub(crate) mod certs;

use std::net::UdpSocket;
use std::path::PathBuf;
use std::time::Duration;

use dynamomini::env::Env;
use dynamomini::layout::Layout;
use dynamomini::limits;
use dynamomini::net::BindConfig;
use dynamomini::net::Endpoint;
use dynamomini::net::EndpointKeys;
use dynamomini::net::LinkSettings;
use dynamomini::net::PemFile;
use dynamomini::net::Socket;
use dynamomini::net::TlsMaterial;
use dynamomini::net::TransportSettings;
use dynamomini::net::endpoint::BindError;
use dynamomini::net::tls::ring_provider;
use dynamomini::node::Bounds;
use dynamomini::node::Node;
use dynamomini::node::Oversight;
use dynamomini::node::OwnershipParts;
use dynamomini::node::Parts;
use dynamomini::node::Timeouts;
use dynamomini::store::Engine;
use dynamomini::store::StoreConfig;
use dynamomini::store::StoreIdentity;
use dynamomini::types::ClusterName;
use dynamomini::types::Namespace;
use dynamomini::types::NamespacePolicy;
use dynamomini::types::NodeName;
use dynamomini::types::Partitions;
use dynamomini::types::Zone;
use dynamomini::wire::rpc::ClusterInfo;
use dynamomini::wire::rpc::MemberInfo;

use self::certs::Authority;

/// Nothing is to be given up while an instrument slows everything down.
pub(crate) const PATIENCE: Duration = Duration::from_secs(300);

/// A founded cluster of nodes that may be started, each at an address of its own.
pub(crate) struct Founded {
    pub(crate) authority: Authority,
    pub(crate) info: ClusterInfo,
}

impl Founded {
    /// A cluster of so many nodes, `n1` and on.
    pub(crate) fn new(nodes: usize, partitions: u32, policy: NamespacePolicy) -> Self {
        let sockets: Vec<UdpSocket> = (0..nodes).map(|_| UdpSocket::bind("127.0.0.1:0").unwrap()).collect();
        let member = |(at, socket): (usize, &UdpSocket)| MemberInfo {
            name: NodeName::new(format!("n{}", at + 1)).unwrap(),
            quic: socket.local_addr().unwrap().to_string(),
            zone: Zone::new("z").unwrap(),
            weight: 100,
        };
        let info = ClusterInfo {
            cluster: ClusterName::new("bench").unwrap(),
            partitions: Partitions::new(partitions).unwrap(),
            members: sockets.iter().enumerate().map(member).collect(),
            namespaces: vec![(Namespace::new("default").unwrap(), policy)],
            node: NodeName::new("n1").unwrap(),
            layout: Layout::default(),
        };
        Self { authority: Authority::new("the authority"), info: info.founding() }
    }

    /// Whose storage that of a node is.
    pub(crate) fn identity(&self, at: usize) -> StoreIdentity {
        let node = self.info.members[at].name.clone();
        StoreIdentity { cluster: self.info.cluster.clone(), node, buckets: self.info.partitions }
    }

    /// What somebody needs to be who this URI says.
    pub(crate) fn material(&self, uri: &str) -> TlsMaterial {
        let issued = self.authority.issue(&[uri]);
        let chain = PemFile { name: "chain", bytes: issued.chain.as_bytes() };
        let key = PemFile { name: "key", bytes: issued.key.as_bytes() };
        let roots = PemFile { name: "roots", bytes: self.authority.root.as_bytes() };
        TlsMaterial::from_pem(chain, key, roots, &ring_provider()).unwrap()
    }

    /// Starts a node on a storage, with its trees kept in a file or made anew.
    pub(crate) async fn start(&self, at: usize, store: &StoreConfig, trees: Option<PathBuf>) -> Node {
        let env = Env::real();
        let member = &self.info.members[at];
        let bind = || BindConfig {
            socket: Socket::Address(member.quic.parse().unwrap()),
            material: self.material(&format!("dynamomini://node/{}", member.name)),
            provider: ring_provider(),
            keys: EndpointKeys::generate(&env),
            settings: TransportSettings::default(),
        };
        // The endpoint of the life before has its address until its connections have drained.
        let endpoint = loop {
            match Endpoint::bind(bind(), &env) {
                Err(BindError::InUse(_)) => tokio::time::sleep(Duration::from_millis(20)).await,
                bound => break bound.unwrap(),
            }
        };
        let parts = Parts {
            cluster: ClusterInfo { node: member.name.clone(), ..self.info.clone() },
            engine: Engine::open(store, &self.identity(at), &env).await.unwrap().0,
            endpoint,
            links: LinkSettings::default(),
            timeouts: Timeouts { replica: PATIENCE, hedge: PATIENCE, ..Timeouts::default() },
            bounds: Bounds::CLIENTS,
            hints_max: limits::HINTS_PER_TARGET_MAX,
            clock_drift: Duration::from_secs(60),
            trees,
            ownership: OwnershipParts::default(),
            gossip: None,
            oversight: Oversight { slow: Some(PATIENCE), ..Oversight::default() },
        };
        Node::start(parts, &env).await.unwrap()
    }
}
