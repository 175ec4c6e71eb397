//! Operations on jobs at the very moment at which they fire: each happens before or after, and the
//! answer says which.

mod by_wire;

use super::*;
use crate::support::is_long;

/// How many jobs are operated on at their moment.
fn jobs() -> usize {
    if is_long() { 10_000 } else { 400 }
}

/// A later time, for jobs that are moved.
const LATER_MS: i64 = 3_000;

on_each_database! {
    a_cancelled_job_never_fires_and_one_that_is_not_always_does
    a_job_that_is_moved_fires_at_its_new_time_and_only_then
    a_job_that_is_edited_fires_once_with_what_the_answer_says
    a_scheduler_that_breaks_meanwhile_changes_no_answer
}

/// From one job to the next.
const SPACING: Duration = Duration::from_millis(4);
/// How much earlier one of twenty jobs is operated on than the one before.
const STEP_MS: i64 = 15;
/// How long after its admission the first job is due, in addition to the time of all of them.
const LEAD: Duration = Duration::from_secs(3);

/// Schedules jobs a few milliseconds apart, and does `operate` at the moment of each, or up to
/// twenty steps before it. The answers by request, once every job has ended.
async fn at_their_moment<F, T>(
    world: &World,
    scheduler: &Scheduler,
    step_ms: i64,
    operate: impl Fn(JobName) -> F,
) -> Vec<(String, i64, T)>
where
    F: Future<Output = Result<T, OperationError>> + Send + 'static,
    T: Send + 'static,
{
    let count = jobs();
    let spacing = TimeDelta::from_std(SPACING).expect("a span of time");
    // Admitting them takes a while.
    let start = now() + TimeDelta::from_std(LEAD).expect("a span of time") + spacing * count as i32;
    let due = |n: usize| start + spacing * n as i32;
    let requests = (0..count).map(|n| request(&format!("r{n}"), due(n)));
    for accepted in scheduler.schedule_all(requests).await {
        assert!(matches!(accepted, Ok(Submitted::Accepted { .. })), "{accepted:?}");
    }
    let mut asked = Vec::new();
    for n in 0..count {
        // A question takes a while until it is answered, longer on a machine that is busy.
        let offset = TimeDelta::milliseconds(5 - step_ms * number(n % 20));
        let wait = (due(n) + offset - now()).to_std().unwrap_or_default();
        let operated = operate(named(&format!("r{n}")));
        asked.push(tokio::spawn(async move {
            tokio::time::sleep(wait).await;
            operated.await
        }));
    }
    let mut answers = Vec::new();
    for (n, answer) in join_all(asked).await.into_iter().enumerate() {
        let answer = answer.expect("no panic").expect("an answer");
        answers.push((format!("r{n}"), due(n).timestamp_millis(), answer));
    }
    wait_until(DEADLINE, "the end of every job", async || live(world).await == 0).await;
    answers
}

fn number(n: usize) -> i64 {
    i64::try_from(n).expect("a number")
}

/// Whether the answer says that the job had fired, or was about to.
fn was_too_late(answer: &JobAnswer) -> bool {
    use ChangeResult::{AlreadyFired, Running, Unknown};
    matches!(answer.result, AlreadyFired | Running | Unknown)
}

fn tally(what: &str, answers: &[(String, i64, JobAnswer)]) {
    let mut by_result: BTreeMap<&str, usize> = BTreeMap::new();
    for (_, _, answer) in answers {
        *by_result.entry(answer.result.as_str()).or_default() += 1;
    }
    println!("{what}: {by_result:?}");
}

async fn a_cancelled_job_never_fires_and_one_that_is_not_always_does(database: Database) {
    let world = World::new(database, 1).await;
    let receiver = Receiver::new();
    let scheduler = start(&world, "a", &receiver).await;
    let cancel = |name| {
        let scheduler = scheduler.clone();
        async move { scheduler.cancel(name).await }
    };
    let answers = at_their_moment(&world, &scheduler, STEP_MS, cancel).await;
    tally("cancel", &answers);
    check_cancelled(&world, &receiver, &answers).await;
    scheduler.shutdown(DRAIN).await;
}

