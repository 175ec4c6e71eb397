//! A job whose handler ends the process is found, and takes no other job with it.
//!
//! The instance is this test binary as a child process, which a loop starts again at once.

use std::collections::BTreeMap;
use std::fs::{self, OpenOptions};
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use infinite_scheduler::telemetry::{self, LogFormat};
use infinite_scheduler::{
    AppConfig, Discard, JobContext, JobData, JobError, JobHandler, Operations, OperationsOptions,
    Rejection, ScheduleJobRequest, Scheduler,
};
use serde::Deserialize;
use serde_json::json;
use tempfile::TempDir;
use tracing_subscriber::filter::LevelFilter;

use crate::replay::newest_letter;
use crate::support::services::{Database, TestDatabase, temporary_folder};
use crate::support::world::LEASE;
use crate::support::{is_long, wait_until};

const DEADLINE: Duration = Duration::from_secs(120);
/// The jobs that end the process.
const POISON: usize = 3;
/// Each of them is interrupted four times after the crash that nobody was marked for.
const CRASHES: usize = 1 + POISON * 4;
/// The variables that make this binary an instance.
const URL: &str = "CRASHING_INSTANCE_URL";
const CALLS: &str = "CRASHING_INSTANCE_CALLS";
const WAYS: &str = "CRASHING_INSTANCE_WAY";

/// How a job ends the process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Way {
    /// Before any attempt is marked for having run for long.
    Soon,
    /// After it was marked.
    Late,
    /// Before its handler is called.
    InValidate,
    /// By a stack that overflows while something is dropped.
    InDrop,
    /// By taking memory until the process is killed.
    OutOfMemory,
    /// Not at all: its app delivers at most once, and others kill it.
    Once,
}

#[derive(Deserialize)]
struct Data {
    #[serde(default)]
    poison: bool,
}

/// Writes down each call, and does what ends the process.
struct Handler {
    calls: PathBuf,
    way: Way,
}

impl Handler {
    fn note(&self, what: &str) {
        let file = OpenOptions::new().create(true).append(true).open(&self.calls);
        // In one write, since the process may end at any moment.
        file.expect("a file").write_all(format!("{what}\n").as_bytes()).expect("a line");
    }
}

