//! The server accepts no more connections, because others have all of them.

use infinite_scheduler::StartProgress;
use sea_orm::{
    ConnectionTrait, Database as SeaOrm, DatabaseConnection, Statement, TransactionTrait,
};

use super::{DEADLINE, Flow, PARTITIONS, Waves};
use crate::support::services::{Database, TestDatabase};
use crate::support::wait_until;
use crate::support::world::{LEASE, World};

/// More than a scheduler needs.
const PLENTY: u32 = 30;

#[tokio::test(flavor = "multi_thread")]
async fn a_start_without_a_connection_waits_and_says_so_on_mariadb() {
    a_start_waits_for_connections(Database::MariaDb, 0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_start_without_a_connection_waits_and_says_so_on_mysql() {
    a_start_waits_for_connections(Database::MySql, 0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_start_without_a_connection_waits_and_says_so_on_postgres() {
    a_start_waits_for_connections(Database::Postgres, 0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_start_with_one_connection_waits_and_says_so_on_mariadb() {
    a_start_waits_for_connections(Database::MariaDb, 1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_start_with_one_connection_waits_and_says_so_on_mysql() {
    a_start_waits_for_connections(Database::MySql, 1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_start_with_one_connection_waits_and_says_so_on_postgres() {
    a_start_waits_for_connections(Database::Postgres, 1).await;
}

/// With one left, the first questions are answered and the heartbeat has no connection.
async fn a_start_waits_for_connections(database: Database, left: u32) {
    let mut database = database.fresh().await;
    let url = database.login(1 + left).await;
    let world = World::on(database, PARTITIONS).await;
    let idle = take_connection(&url).await;
    let builder = world.builder().database_url(&url);
    let progress = builder.progress();
    let starting = tokio::spawn(async move { builder.start().await });
    await_progress(&progress, why(&world.database, left)).await;
    assert!(!starting.is_finished(), "it is waited for");

    world.database.limit_login(PLENTY).await;
    drop(idle);
    let scheduler = starting.await.expect("no panic").expect("a start");
    let flow = Flow { waves: Waves::on(world), scheduler };
    flow.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_runs_out_of_connections_is_waited_for_on_mariadb() {
    a_server_that_runs_out_of_connections_is_waited_for(Database::MariaDb).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_runs_out_of_connections_is_waited_for_on_mysql() {
    a_server_that_runs_out_of_connections_is_waited_for(Database::MySql).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_runs_out_of_connections_is_waited_for_on_postgres() {
    a_server_that_runs_out_of_connections_is_waited_for(Database::Postgres).await;
}

async fn a_server_that_runs_out_of_connections_is_waited_for(database: Database) {
    let mut database = database.fresh().await;
    let url = database.login(PLENTY).await;
    let world = World::on(database, PARTITIONS).await;
    let builder = world.builder().database_url(&url);
    let mut flow = Flow::start(world, builder).await;

    // Another client has the only one that is allowed; the scheduler's own are cut.
    let idle = take_connection(&url).await;
    flow.database().limit_login(1).await;
    cut_all_but(flow.database(), &idle).await;
    flow.wave().await;
    flow.await_complaint("database", why(flow.database(), 0)).await;
    flow.await_complaint("lease", "nothing is fired").await;

    // One is not enough for both the heartbeat and everything else, whichever gets it.
    flow.database().limit_login(2).await;
    flow.wave().await;
    flow.await_complaint("", "").await;
    flow.database().limit_login(PLENTY).await;
    flow.finish().await;
    drop(idle);
}

/// Those of the pool wait for a lock that another client holds; the heartbeat has its own.
#[tokio::test(flavor = "multi_thread")]
async fn a_heartbeat_waits_for_no_other_statement() {
    for database in Database::SERVERS {
        let world = World::new(database, PARTITIONS).await;
        // Its patience with the heartbeat is a third of that.
        let builder = world.builder().max_connections(PARTITIONS as u32).lease(LEASE * 5);
        let mut flow = Flow::start(world, builder).await;
        let holder = flow.database().connect().await.begin().await.expect("a transaction");
        let hold = "update scheduler_ingest_offset set records = records";
        holder.execute_unprepared(hold).await.expect("a lock");
        let began = std::time::Instant::now();
        flow.wave().await;
        wait_until(DEADLINE, "longer than its patience", async || {
            for about in ["database", "lease"] {
                assert_eq!(flow.complaint(about), None, "{database:?}");
            }
            began.elapsed() > LEASE * 3
        })
        .await;
        holder.rollback().await.expect("a rollback");
        flow.finish().await;
    }
}

/// What the server says when there is no connection left; with one left, PostgreSQL's pool waits
/// for a second one without success.
fn why(database: &TestDatabase, left: u32) -> &'static str {
    match (database.backend(), left) {
        (Database::MariaDb | Database::MySql, _) => {
            "has exceeded the 'max_user_connections' resource"
        }
        (_, 0) => "too many connections for role",
        _ => "no connection became free in time",
    }
}

async fn await_progress(progress: &StartProgress, why: &str) {
    let says_why = || progress.waits_for().is_some_and(|said| said.contains(why));
    wait_until(DEADLINE, why, async || says_why()).await;
}

async fn take_connection(url: &str) -> DatabaseConnection {
    let mut options = sea_orm::ConnectOptions::new(url);
    options.max_connections(1).sqlx_logging(false);
    let connection = SeaOrm::connect(options).await.expect("a connection");
    connection.ping().await.expect("an answer");
    connection
}

/// Ends every session of the login but this one.
async fn cut_all_but(database: &TestDatabase, kept: &DatabaseConnection) {
    let (whoami, others) = match database.backend() {
        Database::Postgres => (
            "select pg_backend_pid()",
            "select pid from pg_stat_activity where usename = current_user",
        ),
        _ => (
            "select cast(connection_id() as signed)",
            // MySQL warns of this table, and has nothing else that a user may read.
            "select cast(id as signed) from information_schema.processlist where user = substring_index(current_user(), '@', 1)",
        ),
    };
    let ids = async |sql: &str| {
        let statement = Statement::from_string(kept.get_database_backend(), sql);
        let rows = kept.query_all_raw(statement).await.expect("rows");
        let id = |row: &sea_orm::QueryResult| match database.backend() {
            Database::Postgres => i64::from(row.try_get_by_index::<i32>(0).expect("an id")),
            _ => row.try_get_by_index(0).expect("an id"),
        };
        rows.iter().map(id).collect::<Vec<i64>>()
    };
    let me = ids(whoami).await;
    for id in ids(others).await.into_iter().filter(|id| !me.contains(id)) {
        let end = match database.backend() {
            Database::Postgres => format!("select pg_terminate_backend({id})"),
            _ => format!("kill {id}"),
        };
        // It may be gone already.
        kept.execute_unprepared(&end).await.ok();
    }
}