async fn check_cancelled(world: &World, receiver: &Receiver, answers: &[(String, i64, JobAnswer)]) {
    let mut cancelled = 0;
    for (name, _, answer) in answers {
        let fired = receiver.of(name).len();
        match answer.result {
            ChangeResult::Cancelled => assert_eq!(fired, 0, "{name}: {answer:?}"),
            _ => {
                assert!(was_too_late(answer), "{name}: {answer:?}");
                assert_eq!(fired, 1, "{name}: {answer:?}");
            }
        }
        cancelled += i64::from(answer.result == ChangeResult::Cancelled);
    }
    let tombstones = "select count(*) from scheduler_job where priority = 3";
    assert_eq!(world.database.count(tombstones).await, cancelled);
    let running = answers.iter().filter(|(_, _, answer)| answer.result == ChangeResult::Running);
    let audited = audited(world, "job.cancel").await;
    assert_eq!(audited, cancelled + number(running.count()));
}

async fn a_job_that_is_moved_fires_at_its_new_time_and_only_then(database: Database) {
    let world = World::new(database, 1).await;
    let receiver = Receiver::new();
    let scheduler = start(&world, "a", &receiver).await;
    let reschedule = |name| {
        let scheduler = scheduler.clone();
        async move { scheduler.reschedule(name, after_ms(LATER_MS)).await }
    };
    let answers = at_their_moment(&world, &scheduler, STEP_MS, reschedule).await;
    tally("reschedule", &answers);
    for (name, due_ms, answer) in &answers {
        let fired = receiver.of(name);
        assert_eq!(fired.len(), 1, "{name}: {answer:?}");
        match answer.result {
            ChangeResult::Rescheduled => {
                let moved_ms = answer.due_ms.expect("a time");
                assert!(fired[0].at_ms >= moved_ms, "{name}: {answer:?}, {fired:?}");
            }
            _ => {
                assert!(was_too_late(answer), "{name}: {answer:?}");
                assert!(fired[0].at_ms >= *due_ms, "{name}: early");
            }
        }
    }
    scheduler.shutdown(DRAIN).await;
}

async fn a_job_that_is_edited_fires_once_with_what_the_answer_says(database: Database) {
    let world = World::new(database, 1).await;
    let receiver = Receiver::new();
    let scheduler = start(&world, "a", &receiver).await;
    let edit = |name| {
        let scheduler = scheduler.clone();
        let patch = JobPatch::from_json(r#"{"jobData":{"v":2},"priority":"high"}"#);
        async move { scheduler.jobs().edit(name, patch.expect("a patch")).await }
    };
    let answers = at_their_moment(&world, &scheduler, STEP_MS, edit).await;
    tally("edit", &answers);
    for (name, _, answer) in &answers {
        let fired = receiver.of(name);
        assert_eq!(fired.len(), 1, "{name}: {answer:?}");
        let is_edited = answer.result == ChangeResult::Edited;
        assert!(is_edited || was_too_late(answer), "{name}: {answer:?}");
        assert_eq!(fired[0].data["v"], if is_edited { 2 } else { 1 }, "{name}: {answer:?}");
    }
    scheduler.shutdown(DRAIN).await;
}

/// A fresh scheduler reads everything again, also jobs that are being changed.
async fn a_scheduler_that_breaks_meanwhile_changes_no_answer(database: Database) {
    let world = World::new(database, 1).await;
    let receiver = Receiver::new();
    let scheduler = start(&world, "a", &receiver).await;
    let breaking = {
        let scheduler = scheduler.clone();
        tokio::spawn(async move {
            // Often enough to meet many of the jobs, and so seldom that the waits before its
            // restarts, which double, stay short.
            tokio::time::sleep(LEAD + SPACING * jobs() as u32).await;
            for _ in 0..4 {
                scheduler.break_actors("app-scheduler").await;
                tokio::time::sleep(SPACING * jobs() as u32 / 4).await;
            }
        })
    };
    let cancel = |name| {
        let scheduler = scheduler.clone();
        async move {
            // Nobody has the shard for a moment: by a row it takes a heartbeat.
            let patient = JobOperation::cancel(name).wait(Duration::from_secs(60));
            scheduler.jobs().carry_out(patient).await
        }
    };
    let answers = at_their_moment(&world, &scheduler, STEP_MS, cancel).await;
    breaking.abort();
    tally("cancel while it breaks", &answers);
    for (name, _, answer) in &answers {
        let fired = receiver.of(name).len();
        let is_cancelled = answer.result == ChangeResult::Cancelled;
        assert_eq!(fired, usize::from(!is_cancelled), "{name}: {answer:?}");
    }
    scheduler.shutdown(DRAIN).await;
}
