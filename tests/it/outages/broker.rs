//! The broker is unavailable: jobs that fire to it wait, and no attempt counts.

use std::num::NonZeroU32;
use std::time::{Duration, Instant};

use infinite_scheduler::{AppConfig, JobContext, JobError, ScheduleJobRequest, handler_fn};

use super::{DEADLINE, Flow, JOBS, PARTITIONS};
use crate::support::kafka::{client_of, read_all_by};
use crate::support::servers::Server;
use crate::support::services::{Database, temporary_folder};
use crate::support::wait_until;
use crate::support::world::World;

/// Longer than all attempts that a job has may take.
const OUTAGE: Duration = Duration::from_secs(6);
/// Jobs that fail for good while the broker is unavailable.
const BROKEN: usize = 5;

#[tokio::test(flavor = "multi_thread")]
async fn an_unavailable_broker_costs_no_attempt_and_no_letter() {
    let logs = temporary_folder();
    let mut broker = tokio::task::block_in_place(|| Server::start("kafka", logs.path()));
    let database = Database::Postgres.fresh().await;
    let world = World::at(broker.address().to_owned(), database, PARTITIONS).await;
    let mut sms = AppConfig::new("sms");
    sms.timeout = Duration::from_secs(1);
    sms.max_attempts = NonZeroU32::new(2).expect("not zero");
    let fails = handler_fn(async |_: JobContext, _: serde_json::Value| {
        Err(JobError::fail("as it was told"))
    });
    let builder = world
        .builder_without_apps()
        .register_app_on_topic(sms, &world.fired)
        .register_app(AppConfig::new("broken"), fails);
    let mut flow = Flow::start(world, builder).await;

    tokio::task::block_in_place(|| broker.order("kill"));
    let since = Instant::now();
    for n in 0..BROKEN + JOBS {
        let app = if n < BROKEN { "broken" } else { "sms" };
        let request = ScheduleJobRequest::builder(app).at("2025-01-01T00:00:00Z");
        let request = request.request_id(format!("away-{n}")).build().expect("a request");
        flow.scheduler.schedule(request).await.expect("the database is there");
    }
    flow.await_complaint("kafka", "no broker can be reached").await;
    wait_until(DEADLINE, "a long outage", async || since.elapsed() > OUTAGE).await;
    let metrics = flow.scheduler.ingest_metrics();
    assert_eq!(metrics.apps["broken"].dead as usize, BROKEN);
    assert_eq!((metrics.apps["sms"].failed, metrics.apps["sms"].dead), (0, 0));
    tokio::task::block_in_place(|| broker.order("start"));

    flow.wave().await;
    flow.waves.settle().await;
    flow.await_ready().await;
    flow.scheduler.shutdown(DEADLINE).await;
    let world = &flow.waves.world;
    let fired = read_all_by(&client_of(&world.broker), &world.fired).await;
    let away = fired
        .iter()
        .filter(|record| record.header("request-id").is_some_and(|id| id.starts_with("away-")));
    let mut attempts: Vec<_> =
        away.map(|record| (record.header("request-id"), record.header("attempt"))).collect();
    attempts.sort_unstable();
    let mut names: Vec<_> = (BROKEN..BROKEN + JOBS).map(|n| format!("away-{n}")).collect();
    names.sort_unstable();
    let wanted: Vec<_> = names.iter().map(|name| (Some(name.as_str()), Some("1"))).collect();
    assert_eq!(attempts, wanted, "each fired once, and that was its first attempt");
    let letters = read_all_by(&client_of(&world.broker), &world.dlq).await;
    let exhausted =
        letters.iter().filter(|letter| letter.header("error-kind") == Some("attempts-exhausted"));
    assert_eq!(exhausted.count(), BROKEN);
}
