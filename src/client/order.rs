//! The nodes to ask for one thing, best first, each once in a round.

use std::sync::Arc;

use crate::client::choose::{Candidate, Pick, Standing, choose};
use crate::client::route::Routes;
use crate::client::table::Table;
use crate::client::target::Target;
use crate::limits;
use crate::net::link::LinkState;
use crate::types::{Namespace, NodeName, PartitionId};
use crate::view::ClusterView;

/// Whom a request is for.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Whom<'a> {
    /// The owners of a key; when they fail, a few others, who pass it on or stand in.
    Owners(&'a Namespace, PartitionId),
    /// Anybody: members, then seeds.
    Anyone,
    /// This member and no other.
    One(&'a NodeName),
}

/// An order in which to ask. A new round begins with the cluster as it is known then.
pub(crate) struct Order<'a> {
    routes: &'a Routes,
    whom: Whom<'a>,
    pick: Pick,
    table: Option<Arc<Table>>,
    /// The owners that were given out, by their place in the preference list.
    given: u32,
    /// Who comes after the owners, once that matters; last first.
    rest: Option<Vec<Arc<Target>>>,
}

impl<'a> Order<'a> {
    pub(crate) fn new(routes: &'a Routes, whom: Whom<'a>, pick: Pick) -> Self {
        Self { routes, whom, pick, table: routes.table(), given: 0, rest: None }
    }

    /// The cluster as it was known when this round began.
    pub(crate) fn view(&self) -> Option<&ClusterView> {
        self.table.as_ref().map(|table| &*table.view)
    }

    /// The same for somebody else.
    pub(crate) fn among(self, whom: Whom<'a>) -> Self {
        Self { whom, ..self }
    }

    /// Begins another round.
    pub(crate) fn again(&mut self) {
        *self = Self::new(self.routes, self.whom, self.pick);
    }

    /// Whether there is but one node to ask.
    pub(crate) fn is_single(&self) -> bool {
        match (&self.whom, &self.table) {
            (Whom::One(_), _) => true,
            (Whom::Owners(..), Some(table)) => table.targets.len() == 1,
            _ => false,
        }
    }

    /// The best node that was not given out in this round.
    pub(crate) fn next(&mut self) -> Option<Arc<Target>> {
        if let Some(owner) = self.owner() {
            return Some(owner);
        }
        if self.rest.is_none() {
            self.rest = Some(self.others());
        }
        self.rest.as_mut().and_then(Vec::pop)
    }

    fn owner(&mut self) -> Option<Arc<Target>> {
        let (Whom::Owners(namespace, partition), Some(table)) = (self.whom, &self.table) else { return None };
        let owners = table.owners(namespace, partition);
        let now_ms = self.routes.now_us() / 1_000;
        let mut candidates = [None; limits::REPLICAS_MAX];
        for (at, owner) in owners.iter().enumerate().filter(|(at, _)| self.given & (1 << at) == 0) {
            candidates[at] = Some(candidate(table, usize::from(*owner), now_ms));
        }
        let candidates = &candidates[..owners.len()];
        let at = choose(candidates, self.pick, self.routes.roll())?;
        if candidates.iter().flatten().any(|one| one.standing == Standing::Connecting)
            && candidates[at].is_some_and(|chosen| chosen.standing == Standing::Ready)
        {
            // While one serves, the others are connected to, so that there is a choice.
            let targets = owners.iter().map(|owner| &table.targets[usize::from(*owner)].link);
            targets.filter(|link| matches!(link.state(), LinkState::Idle)).for_each(crate::net::link::Link::start);
        }
        self.given |= 1 << at;
        Some(table.targets[usize::from(owners[at])].clone())
    }

    /// Who else may be asked, best last.
    fn others(&self) -> Vec<Arc<Target>> {
        let Some(table) = &self.table else { return self.routes.seeds().into_iter().rev().collect() };
        let owners = match self.whom {
            Whom::One(name) => return table.named(name).cloned().into_iter().collect(),
            Whom::Owners(namespace, partition) => table.owners(namespace, partition),
            Whom::Anyone => &[],
        };
        let now_ms = self.routes.now_us() / 1_000;
        let places = (0..table.targets.len()).filter(|at| !owners.iter().any(|owner| usize::from(*owner) == *at));
        let mut order: Vec<(Standing, bool, u64, u64, usize)> = places
            .map(|at| {
                let candidate = candidate(table, at, now_ms);
                (candidate.standing, !candidate.near, candidate.cost.ilog2().into(), self.routes.roll(), at)
            })
            .collect();
        order.sort_unstable();
        if matches!(self.whom, Whom::Owners(..)) {
            order.truncate(limits::CLIENT_STRANGERS_MAX);
        }
        let mut others: Vec<Arc<Target>> = order.iter().map(|found| table.targets[found.4].clone()).collect();
        if matches!(self.whom, Whom::Anyone) {
            others.extend(self.routes.seeds());
        }
        others.reverse();
        others
    }
}

fn candidate(table: &Table, at: usize, now_ms: u64) -> Candidate {
    let target = &table.targets[at];
    let (near, trip_us) = (table.near[at], target.trip_us(now_ms));
    Candidate { standing: target.standing(), near, trip_us, cost: target.load.cost(now_ms) }
}
