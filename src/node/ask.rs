//! One request on its way through this node: its number, its deadline, and how long its stages took.

use std::sync::atomic::AtomicU32;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::time::Instant;

use crate::node::meters::Stage;
use crate::node::works::Work;
use crate::types::TraceId;

/// Under which number and until when something is done.
#[derive(Debug, Clone, Copy)]
pub(crate) struct By {
    /// The number of the request that it is done for.
    pub(crate) trace: TraceId,
    /// When nobody waits for it any more.
    pub(crate) deadline: Instant,
    /// The version of the layout that it is done by; none where that does not matter.
    pub(crate) layout: Option<u64>,
}

impl By {
    /// Of what this node does by itself, which has no number.
    pub(crate) fn itself(patience: Duration) -> Self {
        Self { trace: TraceId::NONE, deadline: Instant::now() + patience, layout: None }
    }
}

/// A request that is being served.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Ask<'a> {
    pub(crate) trace: TraceId,
    pub(crate) deadline: Instant,
    /// The version of the layout that this node worked by when it came.
    pub(crate) layout: u64,
    pub(crate) stages: &'a Stages,
    /// What it is part of, for whatever it leaves to the background.
    pub(crate) work: &'a Work,
}

impl Ask<'_> {
    /// The same request with another deadline for a part of it.
    pub(crate) fn until(&self, deadline: Instant) -> By {
        By { trace: self.trace, deadline, layout: Some(self.layout) }
    }
}

/// How long each stage of one request took; of several keys, the slowest.
#[derive(Debug, Default)]
pub(crate) struct Stages([AtomicU32; Stage::ALL.len()]);

impl Stages {
    /// Notes that a stage took this long.
    pub(crate) fn note(&self, stage: Stage, took: Duration) {
        let micros = u32::try_from(took.as_micros()).unwrap_or(u32::MAX);
        self.0[stage as usize].fetch_max(micros, Ordering::Relaxed);
    }
}

/// The stages that took any time, as `put_local 3.2 ms, put_quorum 510.0 ms`.
impl std::fmt::Display for Stages {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let mut gap = "";
        for (stage, micros) in Stage::ALL.iter().zip(&self.0) {
            let micros = micros.load(Ordering::Relaxed);
            if micros > 0 {
                write!(f, "{gap}{} {}.{} ms", stage.label(), micros / 1_000, micros % 1_000 / 100)?;
                gap = ", ";
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stages_show_the_slowest_of_several_keys() {
        let stages = Stages::default();
        assert_eq!(stages.to_string(), "");
        stages.note(Stage::PutQuorum, Duration::from_micros(510_040));
        stages.note(Stage::PutQuorum, Duration::from_micros(20));
        stages.note(Stage::PutLocal, Duration::from_micros(3_250));
        assert_eq!(stages.to_string(), "put_local 3.2 ms, put_quorum 510.0 ms");
    }
}
