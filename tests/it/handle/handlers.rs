//! The forms of a handler, and what it can refuse.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use infinite_scheduler::{
    AppConfig, ErrorKind, JobContext, JobData, JobError, JobHandler, Rejection, ScheduleJobRequest,
    Typed, TypedHandler, handler_fn,
};
use serde::Deserialize;
use serde_json::{Value, json};

use super::{DEADLINE, DRAIN, PAST, accept, builder, refusal};
use crate::support::kafka::{RawRecord, produce, read_all};
use crate::support::services::Database;
use crate::support::wait_until;
use crate::support::world::World;

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Sms {
    phone_number: String,
    message: String,
}

/// The trait form and the typed form.
#[derive(Default)]
struct Gateway {
    said: Mutex<Vec<String>>,
}

impl JobHandler for Gateway {
    async fn execute(&self, ctx: &JobContext) -> Result<(), JobError> {
        let data = ctx.job().data.as_str().to_owned();
        self.said.lock().expect("a lock").push(data);
        Ok(())
    }

    fn validate(&self, job_data: &JobData) -> Result<(), Rejection> {
        let data: BTreeMap<String, Value> = job_data.deserialize()?;
        match data.get("amount").and_then(Value::as_i64) {
            Some(..=0) => Err(Rejection::Invalid("amount must be above 0".into())),
            _ => Ok(()),
        }
    }
}

struct TypedGateway(Arc<Gateway>);

impl TypedHandler for TypedGateway {
    type Data = Sms;

    async fn execute(&self, ctx: &JobContext, sms: Sms) -> Result<(), JobError> {
        let said = format!("{} {} {}", ctx.app(), sms.phone_number, sms.message);
        self.0.said.lock().expect("a lock").push(said);
        Ok(())
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn handlers_are_a_trait_a_type_or_a_closure() {
    let database = Database::Sqlite.fresh().await;
    let gateway = Arc::new(Gateway::default());
    let of_closure = gateway.clone();
    let closure = handler_fn(move |context: JobContext, sms: Sms| {
        let said = format!("{} {} {}", context.app(), sms.phone_number, sms.message);
        of_closure.said.lock().expect("a lock").push(said);
        async { Ok(()) }
    });
    let scheduler = builder(&database)
        .register_app(AppConfig::new("plain"), gateway.clone())
        .register_app(AppConfig::new("typed"), Typed(TypedGateway(gateway.clone())))
        .register_app(AppConfig::new("closure"), closure)
        .start()
        .await
        .expect("a start");
    let raw = r#"{"phoneNumber":"+880", "message":"hi", "n":1.50}"#;
    for app in ["plain", "typed", "closure"] {
        let request = ScheduleJobRequest::builder(app).at(PAST).raw_job_data(raw);
        accept(&scheduler, request.build().expect("a request")).await;
    }
    wait_until(DEADLINE, "three firings", async || gateway.said.lock().expect("a lock").len() == 3)
        .await;
    let mut said = gateway.said.lock().expect("a lock").clone();
    said.sort();
    assert_eq!(said, ["closure +880 hi", "typed +880 hi", raw]);

    // Data that is not what the type wants is refused when it is asked for, by its field.
    for app in ["typed", "closure"] {
        let request = ScheduleJobRequest::builder(app)
            .at(PAST)
            .job_data(&json!({"phoneNumber": 7, "message": "x"}));
        let refused = refusal(&scheduler, request.build().expect("a request")).await;
        assert_eq!(refused.kind, ErrorKind::RefusedByApp);
        assert!(refused.message.contains("jobData.phoneNumber"), "{refused}");
    }
    scheduler.shutdown(DRAIN).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_missing_field_and_what_validate_refuses_are_refusals() {
    let world = World::new(Database::Sqlite, 1).await;
    let app = AppConfig::new("payment_gateway").required_fields(["accountId", "currency"]);
    let gateway = Arc::new(Gateway::default());
    let scheduler =
        world.builder().register_app(app, gateway.clone()).start().await.expect("a start");
    let ask = |data: Value| {
        let request = ScheduleJobRequest::builder("payment_gateway").request_id("p").at(PAST);
        request.job_data(&data).build().expect("a request")
    };
    let refused = refusal(&scheduler, ask(json!({"currency": null, "amount": 5}))).await;
    assert_eq!(refused.kind, ErrorKind::RefusedByApp);
    assert!(refused.message.ends_with("requires: accountId, currency"), "{refused}");
    let broke = json!({"accountId": "a", "currency": "BDT", "amount": 0});
    let refused = refusal(&scheduler, ask(broke.clone())).await;
    assert_eq!(refused.kind, ErrorKind::RefusedByApp);
    assert_eq!(refused.message, "jobData: amount must be above 0");
    assert_eq!(refused.app.as_deref(), Some("payment_gateway"));

    let record = |data: &Value| {
        let value = json!({"requestId": "p", "appName": "payment_gateway", "scheduledTime": 0, "jobData": data});
        RawRecord::new(0, value.to_string())
    };
    let good = json!({"accountId": "a", "currency": "BDT", "amount": 1});
    produce(&world.topic, &[record(&broke), record(&json!({})), record(&good)]).await;
    wait_until(DEADLINE, "two letters and a job", async || {
        let metrics = scheduler.ingest_metrics();
        metrics.messages_sent_to_dlq == 2 && metrics.apps["payment_gateway"].succeeded == 1
    })
    .await;
    scheduler.shutdown(DRAIN).await;
    let letters = read_all(&world.dlq).await;
    let messages: Vec<_> =
        letters.iter().filter_map(|letter| letter.header("error-message")).collect();
    assert_eq!(
        messages,
        [
            "jobData lacks what the app requires: accountId, currency",
            "jobData: amount must be above 0"
        ]
        .into_iter()
        .rev()
        .collect::<Vec<_>>()
    );
    assert!(letters.iter().all(|letter| letter.header("error-kind") == Some("refused-by-app")));
}

/// A handler's own mistake must not block a whole partition.
#[tokio::test(flavor = "multi_thread")]
async fn a_validate_that_panics_holds_up_nobody() {
    struct Careless;
    impl JobHandler for Careless {
        async fn execute(&self, _: &JobContext) -> Result<(), JobError> {
            Ok(())
        }

        fn validate(&self, job_data: &JobData) -> Result<(), Rejection> {
            assert!(!job_data.as_str().contains("panic"), "a careless validate");
            Ok(())
        }
    }
    let world = World::new(Database::Sqlite, 1).await;
    let builder = world.builder().register_app(AppConfig::new("careless"), Careless);
    let scheduler = builder.start().await.expect("a start");
    let record = |data: &str| {
        RawRecord::new(0, format!(r#"{{"appName":"careless","scheduledTime":0,"jobData":{data}}}"#))
    };
    produce(&world.topic, &[record(r#"{"a":"panic"}"#), record(r#"{"a":"good"}"#)]).await;
    wait_until(DEADLINE, "a dead letter and a job", async || {
        let metrics = scheduler.ingest_metrics();
        metrics.messages_sent_to_dlq == 1 && metrics.apps["careless"].succeeded == 1
    })
    .await;
    let by_api = ScheduleJobRequest::builder("careless").at(PAST).raw_job_data(r#"{"a":"panic"}"#);
    let refused = refusal(&scheduler, by_api.build().expect("a request")).await;
    assert_eq!(refused.kind, ErrorKind::RefusedByApp);
    assert!(refused.message.contains("panicked"), "{refused}");
    scheduler.shutdown(DRAIN).await;
}
