//! Any interleaving of admissions, readings, outcomes, takeovers and successors, against the
//! naive world.

use proptest::prelude::*;

use super::world::{SHARDS, World, id_of, job};
use crate::model::job::{Job, JobData, Priority};
use crate::model::window::WindowLimits;

/// One step of the world; numbers choose among what there is.
#[derive(Clone, Debug)]
enum Step {
    BeginAdmission,
    Stage(u8, Job),
    CommitAdmission(u8),
    ReturnTicket(u8),
    DropTicket(u8),
    /// A whole admission at once.
    Admit(Job),
    /// All pages at once.
    Fill,
    WantPages,
    ReadPage(u8),
    AnswerPage(u8),
    WantLookUp,
    ReadLookUp(u8),
    AnswerLookUp(u8),
    Audit(i32, Priority),
    AnswerAudit(u8),
    TakeDue(usize),
    CommitOutcome(u8, Option<i64>),
    ConfirmOutcome(u8),
    LoseOutcome(u8),
    Withdraw(u8, i32),
    ReadWithdrawn(u8),
    CommitChange(u8, i64, Priority),
    SetHeld(i32, bool),
    LoseShard(i32),
    GainShard(i32),
    /// A shard goes to another instance, which fires some of its jobs, and comes back.
    Detour(i32),
    ForeignInsert(Job),
    ForeignOutcome(u8, Option<i64>),
    Report(u8),
    Replace,
    Advance(i64),
}

/// Few ids, so that the same are asked for again after they ended.
const IDS: u8 = 14;

fn jobs() -> impl Strategy<Value = Job> {
    let priorities = prop::sample::select(&Priority::ALL[..]);
    let bytes = prop_oneof![4 => Just(2), 1 => 2..600_usize];
    let jobs = (1..=IDS, 0..SHARDS, priorities, 0..60_i64, bytes);
    jobs.prop_map(|(id, shard, priority, due_ms, bytes)| {
        let data = JobData::from_trusted("x".repeat(bytes));
        Job { data, ..job(id, shard, priority, due_ms) }
    })
}

fn steps() -> impl Strategy<Value = Step> {
    let nth = any::<u8>;
    let shard = 0..SHARDS;
    let delay = prop::option::of(0..50_i64);
    let priority = prop::sample::select(&Priority::ALL[..]);
    prop_oneof![
        6 => Just(Step::BeginAdmission),
        10 => (nth(), jobs()).prop_map(|(nth, job)| Step::Stage(nth, job)),
        6 => nth().prop_map(Step::CommitAdmission),
        6 => nth().prop_map(Step::ReturnTicket),
        1 => nth().prop_map(Step::DropTicket),
        8 => jobs().prop_map(Step::Admit),
        3 => Just(Step::Fill),
        10 => Just(Step::WantPages),
        10 => nth().prop_map(Step::ReadPage),
        8 => nth().prop_map(Step::AnswerPage),
        4 => Just(Step::WantLookUp),
        4 => nth().prop_map(Step::ReadLookUp),
        4 => nth().prop_map(Step::AnswerLookUp),
        2 => (shard.clone(), priority.clone()).prop_map(|(shard, priority)| Step::Audit(shard, priority)),
        2 => nth().prop_map(Step::AnswerAudit),
        8 => (1..5_usize).prop_map(Step::TakeDue),
        8 => (nth(), delay.clone()).prop_map(|(nth, delay)| Step::CommitOutcome(nth, delay)),
        7 => nth().prop_map(Step::ConfirmOutcome),
        1 => nth().prop_map(Step::LoseOutcome),
        4 => (1..=IDS, shard.clone()).prop_map(|(id, shard)| Step::Withdraw(id, shard)),
        4 => nth().prop_map(Step::ReadWithdrawn),
        3 => (nth(), 0..60_i64, priority.clone())
            .prop_map(|(nth, due_ms, priority)| Step::CommitChange(nth, due_ms, priority)),
        1 => (shard.clone(), any::<bool>()).prop_map(|(shard, held)| Step::SetHeld(shard, held)),
        1 => shard.clone().prop_map(Step::LoseShard),
        2 => shard.clone().prop_map(Step::GainShard),
        2 => shard.prop_map(Step::Detour),
        2 => jobs().prop_map(Step::ForeignInsert),
        2 => (1..=IDS, delay).prop_map(|(id, delay)| Step::ForeignOutcome(id, delay)),
        2 => nth().prop_map(Step::Report),
        1 => Just(Step::Replace),
        6 => (1..20_i64).prop_map(Step::Advance),
    ]
}

