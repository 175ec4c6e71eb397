//! Questions to the state of the model, and the steps that several actions share.

use super::*;

impl Instance {
    pub(super) fn write(&mut self, what: What) -> &mut Option<Write> {
        match what {
            What::Outcome => &mut self.outcome,
            What::Admission => &mut self.admission,
        }
    }

    pub(super) fn forget_shard(&mut self) {
        (self.fence, self.paged, self.in_window) = (None, false, false);
    }

    pub(super) fn own(&mut self, fence: Fence) {
        self.forget_shard();
        self.fence = Some(fence);
    }

    /// Reads the job into memory, unless it is in flight.
    pub(super) fn look_up(&mut self, job: Job) {
        let owns = self.fence.is_some() && self.paged;
        self.in_window |= owns && job == Job::Live && self.flight.is_none();
    }
}

impl State {
    pub(super) fn is_live(&self, (instance, life): (usize, u8)) -> bool {
        let row = &self.instances[instance];
        row.life == life && !row.row_dead
    }

    /// Whether it can still happen to be declared dead. Who died for good always can.
    pub(super) fn may_die(&self, at: usize) -> bool {
        let Instance { run, row_dead, .. } = self.instances[at];
        !row_dead && (self.deaths > 0 || self.crashes > 0 || run == Run::Crashed)
    }

    pub(super) fn is_free(&self) -> bool {
        self.owner.is_none_or(|owner| !self.is_live(owner))
    }

    pub(super) fn is_owned_as(&self, fence: Fence) -> bool {
        (self.owner, self.epoch) == (Some((fence.instance, fence.life)), fence.epoch)
    }

    pub(super) fn is_locked(&self) -> bool {
        self.instances
            .iter()
            .flat_map(|one| [one.outcome, one.admission])
            .flatten()
            .any(|write| write.stage == Stage::Locked)
    }

    /// The job is gone, and every instance knows it.
    pub(super) fn is_over(&self) -> bool {
        let idle =
            |one: &Instance| one.run == Run::Crashed || (!one.in_window && one.flight.is_none());
        self.job == Job::Gone && self.instances.iter().all(idle)
    }

    pub(super) fn fence_of(&self, instance: usize) -> Fence {
        Fence { instance, life: self.instances[instance].life, epoch: self.epoch }
    }

    pub(super) fn breaks(&mut self, property: &'static str) {
        self.broken.get_or_insert(property);
    }

    pub(super) fn is_stranded(&self) -> bool {
        self.job == Job::Live
            && self.instances.iter().any(|one| {
                one.fence.is_some_and(|fence| self.is_owned_as(fence))
                    && one.paged
                    && !one.in_window
                    && one.flight.is_none()
                    && one.admission.is_none()
            })
    }
}
