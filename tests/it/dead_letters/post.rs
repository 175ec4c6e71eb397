//! A database with letters of every kind, and the command for them.

use std::process::{Command, Stdio};
use std::time::Duration;

use infinite_scheduler::model::clock::{Clock, SystemClock};
use infinite_scheduler::model::retry::Backoff;
use infinite_scheduler::store::{Store, StoreOptions};
use infinite_scheduler::{AppConfig, JobContext, JobError, handler_fn};
use sea_orm::{ConnectionTrait, Statement};
use serde_json::Value;
use tempfile::TempDir;
use uuid::Uuid;

use crate::support::kafka::{RawRecord, produce};
use crate::support::services::{Database, temporary_folder};
use crate::support::wait_until;
use crate::support::world::{LEASE, World};

/// Letters of one kind that are like each other: more than a page of any sort.
pub(super) const BULK: usize = 620;
/// Letters of other kinds.
const OTHERS: usize = 6;
const DEADLINE: Duration = Duration::from_secs(120);

/// A database with dead letters in it, and no running instance.
pub(super) struct Post {
    pub(super) world: World,
    folder: TempDir,
}

impl Post {
    /// Real records, through a running scheduler, until all letters are on the DLQ topic.
    pub(super) async fn delivered(database: Database) -> Self {
        let world = World::new(database, 1).await;
        let mut calls = AppConfig::new("calls");
        calls.backoff = Backoff::Delays(vec![Duration::from_millis(50)]);
        let busy = handler_fn(|_: JobContext, _: Value| async { Err(JobError::retry("busy")) });
        let builder = world.builder().register_app(calls, busy);
        let scheduler = builder.start().await.expect("a start");
        produce(&world.topic, &records()).await;
        let letters = (BULK + OTHERS) as u64;
        wait_until(DEADLINE, "every letter to be published", async || {
            scheduler.ingest_metrics().messages_sent_to_dlq >= letters
                && world.database.count("select count(*) from scheduler_outbox").await == 0
        })
        .await;
        scheduler.shutdown(Duration::from_secs(10)).await;
        Self { world, folder: temporary_folder() }
    }

    pub(super) async fn store(&self) -> Store {
        let url = self.world.database.url().into();
        let options = StoreOptions { url, max_connections: 2, lease: LEASE };
        Store::connect(&options).await.expect("a store")
    }

    pub(super) fn now_ms(&self) -> i64 {
        SystemClock.now_ms()
    }

    /// Runs `dead-letters` and gives its exit code and what it said.
    pub(super) async fn command(&self, action: &str, options: &[&str]) -> (i32, String, String) {
        self.run(self.asked(action, options)).await
    }

    /// The same, with standard output into a file.
    pub(super) async fn command_to(
        &self,
        path: &str,
        action: &str,
        options: &[&str],
    ) -> (i32, String, String) {
        let mut command = self.asked(action, options);
        let file = std::fs::OpenOptions::new().write(true).open(path).expect("a file");
        command.stdout(file).stderr(Stdio::piped());
        self.run(command).await
    }

    fn asked(&self, action: &str, options: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_infinite-scheduler"));
        command.args(["dead-letters", action]).args(options);
        if !options.contains(&"--config") {
            let config = self.file("infinite-scheduler.toml", &self.world.config());
            command.args(["--config", &config]);
        }
        command.current_dir(self.folder.path());
        command
    }

