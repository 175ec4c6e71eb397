//! The possible steps from a state, and the states that they lead to.

use super::*;

impl Leases {
    /// What happens to statements that are under way, from any sender.
    pub(super) fn actions_of_database(
        &self,
        state: &State,
        at: usize,
        one: &Instance,
        actions: &mut Vec<Action>,
    ) {
        if one.beat.is_some_and(|beat| beat.answer.is_none()) {
            actions.push(Action::WriteBeat(at));
        }
        for what in [What::Outcome, What::Admission] {
            match one.clone().write(what).map(|write| write.stage) {
                Some(Stage::Sent) => actions.push(Action::Lock(at, what)),
                Some(Stage::Locked) => {
                    actions.push(Action::Commit(at, what));
                    // The server does not let a silent session hold its locks.
                    if one.run != Run::Up {
                        actions.push(Action::Abort(at, what));
                    }
                }
                _ => {}
            }
        }
        if one.release.is_some() && !state.is_locked() {
            actions.push(Action::WriteRelease(at));
        }
    }

    pub(super) fn actions_of(
        &self,
        state: &State,
        at: usize,
        one: &Instance,
        actions: &mut Vec<Action>,
    ) {
        use Action::*;
        if state.suspends > 0 {
            actions.push(Suspend(at));
        }
        if state.crashes > 0 {
            actions.push(Crash(at));
        }
        if one.to_drop {
            actions.push(Drop(at));
        }
        if one.knows_dead {
            actions.push(Join(at));
        } else {
            actions.extend(one.beat.is_none().then_some(SendBeat(at)));
        }
        if one.beat.is_some_and(|beat| beat.answer.is_some()) {
            actions.push(HearBeat(at));
        }
        let other_may_die = state.deaths > 0 || state.instances[1 - at].run == Run::Crashed;
        if one.kill && other_may_die {
            actions.push(DeclareDead(at));
        }
        if one.seen.is_some() && !(self.guards.take_waits && state.is_locked()) {
            actions.push(Take(at));
        }
        if one.fence.is_some() && !one.paged {
            actions.push(ReadPage(at));
        }
        let has_lease = one.lease > 0;
        let is_owner = one.fence.is_some_and(|fence| fence.life == one.life);
        if one.in_window
            && (has_lease || !self.guards.local_lease_check)
            && (is_owner || !self.guards.fire_only_as_owner)
        {
            actions.push(Fire(at));
        }
        if one.flight.is_some() && one.outcome.is_none() && has_lease {
            actions.push(Send(at, What::Outcome));
        }
        let awaited = state.job == Job::Awaited;
        if awaited && one.fence.is_some() && one.admission.is_none() && has_lease {
            actions.push(Send(at, What::Admission));
        }
        for what in [What::Outcome, What::Admission] {
            let answered = |write: Write| matches!(write.stage, Stage::Committed | Stage::Refused);
            if one.clone().write(what).is_some_and(answered) {
                actions.push(Hear(at, what));
            }
        }
        if state.releases > 0 && one.fence.is_some() && one.flight.is_none() && !one.to_drop {
            actions.push(Release(at));
        }
        if state.lost_answers > 0 && one.release.is_some_and(|release| release.awaited) {
            actions.push(LoseReleaseAnswer(at));
        }
    }

