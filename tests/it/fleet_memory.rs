//! The cache of idempotency keys in Redis that instances share: it only saves work.

use std::num::NonZeroU32;
use std::time::{Duration, Instant};

use infinite_scheduler::model::ids::KeyId;
use infinite_scheduler::{KafkaIngestConfig, Scheduler};
use redis::{Connection, ConnectionLike, cmd, pipe};
use uuid::Uuid;

use crate::support::kafka::{RawRecord, produce, read_all};
use crate::support::process::Instance;
use crate::support::servers::Server;
use crate::support::services::{self, Database, temporary_folder};
use crate::support::wait_until;
use crate::support::world::World;

/// What a loaded machine may take.
const DEADLINE: Duration = Duration::from_secs(90);
/// Records of a wave on each partition.
const WAVE: usize = 300;
/// Records of a batch, so that a wave has 100 batches on each partition.
const BATCH: u32 = 3;

/// Instances that share a Redis, and what was sent to them.
struct Fleet {
    world: World,
    instances: Vec<Scheduler>,
    /// No other test has such keys.
    name: String,
    records: u64,
    keys: u64,
}

impl Fleet {
    async fn start(database: Database, redis: Option<&str>) -> Self {
        let world = World::new(database, 2).await;
        let kafka = KafkaIngestConfig {
            max_poll_records: NonZeroU32::new(BATCH).expect("some"),
            ..world.kafka()
        };
        // A file belongs to one instance.
        let count = if database == Database::Sqlite { 1 } else { 2 };
        let mut instances = Vec::new();
        for _ in 0..count {
            let builder = world.builder().with_kafka_ingest(kafka.clone());
            let builder = match redis {
                Some(url) => builder.idempotency_redis(url),
                None => builder,
            };
            instances.push(builder.start().await.expect("a start"));
        }
        let name = Uuid::new_v4().simple().to_string();
        let fleet = Self { world, instances, name, records: 0, keys: 0 };
        wait_until(DEADLINE, "a share of the partitions for each", async || {
            let share = |one: &Scheduler| one.ingest_metrics().consumer_lag.len() * count == 2;
            fleet.instances.iter().all(share)
        })
        .await;
        fleet
    }

    /// A request with the `n`th key, each time under another name.
    fn request(&mut self, partition: i32, n: u64) -> RawRecord {
        self.records += 1;
        self.keys = self.keys.max(n + 1);
        let (name, record) = (&self.name, self.records);
        let json = format!(
            r#"{{"requestId":"{record}","appName":"sms","idempotencyKey":"{name}-{n}","scheduledTime":"2025-01-01T00:00:00Z"}}"#
        );
        RawRecord::new(partition, json)
    }

    async fn send(&self, records: &[RawRecord]) {
        produce(&self.world.topic, records).await;
    }

    fn total(&self, of: impl Fn(&Scheduler) -> u64) -> u64 {
        self.instances.iter().map(of).sum()
    }

    /// Waits until everything that was sent is a job or a duplicate, in the right numbers.
    async fn await_read(&self, deadline: Duration, what: &str) {
        let duplicates = self.records - self.keys;
        wait_until(deadline, what, async || {
            let complaints: Vec<_> =
                self.instances.iter().flat_map(|one| one.health().sentences()).collect();
            assert!(!complaints.iter().any(|said| said.contains("redis")), "{complaints:?}");
            let jobs = self.total(|one| one.ingest_metrics().messages_processed);
            let repeats = self.total(|one| one.ingest_metrics().messages_duplicate);
            assert!(jobs <= self.keys && repeats <= duplicates, "{what}: {jobs} and {repeats}");
            (jobs, repeats) == (self.keys, duplicates)
        })
        .await;
    }

    /// New keys on either partition; then the same on the other one, where they meet the
    /// first or come ahead of them, among keys of the wave before. Returns how long it
    /// took until all were read.
    async fn wave(&mut self, deadline: Duration, what: &str) -> Duration {
        let first = self.keys;
        let mut records = Vec::new();
        for n in 0..WAVE as u64 {
            let partition = i32::from(n % 2 == 1);
            records.push(self.request(partition, first + n / 2 * 2));
            records.push(self.request(1 - partition, first + n / 2 * 2 + 1));
        }
        for n in 0..WAVE as u64 / 2 {
            let earlier = self.request(0, first.saturating_sub(n));
            records.push(earlier);
        }
        self.send(&records).await;
        let began = Instant::now();
        self.await_read(deadline, what).await;
        began.elapsed()
    }

    fn hits(&self) -> u64 {
        self.total(|one| one.ingest_metrics().idempotency_cache_hits)
    }

    /// Whether a key that one instance admitted is recognised by the other, when it comes
    /// alone and for the first time there.
    async fn recognises_across(&mut self) -> bool {
        let n = self.keys;
        let first = self.request(0, n);
        self.send(&[first]).await;
        self.await_read(DEADLINE, "a request").await;
        let before = self.hits();
        let again = self.request(1, n);
        self.send(&[again]).await;
        self.await_read(DEADLINE, "the same request again").await;
        self.hits() > before
    }

