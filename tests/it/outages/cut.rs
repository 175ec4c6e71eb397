//! Connections are closed or do not answer, all at the same time and repeatedly, as in a failover.

use super::{DEADLINE, Flow, PARTITIONS};
use crate::support::proxy::Proxy;
use crate::support::services::Database;
use crate::support::wait_until;
use crate::support::world::World;

/// How often everything is cut.
const CUTS: usize = 8;

#[tokio::test(flavor = "multi_thread")]
async fn connections_that_are_cut_again_and_again_lose_nothing_on_mariadb() {
    connections_that_are_cut_again_and_again_lose_nothing(Database::MariaDb).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "left to `tests/run matrix`"]
async fn connections_that_are_cut_again_and_again_lose_nothing_on_mysql() {
    connections_that_are_cut_again_and_again_lose_nothing(Database::MySql).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn connections_that_are_cut_again_and_again_lose_nothing_on_postgres() {
    connections_that_are_cut_again_and_again_lose_nothing(Database::Postgres).await;
}

async fn connections_that_are_cut_again_and_again_lose_nothing(database: Database) {
    let world = World::new(database, PARTITIONS).await;
    let proxy = Proxy::start(world.database.url()).await;
    let builder = world.builder().database_url(proxy.url(world.database.url()));
    let mut flow = Flow::start(world, builder).await;
    for cut in 0..CUTS {
        // By turns in the middle of a batch's transaction, and wherever it happens to be.
        let held = proxy.holds();
        if cut % 2 == 0 {
            proxy.hold_after(format!("{}-0", flow.waves.count).as_bytes());
        }
        flow.wave().await;
        if cut % 2 == 0 {
            wait_until(DEADLINE, "a transaction", async || proxy.holds() > held).await;
        }
        proxy.cut_all();
    }
    flow.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn connections_that_fall_silent_are_left_on_mariadb() {
    connections_that_fall_silent_are_left(Database::MariaDb).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "left to `tests/run matrix`"]
async fn connections_that_fall_silent_are_left_on_mysql() {
    connections_that_fall_silent_are_left(Database::MySql).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn connections_that_fall_silent_are_left_on_postgres() {
    connections_that_fall_silent_are_left(Database::Postgres).await;
}

/// A server that is gone without a word closes nothing: it is for us to give up on it.
async fn connections_that_fall_silent_are_left(database: Database) {
    let world = World::new(database, PARTITIONS).await;
    let proxy = Proxy::start(world.database.url()).await;
    let builder = world.builder().database_url(proxy.url(world.database.url())).max_connections(2);
    let mut flow = Flow::start(world, builder).await;
    // As many as the pool has are in use when it happens.
    for partition in 0..PARTITIONS {
        proxy.hold_after(format!("{}-{partition}", flow.waves.count).as_bytes());
        flow.wave().await;
        let held = partition as usize + 1;
        wait_until(DEADLINE, "a transaction", async || proxy.holds() == held).await;
    }
    proxy.silence_all();
    flow.await_complaint("database", "no answer to the heartbeat").await;
    flow.finish().await;
}
