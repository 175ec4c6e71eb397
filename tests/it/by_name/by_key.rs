//! Operations that name their job by its idempotency key.

use super::*;

on_each_database! {
    operations_by_key_are_for_the_jobs_of_the_key
    what_is_remembered_of_a_key_holds_for_each_of_its_jobs
    a_key_is_free_for_the_record_after_the_cancellation
}

/// A schedule with this key.
fn schedule(request: &str, key: &str, version: Option<i64>, v: i64, in_ms: i64) -> Value {
    let mut request = super::schedule(request, version, v, in_ms);
    request["idempotencyKey"] = key.into();
    request
}

fn by_key(own: &str, operation: &str, key: &str, version: Option<i64>, in_ms: i64) -> Value {
    json!({ "requestId": own, "appName": "sms", "operation": operation, "idempotencyKey": key,
        "version": version, "scheduledTime": now_ms() + in_ms })
}

async fn operations_by_key_are_for_the_jobs_of_the_key(database: Database) {
    let named = Named::start(database).await;
    // A cancellation with a version holds for every schedule of the key.
    named.send(1, &by_key("c-k1", "cancel", "k1", Some(2), 0)).await;
    named.await_verdicts("c-k1", &["remembered"]).await;
    named.send(0, &schedule("r1", "k1", Some(1), 1, 0)).await;
    named.await_verdicts("r1", &["accepted", "cancelled"]).await;
    named.send(0, &schedule("r2", "k1", Some(2), 2, 0)).await;
    named.await_verdicts("r2", &["accepted", "cancelled"]).await;
    named.send(0, &schedule("r3", "k1", Some(3), 3, HOUR)).await;
    named.await_verdicts("r3", &["accepted"]).await;
    named.send(1, &by_key("c-k1-2", "cancel", "k1", Some(2), 0)).await;
    named.await_verdicts("c-k1-2", &["superseded"]).await;
    named.send(1, &by_key("c-k1-5", "cancel", "k1", Some(5), 0)).await;
    named.await_verdicts("c-k1-5", &["applied"]).await;
    named.await_verdicts("r3", &["accepted", "cancelled"]).await;
    named.send(0, &schedule("r3b", "k1", Some(5), 3, 0)).await;
    named.await_verdicts("r3b", &["accepted", "cancelled"]).await;

    // One without a version releases the key.
    named.send(1, &by_key("m-k2", "reschedule", "k2", None, 2 * HOUR)).await;
    named.await_verdicts("m-k2", &["remembered"]).await;
    named.send(0, &schedule("r4", "k2", None, 1, 0)).await;
    named.await_verdicts("r4", &["accepted"]).await;
    named.send(1, &by_key("c-k2", "cancel", "k2", None, 0)).await;
    named.await_verdicts("c-k2", &["applied"]).await;
    named.await_verdicts("r4", &["accepted", "cancelled"]).await;
    named.send(0, &schedule("r5", "k2", None, 1, 0)).await;
    named.await_verdicts("r5", &["accepted", "fired", "succeeded"]).await;
    named.send(1, &by_key("c-k2-late", "cancel", "k2", Some(9), 0)).await;
    named.await_verdicts("c-k2-late", &["already-fired"]).await;

    // A higher version replaces the job, which keeps its request id.
    named.send(0, &schedule("r6", "k3", Some(1), 1, HOUR)).await;
    named.await_verdicts("r6", &["accepted"]).await;
    named.send(0, &schedule("r7", "k3", Some(3), 3, HOUR)).await;
    named.await_verdicts("r7", &["accepted"]).await;
    named.await_verdicts("r6", &["accepted", "replaced"]).await;
    named.send(0, &schedule("r8", "k3", Some(3), 3, HOUR)).await;
    named.await_verdicts("r8", &["duplicate"]).await;
    named.send(0, &schedule("r9", "k3", Some(2), 2, HOUR)).await;
    named.await_verdicts("r9", &["superseded"]).await;
    named.send(1, &by_key("m-k3", "reschedule", "k3", Some(4), 0)).await;
    named.await_verdicts("m-k3", &["applied"]).await;
    wait_until(DEADLINE, "the job", async || named.fired.of("r6") == [3]).await;

    named.await_records(17).await;
    let [records, jobs, duplicates, operations, dead] = named.totals().await;
    assert_eq!([records, jobs, duplicates, operations, dead], [17, 7, 1, 9, 0]);
    assert_eq!(named.fired.count(), 2);
    named.scheduler.shutdown(DRAIN).await;
}

