//! Fences as a model: one name, under which jobs come and go, whoever fires them, while the
//! database may go on from an older state. A receiver remembers the highest.
//!
//! Time passes in seconds. Left out: clocks that differ, which the tests of the fence itself
//! have; and a failover that loses a cancellation and the admission of another job under the
//! name, after which the first job is there again and was admitted earlier.

use stateright::{Model, Property};

use super::{finds, holds};

/// What makes a fence grow. Each can be taken out.
#[derive(Clone, Copy, Debug)]
struct Guards {
    /// An epoch is later than the last one and than this second.
    epochs_are_times: bool,
    /// The fence counts from the job's admission, if that is later than the epoch.
    counts_from_admission: bool,
    /// It grows with each second since.
    counts_seconds: bool,
    /// The fences of the last seconds are remembered.
    remembers: bool,
}

const ALL: Guards = Guards {
    epochs_are_times: true,
    counts_from_admission: true,
    counts_seconds: true,
    remembers: true,
};

/// How much may happen.
#[derive(Clone, Copy, Debug)]
struct Fences {
    guards: Guards,
    seconds: u8,
    starts: u8,
    takes: u8,
    failovers: u8,
}

const SMALL: Fences = Fences { guards: ALL, seconds: 8, starts: 3, takes: 2, failovers: 1 };

/// How long a fence is remembered, and what a failover takes, in seconds.
const KEEP: u8 = 5;
const FAILOVER: u8 = 2;

/// Second, and number within it.
type Fence = (u8, u8);

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Rows {
    epoch: u8,
    /// When the live job was admitted.
    job: Option<u8>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct State {
    now: u8,
    rows: Rows,
    /// What a failover would go on from.
    copy: Rows,
    /// What the owner takes for the epoch of its shard.
    owner: Option<u8>,
    /// Its last fence, and since when it is remembered; of a job that starts again for good.
    memory: Option<(Fence, Option<u8>)>,
    highest: Option<Fence>,
    starts: u8,
    takes: u8,
    failovers: u8,
    shrank: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Action {
    Tick,
    Admit,
    Cancel,
    Start { ends: bool },
    Take,
    Copy,
    FailOver,
}

const GROWS: &str = "the fence of a name grows";

impl Fences {
    fn fence(&self, state: &State, epoch: u8, admitted: u8) -> Fence {
        let since = if self.guards.counts_from_admission { epoch.max(admitted) } else { epoch };
        let waited = if self.guards.counts_seconds { state.now.saturating_sub(since) } else { 0 };
        let first = (since, waited + 1);
        match state.memory.filter(|_| self.guards.remembers) {
            Some((last, _)) => first.max((last.0, last.1 + 1)),
            None => first,
        }
    }

    fn pass(&self, state: &mut State, seconds: u8) {
        state.now += seconds;
        let now = state.now;
        let is_kept = |since: Option<u8>| since.is_none_or(|since| now - since < KEEP);
        state.memory = state.memory.filter(|(_, since)| is_kept(*since));
    }
}

impl Model for Fences {
    type State = State;
    type Action = Action;

    fn init_states(&self) -> Vec<State> {
        let rows = Rows { epoch: 1, job: None };
        vec![State {
            now: 1,
            rows,
            copy: rows,
            owner: Some(1),
            memory: None,
            highest: None,
            starts: self.starts,
            takes: self.takes,
            failovers: self.failovers,
            shrank: false,
        }]
    }

    fn actions(&self, state: &State, actions: &mut Vec<Action>) {
        if state.shrank {
            return;
        }
        if state.now < self.seconds {
            actions.push(Action::Tick);
        }
        match state.rows.job {
            None => actions.push(Action::Admit),
            Some(_) => {
                actions.push(Action::Cancel);
                if state.starts > 0 && state.owner == Some(state.rows.epoch) {
                    actions.extend([true, false].map(|ends| Action::Start { ends }));
                }
            }
        }
        if state.takes > 0 {
            actions.push(Action::Take);
        }
        if state.copy != state.rows {
            actions.push(Action::Copy);
        }
        if state.failovers > 0 && state.copy != state.rows {
            actions.push(Action::FailOver);
        }
    }

    fn next_state(&self, last: &State, action: Action) -> Option<State> {
        let mut state = last.clone();
        match action {
            Action::Tick => self.pass(&mut state, 1),
            Action::Admit => state.rows.job = Some(state.now),
            Action::Cancel => {
                state.rows.job = None;
                state.copy.job = None;
            }
            Action::Start { ends } => {
                state.starts -= 1;
                let fence = self.fence(&state, state.rows.epoch, state.rows.job?);
                state.shrank = state.highest >= Some(fence);
                state.highest = Some(fence);
                state.memory = Some((fence, ends.then_some(state.now)));
                if ends {
                    state.rows.job = None;
                }
            }
            Action::Take => {
                state.takes -= 1;
                // It was seen at a heartbeat that there is a shard to take.
                self.pass(&mut state, 1);
                let now = if self.guards.epochs_are_times { state.now } else { 0 };
                state.rows.epoch = state.rows.epoch.max(now) + 1;
                state.owner = Some(state.rows.epoch);
                state.memory = None;
            }
            Action::Copy => state.copy = state.rows,
            Action::FailOver => {
                state.failovers -= 1;
                self.pass(&mut state, FAILOVER);
                state.rows = state.copy;
            }
        }
        Some(state)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        vec![Property::always(GROWS, |_, state: &State| !state.shrank)]
    }
}

#[test]
fn the_fence_of_a_name_grows_whatever_is_lost() {
    holds("fences", SMALL);
    holds("fences, more starts", Fences { starts: 4, takes: 1, ..SMALL });
    holds("fences, two failovers", Fences { failovers: 2, takes: 3, ..SMALL });
}

#[test]
fn an_epoch_that_only_counts_is_given_twice_after_a_failover() {
    let guards = Guards { epochs_are_times: false, ..ALL };
    finds(GROWS, Fences { guards, takes: 3, ..SMALL });
}

#[test]
fn without_its_admission_a_later_job_under_the_name_begins_low() {
    let guards = Guards { counts_from_admission: false, counts_seconds: false, ..ALL };
    finds(GROWS, Fences { guards, failovers: 0, takes: 0, ..SMALL });
}

#[test]
fn without_the_seconds_a_job_whose_end_was_lost_has_its_fence_again() {
    finds(GROWS, Fences { guards: Guards { counts_seconds: false, ..ALL }, takes: 0, ..SMALL });
}

#[test]
fn without_a_memory_two_jobs_of_one_second_have_one_fence() {
    let guards = Guards { remembers: false, ..ALL };
    finds(GROWS, Fences { guards, failovers: 0, takes: 0, ..SMALL });
}
