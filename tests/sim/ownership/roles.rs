//! A member's zone and weight change while clients read and write, and whoever forgets the roles is told them again.

use std::collections::BTreeSet;

use dynamomini::hash::ClusterHash;
use dynamomini::layout::Change;
use dynamomini::types::{Copies, PartitionId};
use dynamomini::view::ClusterView;

use crate::cluster::Cluster;
use crate::ownership::history::History;
use crate::ownership::judge::{converged, settled};
use crate::ownership::{KEYS, found, node, order};
use crate::world::{Simulation, simulate};

/// The partitions of which any of these nodes has a copy.
fn owned(cluster: &Cluster, numbers: &[usize]) -> BTreeSet<PartitionId> {
    let view = ClusterView::new(cluster.info.by(cluster.layout_of(1).layout)).unwrap();
    let ring = view.ring(Copies::settled(3)).unwrap();
    numbers.iter().flat_map(|number| ring.owned(ClusterHash::node_id(&node(*number)))).collect()
}

/// Two of six get a zone of their own, each told at another node, and so a copy of everything between them; then one of them
/// gets half of its weight, and so fewer.
#[test]
fn zones_and_weights_change_under_load_and_copies_move_as_they_say() {
    simulate(1, 0.0, |simulation: Simulation| async move {
        let cluster = found(&simulation, 6, false).await;
        let (one, two) = (cluster.client(1).await, cluster.client(2).await);
        let history = History::default();
        history.fill(&one, 0..KEYS).await;
        let everything = owned(&cluster, &[1, 2, 3, 4, 5, 6]);
        let events = async {
            assert!(owned(&cluster, &[5, 6]).len() < everything.len(), "nothing has to move");
            for (at, number) in [(1, 5), (2, 6)] {
                order(&cluster, at, Change::Zone { name: node(number), zone: "other".parse().unwrap() }).await;
            }
            settled(&cluster).await;
            assert_eq!(owned(&cluster, &[5, 6]), everything, "some partition has all copies in one zone");
            converged(&cluster).await;
            let before = owned(&cluster, &[5]).len();
            order(&cluster, 3, Change::Weight { name: node(5), weight: 50 }).await;
            settled(&cluster).await;
            let after = owned(&cluster, &[5]).len();
            assert!(after < before, "n5 owns {after} partitions instead of {before}");
            assert_eq!(owned(&cluster, &[5, 6]), everything, "some partition has all copies in one zone");
            history.end();
        };
        tokio::join!(history.load(&simulation, (&one, &two), 0..KEYS, 20..250), events);
        converged(&cluster).await;
        history.judge(&one).await;
    });
}

/// Its layout and its votes are gone, both the last ones and those before them; its records are not.
#[test]
fn a_node_that_lost_its_layout_relearns_it_from_the_others() {
    simulate(2, 0.0, |simulation: Simulation| async move {
        let mut cluster = found(&simulation, 4, false).await;
        let client = cluster.client(1).await;
        let history = History::default();
        history.fill(&client, 0..KEYS).await;
        order(&cluster, 1, Change::Weight { name: node(3), weight: 50 }).await;
        settled(&cluster).await;
        let layout = cluster.layout_of(1).layout;
        cluster.crash(2);
        cluster.lose_directory(2);
        cluster.restart_node(2).await;
        assert_ne!(cluster.layout_of(2).layout, layout, "it has not forgotten anything");
        settled(&cluster).await;
        assert_eq!(cluster.layout_of(2).layout, layout);
        converged(&cluster).await;
        history.judge(&client).await;
    });
}
