//! The gate of an app's target: it asks the circuit whether attempts may start, tells it how they
//! ended, and reports a target that takes no jobs.
//!
//! It is part of the app and not of its scheduler, so that a restarted scheduler finds it as it
//! was. An app whose handler is in the program has no circuit, and its gate is always open.

use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::counters::AppFigures;
use crate::dispatch::{Failure, Target};
use crate::health::{Health, ProblemKind};
use crate::model::circuit::{Circuit, Sign};
use crate::model::ids::JobId;

/// The gate of one app.
#[derive(Debug)]
pub(super) struct TargetGate {
    target: Option<Guarded>,
    health: Health,
    figures: Arc<AppFigures>,
}

#[derive(Debug)]
struct Guarded {
    target: Target,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    circuit: Circuit,
    /// The number of the latest attempt that a report of the target is about, as long as there is
    /// one.
    reported: Option<u64>,
}

impl TargetGate {
    /// The gate before `target`, which may have `most` attempts in flight; `None` of a handler in
    /// the program.
    pub(super) fn new(
        target: Option<Target>,
        most: usize,
        health: Health,
        figures: Arc<AppFigures>,
    ) -> Self {
        let state = || Mutex::new(State { circuit: Circuit::new(most), reported: None });
        let target = target.map(|target| Guarded { target, state: state() });
        Self { target, health, figures }
    }

    /// Changes how many attempts the app may have in flight.
    pub(super) fn set_most(&self, most: usize) {
        if let Some(target) = &self.target {
            target.state().circuit.set_most(most);
        }
    }

    /// Whether jobs leave the program.
    pub(super) fn has_target(&self) -> bool {
        self.target.is_some()
    }

    /// How many attempts may start besides the `running` ones.
    pub(super) fn free(&self, running: usize) -> usize {
        let Some(target) = &self.target else { return usize::MAX };
        target.state().circuit.free(running, Instant::now())
    }

    /// How long nothing may start, if that does not depend on the end of an attempt.
    pub(super) fn wait(&self) -> Option<Duration> {
        self.target.as_ref()?.state().circuit.wait(Instant::now())
    }

    /// An attempt starts. Returns its number at this gate.
    pub(super) fn started(&self) -> u64 {
        let Some(target) = &self.target else { return 0 };
        target.state().circuit.started()
    }

    /// The attempt at `job` with this number has ended, one of `running`, with what the target
    /// `returned`, if it has.
    pub(super) fn ended(
        &self,
        number: u64,
        job: JobId,
        returned: Option<&Result<(), Failure>>,
        running: usize,
    ) {
        let Some(target) = &self.target else { return };
        let (sign, failure) = match returned {
            Some(Ok(())) => (Sign::Accepted, None),
            Some(Err(failure)) => (failure.sign(job), Some(failure)),
            None => (Sign::None, None),
        };
        let now = Instant::now();
        let mut state = target.state();
        if let Some(hold) = failure.and_then(Failure::hold) {
            state.circuit.hold(hold, now);
        }
        let opened = state.circuit.ended(number, sign, running, now);
        self.count(sign, opened.is_some(), state.circuit.is_open());
        match failure.and_then(|failure| problem(failure, &state.circuit, opened, now)) {
            Some(problem) => self.report(target, &mut state, number, problem),
            None if matches!(sign, Sign::Accepted | Sign::Answered) => {
                self.clear(target, &mut state, number);
            }
            None => {}
        }
    }

    fn count(&self, sign: Sign, has_opened: bool, is_open: bool) {
        let AppFigures { not_sent, too_many, circuit_opened, circuit_open, .. } = &*self.figures;
        not_sent.fetch_add((sign == Sign::NotSent).into(), Ordering::Relaxed);
        too_many.fetch_add((sign == Sign::TooMany).into(), Ordering::Relaxed);
        circuit_opened.fetch_add(has_opened.into(), Ordering::Relaxed);
        circuit_open.store(is_open.into(), Ordering::Relaxed);
    }

    fn report(&self, target: &Guarded, state: &mut State, number: u64, why: String) {
        state.reported = state.reported.max(Some(number));
        self.health.report(&target.target.subject, ProblemKind::TargetUnavailable, why);
    }

    /// An attempt that started before the failure does not show the current state.
    fn clear(&self, target: &Guarded, state: &mut State, number: u64) {
        let is_later = |reported: u64| number > reported && !state.circuit.is_open();
        if state.reported.is_some_and(is_later) {
            state.reported = None;
            self.health.clear(&target.target.subject);
        }
    }
}

impl Guarded {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What is reported after `failure`, which has opened the circuit for a time or not.
fn problem(
    failure: &Failure,
    circuit: &Circuit,
    opened: Option<Duration>,
    now: Instant,
) -> Option<String> {
    let why = failure.why();
    if let Some(wait) = opened {
        let wait = wait.as_millis();
        return Some(format!("its circuit is open, the next probe is in {wait} ms: {why}"));
    }
    // What was said when it opened remains.
    if circuit.is_open() {
        return None;
    }
    if matches!(failure, Failure::NotSent(_) | Failure::NotConfirmed(_)) {
        return Some(format!("does not accept fired jobs, which wait: {why}"));
    }
    failure.hold()?;
    let wait = circuit.wait(now)?.as_millis();
    Some(format!("asks for time, nothing is sent for {wait} ms: {why}"))
}
