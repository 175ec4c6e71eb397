//! The embeddable API: what a program that holds a `Scheduler` relies on.

use std::collections::BTreeMap;
use std::num::NonZeroU32;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use chrono::{DateTime, SecondsFormat, TimeDelta, Utc};
use infinite_scheduler::model::retry::Backoff;
use infinite_scheduler::{
    AppConfig, ErrorKind, IngestMetrics, JobContext, JobData, JobError, JobHandler,
    KafkaIngestConfig, Priority, Refusal, Rejection, ScheduleJobRequest, Scheduler,
    SchedulerBuilder, StartError, SubmitError, Submitted, Typed, TypedHandler, handler_fn,
};
use sea_orm::{ConnectOptions, ConnectionTrait, Database as SeaOrm};
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::sync::Semaphore;

use crate::support::kafka::{
    RawRecord, create_topic, delete_topic, produce, read_all, unique_topic,
};
use crate::support::services::{Database, TestDatabase, kafka, mysql_url};
use crate::support::world::{LEASE, World};
use crate::support::{wait_for, wait_until};

const DEADLINE: Duration = Duration::from_secs(90);
const DRAIN: Duration = Duration::from_secs(10);
const PAST: &str = "2020-01-01T00:00:00Z";

const fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

fn now() -> DateTime<Utc> {
    SystemTime::now().into()
}

fn builder(database: &TestDatabase) -> SchedulerBuilder {
    Scheduler::builder().database_url(database.url()).lease(LEASE)
}

fn request(app: &str, id: &str) -> ScheduleJobRequest {
    ScheduleJobRequest::builder(app).request_id(id).at(PAST).build().expect("a request")
}

async fn accept(scheduler: &Scheduler, request: ScheduleJobRequest) {
    match scheduler.schedule(request).await {
        Ok(Submitted::Accepted { .. }) => {}
        other => panic!("{other:?}"),
    }
}

async fn refusal(scheduler: &Scheduler, request: ScheduleJobRequest) -> Refusal {
    match scheduler.schedule(request).await {
        Err(SubmitError::Refused(refusal)) => refusal,
        other => panic!("{other:?}"),
    }
}

/// One attempt as its handler saw it.
#[derive(Clone, Debug)]
struct Firing {
    request_id: String,
    attempt: u32,
    fence: u64,
    /// By the handler's own look at the clock.
    at_ms: i64,
    due_ms: i64,
}

/// Notes every firing, then answers as `answer` says.
struct Recorder<F> {
    firings: Arc<Mutex<Vec<Firing>>>,
    answer: F,
}

type Firings = Arc<Mutex<Vec<Firing>>>;

fn recorder<F, Fut>(answer: F) -> (Recorder<F>, Firings)
where
    F: Fn(JobContext) -> Fut + Send + Sync + 'static,
    Fut: Future<Output = Result<(), JobError>> + Send,
{
    let firings = Firings::default();
    (Recorder { firings: firings.clone(), answer }, firings)
}

impl<F, Fut> JobHandler for Recorder<F>
where
    F: Fn(JobContext) -> Fut + Send + Sync + 'static,
    Fut: Future<Output = Result<(), JobError>> + Send,
{
    async fn execute(&self, ctx: &JobContext) -> Result<(), JobError> {
        let firing = Firing {
            request_id: ctx.job().request_id.clone(),
            attempt: ctx.attempt(),
            fence: ctx.fence().get(),
            at_ms: now().timestamp_millis(),
            due_ms: ctx.job().due_ms,
        };
        self.firings.lock().expect("a lock").push(firing);
        (self.answer)(ctx.clone()).await
    }
}

fn of(firings: &Firings, request_id: &str) -> Vec<Firing> {
    let all = firings.lock().expect("a lock");
    all.iter().filter(|firing| firing.request_id == request_id).cloned().collect()
}

async fn await_firings(firings: &Firings, count: usize) {
    wait_until(DEADLINE, &format!("{count} firings"), async || {
        firings.lock().expect("a lock").len() >= count
    })
    .await;
}

