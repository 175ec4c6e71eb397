//! When the next attempts of an app may start, by what the earlier ones said about its target.
//!
//! Failures in a row open the circuit; too many requests lower a limit; and a target may ask for
//! time. Time is monotonic and comes from the caller.

#[cfg(test)]
mod tests;

use std::collections::HashSet;
use std::time::{Duration, Instant};

use super::ids::JobId;

/// This many failures in a row open the circuit.
const ROW: u32 = 10;
/// The first and the longest wait before a probe.
const WAIT: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(30));
/// No target holds an app for longer.
const LONGEST_HOLD: Duration = Duration::from_secs(30);

/// The circuit of one app on one instance.
#[derive(Debug)]
pub(crate) struct Circuit {
    /// How many attempts may run when nothing is wrong.
    most: usize,
    state: State,
    /// How many attempts were started, which is the number of the latest.
    started: u64,
    /// Attempts up to this number were started before the circuit opened for the last time, and
    /// say nothing about the target as it is now.
    stale: u64,
    /// Failures since the last attempt that the target answered, and the jobs of those that count
    /// once.
    row: u32,
    counted: HashSet<JobId>,
    /// How many attempts may run after too many requests.
    limit: Option<usize>,
    /// Attempts up to this number were started before the limit was lowered for the last time.
    lowered: u64,
    held_until: Option<Instant>,
}

#[derive(Clone, Copy, Debug)]
enum State {
    Closed,
    /// Nothing starts before this instant.
    Open {
        until: Instant,
        wait: Duration,
    },
    /// One probe, then 1, 2, 4 ... attempts at a time.
    Probing {
        /// 0 is the probe.
        step: u32,
        running: usize,
        /// Answers within this step.
        answered: usize,
        /// The wait before this probe.
        wait: Duration,
    },
}

/// What the end of an attempt says about the target.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Sign {
    /// Nothing: for example, it was cancelled.
    None,
    /// It took the job.
    Accepted,
    /// It answered something about the job alone.
    Answered,
    /// It failed, for a reason that probably holds for other jobs, too. A job counts once in a
    /// row.
    Failed(JobId),
    /// Nothing could be sent, or the target is in a state in which it takes no job.
    NotSent,
    /// It has got too many requests.
    TooMany,
}

impl Circuit {
    /// A closed circuit of an app that may have `most` attempts in flight.
    pub(crate) fn new(most: usize) -> Self {
        Self {
            most,
            state: State::Closed,
            started: 0,
            stale: 0,
            row: 0,
            counted: HashSet::new(),
            limit: None,
            lowered: 0,
            held_until: None,
        }
    }

    /// Changes how many attempts the app may have in flight.
    pub(crate) fn set_most(&mut self, most: usize) {
        self.most = most;
        self.limit = self.limit.filter(|limit| *limit < most);
    }

    /// How many attempts may start besides the `running` ones.
    pub(crate) fn free(&self, running: usize, now: Instant) -> usize {
        if self.wait(now).is_some() {
            return 0;
        }
        let below_limit = self.limit.unwrap_or(self.most).saturating_sub(running);
        match self.state {
            State::Closed => below_limit,
            // Attempts of the time before do not delay the probe.
            State::Open { .. } => 1,
            State::Probing { step: 0, running, .. } => 1_usize.saturating_sub(running),
            State::Probing { step, running, .. } => {
                below_limit.min(at_a_time(step).saturating_sub(running))
            }
        }
    }

    /// How long nothing may start, if that does not depend on the end of an attempt.
    pub(crate) fn wait(&self, now: Instant) -> Option<Duration> {
        let open_until = match self.state {
            State::Open { until, .. } => Some(until),
            State::Closed | State::Probing { .. } => None,
        };
        let until = open_until.max(self.held_until)?;
        Some(until.saturating_duration_since(now)).filter(|wait| !wait.is_zero())
    }

    /// Whether the target is assumed to take no jobs.
    pub(crate) fn is_open(&self) -> bool {
        matches!(self.state, State::Open { .. } | State::Probing { step: 0, .. })
    }

    /// An attempt starts. Returns its number, which [`Self::ended`] needs.
    pub(crate) fn started(&mut self) -> u64 {
        if let State::Open { wait, .. } = self.state {
            self.stale = self.started;
            self.state = State::Probing { step: 0, running: 0, answered: 0, wait };
        }
        if let State::Probing { running, .. } = &mut self.state {
            *running += 1;
        }
        self.started += 1;
        self.started
    }

    /// Attempt `number` has ended, and was one of `running`. Returns the wait before the first
    /// probe if the circuit has opened by that.
    pub(crate) fn ended(
        &mut self,
        number: u64,
        sign: Sign,
        running: usize,
        now: Instant,
    ) -> Option<Duration> {
        if sign == Sign::Accepted {
            self.limit = self.limit.map(|limit| limit + 1).filter(|limit| *limit < self.most);
        }
        if sign == Sign::TooMany && number > self.lowered {
            // Those that run already may be answered in the same way.
            self.lowered = self.started;
            let used = self.limit.unwrap_or(self.most).min(running);
            self.limit = Some((used / 2).max(1)).filter(|limit| *limit < self.most);
        }
        if number <= self.stale {
            return None;
        }
        if let State::Probing { running, .. } = &mut self.state {
            *running = running.saturating_sub(1);
        }
        match sign {
            Sign::None | Sign::TooMany => None,
            Sign::Accepted | Sign::Answered => {
                self.answered();
                None
            }
            Sign::Failed(job) if !self.counted.insert(job) && !self.is_open() => None,
            Sign::Failed(_) | Sign::NotSent => self.failed(now),
        }
    }

    /// The target asks for this much time. At most 30 seconds of it hold the app.
    pub(crate) fn hold(&mut self, wanted: Duration, now: Instant) {
        let until = now + wanted.min(LONGEST_HOLD);
        self.held_until = self.held_until.max(Some(until));
    }

    fn answered(&mut self) {
        self.row = 0;
        self.counted.clear();
        let State::Probing { step, answered, .. } = &mut self.state else { return };
        *answered += 1;
        if *answered >= at_a_time(*step) {
            *step += 1;
            *answered = 0;
            if at_a_time(*step) >= self.most {
                self.state = State::Closed;
            }
        }
    }

    fn failed(&mut self, now: Instant) -> Option<Duration> {
        self.row += 1;
        let (row, wait) = match self.state {
            // Started before it opened.
            State::Open { .. } => return None,
            State::Closed => (ROW, WAIT.0),
            // With few attempts at a time, few of them in a row are enough. A target that has
            // taken about a row of jobs was available again.
            State::Probing { step, wait, .. } => {
                let at_a_time = u32::try_from(at_a_time(step)).unwrap_or(u32::MAX);
                let recovered = at_a_time > ROW;
                (ROW.min(at_a_time), if recovered { WAIT.0 } else { (wait * 2).min(WAIT.1) })
            }
        };
        if self.row < row {
            return None;
        }
        self.state = State::Open { until: now + wait, wait };
        self.stale = self.started;
        self.row = 0;
        self.counted.clear();
        Some(wait)
    }
}

/// How many attempts run at a time in this step after the probe.
fn at_a_time(step: u32) -> usize {
    1_usize.checked_shl(step.saturating_sub(1)).unwrap_or(usize::MAX)
}
