//! Lifeguard's local health: how far a member trusts its own sight, from how its own probes go.
//!
//! It slows this member's probes and makes it wait longer for answers. It says nothing about others.

/// Most that local health multiplies times by, less one.
const WORST: u32 = 8;

/// Zero when all is well, up to [`WORST`].
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct LocalHealth(u32);

impl LocalHealth {
    /// What intervals and time-outs are multiplied by: one in health.
    pub(super) fn factor(self) -> u32 {
        self.0 + 1
    }

    /// Something speaks for this member being slow or cut off.
    pub(super) fn worse(&mut self, by: u32) {
        self.0 = (self.0 + by).min(WORST);
    }

    /// A probe succeeded.
    pub(super) fn better(&mut self) {
        self.0 = self.0.saturating_sub(1);
    }
}
