//! Fences as a model: one name, under which jobs come and go, on any instance, while the
//! database may go on from an older state. A receiver remembers the highest.
//!
//! Time passes in seconds. Clocks differ by a second: a server's, a process's own, and what a
//! process knows of the server's. Left out: that fences are whole numbers, which the tests of
//! the fence itself have.

use stateright::{Model, Property};

use super::{finds, holds};

/// What makes a fence grow. Each can be taken out.
#[derive(Clone, Copy, Debug)]
struct Guards {
    /// An epoch is later than the last one and than this second.
    epochs_are_times: bool,
    /// A fence is a reading of the database's clock, and no count of starts.
    reads_time: bool,
    /// No two readings of a process are the same.
    readings_differ: bool,
    /// A fence is not below its epoch.
    begins_at_epoch: bool,
    /// It grows before the epoch's second is over.
    grows_before: bool,
}

const ALL: Guards = Guards {
    epochs_are_times: true,
    reads_time: true,
    readings_differ: true,
    begins_at_epoch: true,
    grows_before: true,
};

/// How much may happen.
#[derive(Clone, Copy, Debug)]
struct Fences {
    guards: Guards,
    /// What a failover takes.
    failover_s: u8,
    seconds: u8,
    starts: u8,
    takes: u8,
    failovers: u8,
}

const SMALL: Fences =
    Fences { guards: ALL, failover_s: 5, seconds: 8, starts: 3, takes: 2, failovers: 1 };

/// When it begins.
const START: u8 = 3;
/// Readings of a second.
const SECOND: u16 = 4;
/// Fences of a reading; so much more slowly they grow until the epoch's second is over.
const GRAIN: u16 = 16;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Rows {
    owner: usize,
    epoch: u8,
    has_job: bool,
}

/// A process that has taken the shard.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Process {
    /// How much less than the database's clock shows is known to it.
    late: u8,
    last: u16,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct State {
    now: u8,
    /// How far the database's clock is behind.
    behind: u8,
    rows: Rows,
    /// What a failover would go on from.
    copy: Rows,
    processes: Vec<Process>,
    highest: Option<u16>,
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
    Start {
        ends: bool,
    },
    /// By a process that knows the database's clock late, or whose own is ahead.
    Take {
        late: u8,
        ahead: u8,
    },
    Copy,
    FailOver {
        behind: u8,
    },
}

const GROWS: &str = "the fence of a name grows";

impl Fences {
    /// The next reading of the owner.
    fn reading(&self, state: &State) -> u16 {
        let Process { late, last } = state.processes[state.rows.owner];
        let now_s = match self.guards.reads_time {
            true => state.now - state.behind - late,
            false => state.rows.epoch,
        };
        let now = u16::from(now_s) * SECOND;
        if self.guards.readings_differ { now.max(last + 1) } else { now }
    }

    fn fence(&self, epoch: u8, reading: u16) -> u16 {
        let floor = u16::from(epoch) * SECOND;
        let end = floor + SECOND;
        if reading >= end || !self.guards.begins_at_epoch {
            reading * GRAIN
        } else if self.guards.grows_before {
            (end * GRAIN - (end - reading)).max(floor * GRAIN)
        } else {
            reading.max(floor) * GRAIN
        }
    }
}

impl Model for Fences {
    type State = State;
    type Action = Action;

    fn init_states(&self) -> Vec<State> {
        let rows = Rows { owner: 0, epoch: START, has_job: false };
        vec![State {
            now: START,
            behind: 0,
            rows,
            copy: rows,
            processes: vec![Process { late: 0, last: 0 }],
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
        if state.rows.has_job {
            actions.push(Action::Cancel);
            if state.starts > 0 {
                actions.extend([true, false].map(|ends| Action::Start { ends }));
            }
        } else {
            actions.push(Action::Admit);
        }
        if state.takes > 0 {
            let differences = [(0, 0), (1, 0), (0, 1), (1, 1)];
            actions.extend(differences.map(|(late, ahead)| Action::Take { late, ahead }));
        }
        if state.copy != state.rows {
            actions.push(Action::Copy);
        }
        if state.failovers > 0 {
            actions.extend([0, 1].map(|behind| Action::FailOver { behind }));
        }
    }

    fn next_state(&self, last: &State, action: Action) -> Option<State> {
        let mut state = last.clone();
        match action {
            Action::Tick => state.now += 1,
            Action::Admit => state.rows.has_job = true,
            Action::Cancel => state.rows.has_job = false,
            Action::Start { ends } => {
                state.starts -= 1;
                let reading = self.reading(&state);
                let fence = self.fence(state.rows.epoch, reading);
                state.shrank = state.highest >= Some(fence);
                state.highest = Some(fence);
                state.processes[state.rows.owner].last = reading;
                state.rows.has_job = !ends;
            }
            Action::Take { late, ahead } => {
                state.takes -= 1;
                // It was seen at a heartbeat that there is a shard to take.
                state.now += 1;
                let later = (state.now - state.behind).max(state.now + ahead);
                let later = if self.guards.epochs_are_times { later } else { 0 };
                state.rows.epoch = state.rows.epoch.max(later) + 1;
                state.rows.owner = state.processes.len();
                state.processes.push(Process { late, last: 0 });
            }
            Action::Copy => state.copy = state.rows,
            Action::FailOver { behind } => {
                state.failovers -= 1;
                state.now += self.failover_s;
                state.behind = behind;
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
    holds("fences, two failovers", Fences { failovers: 2, seconds: 5, ..SMALL });
    let no_failover = Fences { starts: 4, takes: 3, failovers: 0, ..SMALL };
    holds("fences, three successors", no_failover);
}

#[test]
fn an_epoch_that_only_counts_is_given_twice_after_a_failover() {
    finds(GROWS, Fences { guards: Guards { epochs_are_times: false, ..ALL }, ..SMALL });
}

#[test]
fn a_count_of_starts_is_low_again_where_a_takeover_was_lost() {
    finds(GROWS, Fences { guards: Guards { reads_time: false, ..ALL }, ..SMALL });
}

#[test]
fn two_starts_of_one_moment_have_one_fence_where_readings_may_be_the_same() {
    let guards = Guards { readings_differ: false, ..ALL };
    finds(GROWS, Fences { guards, failovers: 0, takes: 0, ..SMALL });
}

#[test]
fn a_successor_that_knows_the_time_late_begins_low_without_the_epoch() {
    let guards = Guards { begins_at_epoch: false, ..ALL };
    finds(GROWS, Fences { guards, failovers: 0, ..SMALL });
}

#[test]
fn two_starts_have_the_epoch_for_a_fence_where_it_does_not_grow_before() {
    let guards = Guards { grows_before: false, ..ALL };
    finds(GROWS, Fences { guards, failovers: 0, takes: 1, ..SMALL });
}

#[test]
fn a_failover_that_is_over_sooner_than_the_clocks_allow_brings_a_lower_fence() {
    finds(GROWS, Fences { failover_s: 4, ..SMALL });
}