    pub(super) fn apply(&self, state: &mut State, action: Action) {
        match action {
            Action::Tick => self.tick(state),
            Action::JumpClock => {
                state.jumps -= 1;
                state.instances.iter_mut().for_each(|one| one.row_lease = -1);
            }
            Action::Suspend(at) => {
                state.suspends -= 1;
                state.instances[at].run = Run::Suspended;
            }
            Action::Resume(at) => state.instances[at].run = Run::Up,
            Action::Crash(at) => {
                state.crashes -= 1;
                state.instances[at].run = Run::Crashed;
            }
            Action::SendBeat(at) => {
                state.instances[at].beat = Some(Beat { age: 0, answer: None });
            }
            Action::WriteBeat(at) => write_beat(state, at, self.lease),
            Action::HearBeat(at) => self.hear_beat(state, at),
            Action::Drop(at) => {
                state.instances[at].to_drop = false;
                state.instances[at].forget_shard();
            }
            Action::Join(at) => join(state, at, self.lease),
            Action::DeclareDead(at) => self.declare_dead(state, at),
            Action::Take(at) => self.take(state, at),
            Action::ReadPage(at) => {
                let job = state.job;
                state.instances[at].paged = true;
                state.instances[at].look_up(job);
            }
            Action::Fire(at) => fire(state, at),
            Action::Send(at, what) => {
                let one = &mut state.instances[at];
                let fence = if what == What::Outcome { one.flight } else { one.fence };
                *one.write(what) = fence.map(|fence| Write { fence, stage: Stage::Sent });
            }
            Action::Lock(at, what) => self.lock(state, at, what),
            Action::Commit(at, what) => commit(state, at, what),
            Action::Abort(at, what) => *state.instances[at].write(what) = None,
            Action::Hear(at, what) => {
                let job = state.job;
                let one = &mut state.instances[at];
                *one.write(what) = None;
                if what == What::Outcome {
                    one.flight = None;
                }
                one.look_up(job);
            }
            Action::Release(at) => {
                state.releases -= 1;
                let one = &mut state.instances[at];
                one.release = one.fence.map(|fence| Release { fence, awaited: true });
                one.forget_shard();
            }
            Action::WriteRelease(at) => {
                let Some(Release { fence, .. }) = state.instances[at].release.take() else {
                    return;
                };
                if state.is_owned_as(fence) || !self.guards.release_by_cas {
                    state.owner = None;
                }
            }
            Action::LoseReleaseAnswer(at) => {
                state.lost_answers -= 1;
                if let Some(release) = &mut state.instances[at].release {
                    // Sent again until it is answered, it is the same release.
                    release.awaited = self.guards.release_until_answered;
                }
            }
        }
    }

    /// States that differ only in values that are never read are the same.
    pub(super) fn simplify(&self, state: &mut State) {
        for at in 0..INSTANCES {
            let (may_die, other_may_die) = (state.may_die(at), state.may_die(1 - at));
            let one = &mut state.instances[at];
            if !may_die {
                one.row_lease = 0;
            }
            if !other_may_die {
                (one.kill, one.unmoved, one.moved) = (false, 0, false);
            }
            if self.guards.take_by_cas {
                one.seen = one.seen.filter(|seen| seen.epoch == state.epoch);
            }
        }
    }

    fn tick(&self, state: &mut State) {
        for one in &mut state.instances {
            one.row_lease = (one.row_lease - 1).max(-1);
            if one.run == Run::Suspended && !self.guards.lease_runs_in_suspend {
                continue;
            }
            one.lease = (one.lease - 1).max(0);
            one.unmoved = (one.unmoved + 1).min(self.lease);
            if let Some(beat) = &mut one.beat {
                beat.age = (beat.age + 1).min(self.lease);
            }
        }
    }

    /// After a renewal an instance looks around.
    fn hear_beat(&self, state: &mut State, at: usize) {
        let one = &mut state.instances[at];
        let Some(Beat { age, answer: Some(alive) }) = one.beat.take() else { return };
        if alive {
            let age = if self.guards.lease_counts_from_sending { age } else { 0 };
            one.lease = self.lease - age;
            self.observe(state, at);
        } else {
            one.lease = 0;
            one.knows_dead = true;
            one.to_drop = true;
        }
    }

    fn observe(&self, state: &mut State, at: usize) {
        let other = state.instances[1 - at];
        let (owner, epoch, job) = (state.owner, state.epoch, state.job);
        let (free, as_owner) = (state.is_free(), state.fence_of(at));
        let one = &mut state.instances[at];
        let unmoved = !one.moved && one.unmoved == self.lease;
        let silent = unmoved || !self.guards.beat_unmoved_check;
        // To declare dead who owns nothing changes nothing here.
        let is_owner = owner == Some((1 - at, other.life));
        one.kill = is_owner && silent && other.row_lease < 0 && !other.row_dead;
        if std::mem::take(&mut one.moved) {
            one.unmoved = 0;
        }
        if owner == Some((at, one.life)) {
            let releasing = one.release.is_some_and(|release| release.awaited);
            if one.fence != Some(as_owner) && !releasing {
                one.own(as_owner);
            }
        } else {
            one.forget_shard();
        }
        let job = if self.guards.page_after_take { Job::Awaited } else { job };
        one.seen = free.then_some(Seen { epoch, job });
    }