fn limits() -> impl Strategy<Value = WindowLimits> {
    let bytes = prop_oneof![Just(usize::MAX / 2), 500..10_000_usize];
    let jobs = prop_oneof![3 => 1..7_usize, 1 => 7..40_usize];
    (jobs, bytes, 1..6_usize, 1..40_i64).prop_map(|(max_jobs, max_bytes, page_size, aging_ms)| {
        WindowLimits { max_jobs, max_bytes, page_size, aging_ms }
    })
}

fn take(world: &mut World, step: Step) {
    match step {
        Step::BeginAdmission => world.begin_admission(),
        Step::Stage(nth, job) => world.stage(nth, at_now(world, job)),
        Step::CommitAdmission(nth) => world.commit_admission(nth),
        Step::ReturnTicket(nth) => world.return_ticket(nth),
        Step::DropTicket(nth) => world.drop_ticket(nth),
        Step::Admit(job) => world.admit(at_now(world, job)),
        Step::Fill => world.fill(),
        Step::WantPages => world.want_pages(),
        Step::ReadPage(nth) => world.read_page(nth),
        Step::AnswerPage(nth) => world.answer_page(nth),
        Step::WantLookUp => world.want_look_up(3),
        Step::ReadLookUp(nth) => world.read_look_up(nth),
        Step::AnswerLookUp(nth) => world.answer_look_up(nth),
        Step::Audit(shard, priority) => world.audit(shard, priority),
        Step::AnswerAudit(nth) => world.answer_audit(nth),
        Step::TakeDue(limit) => world.take_due(limit),
        Step::CommitOutcome(nth, delay_ms) => world.commit_outcome(nth, delay_ms),
        Step::ConfirmOutcome(nth) => world.confirm_outcome(nth),
        Step::LoseOutcome(nth) => world.lose_outcome(nth),
        Step::Withdraw(id, shard) => world.withdraw(id_of(id), shard),
        Step::ReadWithdrawn(nth) => world.read_withdrawn(nth),
        Step::CommitChange(nth, due_ms, priority) => {
            world.commit_change(nth, world.now_ms + due_ms - 20, priority);
        }
        Step::SetHeld(shard, held) => world.set_held(shard, held),
        Step::LoseShard(shard) => world.lose_shard(shard),
        Step::GainShard(shard) => world.gain_shard(shard),
        Step::Detour(shard) => {
            world.lose_shard(shard);
            (1..=IDS / 2).for_each(|id| world.foreign_outcome(id_of(id), None));
            world.gain_shard(shard);
        }
        Step::ForeignInsert(job) => world.foreign_insert(at_now(world, job)),
        Step::ForeignOutcome(id, delay_ms) => world.foreign_outcome(id_of(id), delay_ms),
        Step::Report(nth) => world.report(nth),
        Step::Replace => world.replace(),
        Step::Advance(ms) => world.now_ms += ms,
    }
}

/// Some are due before now, some after.
fn at_now(world: &World, job: Job) -> Job {
    Job { due_ms: world.now_ms + job.due_ms - 20, ..job }
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: std::env::var("PROPTEST_CASES").ok().and_then(|n| n.parse().ok()).unwrap_or(512),
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    #[test]
    fn no_interleaving_loses_or_doubles_a_job(
        limits in limits(),
        steps in prop::collection::vec(steps(), 1..160),
    ) {
        let mut world = World::new(limits);
        for step in steps {
            take(&mut world, step);
            world.check();
        }
        let rows = world.table.len();
        let rounds = world.drain();
        prop_assert!(rounds <= 3 * rows + 40, "{rounds} rounds for {rows} rows");
    }
}
