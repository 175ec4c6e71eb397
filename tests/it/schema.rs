//! The tables: created once, removed, and refused if a newer version created them.

mod foreign;

use std::process::{Command, Output};
use std::time::Duration;

use infinite_scheduler::store::{Error as StoreError, Store, StoreOptions};
use infinite_scheduler::{AppConfig, Discard, ScheduleJobRequest, Scheduler, StartError};
use infinite_scheduler_migration::{Migrator, MigratorTrait};

use crate::support::process::Instance;
use crate::support::services::{Database, TestDatabase, temporary_folder};
use crate::support::wait_until;
use crate::support::world::LEASE;

const DEADLINE: Duration = Duration::from_secs(90);
/// The tables that this version has.
const TABLES: [&str; 13] = [
    "scheduler_job",
    "scheduler_job_history",
    "scheduler_dead_letter",
    "scheduler_app",
    "scheduler_shard",
    "scheduler_instance",
    "scheduler_idempotency_key",
    "scheduler_ingest_offset",
    "scheduler_outbox",
    "scheduler_command",
    "scheduler_ingest_group",
    "scheduler_audit",
    "scheduler_bulk",
];
const FUTURE: &str = "m29990101_000001_from_the_future";

async fn connect(database: &TestDatabase) -> Store {
    let options = StoreOptions { url: database.url().into(), max_connections: 3, lease: LEASE };
    Store::connect(&options).await.expect("a database")
}

async fn applied_steps(database: &TestDatabase) -> usize {
    let count = database.count("select count(*) from scheduler_migration").await;
    usize::try_from(count).expect("a count")
}

/// How many of [`TABLES`] are there.
async fn tables(database: &TestDatabase) -> usize {
    let names = TABLES.map(|table| format!("'{table}'")).join(", ");
    let sql = match database.backend() {
        Database::Sqlite => {
            format!("select count(*) from sqlite_master where type = 'table' and name in ({names})")
        }
        Database::MariaDb | Database::MySql => format!(
            "select count(*) from information_schema.tables \
             where table_schema = database() and table_name in ({names})"
        ),
        Database::Postgres => format!(
            "select count(*) from information_schema.tables \
             where table_schema = current_schema() and table_name in ({names})"
        ),
    };
    usize::try_from(database.count(&sql).await).expect("a count")
}

/// How many tables there are whose names begin with our prefix.
async fn tables_like(database: &TestDatabase) -> i64 {
    let sql = match database.backend() {
        Database::Sqlite => "select count(*) from sqlite_master where name like 'scheduler%'",
        Database::MariaDb | Database::MySql => {
            "select count(*) from information_schema.tables \
             where table_schema = database() and table_name like 'scheduler%'"
        }
        Database::Postgres => {
            "select count(*) from information_schema.tables \
             where table_schema = current_schema() and table_name like 'scheduler%'"
        }
    };
    database.count(sql).await
}

async fn write_step_of_the_future(database: &TestDatabase) {
    let sql =
        format!("insert into scheduler_migration (version, applied_at) values ('{FUTURE}', 0)");
    database.execute(&sql).await;
}

