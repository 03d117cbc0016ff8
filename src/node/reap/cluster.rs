//! The members of the cluster, asked over the network.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, timeout};

use crate::limits;
use crate::node::ask::By;
use crate::node::core::Core;
use crate::node::peers::{PeerError, unexpected};
use crate::node::reap::obey::obey;
use crate::node::reap::round::{Members, propose};
use crate::node::reap::seek::owners;
use crate::store::Slot;
use crate::types::NodeId;
use crate::view::ClusterView;
use crate::wire::past::Landmark;
use crate::wire::reap::{DeadRecord, Life, ReapAnswer, ReapOrder};
use crate::wire::rpc::{Reply, Request};

/// How long a member may take for one message of records.
const PATIENCE: Duration = Duration::from_secs(20);

/// The members of this view, for one round.
struct Cluster<'a> {
    core: &'a Arc<Core>,
    view: Arc<ClusterView>,
    began: Instant,
}

/// Tries to drop these records.
pub(crate) async fn round(core: &Arc<Core>, keys: Vec<DeadRecord>) {
    let asked = keys.len();
    let cluster = Cluster { core, view: core.view(), began: Instant::now() };
    let proposed = match cluster.view.layout().next {
        Some(_) => Err("owners are changing".to_owned()),
        None => propose(&cluster, keys).await,
    };
    match proposed {
        Ok((agreed, dropped)) => {
            core.meters.reap_disagreed.count(asked - agreed);
            tracing::debug!(asked, agreed, dropped, "dead records were proposed for dropping");
        }
        Err(why) => {
            core.meters.reap_broken_off.one();
            tracing::debug!(asked, why, "no dead records are dropped now");
        }
    }
}

impl Cluster<'_> {
    fn name(&self, member: NodeId) -> String {
        self.view.name_of(member).to_string()
    }
}

impl Members for Cluster<'_> {
    fn all(&self) -> Vec<NodeId> {
        self.view.members().keys().copied().collect()
    }

    fn owners(&self, key: &DeadRecord) -> Vec<NodeId> {
        let slot = Slot { bucket: key.slot.bucket, key: key.slot.key.0.clone() };
        owners(self.core, &slot).map(|(owners, _)| owners).unwrap_or_default()
    }

    fn counts(&self) -> Result<(), String> {
        if self.began.elapsed() > limits::REAP_ROUND_MAX || self.core.view().digest() != self.view.digest() {
            return Err("it took too long, or the cluster has changed meanwhile".to_owned());
        }
        Ok(())
    }

    async fn order(
        &self,
        member: NodeId,
        life: Option<Life>,
        keys: &[DeadRecord],
        landmarks: &[(NodeId, Landmark)],
    ) -> Result<ReapAnswer, String> {
        let view = self.core.view().digest();
        let order = ReapOrder { view, life, keys: keys.to_vec(), landmarks: landmarks.to_vec() };
        let answer = if member == self.core.id {
            obey(self.core, order).await.map_err(PeerError::from)
        } else {
            match self.core.peers.request(member, Request::Reap(order), By::itself(PATIENCE)).await {
                Ok(Reply::Reap(answer)) => Ok(answer),
                Ok(other) => Err(unexpected(other)),
                Err(error) => Err(error),
            }
        };
        let answer = answer.map_err(|error| format!("{}: {}", self.name(member), error.why))?;
        if answer.agreed.len() == keys.len() {
            Ok(answer)
        } else {
            Err("a member answered for other records".to_owned())
        }
    }

    async fn settle(&self, member: NodeId) -> Result<(), String> {
        if member == self.core.id {
            let settled = timeout(limits::REAP_SETTLING_MAX, self.core.works.settled()).await;
            return settled.map_err(|_| "this node does not finish its work".to_owned());
        }
        let by = By::itself(limits::REAP_SETTLING_MAX);
        match self.core.peers.request(member, Request::Settle, by).await {
            Ok(Reply::Done) => Ok(()),
            Ok(other) => Err(unexpected(other).why),
            Err(error) => Err(format!("{}: {}", self.name(member), error.why)),
        }
    }
}
