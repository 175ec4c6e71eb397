//! Many schedules, reschedules and cancellations in random order over six partitions, with the
//! instance killed in the middle: the end of every name is that of the rule for all of them at once.

use std::collections::BTreeMap;
use std::time::Instant;

use sea_orm::{ConnectionTrait, Statement};

use super::*;
use crate::support::is_long;
use crate::support::process::Instance;

const PARTITIONS: i32 = 6;
/// Far from now, so that nothing fires.
const LATER_MS: i64 = 1000 * HOUR;
/// The last one; many of each are the same.
const VERSIONS: i64 = 9;

on_each_database! {
    the_end_of_every_name_is_right_whatever_the_order
}

/// The highest versions of the schedules, cancellations and reschedules of a name.
#[derive(Clone, Copy, Debug, Default)]
struct Highest {
    s: Option<i64>,
    c: Option<i64>,
    r: Option<i64>,
}

impl Highest {
    /// The version of the live job, and its time.
    fn job(self, base_ms: i64) -> Option<(i64, i64)> {
        let s = self.s.filter(|s| self.c.is_none_or(|c| *s > c))?;
        let r = self.r.filter(|r| *r > s);
        Some((s, r.map_or(scheduled_ms(base_ms, s), |r| moved_ms(base_ms, r))))
    }
}

fn scheduled_ms(base_ms: i64, version: i64) -> i64 {
    base_ms + version
}

fn moved_ms(base_ms: i64, version: i64) -> i64 {
    base_ms + HOUR + version
}

/// One message, which is noted in the name's highest versions.
fn message(number: usize, name: &str, base_ms: i64, highest: &mut Highest) -> Value {
    let version = fastrand::i64(0..=VERSIONS);
    let own = format!("op-{number}");
    let key = format!("key of {name}");
    // Half of the operations name the job by its key.
    let (target, by_key) = match fastrand::bool() {
        true => (Some(name), None),
        false => (None, Some(&key)),
    };
    match fastrand::u8(0..3) {
        0 => {
            highest.s = highest.s.max(Some(version));
            json!({
                "requestId": name, "appName": "sms", "jobData": { "v": version },
                "idempotencyKey": key,
                "scheduledTime": scheduled_ms(base_ms, version),
                "version": (version > 0 || fastrand::bool()).then_some(version),
            })
        }
        1 => {
            // Lower ones, so that enough of the jobs live.
            let version = version / 2;
            highest.c = highest.c.max(Some(version));
            json!({
                "requestId": own, "appName": "sms", "operation": "cancel",
                "targetRequestId": target, "idempotencyKey": by_key, "version": version,
            })
        }
        _ => {
            highest.r = highest.r.max(Some(version));
            json!({
                "requestId": own, "appName": "sms", "operation": "reschedule",
                "targetRequestId": target, "idempotencyKey": by_key, "version": version,
                "scheduledTime": moved_ms(base_ms, version),
            })
        }
    }
}

async fn the_end_of_every_name_is_right_whatever_the_order(database: Database) {
    let count = if is_long() { 2_000_000 } else { 20_000 };
    let world = World::new(database, PARTITIONS).await;
    let base_ms = now_ms() + LATER_MS;
    let mut names: BTreeMap<String, Highest> = BTreeMap::new();
    let mut records = Vec::with_capacity(count);
    for number in 0..count {
        let name = format!("n-{}", fastrand::usize(0..count / 8));
        let highest = names.entry(name.clone()).or_default();
        let value = message(number, &name, base_ms, highest).to_string();
        records.push(RawRecord::new(fastrand::i32(0..PARTITIONS), value));
    }

    let mut instance = Instance::start(&world.config()).await;
    let (first, second) = records.split_at(count / 2);
    produce(&world.topic, first).await;
    let begun = Instant::now();
    let read = async |of: usize| records_read(&world).await >= of as i64;
    let deadline = DEADLINE * if is_long() { 60 } else { 2 };
    wait_until(deadline, "some records", async || read(count / 8).await).await;
    instance.kill();
    produce(&world.topic, second).await;
    let instance = Instance::start(&world.config()).await;
    wait_until(deadline, "all records", async || read(count).await).await;
    wait_until(deadline, "the commands", async || {
        let waiting = "select count(*) from scheduler_command where state = 0";
        world.database.count(waiting).await == 0
    })
    .await;

    let took = begun.elapsed();
    let live = live(&world).await;
    let expected: BTreeMap<&str, (i64, i64)> = names
        .iter()
        .filter_map(|(name, highest)| Some((name.as_str(), highest.job(base_ms)?)))
        .collect();
    let wrong: Vec<_> = names
        .iter()
        .map(|(name, highest)| {
            (name, highest, live.get(name.as_str()), expected.get(name.as_str()))
        })
        .filter(|(_, _, is, should)| is != should)
        .collect();
    let some = &wrong[..wrong.len().min(5)];
    assert!(wrong.is_empty(), "{database:?}: {} of {}: {some:?}", wrong.len(), names.len());
    assert_eq!(live.len(), expected.len());
    assert!(expected.len() > count / 32, "{} live", expected.len());
    let totals = "select count(*) from scheduler_ingest_offset \
                  where records <> jobs + duplicates + operations + dead_letters + parked";
    assert_eq!(world.database.count(totals).await, 0);
    assert_eq!(world.database.count("select count(*) from scheduler_dead_letter").await, 0);
    println!(
        "{database:?}: {count} records of {} names in {:.0} s, {:.0} a second, with a kill and a \
         start in between; {} jobs live",
        names.len(),
        took.as_secs_f64(),
        count as f64 / took.as_secs_f64(),
        live.len(),
    );
    drop(instance);
}

async fn records_read(world: &World) -> i64 {
    let integer = match world.database.backend() {
        Database::MariaDb | Database::MySql => "signed",
        Database::Postgres | Database::Sqlite => "bigint",
    };
    let sum =
        format!("select cast(coalesce(sum(records), 0) as {integer}) from scheduler_ingest_offset");
    world.database.count(&sum).await
}

/// The version and time of each live job, by its name.
async fn live(world: &World) -> BTreeMap<String, (i64, i64)> {
    let connection = world.database.connect().await;
    let select =
        "select request_id, data, scheduled_ms, due_ms from scheduler_job where priority < 3";
    let statement = Statement::from_string(connection.get_database_backend(), select);
    let rows = connection.query_all_raw(statement).await.expect("rows");
    let mut live = BTreeMap::new();
    for row in rows {
        let name: String = row.try_get_by_index(0).expect("a name");
        let data: String = row.try_get_by_index(1).expect("data");
        let data: Value = serde_json::from_str(&data).expect("JSON");
        let [scheduled_ms, due_ms]: [i64; 2] =
            [2, 3].map(|place| row.try_get_by_index(place).expect("a time"));
        assert_eq!(scheduled_ms, due_ms, "{name}");
        live.insert(name, (data["v"].as_i64().expect("a version"), scheduled_ms));
    }
    live
}
