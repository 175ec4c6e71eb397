//! `PgBouncer` between us and PostgreSQL, which ignores unknown startup parameters.

use infinite_scheduler::SchedulerBuilder;

use super::{DEADLINE, Flow, PARTITIONS};
use crate::support::servers::Server;
use crate::support::services::{Database, postgres_url, temporary_folder};
use crate::support::world::World;

/// `host:port` within a URL.
fn place(url: &str) -> &str {
    let place = url.split_once("://").map_or(url, |(_, rest)| rest);
    let place = place.rsplit_once('@').map_or(place, |(_, place)| place);
    place.split(['/', '?']).next().expect("a host")
}

fn start_pooler(mode: &str, logs: &std::path::Path) -> Server {
    let server = postgres_url();
    let variables = [
        ("INFINITE_SCHEDULER_TEST_PGBOUNCER_SERVER", place(&server)),
        ("INFINITE_SCHEDULER_TEST_PGBOUNCER_MODE", mode),
    ];
    tokio::task::block_in_place(|| Server::start_with("pgbouncer", logs, &variables))
}

/// A scheduler that reaches its schema through the pooler.
fn builder(world: &World, pooler: &Server) -> SchedulerBuilder {
    let url = world.database.url();
    let url = url.replace(place(url), pooler.address());
    world.builder().database_url(format!("{url}?options[search_path]=mine"))
}

#[tokio::test(flavor = "multi_thread")]
async fn sessions_are_as_they_must_be_behind_a_pooler_of_sessions() {
    let logs = temporary_folder();
    let pooler = start_pooler("session", logs.path());
    let world = World::new(Database::Postgres, PARTITIONS).await;
    // The test's own statements go there, too.
    let name = world.database.name();
    let path = format!("alter database {name} set search_path = 'mine'");
    for sql in ["create schema mine", "create table mine.seen (wrong boolean)"] {
        world.database.execute(sql).await;
    }
    let builder = builder(&world, &pooler);
    let scheduler = builder.start().await.expect("a start");
    let there = "select count(*) from pg_tables where schemaname = 'mine' \
                 and tablename like 'scheduler%'";
    assert!(world.database.count(there).await > 5, "the tables are in the schema of the URL");
    world.database.execute_on_server(&path).await;
    let note = "create function mine.note() returns trigger language plpgsql as $$ begin \
                insert into seen values (current_setting('lock_timeout') <> '3s' \
                or current_setting('idle_in_transaction_session_timeout') <> '1500ms'); \
                return new; end $$";
    let trigger = "create trigger note before insert on mine.scheduler_job \
                   for each row execute function mine.note()";
    for sql in [note, trigger] {
        world.database.execute(sql).await;
    }
    let mut flow = Flow { waves: super::Waves::on(world), scheduler };
    flow.wave().await;
    flow.waves.settle().await;
    let seen = async |sql: &str| flow.database().count(sql).await;
    assert!(seen("select count(*) from seen").await > 0);
    assert_eq!(seen("select count(*) from seen where wrong").await, 0);
    flow.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pooler_of_transactions_is_refused() {
    check_refused("transaction").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pooler_of_statements_is_refused() {
    check_refused("statement").await;
}

async fn check_refused(mode: &str) {
    let logs = temporary_folder();
    let pooler = start_pooler(mode, logs.path());
    let world = World::new(Database::Postgres, PARTITIONS).await;
    world.database.execute("create schema mine").await;
    let refused = tokio::time::timeout(DEADLINE, builder(&world, &pooler).start()).await;
    let why = refused.expect("an answer").map(|_| ()).expect_err("no start").to_string();
    assert!(why.contains("each transaction gets another session of the server"), "{why}");
    assert!(why.contains("pool_mode = session"), "{why}");
    let there = "select count(*) from pg_tables where tablename like 'scheduler%'";
    assert_eq!(world.database.count(there).await, 0, "nothing was created");
}
