//! The chaos run: while records are produced, instances and servers are killed, suspended and
//! restarted at random; then everything is counted.
//!
//! A short run is part of all tests; `tests/run chaos MINUTES [SEED]` is a long one. It has its
//! own instances, broker and database server, which no other test uses.

mod crew;
mod flow;
mod operated;
mod operators;
mod proof;
mod tables;
mod verdicts;
pub(crate) mod topics;
mod troubles;

use std::env;
use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use sea_orm::{ConnectOptions, ConnectionTrait, Database as SeaOrm, DatabaseConnection};

use crate::support::servers::{self, Server};
use crate::support::services::{Database, with_database};
use crate::support::wait_until;
use crew::Crew;
use flow::Flow;
use operators::Operators;
use tables::Tables;
use topics::Cluster;
use troubles::{Diary, Over};

/// Partitions of the ingest topic.
const PARTITIONS: i32 = 6;
/// How long faults are made in a short run; start and end take about as long.
const SHORT: Duration = Duration::from_secs(35);
/// What the last record and the last job may take once nothing is in the way any more: waits
/// that have doubled during an outage, a lease, a rebalance, and a loaded machine.
const SETTLING: Duration = Duration::from_secs(180);
/// For records that are produced after the last fault.
const CALM: Duration = Duration::from_secs(3);

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn everything_is_accounted_for_whatever_dies_on_mariadb() {
    everything_is_accounted_for_whatever_dies(Database::MariaDb).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
#[ignore = "left to `tests/run matrix`"]
async fn everything_is_accounted_for_whatever_dies_on_mysql() {
    everything_is_accounted_for_whatever_dies(Database::MySql).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn everything_is_accounted_for_whatever_dies_on_postgres() {
    everything_is_accounted_for_whatever_dies(Database::Postgres).await;
}

async fn everything_is_accounted_for_whatever_dies(database: Database) {
    let plan = Plan::from_environment(database);
    eprintln!("chaos on {database:?}: {plan}");
    let logs = plan.logs.clone();
    let complaints = run(database, plan).await;
    let Err(complaints) = complaints else {
        fs::remove_dir_all(&logs).expect("logs that can be removed");
        return;
    };
    panic!("chaos on {database:?} ({logs:?} has the seed and the logs):\n{complaints}");
}

/// One run. Whatever it started is gone when it returns.
async fn run(database: Database, plan: Plan) -> Result<(), String> {
    let mut rng = fastrand::Rng::with_seed(plan.seed);
    let (broker, server) = tokio::task::block_in_place(|| servers::start(database, &plan.logs));
    let world = World::new(&broker, &server).await;
    let diary = Diary::new(plan.logs.join("diary"));
    let crew = Crew::start(&world.config(), &plan.logs).await;
    let flow = Flow::begin(&world.cluster, rng.fork());
    let operators = Operators::begin(&crew.doors(), &mut rng);

    let over = Over::after(plan.length);
    let (mut crew, _server, (_broker, dlq_made_ms)) = tokio::join!(
        over.live({
            let (diary, rng) = (diary.clone(), rng.fork());
            |over| troubles::of_instances(crew, diary, rng, over)
        }),
        over.live({
            let (diary, rng) = (diary.clone(), rng.fork());
            |over| troubles::of_database(server, diary, rng, over)
        }),
        over.live({
            let (cluster, diary, rng) = (world.cluster.clone(), diary.clone(), rng.fork());
            |over| troubles::of_broker(broker, cluster, diary, rng, over)
        }),
    );

    diary.note("calm");
    crew.ready().await;
    tokio::time::sleep(CALM).await;
    let produced = flow.end().await;
    diary.note("all is produced");
    let operated = operators.end().await;
    diary.note("all is answered");
    let tables = Tables::open(&world.url).await;
    settle(&world, &tables).await;
    diary.note("all is settled");
    let mut complaints = crew.leave().await;

    let evidence = proof::Evidence {
        topic: world.cluster.read_all(topics::INGEST).await,
        fired: world.cluster.read_all(topics::FIRED).await,
        dlq: world.cluster.read_all(topics::DLQ).await,
        events: world.cluster.read_all(topics::EVENTS).await,
        operated_fired: world.cluster.read_all(topics::OPERATED_FIRED).await,
        operated,
        dlq_made_ms,
        produced,
        troubles: diary.troubles(),
    };
    complaints.extend(evidence.judge(&tables).await);
    diary.note(&evidence.summary());
    if complaints.is_empty() { Ok(()) } else { Err(complaints.join("\n")) }
}

/// Waits until nothing is left to do.
async fn settle(world: &World, tables: &Tables) {
    let mut ends = Vec::new();
    for partition in 0..PARTITIONS {
        ends.push(world.cluster.end(topics::INGEST, partition).await);
    }
    let left = async || {
        let mut unread = 0;
        for (partition, end) in (0..).zip(&ends) {
            let sql = format!(
                "select coalesce(max(next_offset), 0) from scheduler_ingest_offset where number = {partition}"
            );
            unread += end - tables.number(&sql).await;
        }
        let jobs = tables.number(tables::LIVE_JOBS).await;
        let letters = tables.number("select count(*) from scheduler_outbox").await;
        let commands = tables.number(tables::WAITING_COMMANDS).await;
        let parked = "select count(*) from scheduler_dead_letter where state = 1";
        let parked = tables.number(parked).await;
        [unread, jobs, letters, commands, parked]
    };
    let mut last = [-1; 5];
    let settled = tokio::time::timeout(
        SETTLING,
        wait_until(SETTLING * 2, "nothing to do", async || {
            last = left().await;
            last == [0; 5]
        }),
    );
    if settled.await.is_err() {
        let [unread, jobs, letters, commands, parked] = last;
        panic!(
            "after {SETTLING:?} there are {unread} records that were not processed, {jobs} jobs, \
             {letters} letters and verdicts to publish, {commands} commands and {parked} \
             records to try again"
        );
    }
}

/// What a run is to be.
struct Plan {
    seed: u64,
    length: Duration,
    /// A folder that stays when the run fails.
    logs: PathBuf,
}

impl Plan {
    fn from_environment(database: Database) -> Self {
        let variable = |name: &str| {
            let text = env::var(format!("INFINITE_SCHEDULER_TEST_CHAOS_{name}")).ok()?;
            Some(text.parse::<u64>().unwrap_or_else(|error| panic!("{name} {text:?}: {error}")))
        };
        let seed = variable("SEED").unwrap_or_else(|| fastrand::u64(..));
        let length = variable("MINUTES").map_or(SHORT, |n| Duration::from_secs(n * 60));
        let name = format!("chaos.{database:?}.{seed}.{}", std::process::id());
        let logs = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(name);
        fs::create_dir_all(&logs).expect("a folder for logs");
        Self { seed, length, logs }
    }
}

impl std::fmt::Display for Plan {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "seed {}, {:?}, logs in {}", self.seed, self.length, self.logs.display())
    }
}

