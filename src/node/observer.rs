//! A view on a running node from outside its requests: for the admin listener.

use std::sync::Arc;

use crate::meter::Family;
use crate::node::core::Core;
use crate::node::metrics;
use crate::node::readiness;
use crate::node::status;
use crate::wire::status::NodeStatus;

/// Looks at a node. It changes nothing, and may outlive the node's shutdown.
#[derive(Clone)]
pub struct Observer(pub(crate) Arc<Core>);

impl std::fmt::Debug for Observer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Observer").field("node", &self.0.id).finish()
    }
}

impl Observer {
    /// Why the node is not ready to serve; empty when it is.
    pub fn obstacles(&self) -> Vec<String> {
        readiness::obstacles(&self.0)
    }

    /// How the node is.
    pub async fn status(&self) -> NodeStatus {
        status::status(&self.0).await
    }

    /// Everything that the node counts and times.
    pub async fn metrics(&self) -> Vec<Family> {
        metrics::read(&self.0).await
    }

    /// The filters of the node's log that are in force.
    ///
    /// # Errors
    /// When there is no log to be changed; the text says so.
    pub fn log_filters(&self) -> Result<String, String> {
        self.0.oversight.host.log_filters()
    }
}
