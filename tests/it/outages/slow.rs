//! The database is slow: late answers lose nothing, and a timeout is not the fault of a record.

use std::time::Duration;

use super::{Flow, PARTITIONS};
use crate::support::proxy::Proxy;
use crate::support::services::Database;
use crate::support::world::World;

/// Everything goes on, but slowly: a connection and its first heartbeat take longer than a
/// heartbeat may.
const SLOW: Duration = Duration::from_millis(200);
/// The heartbeat of a short lease is not answered in time.
const TOO_SLOW: Duration = Duration::from_millis(1100);

#[tokio::test(flavor = "multi_thread")]
async fn a_slow_database_loses_nothing_on_mariadb() {
    a_slow_database_loses_nothing(Database::MariaDb).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "left to `tests/run matrix`"]
async fn a_slow_database_loses_nothing_on_mysql() {
    a_slow_database_loses_nothing(Database::MySql).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slow_database_loses_nothing_on_postgres() {
    a_slow_database_loses_nothing(Database::Postgres).await;
}

async fn a_slow_database_loses_nothing(database: Database) {
    let world = World::new(database, PARTITIONS).await;
    let proxy = Proxy::start(world.database.url()).await;
    let builder = world.builder().database_url(proxy.url(world.database.url()));
    let mut flow = Flow::start(world, builder).await;

    proxy.set_delay(SLOW);
    proxy.cut_all();
    flow.wave().await;
    flow.waves.settle().await;

    proxy.set_delay(TOO_SLOW);
    flow.wave().await;
    flow.await_complaint("database", "no answer to the heartbeat within ").await;
    flow.await_complaint("lease", "nothing is fired").await;
    flow.wave().await;
    proxy.set_delay(Duration::ZERO);
    flow.finish().await;
}