async fn what_is_remembered_of_a_key_holds_for_each_of_its_jobs(database: Database) {
    let named = Named::start(database).await;
    let steps: &[(Value, &[&str])] = &[
        (schedule("a1", "ka", Some(3), 3, HOUR), &["accepted"]),
        (by_key("m-ka", "reschedule", "ka", Some(8), 2 * HOUR), &["applied"]),
        // This does nothing to the first job, and cancels the second.
        (by_key("c-ka", "cancel", "ka", Some(2), 0), &["superseded"]),
        (cancel("c-a1", "a1", Some(9)), &["applied"]),
        (schedule("a2", "ka", Some(2), 2, 0), &["accepted", "cancelled"]),
        // The time of the third is that of the reschedule.
        (schedule("a3", "ka", Some(5), 5, HOUR), &["accepted"]),
        // A request that was cancelled stays so, whoever has its key by now.
        (schedule("c1", "kc", None, 1, HOUR), &["accepted"]),
        (cancel("c-c1", "c1", None), &["applied"]),
        (schedule("c2", "kc", None, 2, HOUR), &["accepted"]),
        (schedule("c1", "kc", None, 1, HOUR), &["accepted", "cancelled", "duplicate"]),
        (schedule("d1", "kd", Some(1), 1, 10 * HOUR), &["accepted"]),
        (by_key("c-kd", "cancel", "kd", Some(5), 0), &["applied"]),
    ];
    for (request, verdicts) in steps {
        named.send(0, request).await;
        let id = request["requestId"].as_str().expect("an id");
        named.await_verdicts(id, verdicts).await;
    }
    let third = format!(
        "scheduler_job where request_id = 'a3' and priority = 1 and due_ms between {} and {}",
        now_ms() + HOUR + HOUR / 2,
        now_ms() + 2 * HOUR
    );
    assert_eq!(named.count(&third).await, 1);

    // A cancelled job is remembered for longer than the window of its key.
    let end = "update scheduler_idempotency_key set expires_ms = 1 where name = 'kd'";
    named.world.database.execute(end).await;
    named.send(0, &schedule("d2", "kd", Some(3), 3, 0)).await;
    named.await_verdicts("d2", &["accepted", "cancelled"]).await;
    named.send(0, &schedule("d3", "kd", Some(6), 6, HOUR)).await;
    named.await_verdicts("d3", &["accepted"]).await;

    // The key of a job that has fired is not free, whatever is remembered of its request id.
    named.send(0, &schedule("e1", "ke", None, 1, 0)).await;
    named.await_verdicts("e1", &["accepted", "fired", "succeeded"]).await;
    named.world.database.execute("delete from scheduler_job_history").await;
    named.send(0, &cancel("c-e1", "e1", None)).await;
    named.await_verdicts("c-e1", &["remembered"]).await;
    named.send(0, &schedule("e2", "ke", None, 1, 0)).await;
    named.await_verdicts("e2", &["duplicate"]).await;
    named.send(0, &by_key("c-ke", "cancel", "ke", Some(7), 0)).await;
    named.await_verdicts("c-ke", &["already-fired"]).await;

    named.await_records(18).await;
    assert_eq!(named.totals().await, [18, 9, 2, 7, 0]);
    assert_eq!(named.fired.count(), 1);
    named.scheduler.shutdown(DRAIN).await;
}

async fn a_key_is_free_for_the_record_after_the_cancellation(database: Database) {
    let named = Named::start(database).await;
    named.send(0, &schedule("x1", "kx", None, 1, HOUR)).await;
    named.await_verdicts("x1", &["accepted"]).await;
    let all = [
        by_key("c-kx", "cancel", "kx", None, 0),
        schedule("x2", "kx", None, 2, HOUR),
        cancel("c-x2", "x2", None),
        schedule("x3", "kx", None, 3, HOUR),
    ];
    let records: Vec<RawRecord> =
        all.iter().map(|value| RawRecord::new(0, value.to_string())).collect();
    produce(&named.world.topic, &records).await;
    named.await_verdicts("x3", &["accepted"]).await;
    // In batches of their own.
    named.send(0, &cancel("c-x3", "x3", Some(4))).await;
    named.send(0, &schedule("x4", "kx", Some(4), 4, 0)).await;
    named.await_verdicts("x4", &["accepted", "fired", "succeeded"]).await;

    for request in ["x1", "x2", "x3"] {
        named.await_verdicts(request, &["accepted", "cancelled"]).await;
    }
    for request in ["c-kx", "c-x2", "c-x3"] {
        named.await_verdicts(request, &["applied"]).await;
    }
    named.await_records(7).await;
    assert_eq!(named.totals().await, [7, 4, 0, 3, 0]);
    named.scheduler.shutdown(DRAIN).await;
}