impl JobHandler for Handler {
    async fn execute(&self, context: &JobContext) -> Result<(), JobError> {
        let job = context.job();
        self.note(&format!("{} {}", job.request_id, context.attempt()));
        if self.way == Way::Once {
            // Some are met while they run.
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        if !job.data.deserialize::<Data>()?.poison {
            return Ok(());
        }
        match self.way {
            Way::Soon => tokio::time::sleep(Duration::from_millis(50)).await,
            Way::Late => tokio::time::sleep(late()).await,
            Way::InDrop => drop(Endless),
            Way::OutOfMemory => take_memory(),
            Way::InValidate | Way::Once => return Ok(()),
        }
        std::process::abort()
    }

    fn validate(&self, data: &JobData) -> Result<(), Rejection> {
        if self.way == Way::InValidate && data.deserialize::<Data>()?.poison {
            std::process::abort();
        }
        Ok(())
    }
}

/// A mark is written a second after the start, and a little.
fn late() -> Duration {
    Duration::from_millis(if is_long() { 3000 } else { 1600 })
}

struct Endless;

impl Drop for Endless {
    fn drop(&mut self) {
        let deep = [std::hint::black_box(1_u8); 4096];
        drop(Endless);
        std::hint::black_box(deep);
    }
}

/// The limit is set by who starts the process, so that the machine keeps its memory.
fn take_memory() {
    let mut all = Vec::new();
    loop {
        all.push(vec![1_u8; 16 << 20]);
    }
}

/// Not a test: an instance, when another test starts it.
#[test]
#[ignore = "it is an instance that other tests start"]
fn as_an_instance() {
    let (Ok(url), Ok(calls), Ok(way)) =
        (std::env::var(URL), std::env::var(CALLS), std::env::var(WAYS))
    else {
        return;
    };
    let way = [Way::Soon, Way::Late, Way::InValidate, Way::InDrop, Way::OutOfMemory, Way::Once]
        .into_iter()
        .find(|known| format!("{known:?}") == way);
    let way = way.expect("a way");
    let app = if way == Way::Once { app().at_most_once() } else { app() };
    let handler = Handler { calls: calls.into(), way };
    telemetry::init(LogFormat::Text, LevelFilter::WARN).expect("a filter");
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    runtime.block_on(async {
        let builder = Scheduler::builder().database_url(&url).lease(LEASE).instance_id("crashes");
        let started = builder.register_app(app, handler).start().await.expect("a start");
        loop {
            println!("interrupted {}", started.ingest_metrics().jobs_interrupted);
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    });
}

fn app() -> AppConfig {
    AppConfig::new("sms")
}

/// The instance, and how often it has ended.
pub(crate) struct Loop {
    folder: TempDir,
    url: String,
    way: Way,
    child: Child,
    crashes: usize,
}

impl Loop {
    pub(crate) fn start(database: &TestDatabase, way: Way) -> Self {
        let (folder, url) = (temporary_folder(), database.url().to_owned());
        let child = spawn(folder.path(), &url, way, 0);
        Self { folder, url, way, child, crashes: 0 }
    }

    /// Kills it, and starts it again.
    pub(crate) fn kill(&mut self) {
        self.child.kill().expect("SIGKILL");
        self.child.wait().expect("a killed child ends");
        self.revive();
    }

    /// Starts it again if it has ended.
    fn revive(&mut self) {
        if self.child.try_wait().expect("a child can be asked").is_some() {
            self.crashes += 1;
            self.child = spawn(self.folder.path(), &self.url, self.way, self.crashes);
        }
    }

    fn text(&self, file: &str) -> String {
        fs::read_to_string(self.folder.path().join(file)).unwrap_or_default()
    }

    /// What it has said on its n-th start.
    pub(crate) fn said(&self, crash: usize) -> String {
        self.text(&format!("out-{crash}"))
    }

    /// How often each job was called, and the attempts that it was told.
    pub(crate) fn calls(&self) -> BTreeMap<String, Vec<String>> {
        let mut calls: BTreeMap<String, Vec<String>> = BTreeMap::new();
        for line in self.text("calls").lines() {
            let (id, attempt) = line.split_once(' ').expect("a call");
            calls.entry(id.to_owned()).or_default().push(attempt.to_owned());
        }
        calls
    }
}

impl Drop for Loop {
    fn drop(&mut self) {
        // Both fail only for a child that has ended.
        drop(self.child.kill());
        drop(self.child.wait());
        if std::thread::panicking() {
            for crash in 0..=self.crashes {
                let said = self.said(crash);
                let lines: Vec<_> =
                    said.lines().filter(|line| !line.starts_with("interrupted")).collect();
                eprintln!("---- start {crash}\n{}", lines.join("\n"));
            }
        }
    }
}

fn spawn(folder: &Path, url: &str, way: Way, crash: usize) -> Child {
    let output = fs::File::create(folder.join(format!("out-{crash}"))).expect("a file");
    let binary = std::env::current_exe().expect("this binary");
    let mut command = match way {
        // As much memory as it needs, and no more than the machine can spare.
        Way::OutOfMemory => {
            let mut shell = Command::new("sh");
            shell.args(["-c", "ulimit -v 4000000; exec \"$0\" \"$@\""]).arg(binary);
            shell
        }
        _ => Command::new(binary),
    };
    command
        .args(["crash_guard::as_an_instance", "--exact", "--ignored", "--nocapture"])
        .envs([(URL, url), (WAYS, &format!("{way:?}"))])
        .env(CALLS, folder.join("calls"))
        .stdin(Stdio::null())
        .stdout(output.try_clone().expect("a file"))
        .stderr(output)
        .spawn()
        .expect("the binary starts")
}

/// Jobs that are due, in the way of a program that has no handler to validate them.
async fn fill(database: &TestDatabase, jobs: usize) -> Operations {
    let builder = Scheduler::builder().database_url(database.url()).lease(LEASE);
    let first = builder.register_app(app(), Discard).start().await.expect("a start");
    first.shutdown(DEADLINE).await;
    let operations = Operations::connect(OperationsOptions::new(database.url())).await;
    let operations = operations.expect("a database");
    let request = |n: usize| {
        let request = ScheduleJobRequest::builder("sms").at("2025-01-01T00:00:00Z");
        // Somewhere in the middle.
        let poison = n % (jobs / POISON) == jobs / POISON / 2;
        let id = format!("{}-{n}", if poison { "poison" } else { "good" });
        let request = request.request_id(id).job_data(&json!({ "poison": poison }));
        request.build().expect("a request")
    };
    for answer in operations.jobs().schedule_all((0..jobs).map(request)).await {
        answer.expect("a job");
    }
    operations
}

async fn a_job_that_ends_the_process_is_found(database: Database, way: Way) {
    let jobs = if is_long() { 1000 } else { 120 };
    let database = database.fresh().await;
    let operations = fill(&database, jobs).await;
    let (mut instance, began) = (Loop::start(&database, way), Instant::now());
    let left = "select count(*) from scheduler_job";
    wait_until(DEADLINE, "every job to end", async || {
        instance.revive();
        database.count(left).await == 0
    })
    .await;
    let (crashes, took) = (instance.crashes, began.elapsed());
    println!("{way:?}: {crashes} crashes in {took:?}");
    assert!(crashes <= CRASHES, "{crashes} crashes");

    let letters = "select count(*) from scheduler_dead_letter";
    assert_eq!(database.count(letters).await, POISON as i64);
    let kinds = "select count(*) from scheduler_dead_letter where kind = 'interrupted' \
                 and attempts = 0 and request_id like 'poison-%'";
    assert_eq!(database.count(kinds).await, POISON as i64);
    let told = "select count(*) from scheduler_dead_letter where message like \
                '%at last when it ran alone (on crashes since 20%, on crashes since 20%, \
                on crashes since 20%, on crashes since 20%)%'";
    assert_eq!(database.count(told).await, POISON as i64);

    let calls = instance.calls();
    let called = calls.iter().filter(|(id, _)| id.starts_with("good"));
    assert_eq!(
        called.clone().count(),
        jobs - jobs / (jobs / POISON),
        "each that is good was called"
    );
    for (id, attempts) in &calls {
        assert!(attempts.iter().all(|attempt| attempt == "1"), "{id}: {attempts:?}");
        assert!(attempts.len() <= 1 + crashes, "{id}: {attempts:?}");
    }
    // Seen from outside.
    let named = (0..=crashes).filter(|crash| instance.said(*crash).contains("may have ended it"));
    assert!(named.count() >= 4, "the log names the jobs that it may have been");
    let is_counted =
        |line: &str| line.strip_prefix("interrupted ").is_some_and(|count| count.trim() != "0");
    wait_until(DEADLINE, "interruptions to be counted", async || {
        (0..=crashes).any(|crash| instance.said(crash).lines().any(is_counted))
    })
    .await;
    replayed_begins_anew(&database, &operations, &mut instance).await;
    operations.close().await;
}

/// A replay was interrupted never, so it fires, and its first crash is followed by another start.
async fn replayed_begins_anew(
    database: &TestDatabase,
    operations: &Operations,
    instance: &mut Loop,
) {
    let before: usize = instance.calls().values().map(Vec::len).sum();
    let crashes = instance.crashes;
    let letter = newest_letter(database).await;
    operations.dead_letters().replay(letter, None).await.expect("a job");
    wait_until(DEADLINE, "its first crash", async || {
        instance.revive();
        instance.crashes > crashes
    })
    .await;
    if instance.way != Way::InValidate {
        let after: usize = instance.calls().values().map(Vec::len).sum();
        assert!(after > before, "it was started");
    }
    let letters = "select count(*) from scheduler_dead_letter where state = 0";
    assert_eq!(database.count(letters).await, POISON as i64 - 1);
}

macro_rules! found {
    ($($test:ident: $database:ident $way:ident;)+) => {$(
        #[tokio::test(flavor = "multi_thread")]
        async fn $test() {
            a_job_that_ends_the_process_is_found(Database::$database, Way::$way).await;
        }
    )+};
}

found! {
    a_job_that_ends_the_process_soon_is_found_on_sqlite: Sqlite Soon;
    a_job_that_ends_the_process_soon_is_found_on_mariadb: MariaDb Soon;
    a_job_that_ends_the_process_soon_is_found_on_postgres: Postgres Soon;
    a_job_that_ends_the_process_late_is_found_on_sqlite: Sqlite Late;
    a_job_that_ends_the_process_late_is_found_on_mariadb: MariaDb Late;
    a_job_that_ends_the_process_late_is_found_on_postgres: Postgres Late;
    a_job_that_ends_the_process_when_it_is_validated_is_found_on_sqlite: Sqlite InValidate;
    a_job_that_ends_the_process_when_it_is_validated_is_found_on_mariadb: MariaDb InValidate;
    a_job_that_ends_the_process_when_it_is_validated_is_found_on_postgres: Postgres InValidate;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_that_exhausts_the_stack_or_the_memory_is_found() {
    if is_long() {
        for way in [Way::InDrop, Way::OutOfMemory] {
            a_job_that_ends_the_process_is_found(Database::Postgres, way).await;
        }
    }
}