    fn declare_dead(&self, state: &mut State, at: usize) {
        state.instances[at].kill = false;
        let still = !state.instances[at].moved || !self.guards.declare_checks_beat;
        let other = &mut state.instances[1 - at];
        let past = other.row_lease < 0 || !self.guards.declare_checks_lease;
        if past && still {
            other.row_dead = true;
            state.deaths = state.deaths.saturating_sub(1);
        }
    }

    fn take(&self, state: &mut State, at: usize) {
        let Some(seen) = state.instances[at].seen.take() else { return };
        if self.guards.take_by_cas && !(seen.epoch == state.epoch && state.is_free()) {
            return;
        }
        state.epoch += 1;
        state.owner = Some((at, state.instances[at].life));
        let fence = state.fence_of(at);
        let one = &mut state.instances[at];
        one.own(fence);
        if !self.guards.page_after_take {
            one.paged = true;
            one.look_up(seen.job);
        }
    }

    /// The first statement of the transaction: the shard's row is locked and compared.
    fn lock(&self, state: &mut State, at: usize, what: What) {
        let Some(Write { fence, .. }) = *state.instances[at].write(what) else { return };
        let fenced = match what {
            What::Outcome => self.guards.fence_outcomes,
            What::Admission => self.guards.fence_admissions,
        };
        // Another job's outcome in the same batch, of an attempt that started later.
        let by_another = what == What::Outcome
            && !self.guards.fence_each_outcome
            && state.instances[at].fence.is_some_and(|fence| state.is_owned_as(fence));
        let passes = state.is_owned_as(fence) || by_another || !fenced;
        let stage = if passes { Stage::Locked } else { Stage::Refused };
        *state.instances[at].write(what) = Some(Write { fence, stage });
    }
}

fn write_beat(state: &mut State, at: usize, lease: i8) {
    let one = &mut state.instances[at];
    let alive = !one.row_dead;
    if let Some(beat) = &mut one.beat {
        beat.answer = Some(alive);
    }
    if alive {
        one.row_lease = lease;
        state.instances[1 - at].moved = true;
    }
}

/// A new row, a new lease; what the former self left behind stays until it is dropped.
fn join(state: &mut State, at: usize, lease: i8) {
    let one = &mut state.instances[at];
    one.life += 1;
    one.lease = lease;
    one.row_lease = lease;
    one.row_dead = false;
    one.knows_dead = false;
    one.seen = None;
    one.kill = false;
    state.instances[1 - at].moved = true;
}

fn fire(state: &mut State, at: usize) {
    let one = &mut state.instances[at];
    let Some(fence) = one.fence else { return };
    one.in_window = false;
    one.flight = Some(fence);
    let other = state.instances[1 - at];
    if other.lease > 0 && other.flight.is_some_and(|fence| fence.life == other.life) {
        state.breaks(BOTH_FIRE);
    }
    if let Some(first) = state.fired_by
        && state.is_live((first.instance, first.life))
    {
        state.breaks(AGAIN);
    }
    state.fired_by = Some(fence);
}

fn commit(state: &mut State, at: usize, what: What) {
    let Some(Write { fence, .. }) = *state.instances[at].write(what) else { return };
    *state.instances[at].write(what) = Some(Write { fence, stage: Stage::Committed });
    let (from, to) = match what {
        What::Outcome => (Job::Live, Job::Gone),
        What::Admission => (Job::Awaited, Job::Live),
    };
    if state.job != from {
        return;
    }
    state.job = to;
    if !state.is_owned_as(fence) {
        state.breaks(LATE);
    }
    if to == Job::Gone && state.fired_by.is_none() {
        state.breaks(UNFIRED);
    }
}
