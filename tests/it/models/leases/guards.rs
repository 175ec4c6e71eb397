//! All properties hold, and without any one guard a property is violated.
//!
//! There is no guard for [`UNFIRED`] alone: an outcome is only ever written of an attempt,
//! so that it could be violated by a mistake in the model's steps and by nothing else.

use super::super::{always_can_end, finds, holds};
use super::*;

const SMALL: Leases = Leases {
    guards: ALL,
    lease: 1,
    owned: true,
    job: Job::Live,
    deaths: 1,
    suspends: 0,
    crashes: 0,
    jumps: 0,
    releases: 0,
    lost_answers: 0,
};

#[test]
fn a_job_is_fired_once_and_by_the_owner_though_an_instance_is_declared_dead() {
    holds("leases: death", SMALL);
    holds("leases: death, a longer lease", Leases { lease: 2, ..SMALL });
    holds("leases: death, the shard still free", Leases { owned: false, ..SMALL });
}

#[test]
fn a_job_is_not_stranded_though_its_admission_is_late() {
    holds("leases: death, the job not yet there", Leases { job: Job::Awaited, ..SMALL });
}

#[test]
fn an_instance_that_hangs_fires_nothing_that_is_not_its_own() {
    holds("leases: suspend", Leases { suspends: 1, ..SMALL });
}

#[test]
fn a_clock_that_jumps_lets_nobody_fire_twice() {
    holds("leases: jump of the database's clock", Leases { jumps: 1, ..SMALL });
}

#[test]
fn a_shard_is_released_once_though_the_answer_is_lost() {
    holds("leases: release", Leases { releases: 1, lost_answers: 1, ..SMALL });
}

#[test]
fn a_job_can_always_still_be_fired_and_removed() {
    let ends = |name, model| always_can_end(name, &model, State::is_over, Action::is_fault);
    ends("leases: death", SMALL);
    ends("leases: crash", Leases { deaths: 0, crashes: 1, ..SMALL });
    ends(
        "leases: crash, the job not yet there",
        Leases { deaths: 0, crashes: 1, job: Job::Awaited, ..SMALL },
    );
    ends("leases: release", Leases { deaths: 0, releases: 1, lost_answers: 1, ..SMALL });
}

#[test]
fn without_the_fence_an_outcome_is_written_after_the_shard_was_taken() {
    finds(LATE, Leases { guards: Guards { fence_outcomes: false, ..ALL }, ..SMALL });
}

#[test]
fn an_outcome_that_passes_by_the_fence_of_another_is_late() {
    finds(LATE, Leases { guards: Guards { fence_each_outcome: false, ..ALL }, ..SMALL });
}

#[test]
fn without_the_fence_a_job_is_stranded_in_a_shard_that_was_taken() {
    let guards = Guards { fence_admissions: false, ..ALL };
    finds(LATE, Leases { guards, job: Job::Awaited, ..SMALL });
    finds(STRANDED, Leases { guards, job: Job::Awaited, ..SMALL });
}

#[test]
fn a_take_that_does_not_wait_is_followed_by_the_write_of_another() {
    finds(LATE, Leases { guards: Guards { take_waits: false, ..ALL }, ..SMALL });
}

#[test]
fn without_a_valid_lease_here_a_zombie_fires() {
    let guards = Guards { local_lease_check: false, ..ALL };
    finds(BOTH_FIRE, Leases { guards, ..SMALL });
    finds(AGAIN, Leases { guards, ..SMALL });
}

#[test]
fn under_the_lease_of_its_later_self_a_zombie_fires() {
    finds(BOTH_FIRE, Leases { guards: Guards { fire_only_as_owner: false, ..ALL }, ..SMALL });
}

#[test]
fn a_lease_that_counts_from_the_answer_is_too_long() {
    let guards = Guards { lease_counts_from_sending: false, ..ALL };
    finds(BOTH_FIRE, Leases { guards, ..SMALL });
}

#[test]
fn a_lease_that_does_not_run_in_suspend_is_too_long() {
    let guards = Guards { lease_runs_in_suspend: false, ..ALL };
    finds(BOTH_FIRE, Leases { guards, suspends: 1, ..SMALL });
}

#[test]
fn by_the_databases_clock_alone_a_jump_kills_the_living() {
    let guards = Guards { beat_unmoved_check: false, ..ALL };
    finds(BOTH_FIRE, Leases { guards, jumps: 1, ..SMALL });
}

#[test]
fn a_jump_after_the_look_kills_an_instance_that_has_beaten_since() {
    let guards = Guards { declare_checks_beat: false, ..ALL };
    finds(BOTH_FIRE, Leases { guards, jumps: 1, ..SMALL });
}

/// The comparison of beats makes up for the lease: who has not beaten since has no lease.
/// The lease keeps the database's own judgement in; without both, a late beat is missed.
#[test]
fn a_beat_after_the_look_saves_only_if_beat_or_lease_are_compared() {
    let no_lease = Guards { declare_checks_lease: false, ..ALL };
    holds("leases: declared dead by the beat alone", Leases { guards: no_lease, ..SMALL });
    let no_beat = Guards { declare_checks_beat: false, ..ALL };
    holds("leases: declared dead by the lease alone", Leases { guards: no_beat, ..SMALL });
    let neither = Guards { declare_checks_beat: false, ..no_lease };
    finds(BOTH_FIRE, Leases { guards: neither, ..SMALL });
}

#[test]
fn a_shard_taken_without_comparing_has_two_owners() {
    let guards = Guards { take_by_cas: false, ..ALL };
    finds(BOTH_FIRE, Leases { guards, owned: false, ..SMALL });
}

#[test]
fn a_page_from_before_the_take_misses_the_last_admission() {
    let guards = Guards { page_after_take: false, ..ALL };
    finds(STRANDED, Leases { guards, job: Job::Awaited, ..SMALL });
}

#[test]
fn a_late_release_without_comparing_gives_away_the_shard_of_another() {
    let guards = Guards { release_by_cas: false, ..ALL };
    finds(BOTH_FIRE, Leases { guards, releases: 1, ..SMALL });
}

#[test]
fn a_release_without_an_answer_may_come_after_the_shard_was_resumed() {
    let guards = Guards { release_until_answered: false, ..ALL };
    let small = Leases { guards, releases: 1, lost_answers: 1, deaths: 0, ..SMALL };
    finds(BOTH_FIRE, small);
    finds(AGAIN, small);
}
