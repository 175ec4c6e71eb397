//! What a bulk action leaves in the database is what single operations leave.

use infinite_scheduler::ScheduleJobRequest;
use infinite_scheduler::operations::{BulkAction, BulkRequest, By, JobName};
use serde_json::{Value, json};

use super::{DEADLINE, counts, of_app, start, until_ended};
use crate::support::on_each_database;
use crate::support::services::Database;

on_each_database! {
    with_mysql:
    what_it_cancels_is_remembered_as_what_is_cancelled_alone
}

async fn what_it_cancels_is_remembered_as_what_is_cancelled_alone(database: Database) {
    const ROW: &str = "priority, due_ms, scheduled_ms, version, revision, cancel_version, \
                       move_version, move_ms, awaited, cancelled_by, data, attempts";
    const HISTORY: &str = "attempt, state, app, scheduled_ms, due_ms, cancelled_by, priority, data";
    const JOBS: [&str; 4] = ["alone", "many-1", "many-2", "many-3"];
    let database = database.fresh().await;
    let scheduler = start(&database).await;
    let operate = async |name: &str, version: i64, hours: i64, more: Value| {
        let mut request = json!({
            "requestId": name, "appName": "sms", "version": version,
            "scheduledTime": 1_900_000_000_000_i64 + hours * 3_600_000,
        });
        request.as_object_mut().expect("an object").extend(more.as_object().expect("one").clone());
        let request = ScheduleJobRequest::from_json(request.to_string().as_bytes());
        scheduler.schedule(request.expect("a request")).await.expect("an answer");
    };
    for name in JOBS {
        operate(name, 3, 0, json!({ "jobData": { "n": 1 } })).await;
        let later = json!({ "operation": "reschedule", "targetRequestId": name });
        operate(&format!("later-{name}"), 5, 1, later).await;
    }
    let operations = scheduler.by(By::new("ann"));
    let alone = JobName::of_request("sms", "alone");
    operations.jobs().cancel(alone).await.expect("an answer");
    let many = BulkRequest::new(BulkAction::Cancel, of_app("sms"));
    let started = operations.bulk().start(many).await.expect("a start").bulk;
    assert_eq!(counts(&until_ended(&operations, started.id).await), [3, 3, 0, 0]);

    let alike = async |columns: &str, table: &str| {
        let sql = format!("select count(*) from (select distinct {columns} from {table}) as alike");
        database.count(&sql).await
    };
    let of = "scheduler_job where priority = 3 and move_version = 5 and cancelled_by = 'ann'";
    assert_eq!(database.count(&format!("select count(*) from {of}")).await, 4);
    assert_eq!(alike(ROW, "scheduler_job").await, 1);
    assert_eq!(database.count("select count(*) from scheduler_job_history").await, 4);
    assert_eq!(alike(HISTORY, "scheduler_job_history").await, 1);

    for name in JOBS {
        operate(name, 4, 2, json!({ "jobData": { "n": 2 } })).await;
    }
    assert_eq!(database.count("select count(*) from scheduler_job where priority < 3").await, 4);
    assert_eq!(alike(ROW, "scheduler_job").await, 1, "the time is that of the reschedule");
    scheduler.shutdown(DEADLINE).await;
}
