//! The number of copies of a namespace changes, and that of another one does not.

use dynamomini::client::Client;
use dynamomini::layout::Change;
use dynamomini::types::Namespace;

use crate::cluster::{Setup, second};
use crate::ownership::history::History;
use crate::ownership::judge::{converged, settled};
use crate::ownership::{Course, KEYS, found_with, keeping, order, sparse, try_course};
use crate::world::{Simulation, rng, seeds, simulate};

/// The default namespace gets so many copies.
pub(super) fn copies(n: u8) -> Change {
    Change::Copies { namespace: Namespace::default(), n }
}

/// The load on the second namespace, if there is one: the change of the first must not be felt there.
pub(super) struct Beside {
    pub(super) history: History,
    client: Option<Client>,
}

impl Beside {
    pub(super) async fn start(client: &Client, course: &Course) -> Self {
        let client = course.copies().is_some().then(|| client.in_namespace(second()));
        let history = History::sloppy(course.sloppy);
        if let Some(client) = &client {
            history.fill(client, 0..KEYS / 2).await;
        }
        Self { history, client }
    }

    pub(super) async fn load(&self, simulation: &Simulation) {
        let Some(client) = &self.client else { return };
        self.history.load(simulation, (client, client), 0..KEYS / 2, 50..400).await;
    }

    pub(super) async fn judge(&self) {
        if let Some(client) = &self.client {
            self.history.judge(client).await;
        }
    }
}

/// Of three owners one remains, which may be the one that missed what the two others have acknowledged. `SIM_SEEDS` sets how
/// many.
#[test]
fn what_the_last_owner_missed_is_fetched_before_it_is_read_alone() {
    for seed in seeds(750, 1) {
        simulate(seed, 0.0, |simulation| sparse(simulation, true));
    }
}

/// `SIM_SEEDS` sets how many.
#[test]
fn whatever_goes_wrong_while_the_number_of_copies_changes_nothing_is_lost_or_stale() {
    for seed in seeds(1_900, 3) {
        try_course(seed, Course::draw_copies(&mut rng(seed, "course")));
    }
}

#[test]
fn a_namespace_gets_more_and_fewer_copies_and_serves_meanwhile() {
    simulate(1, 0.0, |simulation| async move {
        let cluster = found_with(&simulation, Setup { nodes: 5, copies: Some(1), ..keeping(false) }).await;
        let (one, two) = (cluster.client(1).await, cluster.client(2).await);
        let history = History::default();
        history.fill(&one, 0..KEYS).await;
        let load = history.load(&simulation, (&one, &two), 0..KEYS, 20..250);
        let events = async {
            for n in [3, 2, 5, 1] {
                order(&cluster, 1, copies(n)).await;
                settled(&cluster).await;
                converged(&cluster).await;
            }
            history.end();
        };
        tokio::join!(load, events);
        history.judge(&one).await;
    });
}
