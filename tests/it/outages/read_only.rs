//! The database answers and refuses to write, as after a failover.

use super::{Flow, PARTITIONS};
use crate::support::servers::Server;
use crate::support::services::{Database, temporary_folder};
use crate::support::world::World;

#[tokio::test(flavor = "multi_thread")]
async fn a_read_only_database_is_an_outage_on_postgres() {
    let world = World::new(Database::Postgres, PARTITIONS).await;
    let builder = world.builder();
    let mut flow = Flow::start(world, builder).await;
    let name = flow.database().name().to_owned();
    let say = async |sql: String| flow.database().execute_on_server(&sql).await;

    say(format!("alter database {name} set default_transaction_read_only = on")).await;
    let sessions = format!("from pg_stat_activity where datname = '{name}'");
    say(format!("select pg_terminate_backend(pid) {sessions}")).await;
    flow.wave().await;
    let why = "only reads: cannot execute UPDATE in a read-only transaction";
    flow.await_complaint("database", why).await;
    flow.await_complaint("lease", "nothing is fired").await;
    // The sessions that there are go on refusing, like those with a server that was demoted.
    let name = flow.database().name();
    let reset = format!("alter database {name} reset default_transaction_read_only");
    flow.database().execute_on_server(&reset).await;
    flow.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_read_only_database_is_an_outage_on_mariadb() {
    a_read_only_server_is_an_outage(Database::MariaDb, "mariadb", "MariaDB").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_read_only_database_is_an_outage_on_mysql() {
    a_read_only_server_is_an_outage(Database::MySql, "mysql", "MySQL").await;
}

async fn a_read_only_server_is_an_outage(database: Database, service: &'static str, name: &str) {
    let logs = temporary_folder();
    let server = tokio::task::block_in_place(|| Server::start(service, logs.path()));
    let mut database = database.fresh_on(server.address().to_owned()).await;
    // Without the right to write all the same, which root has.
    let url = database.login(100).await;
    let world = World::on(database, PARTITIONS).await;
    let builder = world.builder().database_url(url);
    let mut flow = Flow::start(world, builder).await;

    flow.database().execute_on_server("set global read_only = 1").await;
    flow.wave().await;
    let why = format!("only reads: The {name} server is running with the --read-only option");
    flow.await_complaint("database", &why).await;
    flow.await_complaint("lease", "nothing is fired").await;
    flow.wave().await;
    flow.database().execute_on_server("set global read_only = 0").await;
    flow.finish().await;
}
