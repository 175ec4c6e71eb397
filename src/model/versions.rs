//! Operations on a name: which of them decides, in whatever order they arrive.
//!
//! Of a name, S is the highest version among its schedules, C among its cancellations and R among
//! its reschedules. Its job lives if S is above C; its time is that of R if R is above S, else that
//! of S. A schedule without a version has version 0. A cancellation or reschedule without one
//! applies to what exists, and if nothing does, to the first schedule without a version that comes
//! while the operation is remembered.

use serde::{Deserialize, Serialize};

/// What is remembered of the operations on a name.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Memory {
    /// C: the highest version of a cancellation.
    pub cancelled: Option<i64>,
    /// R: the reschedule with the highest version, or one without a version that waits for its
    /// schedule.
    pub moved: Option<Moved>,
    /// A cancellation without a version waits for its schedule.
    pub awaits_cancel: bool,
}

/// The reschedule that is remembered of a name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Moved {
    /// Its version; `None` for one that waits for a schedule without a version.
    pub version: Option<i64>,
    /// The time that it set, epoch milliseconds.
    pub to_ms: i64,
    /// It named the job by an idempotency key. At a tie a reschedule by request id decides.
    pub by_key: bool,
}

/// What exists under a name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// Nothing but the memory of operations.
    Awaited,
    /// A job with this S that was cancelled.
    Cancelled(i64),
    /// A live job with this S.
    Live(i64),
}

/// What an operation did to a name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Effect {
    /// It holds for the job that exists.
    Applied,
    /// There is no live job, and it is remembered for one that comes.
    Remembered,
    /// One with a higher version came before.
    Superseded,
    /// The job already is as the operation asks.
    Unchanged,
}

/// What a schedule meets under its name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Met {
    /// It becomes a live job with this time, epoch milliseconds.
    Lives(i64),
    /// It becomes a job that is cancelled already.
    Cancelled,
    /// It repeats a job that was cancelled, and changes nothing.
    RepeatsCancelled,
    /// It has the version of the live job: it is a duplicate of it, or in conflict with it.
    Repeats,
    /// The live job has a higher version.
    Superseded,
    /// It replaces the live job, with this time, epoch milliseconds.
    Replaces(i64),
}

/// The version that a schedule counts with.
pub fn schedule_version(version: Option<i64>) -> i64 {
    version.unwrap_or(0)
}

impl Moved {
    /// Its place among reschedules of one name.
    fn rank(&self) -> (Option<i64>, bool) {
        (self.version, !self.by_key)
    }

    /// Whether it decides the time of a schedule with this version.
    fn decides(&self, of_schedule: Option<i64>) -> bool {
        match self.version {
            Some(version) => version > schedule_version(of_schedule),
            None => of_schedule.is_none(),
        }
    }
}

impl Memory {
    /// Whether nothing is remembered.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// A cancellation of the name.
    pub fn cancel(&mut self, standing: Standing, version: Option<i64>) -> Effect {
        match (standing, version) {
            (Standing::Live(s), Some(version)) if version < s => Effect::Superseded,
            (Standing::Live(s), version) => {
                self.raise_cancelled(version.unwrap_or(s));
                Effect::Applied
            }
            (Standing::Cancelled(_), version) => {
                version.into_iter().for_each(|version| self.raise_cancelled(version));
                Effect::Unchanged
            }
            (Standing::Awaited, None) => {
                self.awaits_cancel = true;
                Effect::Remembered
            }
            (Standing::Awaited, Some(version)) => match self.cancelled {
                Some(higher) if higher > version => Effect::Superseded,
                _ => {
                    self.raise_cancelled(version);
                    Effect::Remembered
                }
            },
        }
    }

    /// A reschedule of the name. One without a version that is [`Effect::Applied`] sets the time of
    /// the job that exists and is not remembered.
    pub fn reschedule(&mut self, standing: Standing, new: Moved) -> Effect {
        let Some(version) = new.version else {
            return match (standing, self.moved) {
                (Standing::Live(_), _) => Effect::Applied,
                (Standing::Cancelled(_), _) => Effect::Unchanged,
                (Standing::Awaited, Some(Moved { version: Some(_), .. })) => Effect::Superseded,
                (Standing::Awaited, _) => {
                    self.moved = Some(new);
                    Effect::Remembered
                }
            };
        };
        // At or below these, no schedule of the name can live and still get its time from it.
        let below = match standing {
            Standing::Live(s) => Some(s),
            Standing::Cancelled(s) => Some(self.cancelled.map_or(s, |c| c.max(s))),
            Standing::Awaited => self.cancelled,
        };
        if below.is_some_and(|below| version <= below) {
            return Effect::Superseded;
        }
        let is_live = matches!(standing, Standing::Live(_));
        match self.moved {
            Some(old) if old == new && is_live => Effect::Unchanged,
            Some(old) if old == new => Effect::Remembered,
            Some(old) if old.rank() >= new.rank() => Effect::Superseded,
            _ => {
                self.moved = Some(new);
                if is_live { Effect::Applied } else { Effect::Remembered }
            }
        }
    }

    /// A schedule of the name, for `own_ms`. What it is cancelled by holds for it from now on;
    /// what waited for a schedule has found it.
    pub fn schedule(&mut self, standing: Standing, version: Option<i64>, own_ms: i64) -> Met {
        let s = schedule_version(version);
        let met = match standing {
            Standing::Live(other) if s < other => return Met::Superseded,
            Standing::Live(other) if s == other => return Met::Repeats,
            Standing::Live(_) => Met::Replaces(self.time(version, own_ms)),
            Standing::Cancelled(other) => {
                let highest = self.cancelled.map_or(other, |c| c.max(other));
                if s <= highest {
                    return Met::RepeatsCancelled;
                }
                Met::Lives(self.time(version, own_ms))
            }
            Standing::Awaited => {
                let waited = self.awaits_cancel && version.is_none();
                if waited || self.cancelled.is_some_and(|c| c >= s) {
                    self.raise_cancelled(s);
                    Met::Cancelled
                } else {
                    Met::Lives(self.time(version, own_ms))
                }
            }
        };
        self.awaits_cancel = false;
        self.moved = self.moved.filter(|moved| moved.version.is_some());
        met
    }

    fn time(&self, version: Option<i64>, own_ms: i64) -> i64 {
        self.moved.filter(|moved| moved.decides(version)).map_or(own_ms, |moved| moved.to_ms)
    }

    fn raise_cancelled(&mut self, version: i64) {
        self.cancelled = self.cancelled.max(Some(version));
    }
}

#[cfg(test)]
mod tests;
