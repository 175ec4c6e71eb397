//! Settings of the server, the database or the user that would break a promise: our sessions set
//! their own, and a setting that cannot be changed is reported with what to do.

use std::num::NonZeroU32;

use infinite_scheduler::AppConfig;

use super::{DEADLINE, Flow, PARTITIONS};
use crate::support::kafka::{RawRecord, client_of, produce_by};
use crate::support::proxy::Proxy;
use crate::support::servers::Server;
use crate::support::services::{Database, TestDatabase, temporary_folder};
use crate::support::wait_until;
use crate::support::world::World;

/// More connections than a scheduler needs.
const PLENTY: u32 = 50;

/// A setting, a value that breaks a promise, and what a session of ours has instead, if a trigger
/// does: it has the modes and character sets of the session that created it.
type Hostile = (&'static str, &'static str, &'static str);

/// What MariaDB and MySQL both have.
const HOSTILE_MYSQL: &[Hostile] = &[
    ("autocommit", "0", "1"),
    ("completion_type", "'CHAIN'", "NO_CHAIN"),
    ("sql_safe_updates", "1", "0"),
    ("sql_big_selects", "0", "1"),
    ("max_join_size", "1", ""),
    ("sql_select_limit", "1", "18446744073709551615"),
    ("sql_auto_is_null", "1", "0"),
    ("foreign_key_checks", "0", "1"),
    ("unique_checks", "0", "1"),
    ("default_storage_engine", "'MyISAM'", "InnoDB"),
    ("time_zone", "'+05:30'", "+00:00"),
    ("character_set_client", "'latin1'", ""),
    ("character_set_results", "'latin1'", ""),
    ("collation_connection", "'latin1_german1_ci'", ""),
    ("innodb_lock_wait_timeout", "1", "3"),
    ("lock_wait_timeout", "1", "3"),
];

const HOSTILE_MARIADB: &[Hostile] = &[
    ("tx_isolation", "'SERIALIZABLE'", "READ-COMMITTED"),
    ("max_statement_time", "0.5", "0"),
    ("idle_transaction_timeout", "0", "2"),
    ("idle_write_transaction_timeout", "100", "2"),
    ("wait_timeout", "1", "28800"),
    ("sql_mode", "'ORACLE,EMPTY_STRING_IS_NULL,NO_BACKSLASH_ESCAPES,PAD_CHAR_TO_FULL_LENGTH'", ""),
];

const HOSTILE_MYSQL9: &[Hostile] = &[
    ("transaction_isolation", "'SERIALIZABLE'", "READ-COMMITTED"),
    ("max_execution_time", "1", "0"),
    ("wait_timeout", "1", "2"),
    ("sql_mode", "'ANSI,NO_BACKSLASH_ESCAPES,PAD_CHAR_TO_FULL_LENGTH'", ""),
];

const HOSTILE_POSTGRES: &[Hostile] = &[
    ("default_transaction_isolation", "'serializable'", "read committed"),
    ("statement_timeout", "'10ms'", "0"),
    ("lock_timeout", "'1ms'", "3s"),
    ("idle_in_transaction_session_timeout", "'1ms'", "1500ms"),
    ("idle_session_timeout", "'100ms'", "0"),
    ("exit_on_error", "on", "off"),
    ("synchronous_commit", "off", "on"),
    ("\"TimeZone\"", "'Africa/Casablanca'", "UTC"),
    ("\"DateStyle\"", "'German, DMY'", "ISO, MDY"),
    ("client_encoding", "'latin1'", "UTF8"),
    ("standard_conforming_strings", "off", "on"),
    ("bytea_output", "'escape'", "hex"),
];

/// In every session of the database's login that begins from now on.
async fn make_hostile(database: &TestDatabase, hostile: &[Hostile]) {
    let name = database.name();
    if database.backend() == Database::Postgres {
        for (setting, value, _) in hostile {
            let alter = format!("alter role {name} set {setting} = {value}");
            database.execute_on_server(&alter).await;
        }
        return;
    }
    let all: Vec<String> =
        hostile.iter().map(|(setting, value, _)| format!("{setting} = {value}")).collect();
    let init = format!("set global init_connect = \"set session {}\"", all.join(", "));
    database.execute_on_server(&init).await;
}

/// From now on each job that is inserted notes what its session has.
async fn note_settings(database: &TestDatabase, hostile: &[Hostile]) {
    let note = |(setting, _, ours): &Hostile| {
        let setting = setting.trim_matches('"');
        let value = match database.backend() {
            Database::Postgres => format!("current_setting('{setting}')"),
            _ => format!("@@session.{setting}"),
        };
        format!("insert into seen values ('{setting}', '{ours}', {value});")
    };
    let notes: String = hostile.iter().filter(|(.., ours)| !ours.is_empty()).map(note).collect();
    database
        .execute("create table seen (setting varchar(99), ours varchar(99), is_now varchar(99))")
        .await;
    if database.backend() != Database::Postgres {
        let trigger = format!(
            "create trigger note before insert on scheduler_job for each row begin {notes} end"
        );
        return database.execute(&trigger).await;
    }
    let function = format!(
        "create function note() returns trigger language plpgsql as \
         $$ begin {notes} return new; end $$"
    );
    let trigger =
        "create trigger note before insert on scheduler_job for each row execute function note()";
    for sql in [function.as_str(), trigger, "grant all on seen to public"] {
        database.execute(sql).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn hostile_settings_break_no_promise_on_mariadb() {
    let hostile = [HOSTILE_MYSQL, HOSTILE_MARIADB].concat();
    hostile_settings_break_no_promise(Database::MariaDb, &hostile).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn hostile_settings_break_no_promise_on_mysql() {
    let hostile = [HOSTILE_MYSQL, HOSTILE_MYSQL9].concat();
    hostile_settings_break_no_promise(Database::MySql, &hostile).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn hostile_settings_break_no_promise_on_postgres() {
    hostile_settings_break_no_promise(Database::Postgres, HOSTILE_POSTGRES).await;
}

/// Neither at the start nor in sessions that begin later, whatever was set meanwhile.
async fn hostile_settings_break_no_promise(backend: Database, hostile: &[Hostile]) {
    let logs = temporary_folder();
    let server = tokio::task::block_in_place(|| Server::start(name_of(backend), logs.path()));
    for while_running in [false, true] {
        let mut database = backend.fresh_on(server.address().to_owned()).await;
        let login = database.login(PLENTY).await;
        let proxy = Proxy::start(&login).await;
        if !while_running {
            make_hostile(&database, hostile).await;
        }
        let world = World::on(database, PARTITIONS).await;
        let builder = world.builder().database_url(proxy.url(&login));
        let mut flow = Flow::start(world, builder).await;
        note_settings(flow.database(), hostile).await;
        if while_running {
            make_hostile(flow.database(), hostile).await;
            proxy.cut_all();
        }
        flow.wave().await;
        flow.waves.settle().await;
        let seen = flow.database().count("select count(*) from seen").await;
        assert!(seen > 0, "settings are noted");
        for (setting, _, ours) in hostile {
            let setting = setting.trim_matches('"');
            let sql =
                format!("select count(*) from seen where setting = '{setting}' and is_now <> ours");
            assert_eq!(flow.database().count(&sql).await, 0, "{setting} is not {ours}");
        }
        if backend != Database::Postgres {
            let sql = format!(
                "select count(*) from information_schema.tables where table_schema = '{}' \
                 and engine <> 'InnoDB'",
                flow.database().name()
            );
            assert_eq!(flow.database().count(&sql).await, 0, "tables know transactions");
        }
        keeps_what_is_empty(&flow).await;
        flow.scheduler.shutdown(DEADLINE).await;
        if backend != Database::Postgres {
            flow.database().execute_on_server("set global init_connect = ''").await;
        }
    }
}

/// A letter whose key and value are empty is not one without.
async fn keeps_what_is_empty(flow: &Flow) {
    let world = &flow.waves.world;
    let empty = RawRecord::new(0, "").with_key("");
    produce_by(&client_of(&world.broker), &world.topic, &[empty]).await;
    let kept = "select count(*) from scheduler_dead_letter where length(record_key) = 0 \
                and length(record_value) = 0";
    wait_until(DEADLINE, "an empty letter", async || world.database.count(kept).await == 1).await;
}

/// What `tests/run` calls the server.
fn name_of(backend: Database) -> &'static str {
    match backend {
        Database::Sqlite => unreachable!("SQLite has no server"),
        Database::MariaDb => "mariadb",
        Database::MySql => "mysql",
        Database::Postgres => "postgres",
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_binary_log_of_statements_is_refused_until_it_is_one_of_rows_on_mariadb() {
    a_binary_log_of_statements_is_refused_until_it_is_one_of_rows(Database::MariaDb).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_binary_log_of_statements_is_refused_until_it_is_one_of_rows_on_mysql() {
    a_binary_log_of_statements_is_refused_until_it_is_one_of_rows(Database::MySql).await;
}

/// Only an administrator may set it for a session.
async fn a_binary_log_of_statements_is_refused_until_it_is_one_of_rows(backend: Database) {
    const SENTENCE: &str = "its session setting binlog_format is STATEMENT and must be ROW or \
        MIXED, since a binary log of statements cannot be written at the isolation READ COMMITTED; \
        this user may not set it (Access denied;";
    let logs = temporary_folder();
    let server = tokio::task::block_in_place(|| {
        let options = [("INFINITE_SCHEDULER_TEST_MARIADB_OPTIONS", "--log-bin --server-id=1")];
        Server::start_with(name_of(backend), logs.path(), &options)
    });
    let mut database = backend.fresh_on(server.address().to_owned()).await;
    let (administrator, login) = (database.url().to_owned(), database.login(PLENTY).await);
    let proxy = Proxy::start(&login).await;
    let world = World::on(database, PARTITIONS).await;
    let statements = "set global binlog_format = 'STATEMENT'";
    world.database.execute_on_server(statements).await;

    let refused = world.builder().database_url(proxy.url(&login)).start().await;
    let why = refused.map(|_| ()).expect_err("no start").to_string();
    assert!(why.contains(SENTENCE), "{why}");
    let tables = "select count(*) from information_schema.tables where table_schema = database()";
    assert_eq!(world.database.count(tables).await, 0, "nothing is half created");
    let builder = world.builder().database_url(administrator);
    builder.start().await.expect("whom it allows to set it").shutdown(DEADLINE).await;

    let rows = "set global binlog_format = 'ROW'";
    world.database.execute_on_server(rows).await;
    let builder = world.builder().database_url(proxy.url(&login));
    let mut flow = Flow::start(world, builder).await;
    flow.database().execute_on_server(statements).await;
    // Sessions keep what they have, and there may be too few of them.
    proxy.cut_all();
    flow.wave().await;
    flow.await_complaint("database", SENTENCE).await;
    flow.await_complaint("lease", "nothing is fired").await;
    flow.database().execute_on_server(rows).await;
    flow.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_login_may_not_set_is_refused_on_postgres() {
    let mut database = Database::Postgres.fresh().await;
    let login = database.login(PLENTY).await;
    let world = World::on(database, PARTITIONS).await;
    let name = world.database.name();
    let replica = format!("alter role {name} set session_replication_role = 'replica'");
    world.database.execute_on_server(&replica).await;
    let refused = world.builder().database_url(&login).start().await;
    let why = refused.map(|_| ()).expect_err("no start").to_string();
    let sentence = "its session setting session_replication_role is replica and must be origin, \
        since triggers and rules of the tables would not run; this user may not set it (permission \
        denied to set parameter \"session_replication_role\"): have an administrator set it";
    assert!(why.contains(sentence), "{why}");
}

/// A table that is altered makes the statements useless that a session has prepared, for as long
/// as that session lives.
#[tokio::test(flavor = "multi_thread")]
async fn sessions_with_statements_of_a_table_that_was_altered_are_replaced_on_postgres() {
    let world = World::new(Database::Postgres, PARTITIONS).await;
    // Few jobs fit in memory, so that pages of the others are read all the time.
    let mut app = AppConfig::new("sms");
    app.window = NonZeroU32::MIN.saturating_add(3);
    app.max_in_flight = app.window;
    let builder = world.builder_without_apps().register_app_on_topic(app, &world.fired);
    let builder = builder.max_connections(2);
    let mut flow = Flow::start(world, builder).await;
    for most in [129, 130, 131] {
        let alter =
            format!("alter table scheduler_job alter column request_id type varchar({most})");
        flow.database().execute(&alter).await;
        flow.wave().await;
        flow.waves.settle().await;
    }
    flow.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_table_that_is_missing_is_reported_as_what_it_is() {
    for backend in Database::all() {
        let world = World::new(backend, PARTITIONS).await;
        let builder = world.builder();
        let mut flow = Flow::start(world, builder).await;
        flow.database().execute("alter table scheduler_job rename to elsewhere").await;
        flow.wave().await;
        let missing = match backend {
            Database::Sqlite => "no such table: scheduler_job",
            Database::MariaDb | Database::MySql => "scheduler_job' doesn't exist",
            Database::Postgres => "relation \"scheduler_job\" does not exist",
        };
        flow.await_complaint("partition", missing).await;
        let said = flow.complaint("partition").expect("a complaint");
        assert!(!said.contains("unavailable"), "{backend:?}: {said}");
        flow.database().execute("alter table elsewhere rename to scheduler_job").await;
        flow.finish().await;
    }
}
