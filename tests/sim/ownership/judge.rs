//! What must be in the end: one layout on all nodes, equal owners, nobody else with data, and balance.

use std::time::Duration;

use dynamomini::types::NodeName;
use dynamomini::view::ClusterView;
use tokio::time::{Instant, sleep};

use crate::cluster::Cluster;
use crate::replicas::difference_by;

/// In which a change must be carried through once nothing is in its way.
const CHANGE: Duration = Duration::from_secs(180);
/// In which owners must be equal after it, and what nobody owns must be gone.
const PATIENCE: Duration = Duration::from_secs(300);
/// The most that a node may own beyond its ideal, or one partition.
const TOLERANCE: f64 = 1.05;

/// Why the change is not over; `None` when all nodes work by one layout, and no change is under way.
fn unsettled(cluster: &Cluster, without: &[usize]) -> Option<String> {
    let running: Vec<usize> = cluster.running().into_iter().filter(|number| !without.contains(number)).collect();
    let first = cluster.layout_of(running[0]);
    for number in running {
        let shown = cluster.layout_of(number);
        let is_member = shown.layout.current.has(&NodeName::new(format!("n{number}")).unwrap());
        let confirmed = !is_member || shown.report.confirmed == shown.layout.version;
        if shown.layout.next.is_some() || shown.layout != first.layout || !confirmed {
            return Some(format!("n{number} is at {shown:?}"));
        }
    }
    None
}

/// Waits until the change is over.
pub(super) async fn settled(cluster: &Cluster) {
    settled_without(cluster, &[]).await;
}

/// Waits until it is over as far as all but these nodes are concerned.
pub(super) async fn settled_without(cluster: &Cluster, without: &[usize]) {
    let began = Instant::now();
    while let Some(why) = unsettled(cluster, without) {
        assert!(began.elapsed() < CHANGE, "not settled after {CHANGE:?}: {why}");
        sleep(Duration::from_millis(100)).await;
    }
}

/// Waits until only owners hold data, all the same, and looks whether it is evenly spread.
pub(super) async fn converged(cluster: &Cluster) {
    let layout = cluster.layout_of(cluster.running()[0]).layout;
    let view = ClusterView::new(cluster.info.by(layout)).unwrap();
    let began = Instant::now();
    while let Some(why) = difference_by(cluster, &view).await {
        assert!(began.elapsed() < PATIENCE, "after {PATIENCE:?} still: {why}");
        sleep(Duration::from_secs(1)).await;
    }
    if let Some(why) = imbalance(&view) {
        panic!("{why}");
    }
}

/// Who owns too much.
pub(super) fn imbalance(view: &ClusterView) -> Option<String> {
    let mut nodes = view.rings().flat_map(|ring| ring.balance().nodes);
    let much = nodes.find(|load| f64::from(load.owned) > (load.ideal * TOLERANCE).max(load.ideal + 1.0));
    much.map(|load| format!("a node owns too much: {load:?}"))
}
