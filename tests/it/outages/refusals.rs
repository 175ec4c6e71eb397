//! Errors of the server that are not the fault of a row, raised by triggers while it inserts jobs and
//! while it deletes them.

use super::{Flow, JOBS, PARTITIONS};
use crate::support::services::{Database, TestDatabase};
use crate::support::world::World;

/// How long nothing is inserted, from the first row on: a batch whose rows were taken to be at fault
/// would be divided and buried by then. Since when is kept where no rollback undoes it.
const RAIN_MS: u64 = 500;
/// Below this, the sequence has no moment.
const DRY: u64 = 1_000_000_000;
/// How often nothing is deleted.
const DELETES: i64 = 1;

/// SQLSTATEs, with what PostgreSQL means by them.
const POSTGRES: &[&str] = &[
    "40001", // serialization_failure
    "40P01", // deadlock_detected
    "55P03", // lock_not_available
    "57014", // query_canceled: a statement_timeout
    "57P01", // admin_shutdown
    "57P03", // cannot_connect_now
    "53100", // disk_full
    "53200", // out_of_memory
    "53300", // too_many_connections
    "25006", // read_only_sql_transaction
    "25P03", // idle_in_transaction_session_timeout
    "08006", // connection_failure
    "58030", // io_error
    "XX000", // internal_error
    "P0001", // raise_exception, here about every row
];

/// SQLSTATEs and numbers, with what MariaDB and MySQL mean by them.
const MYSQL: &[(&str, i64)] = &[
    ("40001", 1213), // ER_LOCK_DEADLOCK
    ("HY000", 1205), // ER_LOCK_WAIT_TIMEOUT
    ("HY000", 1290), // ER_OPTION_PREVENTS_STATEMENT: read_only
    ("25006", 1792), // ER_CANT_EXECUTE_IN_READ_ONLY_TRANSACTION
    ("08004", 1040), // ER_CON_COUNT_ERROR
    ("42000", 1203), // ER_TOO_MANY_USER_CONNECTIONS
    ("42000", 1226), // ER_USER_LIMIT_REACHED
    ("HY000", 1021), // ER_DISK_FULL
    ("HY000", 1114), // ER_RECORD_FILE_FULL
    ("HY000", 1206), // ER_LOCK_TABLE_FULL
    ("HY000", 1020), // ER_CHECKREAD
    ("70100", 1317), // ER_QUERY_INTERRUPTED
    ("70100", 1969), // ER_STATEMENT_TIMEOUT, MariaDB's
    ("HY000", 3024), // ER_QUERY_TIMEOUT, MySQL's
    ("HY000", 1041), // ER_OUT_OF_RESOURCES
    ("HY000", 3572), // ER_LOCK_NOWAIT
    ("45000", 1644), // ER_SIGNAL_EXCEPTION: what a trigger raises, here about every row
    ("HY000", 9999), // a number that we do not know
    ("08S01", 1053), // ER_SERVER_SHUTDOWN
];

