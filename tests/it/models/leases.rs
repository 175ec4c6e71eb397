//! Leases as a model: instances that hang, die and restart, one shard, one job, and a database whose
//! clock may jump. Time passes in ticks; only the remaining times are stored, so that it can pass
//! without end.
//!
//! Not modelled: other jobs of the shard, attempts that fail, and failures of the heartbeat (an
//! instance that hangs has the same effect).

use stateright::{Model, Property};

mod guards;
mod steps;
mod state;

const INSTANCES: usize = 2;
/// What the implementation does to be right. Each can be taken out.
#[derive(Clone, Copy, Debug)]
struct Guards {
    /// An outcome counts only in the shard as it was when the attempt started.
    fence_outcomes: bool,
    /// Each outcome is checked by its own epoch, whatever else is in its batch.
    fence_each_outcome: bool,
    /// A job goes only into a shard that still is ours.
    fence_admissions: bool,
    /// A shard is not taken while a transaction holds its row for sharing.
    take_waits: bool,
    /// Nothing is fired without a lease that is valid here.
    local_lease_check: bool,
    /// Nor under a lease that a later self of ours got.
    fire_only_as_owner: bool,
    /// The lease counts from the sending of its renewal, not from the answer.
    lease_counts_from_sending: bool,
    /// It runs out while the instance hangs.
    lease_runs_in_suspend: bool,
    /// Dead is only whose beat was seen unmoved for a whole lease,
    beat_unmoved_check: bool,
    /// whose lease is past as the database sees it at that moment,
    declare_checks_lease: bool,
    /// and whose beat still is the one that was seen.
    declare_checks_beat: bool,
    /// A shard is taken by comparing epoch and owner.
    take_by_cas: bool,
    /// Jobs are read after the commit that took the shard.
    page_after_take: bool,
    /// A shard is given up by comparing owner and epoch.
    release_by_cas: bool,
    /// Once a release was sent, nothing of the shard is fired until it was answered.
    release_until_answered: bool,
}

const ALL: Guards = Guards {
    fence_outcomes: true,
    fence_each_outcome: true,
    fence_admissions: true,
    take_waits: true,
    local_lease_check: true,
    fire_only_as_owner: true,
    lease_counts_from_sending: true,
    lease_runs_in_suspend: true,
    beat_unmoved_check: true,
    declare_checks_lease: true,
    declare_checks_beat: true,
    take_by_cas: true,
    page_after_take: true,
    release_by_cas: true,
    release_until_answered: true,
};

/// How much may go wrong.
#[derive(Clone, Copy, Debug)]
struct Leases {
    guards: Guards,
    /// Ticks.
    lease: i8,
    /// Whether the first instance owns the shard from the start.
    owned: bool,
    /// The job at the start.
    job: Job,
    /// How often an instance may be declared dead that still runs; it joins anew.
    deaths: u8,
    /// Times that an instance hangs.
    suspends: u8,
    /// Instances that die for good.
    crashes: u8,
    /// Jumps of the database's clock, past every lease.
    jumps: u8,
    /// Shards given up for others.
    releases: u8,
    /// Answers to a release that are lost.
    lost_answers: u8,
}

/// A writer's view of the shard.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Fence {
    instance: usize,
    /// Which row of the instance: it gets a new one each time that it joins.
    life: u8,
    epoch: u8,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Job {
    Awaited,
    Live,
    Gone,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Run {
    Up,
    Suspended,
    Crashed,
}

/// A renewal under way.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Beat {
    /// Ticks since it was sent, by the sender's clock.
    age: i8,
    /// Whether the row was there and not dead.
    answer: Option<bool>,
}