/// What the instances work with.
struct World {
    cluster: Cluster,
    url: String,
}

impl World {
    async fn new(broker: &Server, server: &Server) -> Self {
        let cluster = Cluster::at(broker.address());
        cluster.create(topics::INGEST, PARTITIONS).await;
        cluster.create(topics::FIRED, 3).await;
        cluster.create(topics::OPERATED_FIRED, 3).await;
        cluster.create(topics::DLQ, 1).await;
        cluster.create(topics::EVENTS, 3).await;
        let url = with_database(server.address(), "chaos");
        let whole = connect(server.address()).await;
        whole.execute_unprepared("CREATE DATABASE chaos").await.expect("a database of our own");
        whole.close().await.expect("a connection that closes");
        Self { cluster, url }
    }

    fn config(&self) -> String {
        let (ingest, dlq, fired) = (topics::INGEST, topics::DLQ, topics::FIRED);
        let (events, operated) = (topics::EVENTS, topics::OPERATED_FIRED);
        let (url, servers, lease) = (&self.url, self.cluster.address(), crew::LEASE.as_millis());
        let unsettled = crew::UNSETTLED;
        format!(
            r#"
            [database]
            url = "{url}"
            [kafka]
            bootstrap_servers = "{servers}"
            topic = "{ingest}"
            dlq_topic = "{dlq}"
            events_topic = "{events}"
            group_id = "chaos"
            [instance]
            lease_ms = {lease}
            drain_timeout_ms = 5000
            [log]
            metrics_interval_ms = 1000
            [apps.sms]
            dispatch = "kafka"
            topic = "{fired}"
            max_in_flight = 64
            window = {unsettled}
            [apps.ops]
            dispatch = "kafka"
            topic = "{operated}"
            max_in_flight = 64
            window = {unsettled}
            "#
        )
    }
}

async fn connect(url: &str) -> DatabaseConnection {
    let mut options = ConnectOptions::new(url);
    options.max_connections(2).sqlx_logging(false);
    SeaOrm::connect(options).await.unwrap_or_else(|error| panic!("{url}: {error}"))
}
