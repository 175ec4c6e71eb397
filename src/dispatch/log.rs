//! The handler of `dispatch = "log"`: a fired job becomes one structured log event.

use tracing::info;

use super::{JobContext, JobError, JobHandler};

/// Logs each job under the target `infinite_scheduler::fired`, at level info. If a filter drops
/// that event, nothing of the job remains: the program's filter must let it through, as that of
/// [`telemetry`](crate::telemetry) does unless `RUST_LOG` names the target.
#[derive(Clone, Copy, Debug, Default)]
pub struct LogDispatch;

impl JobHandler for LogDispatch {
    async fn execute(&self, ctx: &JobContext) -> Result<(), JobError> {
        let (app, job, attempt) = (ctx.app(), ctx.job(), ctx.attempt());
        let id = job.id;
        info!(
            target: "infinite_scheduler::fired",
            app,
            job_id = %id,
            request_id = job.request_id,
            attempt,
            scheduled_ms = job.scheduled_ms,
            // Of this attempt: the backoff before a retry does not count as lateness.
            lateness_ms = ctx.fired_ms() - job.due_ms,
            job_data = job.data.as_str(),
            "fired job {id} of {app}, attempt {attempt}"
        );
        Ok(())
    }

    fn name(&self) -> &str {
        "log"
    }
}

#[cfg(test)]
mod tests {
    use std::io;
    use std::sync::{Arc, Mutex};

    use serde_json::json;
    use tracing::subscriber::set_default;

    use super::super::context::tests::context;
    use super::*;

    #[derive(Clone, Default)]
    struct Lines(Arc<Mutex<Vec<u8>>>);

    impl io::Write for Lines {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().write(bytes)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[tokio::test]
    async fn a_fired_job_is_one_structured_event() {
        let lines = Lines::default();
        let writer = lines.clone();
        let subscriber =
            tracing_subscriber::fmt().json().with_writer(move || writer.clone()).finish();
        let ctx = context(r#"{"a": 1}"#);
        let guard = set_default(subscriber);
        assert_eq!(LogDispatch.execute(&ctx).await, Ok(()));
        drop(guard);
        let written = lines.0.lock().unwrap();
        let event: serde_json::Value = serde_json::from_slice(&written).unwrap();
        let id = ctx.job().id.to_string();
        assert_eq!(event["target"], "infinite_scheduler::fired");
        assert_eq!(event["level"], "INFO");
        assert_eq!(
            event["fields"],
            json!({
                "message": format!("fired job {id} of sms, attempt 3"),
                "app": "sms",
                "job_id": id,
                "request_id": "r-1",
                "attempt": 3,
                "scheduled_ms": 1_762_185_600_000_i64,
                "lateness_ms": 15,
                "job_data": r#"{"a": 1}"#,
            })
        );
    }
}
