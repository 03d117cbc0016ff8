//! This member's own record: changes, refutations, leaving, and who else uses its name.

use std::time::Duration;

use crate::limits;
use crate::swim::Swim;
use crate::swim::event::Event;
use crate::swim::member::digest;
use crate::swim::message::Belief;
use crate::swim::record::Envelope;
use crate::swim::record::Record;
use crate::swim::record::RecordError;
use crate::swim::record::Signed;

/// How long a leaving member goes on, so that others learn of it.
const FAREWELL: Duration = Duration::from_millis(1_500);

impl Swim {
    /// Changes what this member says about itself, and spreads it. Returns whether anything changed. Name, cluster,
    /// instance, incarnation, rival and departure are kept as they are.
    ///
    /// # Errors
    /// [`RecordError::TooLarge`] when the changed record is above a limit; nothing is changed then.
    pub fn update(&mut self, now: Duration, change: impl FnOnce(&mut Record)) -> Result<bool, RecordError> {
        let before = self.own.record();
        let mut record = before.clone();
        change(&mut record);
        (record.name, record.cluster, record.instance) = (before.name.clone(), before.cluster, before.instance);
        (record.incarnation, record.rival, record.left) = (before.incarnation, before.rival, before.left);
        if record == *before {
            return Ok(false);
        }
        record.incarnation = (record.incarnation + 1).min(limits::INCARNATION_MAX);
        self.own = Signed::new(record, &*self.notary)?;
        self.tell(now, self.me);
        Ok(true)
    }

    /// Leaves for good: tells the others, and no longer refutes anything. Returns until when the driver should go on.
    pub fn leave(&mut self, now: Duration) -> Duration {
        if !self.left {
            self.left = true;
            self.probes.clear();
            self.publish(now, |record| record.left = true);
        }
        now + FAREWELL
    }

    pub(super) fn own_digest(&self) -> u64 {
        digest(self.me, self.own.record().edition(), if self.left { 3 } else { 1 })
    }

    /// Spreads a record with a higher incarnation.
    fn publish(&mut self, now: Duration, change: impl FnOnce(&mut Record)) {
        let mut record = self.own.record().clone();
        change(&mut record);
        record.incarnation = (record.incarnation + 1).min(limits::INCARNATION_MAX);
        // The notary may need longer signatures than it did before; then the old record has to do.
        if let Ok(signed) = Signed::new(record, &*self.notary) {
            self.own = signed;
        }
        self.tell(now, self.me);
    }

    /// Looks at what another member holds about this one. Returns whether it should be sent this member's record, and
    /// whether to ask it for the record that it holds instead, as a proof.
    pub(super) fn heed(&mut self, now: Duration, belief: Belief) -> (bool, bool) {
        let mine = self.own.record().incarnation;
        match belief {
            Belief::Unknown => (true, false),
            Belief::Up(held) => (held < mine, held > mine),
            Belief::Other(held) => (true, held >= mine),
            Belief::Left(held) if self.left => (held < mine, false),
            Belief::Suspect(held) | Belief::Dead(held) | Belief::Left(held) => {
                if held == mine {
                    self.refute(now);
                }
                (true, held > mine)
            }
        }
    }

    /// Proves that this member is alive, by an incarnation above the one that is accused.
    pub(super) fn refute(&mut self, now: Duration) {
        if !self.left {
            self.counters.refutations += 1;
            self.health.worse(1);
            self.publish(now, |_| {});
        }
    }

    /// A record under this member's own name: of its life before, or of another process.
    pub(super) fn on_own_record(&mut self, now: Duration, envelope: &Envelope<'_>, record: Record) {
        let own = self.own.record();
        let conflict = record.rival == Some(own.instance) && record.instance != own.instance;
        if record.edition() == own.edition() || (record.incarnation < own.incarnation && !conflict) {
            return;
        }
        let other = match envelope.take(record, &*self.notary) {
            Ok(signed) => signed,
            Err(_) => {
                self.counters.records_forged += 1;
                return;
            }
        };
        let (own, other) = (self.own.record(), other.record());
        if conflict {
            // Only a process that lived after this one began can name this one's instance.
            let yields = own.instance > other.instance;
            let addresses = [own.gossip, other.gossip];
            self.yielded = yields;
            self.events.push(Event::Conflict { node: self.me, addresses, yields });
            if yields {
                return;
            }
        }
        if other.edition() >= own.edition() || other.incarnation == own.incarnation {
            let (incarnation, instance) = (other.incarnation, other.instance);
            let rival = (instance != own.instance).then_some(instance).or(own.rival);
            self.publish(now, |record| {
                record.incarnation = incarnation.max(record.incarnation);
                record.rival = rival;
            });
        }
    }
}
