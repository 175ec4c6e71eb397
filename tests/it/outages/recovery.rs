//! An outage is over: work continues at once, and no instance is declared dead because of it.

use std::time::{Duration, Instant};

use super::{DEADLINE, Flow, PARTITIONS, WAVE, Waves};
use crate::support::proxy::Proxy;
use crate::support::servers::Server;
use crate::support::services::{Database, temporary_folder};
use crate::support::wait_until;
use crate::support::world::World;

/// Long enough for waits that have doubled to be long.
const OUTAGE: Duration = Duration::from_secs(15);
/// What it may take to be ready, to have read and to have fired: two seconds, and more on a
/// loaded machine. Waits that are not ended early take up to thirty.
const SOON: Duration = Duration::from_secs(10);

#[tokio::test(flavor = "multi_thread")]
async fn everything_goes_on_when_the_database_answers_again_on_mariadb() {
    everything_goes_on_when_the_database_answers_again(Database::MariaDb).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn everything_goes_on_when_the_database_answers_again_on_mysql() {
    everything_goes_on_when_the_database_answers_again(Database::MySql).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn everything_goes_on_when_the_database_answers_again_on_postgres() {
    everything_goes_on_when_the_database_answers_again(Database::Postgres).await;
}

async fn everything_goes_on_when_the_database_answers_again(database: Database) {
    let world = World::new(database, PARTITIONS).await;
    let proxy = Proxy::start(world.database.url()).await;
    let builder = world.builder().database_url(proxy.url(world.database.url()));
    let mut flow = Flow::start(world, builder).await;
    proxy.set_unavailable(true);
    flow.wave().await;
    outage().await;
    assert!(!flow.scheduler.health().ready);
    proxy.set_unavailable(false);
    goes_on(&flow).await;
    flow.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn everything_goes_on_when_the_broker_answers_again() {
    let logs = temporary_folder();
    let mut broker = tokio::task::block_in_place(|| Server::start("kafka", logs.path()));
    let database = Database::Postgres.fresh().await;
    let world = World::at(broker.address().to_owned(), database, PARTITIONS).await;
    let builder = world.builder();
    let mut flow = Flow::start(world, builder).await;
    tokio::task::block_in_place(|| broker.order("kill"));
    outage().await;
    tokio::task::block_in_place(|| broker.order("start"));
    // Acknowledged by the broker, which may take a while itself.
    flow.wave().await;
    goes_on(&flow).await;
    flow.finish().await;
}

async fn outage() {
    let began = Instant::now();
    wait_until(DEADLINE, "a long outage", async || began.elapsed() >= OUTAGE).await;
}

/// Everything is read, fired and published, and nothing is wrong any more.
async fn goes_on(flow: &Flow) {
    let began = Instant::now();
    let Waves { world, count } = &flow.waves;
    let read = format!(
        "select cast(coalesce(sum(next_offset), 0) as {}) from scheduler_ingest_offset",
        world.integer()
    );
    let left =
        "select (select count(*) from scheduler_job) + (select count(*) from scheduler_outbox)";
    wait_until(SOON, "everything to go on", async || {
        flow.scheduler.health().ready
            && world.database.count(&read).await == (count * WAVE) as i64
            && world.database.count(left).await == 0
    })
    .await;
    eprintln!(
        "{:?}: it went on after {} ms",
        world.database.backend(),
        began.elapsed().as_millis()
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_common_outage_makes_nobody_dead() {
    for backend in Database::SERVERS {
        let world = World::new(backend, PARTITIONS).await;
        let (first, second) =
            (Proxy::start(world.database.url()).await, Proxy::start(world.database.url()).await);
        let start = async |proxy: &Proxy| {
            let builder = world.builder().database_url(proxy.url(world.database.url()));
            builder.start().await.expect("a start")
        };
        let schedulers = [start(&first).await, start(&second).await];
        let ready = || schedulers.iter().all(|scheduler| scheduler.health().ready);
        wait_until(DEADLINE, "two that are ready", async || ready()).await;
        let leases = "select count(*) from scheduler_instance where not dead";
        assert_eq!(world.database.count(leases).await, 2);
        let integer = world.integer();
        let beats = format!("select cast(sum(beat) as {integer}) from scheduler_instance");

        first.set_unavailable(true);
        second.set_unavailable(true);
        outage().await;
        let before = world.database.count(&beats).await;
        first.set_unavailable(false);
        // It has looked around at least once.
        wait_until(DEADLINE, "beats of the first that returns", async || {
            world.database.count(&beats).await >= before + 2
        })
        .await;
        second.set_unavailable(false);
        wait_until(DEADLINE, "two that are ready", async || ready()).await;
        let dead = "select count(*) from scheduler_instance where dead";
        assert_eq!(world.database.count(dead).await, 0, "{backend:?}");
        assert_eq!(world.database.count(leases).await, 2, "{backend:?}: and nobody joined anew");
        for scheduler in &schedulers {
            scheduler.shutdown(DEADLINE).await;
        }
    }
}