    /// Waits until Redis is of use, which is a while after it has come back. An instance
    /// alone knows everything itself.
    async fn await_use(&mut self, what: &str) {
        if self.instances.len() > 1 {
            wait_until(DEADLINE, what, async || self.recognises_across().await).await;
        }
    }

    /// Stops everything and proves it by the database and by what was fired.
    async fn end(self) -> World {
        let Self { world, instances, keys, records, .. } = self;
        wait_until(DEADLINE, "every job fired", async || {
            world.database.count("select count(*) from scheduler_job").await == 0
        })
        .await;
        let complaints: Vec<_> =
            instances.iter().flat_map(|one| one.health().sentences()).collect();
        assert!(complaints.is_empty(), "{complaints:?}");
        for instance in instances {
            instance.shutdown(DEADLINE).await;
        }
        let integer = world.integer();
        let sum = async |what: &str| {
            let sql = format!("select cast(sum({what}) as {integer}) from scheduler_ingest_offset");
            world.database.count(&sql).await as u64
        };
        assert_eq!((sum("jobs").await, sum("duplicates").await), (keys, records - keys));
        assert_eq!(sum("next_offset").await, records, "nothing was skipped");
        assert_eq!(read_all(&world.fired).await.len() as u64, keys, "each job fired once");
        world
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_one_instance_admitted_another_recognises_on_mariadb() {
    recognised(Database::MariaDb, Some(&services::redis_url())).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "left to `tests/run matrix`"]
async fn what_one_instance_admitted_another_recognises_on_mysql() {
    recognised(Database::MySql, Some(&services::redis_url())).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_one_instance_admitted_another_recognises_without_a_refused_write_on_postgres() {
    let (repeats, with) = recognised(Database::Postgres, Some(&services::redis_url())).await;
    let unrecognised = repeats - RECOGNISED;
    let (repeats, without) = recognised(Database::Postgres, None).await;
    // The start needs some as well.
    let of_start = without.checked_sub(repeats).expect("each repeat is refused without Redis");
    assert!(
        with < unrecognised + of_start + RECOGNISED / 2,
        "{with} refused, {unrecognised} not recognised; without Redis {without} of {repeats}"
    );
}

/// Repeats that must be recognised.
const RECOGNISED: u64 = 10;

/// Returns how many repeats there were, and (on PostgreSQL) how many transactions were
/// rolled back, as each refused write is.
async fn recognised(database: Database, redis: Option<&str>) -> (u64, u64) {
    let mut fleet = Fleet::start(database, redis).await;
    let mut recognised = 0;
    let mut repeats = 0;
    wait_until(DEADLINE, "keys that the other instance recognises", async || {
        recognised += u64::from(fleet.recognises_across().await);
        repeats += 1;
        match redis {
            Some(_) => recognised >= RECOGNISED,
            None => repeats >= RECOGNISED,
        }
    })
    .await;
    assert!(redis.is_some() || recognised == 0, "{recognised} recognised without a Redis");
    let world = fleet.end().await;
    if database != Database::Postgres {
        return (repeats, 0);
    }
    let sql = "select xact_rollback from pg_stat_database where datname = current_database()";
    (repeats, world.database.count(sql).await as u64)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_redis_that_claims_to_know_what_nobody_admitted_loses_nothing_on_sqlite() {
    a_redis_that_claims_to_know_what_nobody_admitted_loses_nothing(Database::Sqlite).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_redis_that_claims_to_know_what_nobody_admitted_loses_nothing_on_mariadb() {
    a_redis_that_claims_to_know_what_nobody_admitted_loses_nothing(Database::MariaDb).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "left to `tests/run matrix`"]
async fn a_redis_that_claims_to_know_what_nobody_admitted_loses_nothing_on_mysql() {
    a_redis_that_claims_to_know_what_nobody_admitted_loses_nothing(Database::MySql).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_redis_that_claims_to_know_what_nobody_admitted_loses_nothing_on_postgres() {
    a_redis_that_claims_to_know_what_nobody_admitted_loses_nothing(Database::Postgres).await;
}

async fn a_redis_that_claims_to_know_what_nobody_admitted_loses_nothing(database: Database) {
    let url = services::redis_url();
    let mut fleet = Fleet::start(database, Some(&url)).await;
    let mut lies = pipe();
    for n in 0..100_000 {
        let key = KeyId::derive("sms", &format!("{}-{n}", fleet.name));
        let name: String = key.into_bytes().iter().map(|byte| format!("{byte:02x}")).collect();
        lies.cmd("SET").arg(format!("is1:{name}")).arg(1).arg("EX").arg(600).ignore();
    }
    lies.exec(&mut connect(&url)).expect("lies are told");
    wait_until(DEADLINE, "a lie that is believed", async || {
        let before = fleet.hits();
        let n = fleet.keys;
        let request = fleet.request(0, n);
        fleet.send(&[request]).await;
        fleet.await_read(DEADLINE, "a request").await;
        fleet.hits() > before
    })
    .await;
    fleet.wave(DEADLINE, "a wave").await;
    fleet.wave(DEADLINE, "a second wave").await;
    fleet.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn all_is_right_whatever_redis_does_on_sqlite() {
    all_is_right_whatever_redis_does(Database::Sqlite).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn all_is_right_whatever_redis_does_on_mariadb() {
    all_is_right_whatever_redis_does(Database::MariaDb).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "left to `tests/run matrix`"]
async fn all_is_right_whatever_redis_does_on_mysql() {
    all_is_right_whatever_redis_does(Database::MySql).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn all_is_right_whatever_redis_does_on_postgres() {
    all_is_right_whatever_redis_does(Database::Postgres).await;
}

async fn all_is_right_whatever_redis_does(database: Database) {
    let logs = temporary_folder();
    let mut server = tokio::task::block_in_place(|| Server::start("redis", logs.path()));
    let url = server.address().to_owned();
    let mut order = |what: &str| tokio::task::block_in_place(|| server.order(what));
    let mut fleet = Fleet::start(database, Some(&url)).await;
    fleet.await_use("a Redis that is of use").await;
    let calm = fleet.wave(DEADLINE, "a wave with Redis").await;
    // Far less than if each batch waited, and about as long as with Redis: the load varies.
    let patience = calm * 2 + Duration::from_secs(8);

    order("kill");
    fleet.wave(patience, "a wave while Redis is dead").await;
    order("start");
    fleet.await_use("a Redis that is there again").await;

    order("suspend");
    fleet.wave(patience, "a wave while Redis is silent").await;
    order("resume");
    fleet.await_use("a Redis that speaks again").await;

    cmd("FLUSHALL").exec(&mut connect(&url)).expect("an empty Redis");
    fleet.wave(patience, "a wave with an empty Redis").await;
    fleet.await_use("a Redis that remembers again").await;

    let mut admin = connect(&url);
    cmd("CONFIG").arg(&["SET", "requirepass", "another"]).exec(&mut admin).expect("a password");
    // Who is inside stays inside.
    cmd("CLIENT").arg(&["KILL", "TYPE", "normal"]).exec(&mut admin).expect("nobody else inside");
    fleet.wave(patience, "a wave without the password").await;
    assert!(admin.is_open(), "this connection is the way back");
    cmd("CONFIG").arg(&["SET", "requirepass", ""]).exec(&mut admin).expect("no password");
    fleet.await_use("a Redis that lets us in again").await;
    fleet.end().await;
}

/// What must never be shown.
const HUSH: &str = "hush-8f1c";

#[tokio::test(flavor = "multi_thread")]
async fn it_is_reported_once_that_redis_is_unavailable_and_once_that_it_answers() {
    let logs = temporary_folder();
    let server = tokio::task::block_in_place(|| Server::start("redis", logs.path()));
    let url = server.address().replace("redis://", &format!("redis://:{HUSH}@"));
    let world = World::new(Database::Sqlite, 1).await;
    let config = format!("[idempotency]\nredis_url = \"{url}\"\n{}", world.config());
    let instance = Instance::start(&config).await;
    let said = |what: &str| instance.stderr().matches(what).count();
    let is_ready = async || {
        let answer = reqwest::get(instance.url("/health/ready")).await.expect("an answer");
        assert_eq!(answer.status().as_u16(), 200, "it depends on Redis");
    };
    // The server has no password, and refuses clients that send one.
    wait_until(DEADLINE, "three reports that Redis is unavailable", async || {
        is_ready().await;
        said("redis=\"unavailable: ") >= 3
    })
    .await;
    let mut admin = connect(server.address());
    cmd("CONFIG").arg(&["SET", "requirepass", HUSH]).exec(&mut admin).expect("a password");
    wait_until(DEADLINE, "three reports that Redis is connected", async || {
        is_ready().await;
        said("redis=\"connected\"") >= 3
    })
    .await;
    let redis = format!("redis at {} is ", server.address().trim_start_matches("redis://"));
    let times = |state: &str| said(&format!("{redis}{state}"));
    assert_eq!((times("unavailable"), times("connected")), (1, 1));
    assert_eq!(said(HUSH), 0, "{}", instance.stderr());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_url_that_cannot_be_ends_the_start_without_showing_it() {
    let database = Database::Sqlite.fresh().await;
    let builder = Scheduler::builder().database_url(database.url());
    let builder = builder.idempotency_redis(format!("redis://:{HUSH}@"));
    assert!(!format!("{builder:?}").contains(HUSH), "{builder:?}");
    let error = builder.start().await.expect_err("no start").to_string();
    assert!(error.starts_with("idempotency.redis_url cannot be read: "), "{error}");
    assert!(!error.contains(HUSH), "{error}");
}

fn connect(url: &str) -> Connection {
    let client = redis::Client::open(url).expect("a URL");
    client.get_connection().expect("a Redis")
}