/// A transaction that locks the shard's row for sharing first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Write {
    fence: Fence,
    stage: Stage,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Stage {
    Sent,
    Locked,
    Committed,
    Refused,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Release {
    fence: Fence,
    awaited: bool,
}

/// The last look at the shard: it was free then.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Seen {
    epoch: u8,
    job: Job,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Instance {
    run: Run,
    life: u8,
    /// What is left of the lease as it is known here.
    lease: i8,
    beat: Option<Beat>,
    /// It knows that it was declared dead.
    knows_dead: bool,
    /// The scheduler has been asked to drop the shard, and has not yet.
    to_drop: bool,
    fence: Option<Fence>,
    paged: bool,
    /// The job is in memory.
    in_window: bool,
    flight: Option<Fence>,
    outcome: Option<Write>,
    admission: Option<Write>,
    release: Option<Release>,
    seen: Option<Seen>,
    /// The other is to be declared dead.
    kill: bool,
    /// Ticks since the other's beat was seen to move.
    unmoved: i8,
    /// The other's beat has changed since.
    moved: bool,
    /// In the database: the lease left, and whether it was declared dead.
    row_lease: i8,
    row_dead: bool,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct State {
    instances: [Instance; INSTANCES],
    owner: Option<(usize, u8)>,
    epoch: u8,
    job: Job,
    fired_by: Option<Fence>,
    deaths: u8,
    suspends: u8,
    crashes: u8,
    jumps: u8,
    releases: u8,
    lost_answers: u8,
    broken: Option<&'static str>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Action {
    Tick,
    JumpClock,
    Suspend(usize),
    Resume(usize),
    Crash(usize),
    SendBeat(usize),
    WriteBeat(usize),
    HearBeat(usize),
    Drop(usize),
    Join(usize),
    DeclareDead(usize),
    Take(usize),
    ReadPage(usize),
    Fire(usize),
    Send(usize, What),
    Lock(usize, What),
    Commit(usize, What),
    Abort(usize, What),
    Hear(usize, What),
    Release(usize),
    WriteRelease(usize),
    LoseReleaseAnswer(usize),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum What {
    Outcome,
    Admission,
}

impl Action {
    fn is_fault(&self) -> bool {
        matches!(
            self,
            Self::JumpClock | Self::Suspend(_) | Self::Crash(_) | Self::LoseReleaseAnswer(_)
        )
    }
}

const BOTH_FIRE: &str = "no two instances fire a job under leases of its shard that are valid";
const AGAIN: &str = "a job fires again only after its instance was declared dead";
const LATE: &str = "a write of an old epoch changes nothing";
const UNFIRED: &str = "no job is removed that was not fired";
const STRANDED: &str = "a live job is in the memory of whoever owns its shard and has read it";

impl Model for Leases {
    type State = State;
    type Action = Action;

    fn init_states(&self) -> Vec<State> {
        let instance = Instance {
            run: Run::Up,
            life: 0,
            lease: self.lease,
            beat: None,
            knows_dead: false,
            to_drop: false,
            fence: None,
            paged: false,
            in_window: false,
            flight: None,
            outcome: None,
            admission: None,
            release: None,
            seen: None,
            kill: false,
            unmoved: 0,
            moved: false,
            row_lease: self.lease,
            row_dead: false,
        };
        let mut state = State {
            instances: [instance; INSTANCES],
            owner: None,
            epoch: 0,
            job: self.job,
            fired_by: None,
            deaths: self.deaths,
            suspends: self.suspends,
            crashes: self.crashes,
            jumps: self.jumps,
            releases: self.releases,
            lost_answers: self.lost_answers,
            broken: None,
        };
        if self.owned {
            state.owner = Some((0, 0));
            state.instances[0].own(state.fence_of(0));
        }
        vec![state]
    }

    fn actions(&self, state: &State, actions: &mut Vec<Action>) {
        if state.broken.is_some() || state.is_over() {
            return;
        }
        actions.push(Action::Tick);
        if state.jumps > 0 {
            actions.push(Action::JumpClock);
        }
        for (at, one) in state.instances.iter().enumerate() {
            self.actions_of_database(state, at, one, actions);
            match one.run {
                Run::Up => self.actions_of(state, at, one, actions),
                Run::Suspended => actions.push(Action::Resume(at)),
                Run::Crashed => {}
            }
        }
    }

    fn next_state(&self, last: &State, action: Action) -> Option<State> {
        let mut state = last.clone();
        self.apply(&mut state, action);
        self.simplify(&mut state);
        Some(state)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        vec![
            Property::always(BOTH_FIRE, |_, state: &State| state.broken != Some(BOTH_FIRE)),
            Property::always(AGAIN, |_, state: &State| state.broken != Some(AGAIN)),
            Property::always(LATE, |_, state: &State| state.broken != Some(LATE)),
            Property::always(UNFIRED, |_, state: &State| state.broken != Some(UNFIRED)),
            Property::always(STRANDED, |_, state: &State| !state.is_stranded()),
            Property::sometimes("the job is fired and removed", |_, state: &State| {
                state.job == Job::Gone
            }),
        ]
    }
}