/// Names the step, says that it is of a newer version, and the two ways out.
fn check_refusal(sentence: &str) {
    for said in [FUTURE, "newer version", "start that version", "another database"] {
        assert!(sentence.contains(said), "{said} must be in {sentence:?}");
    }
    assert_eq!(sentence.trim().lines().count(), 1, "{sentence:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn tables_are_created_removed_and_created_again() {
    for backend in Database::all() {
        let database = backend.fresh().await;
        let store = connect(&database).await;
        for round in 0..2 {
            store.migrate().await.expect("tables");
            assert_eq!(tables(&database).await, TABLES.len(), "{backend:?} {round}");
            assert_eq!(applied_steps(&database).await, Migrator::migrations().len());
            store.migrate().await.expect("nothing to do");
            assert_eq!(applied_steps(&database).await, Migrator::migrations().len());
            store.migrate_down().await.expect("no tables");
            assert_eq!(tables(&database).await, 0, "{backend:?} {round}");
            let left = tables_like(&database).await;
            assert_eq!(left, 0, "{backend:?} {round}");
        }
        store.close().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn three_that_start_at_once_make_the_tables_once() {
    for backend in Database::all() {
        let database = backend.fresh().await;
        let one = || async {
            let store = connect(&database).await;
            store.migrate().await.map(|()| store)
        };
        let (one, two, three) = tokio::join!(one(), one(), one());
        for store in [one, two, three] {
            store.unwrap_or_else(|error| panic!("{backend:?}: {error}")).close().await;
        }
        assert_eq!(applied_steps(&database).await, Migrator::migrations().len(), "{backend:?}");
        assert_eq!(tables(&database).await, TABLES.len(), "{backend:?}");
        let leases = "select count(*) from scheduler_schema_lease where id = 1 and holder = 0";
        assert_eq!(database.count(leases).await, 1, "{backend:?}: the lease is given back");
    }
}

/// A database file belongs to one instance, so that is for the servers.
#[tokio::test(flavor = "multi_thread")]
async fn three_schedulers_that_start_at_once_share_the_tables_and_the_shards() {
    for backend in Database::SERVERS {
        let database = backend.fresh().await;
        let start = || {
            let builder = Scheduler::builder().database_url(database.url()).lease(LEASE);
            builder.register_app(AppConfig::new("sms"), Discard).start()
        };
        let (one, two, three) = tokio::join!(start(), start(), start());
        let all = [one, two, three].map(|one| one.unwrap_or_else(|e| panic!("{backend:?}: {e}")));
        assert_eq!(applied_steps(&database).await, Migrator::migrations().len(), "{backend:?}");
        assert_eq!(database.count("select count(*) from scheduler_app").await, 1, "{backend:?}");
        assert_eq!(database.count("select count(*) from scheduler_shard").await, 8, "{backend:?}");
        wait_until(DEADLINE, "each of three to hold shards", async || {
            let owners =
                "select count(distinct owner) from scheduler_shard where owner is not null";
            database.count(owners).await == 3
        })
        .await;
        for (n, scheduler) in all.iter().enumerate() {
            let request = ScheduleJobRequest::builder("sms")
                .request_id(format!("r-{n}"))
                .at("2020-01-01T00:00Z");
            scheduler.schedule(request.build().expect("a request")).await.expect("a job");
        }
        wait_until(DEADLINE, "all jobs to end", async || {
            database.count("select count(*) from scheduler_job").await == 0
        })
        .await;
        for scheduler in all {
            scheduler.shutdown(Duration::from_secs(5)).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn tables_of_a_newer_version_are_refused_by_the_name_of_the_step() {
    for backend in Database::all() {
        let database = backend.fresh().await;
        let store = connect(&database).await;
        store.migrate().await.expect("tables");
        write_step_of_the_future(&database).await;
        match store.migrate().await {
            Err(StoreError::Unusable(sentence)) => check_refusal(&sentence),
            other => panic!("{backend:?}: {other:?}"),
        }
        store.close().await;
        let builder = Scheduler::builder().database_url(database.url());
        match builder.register_app(AppConfig::new("sms"), Discard).start().await {
            Err(StartError::Database(sentence)) => check_refusal(&sentence),
            other => panic!("{backend:?}: {other:?}"),
        }
        assert_eq!(tables(&database).await, TABLES.len(), "{backend:?}: nothing was touched");
        assert_eq!(database.count("select count(*) from scheduler_app").await, 0, "{backend:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_service_refuses_tables_of_a_newer_version_with_code_two() {
    for backend in Database::all() {
        let database = backend.fresh().await;
        let store = connect(&database).await;
        store.migrate().await.expect("tables");
        store.close().await;
        write_step_of_the_future(&database).await;
        let mut instance = Instance::spawn(&config(&database));
        let status = instance.exited(DEADLINE).await;
        assert_eq!(status.code(), Some(2), "{backend:?}");
        let said = instance.stderr();
        let sentence = said.lines().find(|line| line.starts_with("infinite-scheduler: "));
        check_refusal(sentence.unwrap_or_else(|| panic!("{said}")));
        let migrated = migrate(&database, &[]).await;
        assert_eq!(migrated.status.code(), Some(2), "{backend:?}");
        check_refusal(&text(&migrated.stderr));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_command_creates_the_tables_and_removes_them_only_when_confirmed() {
    for backend in Database::all() {
        let database = backend.fresh().await;
        let first = migrate(&database, &[]).await;
        assert!(first.status.success(), "{backend:?}: {}", text(&first.stderr));
        let said = text(&first.stdout);
        for step in Migrator::migrations() {
            assert!(said.contains(step.name()), "{said}");
        }
        assert_eq!(tables(&database).await, TABLES.len(), "{backend:?}");

        let again = migrate(&database, &[]).await;
        assert!(again.status.success() && text(&again.stdout).contains("already"), "{backend:?}");

        let careless = migrate(&database, &["--down"]).await;
        assert_eq!(careless.status.code(), Some(1), "{backend:?}");
        assert!(text(&careless.stderr).contains("--yes"), "{}", text(&careless.stderr));
        assert_eq!(tables(&database).await, TABLES.len(), "{backend:?}");

        let down = migrate(&database, &["--down", "--yes"]).await;
        assert!(down.status.success(), "{backend:?}: {}", text(&down.stderr));
        assert_eq!(tables(&database).await, 0, "{backend:?}");
    }
}

/// It could not keep every request, nor the letter of one that it cannot keep.
#[tokio::test(flavor = "multi_thread")]
async fn a_database_that_cannot_keep_every_text_is_refused() {
    let database = Database::Postgres.fresh().await;
    let name = database.name();
    database.execute_on_server(&format!("drop database {name}")).await;
    let ascii =
        format!("create database {name} encoding 'SQL_ASCII' template template0 locale 'C'");
    database.execute_on_server(&ascii).await;
    let refused = migrate(&database, &[]).await;
    assert_eq!(refused.status.code(), Some(2));
    let said = text(&refused.stderr);
    assert!(said.contains(name) && said.contains("SQL_ASCII") && said.contains("UTF8"), "{said}");
}

/// Who runs on the tables would lose its jobs.
#[tokio::test(flavor = "multi_thread")]
async fn the_command_does_not_take_tables_from_under_an_instance() {
    let database = Database::Postgres.fresh().await;
    let builder = Scheduler::builder().database_url(database.url()).lease(LEASE);
    let running =
        builder.register_app(AppConfig::new("sms"), Discard).start().await.expect("a start");
    let down = migrate(&database, &["--down", "--yes"]).await;
    assert_eq!(down.status.code(), Some(3));
    let said = text(&down.stderr);
    assert!(said.contains("an instance is running") && said.contains("stop it first"), "{said}");
    assert_eq!(tables(&database).await, TABLES.len());
    running.shutdown(Duration::from_secs(5)).await;
    assert!(migrate(&database, &["--down", "--yes"]).await.status.success());
}

fn config(database: &TestDatabase) -> String {
    format!("[database]\nurl = \"{}\"\n[apps.sms]\n", database.url())
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

async fn migrate(database: &TestDatabase, options: &[&str]) -> Output {
    let folder = temporary_folder();
    let file = folder.path().join("infinite-scheduler.toml");
    std::fs::write(&file, config(database)).expect("a configuration file");
    let mut command = Command::new(env!("CARGO_BIN_EXE_infinite-scheduler"));
    command.arg("migrate").arg("--config").arg(file).args(options).current_dir(folder.path());
    tokio::task::spawn_blocking(move || command.output())
        .await
        .expect("no panic")
        .expect("the binary")
}

/// On MariaDB each table of a step is committed by itself: what is left of an interrupted step
/// is ours.
#[tokio::test(flavor = "multi_thread")]
async fn a_step_that_was_interrupted_is_resumed() {
    for backend in Database::all() {
        let database = backend.fresh().await;
        let store = connect(&database).await;
        store.migrate().await.expect("tables");
        let step = Migrator::migrations()[0].name().to_owned();
        database.execute("delete from scheduler_migration").await;
        for table in ["scheduler_command", "scheduler_outbox"] {
            database.execute(&format!("drop table {table}")).await;
        }
        let begun = format!("update scheduler_schema_lease set begun = '{step}'");
        database.execute(&begun).await;
        store.migrate().await.unwrap_or_else(|error| panic!("{backend:?}: {error}"));
        assert_eq!(tables(&database).await, TABLES.len(), "{backend:?}");
        // Without the record that it was begun, the same tables are another program's.
        database.execute("delete from scheduler_migration").await;
        match store.migrate().await {
            Err(StoreError::Unusable(said)) => assert!(said.contains("scheduler_"), "{said}"),
            other => panic!("{backend:?}: {other:?}"),
        }
        store.close().await;
    }
}

/// The same where it really ends halfway, for want of a right: what it left is known as ours,
/// though nobody but the step itself has recorded that it was begun.
#[tokio::test(flavor = "multi_thread")]
async fn a_step_that_ended_halfway_goes_on_when_it_may() {
    const ALLOWED: [&str; 4] =
        ["scheduler_schema_lease", "scheduler_migration", "scheduler_app", "scheduler_shard"];
    // On PostgreSQL and SQLite a step is undone as a whole.
    for backend in [Database::MariaDb, Database::MySql] {
        let mut database = backend.fresh().await;
        let url = database.login(5).await;
        let name = database.name().to_owned();
        database.execute_on_server(&format!("REVOKE ALL ON {name}.* FROM {name}@'%'")).await;
        for table in ALLOWED {
            let grant = format!("GRANT ALL ON {name}.{table} TO {name}@'%'");
            database.execute_on_server(&grant).await;
        }
        let connect = async || {
            let options =
                StoreOptions { url: url.clone().into(), max_connections: 3, lease: LEASE };
            Store::connect(&options).await.expect("a database")
        };
        let store = connect().await;
        match store.migrate().await {
            Err(StoreError::Unusable(said)) => assert!(said.contains("grant"), "{said}"),
            other => panic!("{backend:?}: {other:?}"),
        }
        assert_eq!(tables(&database).await, 2, "{backend:?}: it ended halfway");
        store.close().await;
        database.execute_on_server(&format!("GRANT ALL ON {name}.* TO {name}@'%'")).await;
        let store = connect().await;
        store.migrate().await.unwrap_or_else(|error| panic!("{backend:?}: {error}"));
        assert_eq!(tables(&database).await, TABLES.len(), "{backend:?}");
        store.close().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_missing_right_to_create_tables_is_named() {
    for backend in Database::SERVERS {
        let mut database = backend.fresh().await;
        let url = database.login(5).await;
        let name = database.name().to_owned();
        let take_away: &[String] = match backend {
            Database::Postgres => &[
                format!("ALTER DATABASE {name} OWNER TO CURRENT_USER"),
                format!("GRANT CONNECT ON DATABASE {name} TO {name}"),
            ],
            _ => &[
                format!("REVOKE ALL ON {name}.* FROM {name}@'%'"),
                format!("GRANT SELECT ON {name}.* TO {name}@'%'"),
            ],
        };
        for sql in take_away {
            database.execute_on_server(sql).await;
        }
        if backend == Database::Postgres {
            database.execute(&format!("REVOKE ALL ON SCHEMA public FROM {name}, public")).await;
            database.execute(&format!("GRANT USAGE ON SCHEMA public TO {name}")).await;
        }
        let options = StoreOptions { url: url.into(), max_connections: 3, lease: LEASE };
        let store = Store::connect(&options).await.expect("a database");
        match store.migrate().await {
            Err(StoreError::Unusable(said)) => {
                assert!(said.contains("cannot be created") && said.contains("grant"), "{said}");
            }
            other => panic!("{backend:?}: {other:?}"),
        }
        assert_eq!(tables(&database).await, 0, "{backend:?}");
        store.close().await;
    }
}
