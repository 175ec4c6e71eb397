//! Operations on jobs in the shards of others, and of nobody.

use super::*;
use crate::support::process::Instance;
use infinite_scheduler::operations::OperationOutcome;

on_each_database! {
    where_nobody_owns_the_shard_it_is_done_at_once
    an_owner_answers_by_the_row_and_says_the_same
    an_operation_is_carried_out_after_the_death_of_the_owner_that_it_was_for
    what_is_not_answered_in_time_is_withdrawn_if_that_was_asked_for
}

async fn connect(world: &World) -> Operations {
    Operations::connect(OperationsOptions::new(world.database.url())).await.expect("a database")
}

async fn submit(operations: &Operations, id: &str) {
    let submitted = operations.jobs().schedule(request(id, after_ms(3_600_000))).await;
    assert!(matches!(submitted, Ok(Submitted::Accepted { .. })), "{submitted:?}");
}

async fn where_nobody_owns_the_shard_it_is_done_at_once(database: Database) {
    let world = World::new(database, 1).await;
    let receiver = Receiver::new();
    start(&world, "a", &receiver).await.shutdown(DRAIN).await;
    let operations = connect(&world).await;
    for id in ["cancelled", "run", "edited"] {
        submit(&operations, id).await;
    }
    let asked = Instant::now();
    let jobs = operations.jobs();
    let cancelled = jobs.cancel(named("cancelled")).await.expect("an answer");
    assert_eq!((cancelled.result, cancelled.changed), (ChangeResult::Cancelled, true));
    let again = jobs.cancel(named("cancelled")).await.expect("an answer");
    assert_eq!((again.result, again.changed), (ChangeResult::Cancelled, false));
    let moved = jobs.reschedule(named("cancelled"), now()).await.expect("an answer");
    assert_eq!((moved.result, moved.done), (ChangeResult::Cancelled, false));
    let run = jobs.run(named("run")).await.expect("an answer");
    assert_eq!((run.result, run.changed), (ChangeResult::Started, true));
    let patch = JobPatch::from_json(r#"{"jobData":{"v":2},"scheduledTime":0}"#).expect("a patch");
    let edited = jobs.edit(named("edited"), patch).await.expect("an answer");
    assert_eq!((edited.result, edited.due_ms), (ChangeResult::Rescheduled, Some(0)));
    assert!(asked.elapsed() < Duration::from_secs(4), "{:?}", asked.elapsed());
    assert_eq!(
        world.database.count("select count(*) from scheduler_command where kind <> 'look'").await,
        0
    );

    let scheduler = start(&world, "a", &receiver).await;
    receiver.await_one("run").await;
    receiver.await_one("edited").await;
    assert_eq!(receiver.of("edited")[0].data["v"], 2);
    assert!(receiver.of("cancelled").is_empty());
    scheduler.shutdown(DRAIN).await;
    operations.close().await;
}

async fn an_owner_answers_by_the_row_and_says_the_same(database: Database) {
    let world = World::new(database, 1).await;
    let receiver = Receiver::new();
    let scheduler = start(&world, "a", &receiver).await;
    let operations = connect(&world).await;
    for id in ["one", "two", "three"] {
        accept(&scheduler, request(id, after_ms(3_600_000))).await;
    }
    accept(&scheduler, request("held-fails", now())).await;
    receiver.await_one("held-fails").await;
    let jobs = operations.jobs();
    let (one, two, three, held) = tokio::join!(
        jobs.cancel(named("one")),
        jobs.run(named("two")),
        jobs.reschedule(named("three"), after_ms(7_200_000)),
        jobs.cancel(named("held-fails")),
    );
    assert_eq!(one.expect("an answer").result, ChangeResult::Cancelled);
    assert_eq!(two.expect("an answer").result, ChangeResult::Started);
    assert_eq!(three.expect("an answer").result, ChangeResult::Rescheduled);
    let held = held.expect("an answer");
    assert_eq!((held.result, held.will_retry), (ChangeResult::Running, Some(false)));
    receiver.await_one("two").await;
    let late = jobs.edit(named("held-fails"), JobPatch::from_json(r#"{"timeoutMs":9}"#).unwrap());
    let late = late.await.expect("an answer");
    assert_eq!((late.result, late.done), (ChangeResult::Running, false));
    let past = JobPatch::from_json(r#"{"expiresTime":1000}"#).expect("a patch");
    let refused = jobs.edit(named("three"), past).await;
    assert!(matches!(refused, Err(OperationError::Refused(_))), "{refused:?}");
    receiver.go.add_permits(1);
    wait_until(DEADLINE, "the end of the attempt", async || live(&world).await == 1).await;
    let again = jobs.cancel(named("held-fails")).await.expect("an answer");
    assert_eq!((again.result, again.changed), (ChangeResult::Cancelled, false));
    scheduler.shutdown(DRAIN).await;
    operations.close().await;
}

/// What a service process is told, that has the app `sms` without a receiver of the test's.
async fn an_operation_is_carried_out_after_the_death_of_the_owner_that_it_was_for(
    database: Database,
) {
    let world = World::new(database, 1).await;
    let mut owner = Instance::start(&world.config()).await;
    let operations = connect(&world).await;
    submit(&operations, "r").await;
    owner.stop();
    let hurried = JobOperation::cancel(named("r")).wait(Duration::from_millis(200));
    let answer = operations.jobs().carry_out(hurried).await.expect("an answer");
    assert_eq!((answer.result, answer.done), (ChangeResult::NotAnswered, false));
    let id = answer.operation.expect("an id");
    let state = operations.jobs().operation(id).await.expect("a state");
    assert!(matches!(state.outcome, OperationOutcome::Waiting(_)), "{state:?}");
    owner.kill();
    let _next = Instance::start(&world.config()).await;
    wait_until(DEADLINE, "the answer", async || {
        let state = operations.jobs().operation(id).await.expect("a state");
        match state.outcome {
            OperationOutcome::Answered(answer) => {
                assert_eq!((answer.result, answer.changed), (ChangeResult::Cancelled, true));
                true
            }
            _ => false,
        }
    })
    .await;
    let again = operations.jobs().cancel(named("r")).await.expect("an answer");
    assert_eq!((again.result, again.changed), (ChangeResult::Cancelled, false));
    assert_eq!(audited(&world, "job.cancel").await, 1);
    operations.close().await;
}

async fn what_is_not_answered_in_time_is_withdrawn_if_that_was_asked_for(database: Database) {
    let world = World::new(database, 1).await;
    let owner = Instance::start(&world.config()).await;
    let operations = connect(&world).await;
    submit(&operations, "r").await;
    owner.stop();
    let hurried = JobOperation::cancel(named("r")).wait(Duration::from_millis(200)).or_withdraw();
    let answer = operations.jobs().carry_out(hurried).await;
    let Err(OperationError::Unavailable(why)) = answer else { panic!("{answer:?}") };
    assert!(why.contains("nothing was changed"), "{why}");
    owner.cont();
    // What it does next it does after having seen all commands.
    submit(&operations, "later").await;
    let later = operations.jobs().cancel(named("later")).await.expect("an answer");
    assert_eq!(later.result, ChangeResult::Cancelled);
    let job = operations.jobs().show(named("r")).await.expect("a job");
    assert_eq!(job.state, JobState::Scheduled);
    operations.close().await;
}