    async fn run(&self, mut command: Command) -> (i32, String, String) {
        let done = tokio::task::spawn_blocking(move || command.output());
        let output = done.await.expect("no panic").expect("the binary");
        let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).expect("UTF-8");
        let code = output.status.code().expect("an exit code");
        (code, text(&output.stdout), text(&output.stderr))
    }

    pub(super) async fn list(&self, options: &[&str]) -> Vec<Value> {
        let (code, json, error) = self.command("list", &[options, &["--json"]].concat()).await;
        assert_eq!(code, 0, "{options:?}: {error}");
        let list: Result<Value, _> = serde_json::from_str(&json);
        let list = list.unwrap_or_else(|error| panic!("{options:?}: {error}: {json}"));
        list["items"].as_array().expect("items").clone()
    }

    /// Everything about the letter whose kind, request or value is like that.
    pub(super) async fn show(&self, which: &str) -> Value {
        let id = self.id_of(which).await;
        let (code, json, error) = self.command("show", &[&id, "--json"]).await;
        assert_eq!(code, 0, "{which}: {error}");
        serde_json::from_str(&json).expect("JSON")
    }

    /// The id of the oldest letter whose kind, request, message or value is like that.
    pub(super) async fn id_of(&self, which: &str) -> String {
        let connection = self.world.database.connect().await;
        let rows = connection
            .query_all_raw(Statement::from_string(
                connection.get_database_backend(),
                "select id, kind, request_id, message, record_value from scheduler_dead_letter \
                 order by created_ms, id",
            ))
            .await
            .expect("letters");
        let is_it = |row: &&sea_orm::QueryResult| {
            let text = |index| row.try_get_by_index::<Option<String>>(index).expect("text");
            let value: Option<Vec<u8>> = row.try_get_by_index(4).expect("a value");
            let value = String::from_utf8_lossy(&value.unwrap_or_default()).into_owned();
            let texts = [text(1), text(2), text(3), Some(value)];
            match which {
                "empty-key" => texts[0].as_deref() == Some("invalid-encoding"),
                which => texts.iter().flatten().any(|text| text.contains(which)),
            }
        };
        let row = rows.iter().find(is_it).unwrap_or_else(|| panic!("no letter like {which}"));
        let id: Uuid = row.try_get_by_index(0).expect("an id");
        connection.close().await.expect("a connection that closes");
        id.to_string()
    }

    /// An id as SQL.
    pub(super) fn literal(&self, id: &str) -> String {
        match self.world.database.backend() {
            Database::Postgres => format!("'{id}'"),
            _ => format!("x'{}'", id.replace('-', "")),
        }
    }

    pub(super) async fn set(&self, id: &str, what: &str) {
        let sql =
            format!("update scheduler_dead_letter set {what} where id = {}", self.literal(id));
        self.world.database.execute(&sql).await;
    }

    pub(super) async fn set_all(&self, what: &str) {
        self.world.database.execute(&format!("update scheduler_dead_letter set {what}")).await;
    }

    /// Another letter, like that one but for its time.
    pub(super) async fn copy_of(&self, which: &str, created_ms: &str) -> String {
        let (id, new) = (self.id_of(which).await, Uuid::new_v4().to_string());
        let sql = format!(
            "insert into scheduler_dead_letter (id, kind, message, headers, attempts, created_ms) \
             select {}, kind, message, headers, attempts, {created_ms} from scheduler_dead_letter \
             where id = {}",
            self.literal(&new),
            self.literal(&id)
        );
        self.world.database.execute(&sql).await;
        new
    }

    /// The letter was replayed, and its job lives.
    pub(super) async fn becomes_a_job(&self, letter: &str) {
        let job = self.literal(&Uuid::new_v4().to_string());
        self.set(letter, &format!("state = 2, job = {job}")).await;
        let sql = format!(
            "insert into scheduler_job (id, shard, priority, due_ms, request_id, scheduled_ms, created_ms, \
             attempts, data) values ({job}, 1, 1, 4102444800000, 'far', 4102444800000, 0, 0, '{{}}')"
        );
        self.world.database.execute(&sql).await;
    }

    pub(super) async fn count(&self) -> usize {
        let count = self.world.database.count("select count(*) from scheduler_dead_letter").await;
        usize::try_from(count).expect("a count")
    }

    /// Letters of that moment or later.
    pub(super) async fn count_at(&self, moment: &str) -> usize {
        let moment: chrono::DateTime<chrono::Utc> = moment.parse().expect("a time");
        let from = moment.timestamp_millis();
        let sql = format!("select count(*) from scheduler_dead_letter where created_ms >= {from}");
        usize::try_from(self.world.database.count(&sql).await).expect("a count")
    }

    /// Letters by state.
    pub(super) async fn states(&self) -> [usize; 4] {
        let mut states = [0; 4];
        for (state, count) in states.iter_mut().enumerate() {
            let sql = format!("select count(*) from scheduler_dead_letter where state = {state}");
            *count = usize::try_from(self.world.database.count(&sql).await).expect("a count");
        }
        states
    }

    /// A file of the command's working directory.
    pub(super) fn file(&self, name: &str, text: &str) -> String {
        let file = self.folder.path().join(name);
        std::fs::write(&file, text).expect("a file");
        file.display().to_string()
    }
}

fn records() -> Vec<RawRecord> {
    let pad = "x".repeat(120_000);
    let others = [
        r#"{"requestId":"no-time","appName":"sms"}"#.to_owned(),
        r#"{"requestId":"t-1","appName":"sms","scheduledTime":"50%_OFF!é"}"#.to_owned(),
        r#"{"requestId":"t-2","appName":"sms","scheduledTime":"50xyOFF"}"#.to_owned(),
        format!(r#"{{"requestId":"large","appName":"sms","pad":"{pad}"}}"#),
        r#"{"requestId":"fails","appName":"calls","scheduledTime":0,"maxAttempts":2,
            "jobData":{"callTo":"+49"}}"#
            .to_owned(),
    ];
    let bulk = (0..BULK).map(|n| format!("bulk-{n:04} is not JSON"));
    let mut records: Vec<RawRecord> =
        bulk.chain(others).map(|value| RawRecord::new(0, value)).collect();
    let binary = RawRecord::new(0, [0xff, 0x00, 0xfe])
        .with_key([0x00, 0xff])
        .with_header("plain", "text")
        .with_header("binary", [0xff, 0x00]);
    records.push(binary);
    assert_eq!(records.len(), BULK + OTHERS);
    records
}
