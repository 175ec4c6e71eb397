//! Tables of other programs in the same database stay as they are.

use super::*;

/// What a foreign table may be named, and a row in it.
async fn make_foreign(database: &TestDatabase, table: &str) {
    database.execute(&format!("create table {table} (colour varchar(20))")).await;
    database.execute(&format!("insert into {table} values ('green')")).await;
}

async fn rows_of_foreign(database: &TestDatabase, table: &str) -> i64 {
    database.count(&format!("select count(*) from {table} where colour = 'green'")).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_table_under_our_name_that_is_not_ours_is_refused_and_stays() {
    let ours = TABLES.into_iter().chain(["scheduler_migration", "scheduler_schema_lease"]);
    let names: Vec<&str> = ours.collect();
    for backend in Database::all() {
        for table in &names {
            let database = backend.fresh().await;
            make_foreign(&database, table).await;
            let migrated = migrate(&database, &[]).await;
            assert_eq!(migrated.status.code(), Some(2), "{backend:?} {table}");
            let said = text(&migrated.stderr);
            assert!(said.contains(table) && said.contains("rename"), "{backend:?}: {said}");
            let down = migrate(&database, &["--down", "--yes"]).await;
            assert_ne!(down.status.code(), None, "{backend:?} {table}");
            assert_eq!(rows_of_foreign(&database, table).await, 1, "{backend:?} {table}");
            let there = tables(&database).await;
            assert_eq!(there, usize::from(TABLES.contains(table)), "{backend:?}: half created");
        }
        let database = backend.fresh().await;
        make_foreign(&database, "scheduler_job").await;
        let builder = Scheduler::builder().database_url(database.url());
        match builder.register_app(AppConfig::new("sms"), Discard).start().await {
            Err(StartError::Database(said)) => assert!(said.contains("scheduler_job"), "{said}"),
            other => panic!("{backend:?}: {other:?}"),
        }
    }
}

/// A program's tables under names without our prefix, and its own record of migrations.
#[tokio::test(flavor = "multi_thread")]
async fn the_tables_of_the_program_that_embeds_us_are_left_alone() {
    for backend in Database::all() {
        for ours_first in [false, true] {
            let database = backend.fresh().await;
            let store = connect(&database).await;
            if ours_first {
                store.migrate().await.expect("tables");
            }
            for table in ["app", "job", "shard", "instance", "command"] {
                make_foreign(&database, table).await;
            }
            let theirs = "create table seaql_migrations (version varchar(255) not null primary key, \
                          applied_at bigint not null)";
            database.execute(theirs).await;
            database.execute("insert into seaql_migrations values ('m2020_their_own', 0)").await;
            store.migrate().await.unwrap_or_else(|error| panic!("{backend:?}: {error}"));
            store.check_schema().await.expect("the tables of this version");
            assert_eq!(tables(&database).await, TABLES.len(), "{backend:?}");
            store.migrate_down().await.expect("no tables");
            assert_eq!(tables(&database).await, 0, "{backend:?}");
            for table in ["app", "job", "shard", "instance", "command"] {
                assert_eq!(rows_of_foreign(&database, table).await, 1, "{backend:?} {table}");
            }
            let kept = "select count(*) from seaql_migrations where version = 'm2020_their_own'";
            assert_eq!(database.count(kept).await, 1, "{backend:?}");
            store.close().await;
        }
    }
}
