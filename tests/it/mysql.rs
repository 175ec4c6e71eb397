//! What only MySQL does among the servers: how it accepts a password, and how it closes idle
//! connections.

use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::support::kafka::{RawRecord, produce};
use crate::support::process::Instance;
use crate::support::services::{Database, TestDatabase};
use crate::support::wait_until;
use crate::support::world::{LEASE, World};

const DEADLINE: Duration = Duration::from_secs(120);
/// A password that must not be seen anywhere.
const HUSH: &str = "hush-9c2e";

/// A login with a password, as MySQL makes it by default, and its URL with that mode of TLS.
async fn login(database: &TestDatabase) -> (String, impl Fn(&str) -> String) {
    let name = database.name();
    let user = name.to_owned();
    for at in ["%", "localhost"] {
        let create = format!("create user '{user}'@'{at}' identified by '{HUSH}'");
        database.execute(&create).await;
        database.execute(&format!("grant all on {name}.* to '{user}'@'{at}'")).await;
    }
    let (place, _) = database.url().split_once('?').expect("parameters");
    let place = place.rsplit('@').next().expect("a place").to_owned();
    let url = {
        let user = user.clone();
        move |mode: &str| format!("mysql://{user}:{HUSH}@{place}?ssl-mode={mode}")
    };
    (user, url)
}

fn config(url: &str) -> String {
    format!("[database]\nurl = \"{url}\"\n[apps.sms]\n")
}

/// MySQL wants to see the password of a user that it has not seen lately, and we send it over TLS
/// only.
#[tokio::test(flavor = "multi_thread")]
async fn a_password_that_needs_tls_is_refused_with_the_way_out() {
    let database = Database::MySql.fresh().await;
    let (user, url) = login(&database).await;
    let mut plain = Instance::spawn(&config(&url("DISABLED")));
    assert_eq!(plain.exited(DEADLINE).await.code(), Some(2), "{}", plain.stderr());
    let error = plain.stderr();
    assert!(error.contains("over TLS only") && error.contains("ssl-mode=REQUIRED"), "{error}");
    for mode in ["REQUIRED", "PREFERRED"] {
        let mut instance = Instance::spawn(&config(&url(mode)));
        instance.ready(DEADLINE).await;
        assert_eq!(instance.terminate(DEADLINE).await.code(), Some(0));
        assert!(!instance.stderr().contains(HUSH));
    }
    assert!(!error.contains(HUSH), "{error}");
    database.execute(&format!("drop user '{user}'@'%', '{user}'@'localhost'")).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_without_tls_is_refused_if_the_url_asks_for_it() {
    for (backend, mode) in
        [(Database::MariaDb, "ssl-mode=REQUIRED"), (Database::Postgres, "sslmode=require")]
    {
        let database = backend.fresh().await;
        let mut instance = Instance::spawn(&config(&format!("{}?{mode}", database.url())));
        assert_eq!(instance.exited(DEADLINE).await.code(), Some(2), "{}", instance.stderr());
        let error = instance.stderr();
        assert!(error.contains("database.url asks for TLS"), "{backend:?}: {error}");
    }
}

/// MySQL ends a connection that is idle for half a lease, since it has no limit for idle
/// transactions.
#[tokio::test(flavor = "multi_thread")]
async fn connections_that_idle_are_replaced_without_a_word() {
    for database in Database::SERVERS {
        let world = World::new(database, 1).await;
        let mut instance = Instance::spawn(&world.config());
        instance.ready(DEADLINE).await;
        for n in 0..3 {
            let idle_since = Instant::now();
            wait_until(DEADLINE, "an idle lease", async || idle_since.elapsed() > LEASE).await;
            let request = format!(r#"{{"requestId":"{n}","appName":"sms","scheduledTime":0}}"#);
            produce(&world.topic, &[RawRecord::new(0, request)]).await;
            let fired = format!(
                "select count(*) from scheduler_ingest_offset where jobs = {} \
                 and not exists (select 1 from scheduler_job)",
                n + 1
            );
            wait_until(DEADLINE, "a job fired", async || world.database.count(&fired).await == 1)
                .await;
        }
        assert_eq!(instance.terminate(DEADLINE).await.code(), Some(0));
        let said = instance.stderr();
        let of_the_pool: Vec<&str> =
            said.lines().filter(|line| line.contains("sqlx_core::pool")).collect();
        assert!(of_the_pool.is_empty(), "{database:?}: {of_the_pool:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_an_idle_instance_asks_is_measured_on_each_server() {
    for backend in [Database::MySql, Database::MariaDb] {
        let database = backend.fresh().await;
        let measuring = || bench_idle(database.url()).output().expect("an output");
        let output = tokio::task::block_in_place(measuring);
        let error = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{backend:?}: {error}");
        let figures: Value = serde_json::from_slice(&output.stdout).expect("JSON");
        let asked = &figures[0]["questionsPerSecond"];
        assert!(asked.as_f64().is_some_and(|asked| asked > 0.0), "{backend:?}: {figures}");
    }
}

fn bench_idle(url: &str) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_infinite-scheduler"));
    command.args(["bench", "idle", "--jobs", "10", "--seconds", "2", "--drop", "--json"]);
    command.args(["--database", url]).stdin(Stdio::null());
    command
}
