//! Outages: while the database or the broker is unavailable, slow, full or refuses to write, nothing
//! is lost, doubled or dead-lettered. Health reports the reason, and afterwards work continues.

mod unavailable;
mod broker;
mod conflicts;
mod connections;
mod cut;
mod file;
mod pooled;
mod read_only;
mod recovery;
mod refusals;
mod settings;
mod slow;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use infinite_scheduler::{Scheduler, SchedulerBuilder};

use crate::support::kafka::{RawRecord, client_of, produce_by, read_all_by};
use crate::support::services::TestDatabase;
use crate::support::wait_until;
use crate::support::world::World;

/// What a loaded machine may take, waits that have doubled during an outage included.
const DEADLINE: Duration = Duration::from_secs(120);
/// How many partitions the records of a wave go to.
const PARTITIONS: i32 = 2;
/// Records of one wave, by what they become.
const JOBS: usize = 24;
const DUPLICATES: usize = 3;
const POISON: usize = 3;
const WAVE: usize = JOBS + DUPLICATES + POISON;

/// Waves of records, and what must have become of them.
struct Waves {
    world: World,
    count: usize,
}

impl Waves {
    fn on(world: World) -> Self {
        Self { world, count: 0 }
    }

    /// Jobs that are due then, and between them repeats and records that are none.
    async fn send(&mut self, due_ms: i64) {
        let wave = self.count;
        self.count += 1;
        let job = |n: usize| {
            format!(
                r#"{{"requestId":"{wave}-{n}","appName":"sms","scheduledTime":{due_ms},"idempotencyKey":"{wave}-{n}"}}"#
            )
        };
        let mut values: Vec<String> = (0..JOBS).map(job).collect();
        // Each behind the first of its partition, which it repeats.
        values.extend((JOBS..JOBS + DUPLICATES).map(|n| job(partition(n) as usize)));
        values.extend((0..POISON).map(|n| format!("poison {wave}-{n}")));
        let numbered = values.into_iter().enumerate();
        let records: Vec<_> =
            numbered.map(|(n, value)| RawRecord::new(partition(n), value)).collect();
        produce_by(&client_of(&self.world.broker), &self.world.topic, &records).await;
    }

    /// Waits until every record so far is read.
    async fn read(&self) {
        let records = (self.count * WAVE) as i64;
        let integer = self.world.integer();
        let read = format!(
            "select cast(coalesce(sum(next_offset), 0) as {integer}) from scheduler_ingest_offset"
        );
        let database = &self.world.database;
        wait_until(DEADLINE, "every record read", async || database.count(&read).await == records)
            .await;
    }

    /// The same, until every job has fired and every letter is published, too.
    async fn settle(&self) {
        self.read().await;
        for table in ["scheduler_job", "scheduler_outbox"] {
            let left = format!("select count(*) from {table}");
            let what = format!("an empty table {table}");
            let database = &self.world.database;
            wait_until(DEADLINE, &what, async || database.count(&left).await == 0).await;
        }
    }

    /// Everything has happened, once.
    async fn check(&self) {
        let Self { world, count } = self;
        let mut totals = [0; 3];
        for (total, column) in totals.iter_mut().zip(["jobs", "duplicates", "dead_letters"]) {
            let integer = world.integer();
            let sql =
                format!("select cast(sum({column}) as {integer}) from scheduler_ingest_offset");
            *total = world.database.count(&sql).await as usize;
        }
        assert_eq!(totals, [JOBS, DUPLICATES, POISON].map(|each| each * count));
        let letters =
            world.database.count("select count(*) from scheduler_dead_letter").await as usize;
        assert_eq!(letters, POISON * count, "nothing is dead-lettered for the weather");

        let name = |record: &RawRecord| record.json()["requestId"].as_str().map(str::to_owned);
        let fired = read_all_by(&client_of(&world.broker), &world.fired).await;
        let fired = times(fired.iter().filter_map(name));
        let wanted = (0..*count).flat_map(|wave| (0..JOBS).map(move |n| format!("{wave}-{n}")));
        let wanted: BTreeMap<String, usize> = wanted.map(|name| (name, 1)).collect();
        assert_eq!(fired, wanted, "each job fired once");

        // At least once: the broker may have acknowledged what the database did not hear of.
        let text = |record: &RawRecord| String::from_utf8(record.value.clone()?).ok();
        let published = read_all_by(&client_of(&world.broker), &world.dlq).await;
        let published: BTreeSet<_> = published.iter().filter_map(text).collect();
        let poison =
            (0..*count).flat_map(|wave| (0..POISON).map(move |n| format!("poison {wave}-{n}")));
        assert_eq!(published, poison.collect(), "each letter published");
    }
}

/// A scheduler, to which records come during outages too.
struct Flow {
    waves: Waves,
    scheduler: Scheduler,
}

impl Flow {
    /// Starts the scheduler of `builder`, and shows that it works without an outage.
    async fn start(world: World, builder: SchedulerBuilder) -> Self {
        let scheduler = builder.start().await.expect("a start");
        let mut flow = Self { waves: Waves::on(world), scheduler };
        flow.wave().await;
        flow.waves.settle().await;
        flow
    }

    /// Jobs that are due at once, repeats and poison.
    async fn wave(&mut self) {
        self.waves.send(0).await;
    }

    fn database(&self) -> &TestDatabase {
        &self.waves.world.database
    }

    /// What health says about this, if anything.
    fn complaint(&self, about: &str) -> Option<String> {
        self.scheduler.health().sentences().into_iter().find(|said| said.starts_with(about))
    }

    /// Waits until health says about this that it is not ready, and why.
    async fn await_complaint(&self, about: &str, why: &str) {
        let says_why = || self.complaint(about).is_some_and(|said| said.contains(why));
        let what = format!("a complaint about {about} with \"{why}\"");
        wait_until(DEADLINE, &what, async || says_why()).await;
    }

    async fn await_ready(&self) {
        let what = "no more complaints";
        wait_until(DEADLINE, what, async || self.scheduler.health().sentences().is_empty()).await;
    }

    /// One more wave after the outage; then every record was processed, once.
    async fn finish(mut self) {
        self.wave().await;
        self.waves.settle().await;
        self.await_ready().await;
        self.scheduler.shutdown(DEADLINE).await;
        self.waves.check().await;
    }
}

impl Drop for Flow {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("health said: {:#?}", self.scheduler.health().sentences());
        }
    }
}

/// The partition of a wave's `n`th record.
fn partition(n: usize) -> i32 {
    n as i32 % PARTITIONS
}

fn times(names: impl Iterator<Item = String>) -> BTreeMap<String, usize> {
    let mut times = BTreeMap::new();
    for name in names {
        *times.entry(name).or_default() += 1;
    }
    times
}