async fn await_no_jobs(database: &TestDatabase) {
    wait_until(DEADLINE, "the end of every job", async || {
        database.count("select count(*) from job").await == 0
    })
    .await;
}

/// Checked by the compiler.
#[test]
fn the_handle_can_be_shared_among_threads_and_cloned() {
    fn check<T: Send + Sync + Clone + 'static>() {}
    check::<Scheduler>();
    fn check_send<T: Send>(_: impl Fn(SchedulerBuilder) -> T) {}
    check_send(SchedulerBuilder::start);
}

#[tokio::test(flavor = "multi_thread")]
async fn without_kafka_jobs_come_by_api_alone() {
    let database = Database::Sqlite.fresh().await;
    let (handler, firings) = recorder(|_| async { Ok(()) });
    let scheduler = builder(&database)
        .register_app(AppConfig::new("sms"), handler)
        .register_app(AppConfig::new("mail"), infinite_scheduler::Discard)
        .start()
        .await
        .expect("a start");
    assert!(scheduler.is_running());
    assert_eq!(scheduler.registered_apps(), ["mail", "sms"]);
    wait_until(DEADLINE, "readiness", async || scheduler.complaints().is_empty()).await;

    let first = scheduler.clone().schedule(request("sms", "r")).await;
    let Ok(Submitted::Accepted { job_id, request_id }) = first else { panic!("{first:?}") };
    assert_eq!(request_id, "r");
    await_no_jobs(&database).await;

    let far = || ScheduleJobRequest::builder("sms").at("2030-01-01T00:00:00Z");
    let live = far().request_id("live").job_data(&json!({"n": 1})).build().expect("a request");
    accept(&scheduler, live.clone()).await;
    match scheduler.schedule(live).await {
        Ok(Submitted::Duplicate { of, job_id: of_job }) => {
            assert_eq!(of, "live");
            assert_ne!(of_job, job_id);
        }
        other => panic!("{other:?}"),
    }
    let other = far().request_id("live").job_data(&json!({"n": 2})).build().expect("a request");
    let refused = refusal(&scheduler, other).await;
    assert_eq!(refused.kind, ErrorKind::RequestConflict);
    assert!(refused.message.contains("\"live\"") && refused.message.contains("other jobData"));
    let keyed = |id: &str, n: u32| {
        let request = far().request_id(id).idempotency_key("k").job_data(&json!({"n": n}));
        request.build().expect("a request")
    };
    accept(&scheduler, keyed("k-1", 1)).await;
    match scheduler.schedule(keyed("k-2", 1)).await {
        Ok(Submitted::Duplicate { of, .. }) => assert_eq!(of, "k-1"),
        other => panic!("{other:?}"),
    }
    let refused = refusal(&scheduler, keyed("k-3", 2)).await;
    assert_eq!(refused.kind, ErrorKind::IdempotencyConflict);
    assert!(refused.message.contains("\"k-1\""), "{refused}");

    let refused = refusal(&scheduler, request("nobody", "r")).await;
    assert_eq!(refused.kind, ErrorKind::UnknownApp);
    assert_eq!(
        (refused.app.as_deref(), refused.request_id.as_deref()),
        (Some("nobody"), Some("r"))
    );
    let too_far = ScheduleJobRequest::builder("sms").at("2999-01-01T00:00:00Z");
    let refused = refusal(&scheduler, too_far.build().expect("a request")).await;
    assert_eq!(refused.kind, ErrorKind::ScheduleTooFar);

    // Without a name the scheduler makes one, each time another.
    let unnamed = || far().build().expect("a request");
    let Ok(Submitted::Accepted { request_id: one, .. }) = scheduler.schedule(unnamed()).await
    else {
        panic!("not accepted")
    };
    let Ok(Submitted::Accepted { request_id: other, .. }) = scheduler.schedule(unnamed()).await
    else {
        panic!("not accepted")
    };
    assert_ne!(one, other);

    let metrics: IngestMetrics = scheduler.ingest_metrics();
    assert_eq!((metrics.messages_processed, metrics.messages_duplicate), (5, 2));
    assert_eq!((metrics.apps["sms"].succeeded, metrics.apps["sms"].scheduled), (1, 5));
    assert_eq!(metrics.apps["mail"].scheduled, 0);
    assert!(metrics.consumer_lag.is_empty());
    assert_eq!(of(&firings, "r").len(), 1);
    // By API a refusal is an answer, not a dead letter.
    assert_eq!(database.count("select count(*) from dead_letter").await, 0);

    let clone = scheduler.clone();
    scheduler.shutdown(DRAIN).await;
    assert!(!clone.is_running() && !clone.complaints().is_empty());
    clone.shutdown(DRAIN).await;
    match clone.schedule(request("sms", "late")).await {
        Err(SubmitError::Unavailable(why)) => assert!(why.contains("shut down"), "{why}"),
        other => panic!("{other:?}"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn kafka_is_named_in_full_in_short_or_not_at_all() {
    let world = World::new(Database::Sqlite, 2).await;
    let record = |id: &str| {
        let request = format!(r#"{{"requestId":"{id}","appName":"mail","scheduledTime":0}}"#);
        RawRecord::new(1, request)
    };
    let (handler, firings) = recorder(|_| async { Ok(()) });
    let full = world.builder_without_apps().register_app(AppConfig::new("mail"), handler);
    let scheduler = full.start().await.expect("a start");
    produce(&world.topic, &[record("in-full")]).await;
    await_firings(&firings, 1).await;
    scheduler.shutdown(DRAIN).await;

    // Its group and DLQ topic are the default ones: only the ingest topic is this test's own.
    let (database, topic) = (Database::Sqlite.fresh().await, unique_topic("short"));
    create_topic(&topic, 2, &[]).await;
    let (handler, firings) = recorder(|_| async { Ok(()) });
    let short = builder(&database).with_kafka_ingest_at(kafka(), topic.as_str());
    let short = short.register_app(AppConfig::new("mail"), handler);
    let scheduler = short.start().await.expect("a start");
    produce(&topic, &[record("in-short")]).await;
    await_firings(&firings, 1).await;
    assert_eq!(of(&firings, "in-short").len(), 1);
    let ledger =
        "select count(*) from ingest_offset where consumer_group = 'infinite-scheduler-ingest'";
    wait_until(DEADLINE, "both partitions read", async || database.count(ledger).await == 2).await;
    scheduler.shutdown(DRAIN).await;
    delete_topic(&topic).await;

    let default = format!("{:?}", Scheduler::builder().with_default_kafka_ingest());
    let meant = KafkaIngestConfig::default();
    assert!(default.contains(&format!("{meant:?}")), "{default}");
    assert_eq!(meant.bootstrap_servers, "localhost:9092");
    assert_eq!(
        (&*meant.topics, &*meant.dlq_topic),
        (&["scheduler.jobs.ingest".to_owned()][..], "scheduler.jobs.dlq")
    );
    let none = format!("{:?}", Scheduler::builder());
    assert!(none.contains("kafka: None"), "{none}");
}

#[tokio::test(flavor = "multi_thread")]
async fn settings_that_can_never_work_are_refused_at_once() {
    let database = Database::Sqlite.fresh().await;
    let sms = || AppConfig::new("sms");
    let commit = KafkaIngestConfig { enable_auto_commit: true, ..KafkaIngestConfig::default() };
    for (builder, said) in [
        (
            builder(&database).register_app_on_topic(sms(), "t"),
            &["sms", "topic t", "with_kafka_ingest"][..],
        ),
        (builder(&database).with_kafka_ingest(commit), &["enable_auto_commit", "leave it out"]),
        (
            builder(&database).register_app(AppConfig::new("SMS"), infinite_scheduler::Discard),
            &["\"SMS\"", "a-z"],
        ),
        (builder(&database).lease(ms(10)), &["lease", "1 s"]),
        (builder(&database).database_url("oracle://u:hush@h/d"), &["oracle", "sqlite://"]),
        (builder(&database).database_url("postgres://u:hush@h:port/d"), &["database.url", "***"]),
    ] {
        let error = builder.start().await.expect_err("a refusal").to_string();
        for said in said {
            assert!(error.contains(said), "{said} must be in {error}");
        }
        assert!(!error.contains("hush"), "{error}");
    }
}

/// Whatever a password is made of, it is the user's and not the URL's.
#[tokio::test(flavor = "multi_thread")]
async fn a_mysql_database_is_named_by_its_parts_whatever_the_password() {
    const PASSWORD: &str = "p@ss:w/ö?r#d%20&\"x' =+";
    let database = Database::MariaDb.fresh().await;
    let name = database.url().rsplit('/').next().expect("a name").to_owned();
    let server = mysql_url();
    let address = server.rsplit('@').next().expect("an address").trim_end_matches('/');
    let (host, port) = address.split_once(':').expect("a port");
    let port: u16 = port.parse().expect("a number");
    let user = format!("u@{}", &name[name.len() - 12..]);
    let root = SeaOrm::connect(ConnectOptions::new(server.clone())).await.expect("the server");
    let quoted = PASSWORD.replace('\'', "''");
    for at in ["%", "localhost"] {
        let create = format!("create user '{user}'@'{at}' identified by '{quoted}'");
        root.execute_unprepared(&create).await.expect("a user");
        let grant = format!("grant all on {name}.* to '{user}'@'{at}'");
        root.execute_unprepared(&grant).await.expect("a right");
    }

    let by_parts = Scheduler::builder()
        .mysql_host(host)
        .mysql_port(port)
        .mysql_database(&name)
        .mysql_username(&user)
        .mysql_password(PASSWORD);
    let in_short = Scheduler::mysql(host, port, &name, &user, PASSWORD);
    for (n, builder) in [by_parts, in_short].into_iter().enumerate() {
        assert!(!format!("{builder:?}").contains("p@ss"), "{builder:?}");
        let (handler, firings) = recorder(|_| async { Ok(()) });
        let scheduler = builder
            .lease(LEASE)
            .register_app(AppConfig::new("sms"), handler)
            .start()
            .await
            .expect("a start");
        accept(&scheduler, request("sms", &format!("r-{n}"))).await;
        await_firings(&firings, 1).await;
        scheduler.shutdown(DRAIN).await;
    }
    let wrong = Scheduler::mysql(host, port, &name, &user, "wr@ng").start().await;
    match wrong {
        Err(StartError::Database(why)) => {
            assert!(why.contains(&user) && !why.contains("wr@ng"), "{why}");
        }
        other => panic!("{other:?}"),
    }
    for at in ["%", "localhost"] {
        root.execute_unprepared(&format!("drop user '{user}'@'{at}'")).await.expect("no user");
    }
    root.close().await.expect("a connection that closes");
}

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

/// A handler's own mistake must not stand in the way of a whole partition.
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

#[tokio::test(flavor = "multi_thread")]
async fn each_answer_of_a_handler_has_its_outcome_on_sqlite() {
    each_answer_of_a_handler_has_its_outcome(Database::Sqlite).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn each_answer_of_a_handler_has_its_outcome_on_mariadb() {
    each_answer_of_a_handler_has_its_outcome(Database::MariaDb).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn each_answer_of_a_handler_has_its_outcome_on_postgres() {
    each_answer_of_a_handler_has_its_outcome(Database::Postgres).await;
}

/// Answers as the request's name says.
async fn answer(ctx: JobContext) -> Result<(), JobError> {
    let soon = |ms: i64| now() + TimeDelta::milliseconds(ms);
    match (ctx.job().request_id.as_str(), ctx.attempt()) {
        ("retry" | "override", _) | ("second" | "key-order", 1) => Err(JobError::retry("not now")),
        ("retry-after", 1) => Err(JobError::RetryAfter(ms(700), "in a moment".into())),
        ("fail", _) => Err(JobError::fail("never")),
        // By its fence: a snooze does not count as an attempt.
        ("snooze", _) if ctx.fence().get() % (1 << 20) <= 2 => Err(JobError::Snooze(soon(400))),
        ("timeout", _) => std::future::pending().await,
        ("panic", _) => panic!("a careless handler"),
        _ => Ok(()),
    }
}

async fn each_answer_of_a_handler_has_its_outcome(database: Database) {
    let world = World::new(database, 1).await;
    let (handler, firings) = recorder(answer);
    let mut app = AppConfig::new("mail");
    app.backoff = Backoff::Delays(vec![ms(50)]);
    app.max_attempts = NonZeroU32::new(3).expect("not zero");
    app.timeout = Duration::from_secs(30);
    let builder = world.builder().register_app(app, handler);
    let scheduler = builder.start().await.expect("a start");
    let expired = r#","expiresTime":1000"#;
    let cases = [
        ("retry", "", Some(("attempts-exhausted", 3, "not now"))),
        ("second", "", None),
        ("retry-after", "", None),
        ("fail", "", Some(("attempts-exhausted", 1, "never"))),
        ("snooze", r#","maxAttempts":1"#, None),
        ("timeout", r#","timeoutMs":100"#, Some(("attempts-exhausted", 3, "longer than 100 ms"))),
        ("panic", "", Some(("attempts-exhausted", 3, "panicked"))),
        ("override", r#","maxAttempts":5"#, Some(("attempts-exhausted", 5, "not now"))),
        ("expired", expired, Some(("expired", 0, "expiresTime"))),
        ("fine", "", None),
    ];
    let records: Vec<_> = cases
        .iter()
        .map(|(id, more, _)| {
            let data = format!(r#"{{"of": "{id}", "n":1.0}}"#);
            let json = format!(
                r#"{{"requestId":"{id}","appName":"mail","scheduledTime":0,"jobData":{data}{more}}}"#
            );
            RawRecord::new(0, json).with_header("traceparent", "00-abc-def-01")
        })
        .collect();
    let offsets = produce(&world.topic, &records).await;
    let dead = cases.iter().filter(|(_, _, dead)| dead.is_some()).count() as u64;
    wait_until(DEADLINE, "an end of every job", async || {
        let metrics = scheduler.ingest_metrics();
        metrics.apps["mail"].succeeded == 4 && metrics.messages_sent_to_dlq == dead
    })
    .await;
    let metrics = scheduler.ingest_metrics().apps["mail"].clone();
    scheduler.shutdown(DRAIN).await;

    let counts: Vec<_> = cases.iter().map(|(id, ..)| of(&firings, id).len()).collect();
    assert_eq!(counts, [3, 2, 2, 1, 3, 3, 3, 5, 0, 1]);
    // Failed: all attempts but the good ones and the two snoozes. Put back: those that were
    // not the last, and the snoozes.
    assert_eq!((metrics.fired, metrics.succeeded, metrics.dead), (23, 4, 6));
    assert_eq!((metrics.failed, metrics.retried), (17, 14));
    for (id, ..) in &cases {
        check_attempts(id, &of(&firings, id));
    }
    let letters = read_all(&world.dlq).await;
    assert_eq!(letters.len() as u64, dead);
    for ((id, _, dead), offset) in cases.iter().zip(offsets) {
        let Some((kind, attempts, said)) = dead else { continue };
        let letter = letters.iter().find(|letter| letter.header("request-id") == Some(*id));
        let letter = letter.unwrap_or_else(|| panic!("no dead letter of {id}"));
        let header = |name: &str| letter.header(name).unwrap_or_else(|| panic!("{id}: {name}"));
        assert_eq!(header("error-kind"), *kind, "{id}");
        assert_eq!(header("attempts"), attempts.to_string(), "{id}");
        assert!(header("error-message").contains(said), "{id}: {}", header("error-message"));
        assert_eq!(header("original-topic"), world.topic, "{id}");
        assert_eq!(header("original-partition"), "0", "{id}");
        assert_eq!(header("original-offset"), offset.to_string(), "{id}");
        assert!(letter.header("original-timestamp").is_some(), "{id}");
        assert_eq!(header("traceparent"), "00-abc-def-01", "{id}");
        assert_eq!(letter.key.as_deref(), Some(id.as_bytes()));
        let body = letter.json();
        assert_eq!((&body["requestId"], &body["appName"]), (&json!(id), &json!("mail")));
        let raw = String::from_utf8(letter.value.clone().expect("a value")).expect("text");
        assert!(raw.ends_with(&format!(r#""jobData":{{"of": "{id}", "n":1.0}}}}"#)), "{raw}");
    }
    assert_eq!(world.database.count("select count(*) from job").await, 0);
}

/// Attempts count up, fences grow, none is early, and each waits as it was told.
fn check_attempts(id: &str, firings: &[Firing]) {
    for (n, firing) in firings.iter().enumerate() {
        let attempt = if id == "snooze" { 1 } else { n as u32 + 1 };
        assert_eq!(firing.attempt, attempt, "{id}");
        assert!(firing.at_ms >= firing.due_ms, "{id} is early: {firing:?}");
    }
    let wait_ms = match id {
        "retry-after" => 700,
        "snooze" => 400,
        "timeout" => 150,
        _ => 50,
    };
    for pair in firings.windows(2) {
        assert!(pair[1].fence > pair[0].fence, "{id}: {firings:?}");
        assert!(pair[1].at_ms >= pair[0].at_ms + wait_ms, "{id}: {firings:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn due_jobs_fire_high_before_normal_before_low() {
    let database = Database::Sqlite.fresh().await;
    let gate = Arc::new(Semaphore::new(0));
    let of_handler = gate.clone();
    let (handler, firings) = recorder(move |ctx| {
        let gate = of_handler.clone();
        async move {
            if ctx.job().request_id == "first" {
                gate.acquire().await.map_err(JobError::retry)?.forget();
            }
            Ok(())
        }
    });
    let mut app = AppConfig::new("mail");
    app.max_in_flight = NonZeroU32::MIN;
    let scheduler = builder(&database).register_app(app, handler).start().await.expect("a start");
    accept(&scheduler, request("mail", "first")).await;
    await_firings(&firings, 1).await;
    // Lower ones are due earlier: only their class puts them behind.
    for n in 0..8 {
        for (priority, due) in
            [(Priority::Low, "00:00"), (Priority::Normal, "01:00"), (Priority::High, "02:00")]
        {
            let request = ScheduleJobRequest::builder("mail")
                .request_id(format!("{priority}-{n}"))
                .at(format!("2020-01-01T{due}:{n:02}Z").as_str())
                .priority(priority);
            accept(&scheduler, request.build().expect("a request")).await;
        }
    }
    assert_eq!(firings.lock().expect("a lock").len(), 1, "one at a time");
    gate.add_permits(1);
    await_firings(&firings, 25).await;
    let order: Vec<_> = firings
        .lock()
        .expect("a lock")
        .iter()
        .skip(1)
        .map(|firing| firing.request_id.clone())
        .collect();
    let classes = ["high", "normal", "low"].into_iter();
    let expected: Vec<_> =
        classes.flat_map(|class| (0..8).map(move |n| format!("{class}-{n}"))).collect();
    assert_eq!(order, expected);
    scheduler.shutdown(DRAIN).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn no_job_fires_early() {
    const JOBS: usize = 300;
    let database = Database::Sqlite.fresh().await;
    let (handler, firings) = recorder(|_| async { Ok(()) });
    let scheduler = builder(&database)
        .register_app(AppConfig::new("mail"), handler)
        .start()
        .await
        .expect("a start");
    let start = now() + TimeDelta::seconds(1);
    let mut times: BTreeMap<String, DateTime<Utc>> = BTreeMap::new();
    for n in 0..JOBS {
        // Between two milliseconds, too: what is stored is rounded up.
        let time = start + TimeDelta::microseconds(7_301 * n as i64 + 1);
        let text = time.to_rfc3339_opts(SecondsFormat::Micros, true);
        let request =
            ScheduleJobRequest::builder("mail").request_id(format!("r-{n}")).at(text.as_str());
        times.insert(format!("r-{n}"), time);
        accept(&scheduler, request.build().expect("a request")).await;
    }
    await_firings(&firings, JOBS).await;
    scheduler.shutdown(DRAIN).await;
    let firings = firings.lock().expect("a lock");
    assert_eq!(firings.len(), JOBS);
    for firing in firings.iter() {
        let asked = times.remove(&firing.request_id).expect("each once");
        let asked_us = asked.timestamp_micros();
        assert!(firing.due_ms * 1000 >= asked_us, "{firing:?}");
        assert!(
            firing.at_ms * 1000 >= asked_us - asked_us % 1000 + 1000,
            "early by the clock: {firing:?}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn shutdown_waits_for_what_runs() {
    let database = Database::Sqlite.fresh().await;
    let gate = Arc::new(Semaphore::new(0));
    let ended = Arc::new(AtomicBool::new(false));
    let (of_handler, ends) = (gate.clone(), ended.clone());
    let (handler, firings) = recorder(move |ctx| {
        let (gate, ended) = (of_handler.clone(), ends.clone());
        async move {
            gate.acquire().await.map_err(JobError::retry)?.forget();
            // It has the time that was promised: nobody tells it to stop meanwhile.
            ended.store(!ctx.cancelled().is_cancelled(), Ordering::SeqCst);
            Ok(())
        }
    });
    let scheduler = builder(&database)
        .register_app(AppConfig::new("mail"), handler)
        .start()
        .await
        .expect("a start");
    accept(&scheduler, request("mail", "slow")).await;
    await_firings(&firings, 1).await;
    let leaving = scheduler.clone();
    let shutdown = tokio::spawn(async move { leaving.shutdown(DEADLINE).await });
    wait_until(DEADLINE, "the shutdown to begin", async || !scheduler.is_running()).await;
    let refused = scheduler.schedule(request("mail", "late")).await;
    assert!(matches!(refused, Err(SubmitError::Unavailable(_))), "{refused:?}");
    assert!(!shutdown.is_finished() && !ended.load(Ordering::SeqCst));
    gate.add_permits(1);
    shutdown.await.expect("a shutdown");
    assert!(ended.load(Ordering::SeqCst));
    assert_eq!(database.count("select count(*) from job").await, 0, "its outcome was written");
}

/// The one handler looks at its token, the other never does: both jobs fire again, and
/// neither attempt counts.
#[tokio::test(flavor = "multi_thread")]
async fn shutdown_cancels_what_does_not_end_and_its_job_fires_again() {
    let database = Database::Sqlite.fresh().await;
    let told = Arc::new(AtomicUsize::new(0));
    let tells = told.clone();
    let (handler, firings) = recorder(move |ctx| {
        let told = tells.clone();
        async move {
            if ctx.job().request_id == "polite" {
                ctx.cancelled().cancelled().await;
                told.fetch_add(1, Ordering::SeqCst);
                return Err(JobError::Snooze(now()));
            }
            std::future::pending().await
        }
    });
    let scheduler = builder(&database)
        .register_app(AppConfig::new("mail"), handler)
        .start()
        .await
        .expect("a start");
    for id in ["polite", "deaf"] {
        accept(&scheduler, request("mail", id)).await;
    }
    await_firings(&firings, 2).await;
    tokio::time::timeout(DEADLINE, scheduler.shutdown(ms(300))).await.expect("an end");
    assert_eq!(told.load(Ordering::SeqCst), 1);
    assert_eq!(database.count("select count(*) from job where attempts = 0").await, 2);

    let (handler, again) = recorder(|_| async { Ok(()) });
    let scheduler = builder(&database)
        .register_app(AppConfig::new("mail"), handler)
        .start()
        .await
        .expect("a second start");
    await_no_jobs(&database).await;
    scheduler.shutdown(DRAIN).await;
    for id in ["polite", "deaf"] {
        let (before, after) = (of(&firings, id), of(&again, id));
        assert_eq!((before.len(), after.len()), (1, 1), "{id}");
        assert_eq!(after[0].attempt, 1, "{id}: a cancelled attempt does not count");
        assert!(after[0].fence > before[0].fence, "{id}");
    }
}

/// A request id is free again when its job has ended, and from that moment: what comes
/// between the commit and the scheduler's hearing of it must not be lost.
#[tokio::test(flavor = "multi_thread")]
async fn a_request_that_comes_again_the_moment_its_job_has_ended_fires_again() {
    const ROUNDS: usize = 150;
    for backend in Database::all() {
        let database = backend.fresh().await;
        let (handler, firings) = recorder(|_| async { Ok(()) });
        let scheduler = builder(&database)
            .register_app(AppConfig::new("mail"), handler)
            .start()
            .await
            .expect("a start");
        let (mut accepted, mut duplicates) = (0, 0);
        let asking = async {
            while accepted < ROUNDS {
                match scheduler.schedule(request("mail", "again")).await {
                    Ok(Submitted::Accepted { .. }) => accepted += 1,
                    Ok(Submitted::Duplicate { .. }) => duplicates += 1,
                    other => panic!("{other:?}"),
                }
            }
        };
        let asked = tokio::time::timeout(DEADLINE, asking).await;
        assert!(
            asked.is_ok(),
            "{backend:?}: stuck after {accepted} jobs and {duplicates} duplicates"
        );
        await_firings(&firings, ROUNDS).await;
        await_no_jobs(&database).await;
        assert_eq!(of(&firings, "again").len(), ROUNDS, "{backend:?}: each once");
        assert_eq!(scheduler.ingest_metrics().jobs_rescued, 0, "{backend:?}");
        scheduler.shutdown(DRAIN).await;
    }
}

/// Starts, takes a job, fires it and stops, on whatever runtime this is.
async fn live_a_life() {
    let database = Database::Sqlite.fresh().await;
    let (handler, firings) = recorder(|_| async {
        tokio::time::sleep(ms(1)).await;
        Ok(())
    });
    let scheduler = builder(&database)
        .register_app(AppConfig::new("mail"), handler)
        .start()
        .await
        .expect("a start");
    accept(&scheduler, request("mail", "r")).await;
    await_firings(&firings, 1).await;
    scheduler.shutdown(DRAIN).await;
    assert_eq!(database.count("select count(*) from job").await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn it_works_on_a_multi_thread_runtime() {
    live_a_life().await;
}

#[tokio::test(flavor = "current_thread")]
async fn it_works_on_a_current_thread_runtime() {
    live_a_life().await;
}

#[test]
fn it_works_in_a_system_of_actix() {
    actix_web::rt::System::new().block_on(live_a_life());
}

/// As a program would that has a runtime of its own for a while only.
#[test]
fn a_handle_outlives_the_runtime_that_it_was_made_on() {
    let runtime = || tokio::runtime::Runtime::new().expect("a runtime");
    let (handler, firings) = recorder(|_| async { Ok(()) });
    let (database, scheduler) = runtime().block_on(async {
        let database = Database::Sqlite.fresh().await;
        let builder = builder(&database).register_app(AppConfig::new("mail"), handler);
        let scheduler = builder.start().await.expect("a start");
        (database, scheduler)
    });
    runtime().block_on(async {
        accept(&scheduler, request("mail", "r")).await;
        let first = wait_for(DEADLINE, "a firing", async || of(&firings, "r").pop()).await;
        assert_eq!(first.attempt, 1);
        await_no_jobs(&database).await;
        scheduler.shutdown(DRAIN).await;
    });
}
