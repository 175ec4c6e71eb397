//! The proxy in front of the real servers, through plain sqlx.

use std::time::Duration;

use sea_orm::ConnectionTrait;
use sqlx::{Connection, Executor, MySqlConnection, PgConnection};

use super::super::services::{Database, TestDatabase};
use super::super::wait_until;
use super::*;

const DEADLINE: Duration = Duration::from_secs(10);
const COUNT: &str = "SELECT COUNT(*) FROM thing";

async fn database_and_proxy(backend: Database) -> (TestDatabase, Proxy, String) {
    let database = backend.fresh().await;
    database.execute("CREATE TABLE thing (name VARCHAR(40) PRIMARY KEY)").await;
    let proxy = Proxy::start(database.url()).await;
    let url = proxy.url(database.url());
    (database, proxy, url)
}

#[test]
fn the_authority_of_a_url_is_found() {
    assert_eq!(authority("mysql://a:b@h:1/d?x=y"), ("mysql://a:b@", "h:1", "/d?x=y"));
    assert_eq!(authority("postgres://h:1?x=a@b"), ("postgres://", "h:1", "?x=a@b"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_commit_on_postgres_takes_place_but_is_not_answered() {
    let (database, proxy, url) = database_and_proxy(Database::Postgres).await;
    proxy.cut_after_commit(b"marked");
    let mut connection = PgConnection::connect(&url).await.expect("a connection");

    for (name, is_cut) in [("plain", false), ("marked", true)] {
        let mut transaction = connection.begin().await.expect("a transaction");
        let insert = sqlx::query("INSERT INTO thing VALUES ($1)").bind(name);
        insert.execute(&mut *transaction).await.expect("an insert");
        assert_eq!(transaction.commit().await.is_err(), is_cut, "{name}");
    }
    assert_eq!(proxy.cuts(), 1);
    assert_eq!(database.count(COUNT).await, 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_answer_to_a_commit_comes_late() {
    let (database, proxy, url) = database_and_proxy(Database::Postgres).await;
    let mut connection = PgConnection::connect(&url).await.expect("a connection");
    proxy.withhold_after_commit(b"marked");
    let inserting = tokio::spawn(async move {
        let insert = sqlx::query("INSERT INTO thing VALUES ($1)").bind("marked");
        insert.execute(&mut connection).await.expect("an insert");
        sqlx::query("DELETE FROM thing").execute(&mut connection).await.expect("a delete");
    });
    wait_until(DEADLINE, "an answer that is kept back", async || proxy.holds() == 1).await;
    assert_eq!(database.count(COUNT).await, 1);
    assert!(!inserting.is_finished());
    proxy.release();
    inserting.await.expect("an end");
    assert_eq!((database.count(COUNT).await, proxy.cuts()), (0, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_statement_in_autocommit_on_postgres_takes_place_but_is_not_answered() {
    let (database, proxy, url) = database_and_proxy(Database::Postgres).await;
    let mut connection = PgConnection::connect(&url).await.expect("a connection");
    proxy.cut_after_commit(b"marked");
    let insert = sqlx::query("INSERT INTO thing VALUES ($1)").bind("marked");
    assert!(insert.execute(&mut connection).await.is_err());
    assert_eq!(database.count(COUNT).await, 1);

    // Once per arming: the next one is answered.
    let mut connection = PgConnection::connect(&url).await.expect("a connection");
    let delete = sqlx::query("DELETE FROM thing WHERE name = $1").bind("marked");
    delete.execute(&mut connection).await.expect("a delete");
    assert_eq!(proxy.cuts(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_fails_or_is_rolled_back_on_postgres_does_not_count() {
    let (database, proxy, url) = database_and_proxy(Database::Postgres).await;
    database.execute("INSERT INTO thing VALUES ('marked')").await;
    let mut connection = PgConnection::connect(&url).await.expect("a connection");
    proxy.cut_after_commit(b"marked");

    let insert = sqlx::query("INSERT INTO thing VALUES ($1)").bind("marked");
    let error = insert.execute(&mut connection).await.expect_err("a duplicate");
    assert!(error.as_database_error().is_some_and(|error| error.is_unique_violation()), "{error}");
    let delete = sqlx::query("DELETE FROM thing WHERE name = 'nobody'");
    delete.execute(&mut connection).await.expect("a statement that is not marked");

    let mut transaction = connection.begin().await.expect("a transaction");
    let delete = sqlx::query("DELETE FROM thing WHERE name = $1").bind("marked");
    delete.execute(&mut *transaction).await.expect("a delete");
    transaction.rollback().await.expect("a rollback");

    // What comes between is not marked, although the connection has carried the marker.
    let insert = sqlx::query("INSERT INTO thing VALUES ($1)").bind("other");
    insert.execute(&mut connection).await.expect("an insert");
    assert_eq!(proxy.cuts(), 0);

    let delete = sqlx::query("DELETE FROM thing WHERE name = $1").bind("marked");
    assert!(delete.execute(&mut connection).await.is_err());
    assert_eq!(proxy.cuts(), 1);
    assert_eq!(database.count(COUNT).await, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_commit_on_mariadb_takes_place_but_is_not_answered() {
    a_commit_takes_place_but_is_not_answered(Database::MariaDb).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_commit_on_mysql_takes_place_but_is_not_answered() {
    a_commit_takes_place_but_is_not_answered(Database::MySql).await;
}

async fn a_commit_takes_place_but_is_not_answered(backend: Database) {
    let (database, proxy, url) = database_and_proxy(backend).await;
    proxy.cut_after_commit(b"marked");
    let mut connection = MySqlConnection::connect(&url).await.expect("a connection");

    for (name, is_cut) in [("plain", false), ("marked", true)] {
        let mut transaction = connection.begin().await.expect("a transaction");
        let insert = sqlx::query("INSERT INTO thing VALUES (?)").bind(name);
        insert.execute(&mut *transaction).await.expect("an insert");
        assert_eq!(transaction.commit().await.is_err(), is_cut, "{name}");
    }
    assert_eq!(proxy.cuts(), 1);
    assert_eq!(database.count(COUNT).await, 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn several_statements_in_one_packet_on_mariadb_count_by_the_last() {
    several_statements_in_one_packet_count_by_the_last(Database::MariaDb).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn several_statements_in_one_packet_on_mysql_count_by_the_last() {
    several_statements_in_one_packet_count_by_the_last(Database::MySql).await;
}

async fn several_statements_in_one_packet_count_by_the_last(backend: Database) {
    let (database, proxy, url) = database_and_proxy(backend).await;
    let mut connection = MySqlConnection::connect(&url).await.expect("a connection");
    proxy.cut_after_commit(b"marked");

    let open = "BEGIN; INSERT INTO thing VALUES ('marked'); INSERT INTO thing VALUES ('b')";
    connection.execute(sqlx::raw_sql(open)).await.expect("an open transaction");
    assert_eq!((proxy.cuts(), database.count(COUNT).await), (0, 0));
    let closed = "INSERT INTO thing VALUES ('c'); COMMIT";
    assert!(connection.execute(sqlx::raw_sql(closed)).await.is_err());
    assert_eq!((proxy.cuts(), database.count(COUNT).await), (1, 3));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_fails_or_is_rolled_back_on_mariadb_does_not_count() {
    what_fails_or_is_rolled_back_does_not_count(Database::MariaDb).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_fails_or_is_rolled_back_on_mysql_does_not_count() {
    what_fails_or_is_rolled_back_does_not_count(Database::MySql).await;
}

async fn what_fails_or_is_rolled_back_does_not_count(backend: Database) {
    let (database, proxy, url) = database_and_proxy(backend).await;
    database.execute("INSERT INTO thing VALUES ('marked')").await;
    let mut connection = MySqlConnection::connect(&url).await.expect("a connection");
    proxy.cut_after_commit(b"marked");

    let insert = sqlx::query("INSERT INTO thing VALUES (?)").bind("marked");
    let error = insert.execute(&mut connection).await.expect_err("a duplicate");
    assert!(error.as_database_error().is_some_and(|error| error.is_unique_violation()), "{error}");
    let delete = sqlx::query("DELETE FROM thing WHERE name = 'nobody'");
    delete.execute(&mut connection).await.expect("a statement that is not marked");

    let mut transaction = connection.begin().await.expect("a transaction");
    let delete = sqlx::query("DELETE FROM thing WHERE name = ?").bind("marked");
    delete.execute(&mut *transaction).await.expect("a delete");
    transaction.rollback().await.expect("a rollback");

    // What comes between is not marked, although the connection has carried the marker.
    let insert = sqlx::query("INSERT INTO thing VALUES (?)").bind("other");
    insert.execute(&mut connection).await.expect("an insert");
    assert_eq!(proxy.cuts(), 0);

    let delete = sqlx::query("DELETE FROM thing WHERE name = ?").bind("marked");
    assert!(delete.execute(&mut connection).await.is_err());
    assert_eq!(proxy.cuts(), 1);
    assert_eq!(database.count(COUNT).await, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_held_transaction_stays_open_until_it_is_released() {
    for backend in Database::SERVERS {
        let (database, proxy, url) = database_and_proxy(backend).await;
        proxy.hold_after(b"marked");
        let inserting = tokio::spawn(insert_in_transaction(backend, url));
        wait_until(DEADLINE, "the hold", async || proxy.holds() == 1).await;

        // The lock is what shows that the server has executed it, and has not committed.
        wait_until(DEADLINE, "the row's lock", async || is_locked(&database).await).await;
        assert_eq!(database.count(COUNT).await, 0, "{backend:?}");
        assert!(!inserting.is_finished(), "{backend:?}");

        proxy.release();
        inserting.await.expect("a task").expect("a commit");
        assert_eq!(database.count(COUNT).await, 1, "{backend:?}");
    }
}

async fn insert_in_transaction(backend: Database, url: String) -> Result<(), sqlx::Error> {
    if backend == Database::Postgres {
        let mut connection = PgConnection::connect(&url).await?;
        let mut transaction = connection.begin().await?;
        let insert = sqlx::query("INSERT INTO thing VALUES ($1)").bind("marked");
        insert.execute(&mut *transaction).await?;
        return transaction.commit().await;
    }
    let mut connection = MySqlConnection::connect(&url).await?;
    let mut transaction = connection.begin().await?;
    sqlx::query("INSERT INTO thing VALUES (?)").bind("marked").execute(&mut *transaction).await?;
    transaction.commit().await
}

/// Whether an open transaction has the row's key.
async fn is_locked(database: &TestDatabase) -> bool {
    let short_wait = match database.backend() {
        Database::Postgres => "SET lock_timeout = 50",
        _ => "SET innodb_lock_wait_timeout = 0",
    };
    let connection = database.connect().await;
    let sql = format!("{short_wait}; BEGIN; INSERT INTO thing VALUES ('marked'); ROLLBACK");
    connection.execute_unprepared(&sql).await.is_err()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_statement_in_autocommit_on_postgres_is_held_before_it_is_committed() {
    let (database, proxy, url) = database_and_proxy(Database::Postgres).await;
    let mut connection = PgConnection::connect(&url).await.expect("a connection");
    proxy.hold_after(b"marked");
    let inserting = tokio::spawn(async move {
        let insert = sqlx::query("INSERT INTO thing VALUES ($1)").bind("marked");
        insert.execute(&mut connection).await
    });
    wait_until(DEADLINE, "the row's lock", async || is_locked(&database).await).await;
    // The client gives up; its transaction lives on.
    inserting.abort();
    assert!(is_locked(&database).await);
    assert_eq!(database.count(COUNT).await, 0);
    proxy.release();
    wait_until(DEADLINE, "the late commit", async || database.count(COUNT).await == 1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn connections_are_cut_and_refused_while_unavailable() {
    for backend in Database::SERVERS {
        let (database, proxy, url) = database_and_proxy(backend).await;
        let connection = sea_orm::Database::connect(&url).await.expect("a connection");
        connection.ping().await.expect("an answer");
        proxy.set_unavailable(true);
        let mut options = sea_orm::ConnectOptions::new(&url);
        options.acquire_timeout(Duration::from_millis(300));
        assert!(sea_orm::Database::connect(options).await.is_err(), "{backend:?}");
        proxy.set_unavailable(false);
        sea_orm::Database::connect(&url).await.expect("a new connection");
        assert_eq!(database.count(COUNT).await, 0);
    }
}