#[tokio::test(flavor = "multi_thread")]
async fn what_the_server_says_of_itself_is_an_outage_on_postgres() {
    let world = World::new(Database::Postgres, PARTITIONS).await;
    // Ours are read committed, whatever the database has for others.
    let name = world.database.name();
    let stricter =
        format!("alter database {name} set default_transaction_isolation = serializable");
    world.database.execute_on_server(&stricter).await;
    let builder = world.builder();
    let mut flow = Flow::start(world, builder).await;
    let rain = format!(
        "create function rain() returns trigger language plpgsql as $$
            declare
                sky forecast;
                now_ms bigint := extract(epoch from clock_timestamp()) * 1000;
                since_ms bigint := nextval('since');
            begin
                if current_setting('transaction_isolation') <> 'read committed' then
                    raise exception 'isolation' using errcode = '22000';
                end if;
                if since_ms < {DRY} then
                    since_ms := setval('since', now_ms);
                end if;
                select * into sky from forecast;
                if (tg_op = 'INSERT' and nextval('inserts') > 0 and now_ms < since_ms + {RAIN_MS})
                    or (tg_op = 'DELETE' and nextval('deletes') <= sky.deletes) then
                    raise exception 'it rains' using errcode = sky.code;
                end if;
                return coalesce(new, old);
            end
            $$"
    );
    for sql in [
        "create table forecast (code text, deletes bigint)",
        "create sequence inserts",
        "create sequence deletes",
        "create sequence since",
        &rain,
        "create trigger rain before insert or delete on scheduler_job for each row execute function rain()",
    ] {
        flow.database().execute(sql).await;
    }
    for code in POSTGRES {
        let now = numbers(flow.database(), "nextval('inserts')", "nextval('deletes')").await;
        let forecast = format!("insert into forecast values ('{code}', {})", now.1 + DELETES);
        for sql in ["delete from forecast", &forecast, "alter sequence since restart 1"] {
            flow.database().execute(sql).await;
        }
        flow.wave().await;
        flow.waves.settle().await;
        let then = numbers(flow.database(), "nextval('inserts')", "nextval('deletes')").await;
        check_rain(code, now, then);
    }
    flow.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_server_says_of_itself_is_an_outage_on_mariadb() {
    what_the_server_says_of_itself_is_an_outage(Database::MariaDb, "tx_isolation").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_server_says_of_itself_is_an_outage_on_mysql() {
    what_the_server_says_of_itself_is_an_outage(Database::MySql, "transaction_isolation").await;
}

async fn what_the_server_says_of_itself_is_an_outage(database: Database, isolation: &str) {
    let world = World::new(database, PARTITIONS).await;
    let builder = world.builder();
    let mut flow = Flow::start(world, builder).await;
    let mut states: Vec<_> = MYSQL.iter().map(|(state, ..)| *state).collect();
    states.sort_unstable();
    states.dedup();
    // The state must be a literal.
    let raise: String = states
        .iter()
        .map(|state| {
            format!(
                "when '{state}' then signal sqlstate '{state}' \
                 set mysql_errno = wrong, message_text = 'it rains';"
            )
        })
        .collect();
    let trigger = |event: &str, rains: &str| {
        format!(
            "create trigger rain_{event} before {event} on scheduler_job for each row begin
                declare sky char(5);
                declare wrong, now_ms, since_ms, times bigint;
                if @@session.{isolation} <> 'READ-COMMITTED' then
                    signal sqlstate '22000' set message_text = 'isolation';
                end if;
                set now_ms = cast(unix_timestamp(now(6)) * 1000 as signed);
                insert into since values ();
                set since_ms = last_insert_id();
                if since_ms < {DRY} then
                    set since_ms = now_ms;
                    insert into since values (now_ms);
                end if;
                insert into {event}s values ();
                set times = last_insert_id();
                select state, number into sky, wrong from forecast;
                if {rains} then
                    case sky {raise} end case;
                end if;
            end"
        )
    };
    // What gives the next number of a row knows no rollback, and MySQL has no sequences.
    let counter =
        |name: &str| format!("create table {name} (id bigint auto_increment primary key)");
    for sql in [
        "create table forecast (state char(5), number bigint, deletes bigint)",
        &counter("inserts"),
        &counter("deletes"),
        &counter("since"),
        &trigger("insert", &format!("now_ms < since_ms + {RAIN_MS}")),
        &trigger("delete", "times <= (select deletes from forecast)"),
    ] {
        flow.database().execute(sql).await;
    }
    for (state, number) in MYSQL {
        let now = (next(&flow, "inserts").await, next(&flow, "deletes").await);
        let deletes = now.1 + DELETES;
        let forecast = format!("insert into forecast values ('{state}', {number}, {deletes})");
        let dry = ["delete from since", "alter table since auto_increment = 1"];
        for sql in [dry[0], dry[1], "delete from forecast", &forecast] {
            flow.database().execute(sql).await;
        }
        flow.wave().await;
        flow.waves.settle().await;
        let then = (next(&flow, "inserts").await, next(&flow, "deletes").await);
        check_rain(&number.to_string(), now, then);
    }
    flow.finish().await;
}

/// The next number of a counter.
async fn next(flow: &Flow, counter: &str) -> i64 {
    flow.database().execute(&format!("insert into {counter} values ()")).await;
    flow.database().count(&format!("select max(id) from {counter}")).await
}

async fn numbers(database: &TestDatabase, inserts: &str, deletes: &str) -> (i64, i64) {
    let inserts = database.count(&format!("select {inserts}")).await;
    (inserts, database.count(&format!("select {deletes}")).await)
}

/// Every row was tried once more for each time that it rained, or its batch was.
fn check_rain(code: &str, before: (i64, i64), after: (i64, i64)) {
    let least = JOBS as i64 + 1;
    assert!(after.0 - before.0 > least, "{code}: {before:?} to {after:?} while inserting");
    assert!(after.1 - before.1 > least, "{code}: {before:?} to {after:?} while deleting");
}
