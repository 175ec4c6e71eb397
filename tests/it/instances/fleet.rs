//! The fixture of the tests of several instances: instances by name, each of which fires to its own
//! topic, a continuous flow of records, and the proof by counting.

mod flow;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use sea_orm::{
    ConnectionTrait, DatabaseConnection, DatabaseTransaction, Statement, TransactionTrait,
};
use serde_json::Value;
use tokio::task::JoinHandle;

use crate::support::kafka::{RawRecord, create_topic, produce, read_all, watermarks};
use crate::support::process::Instance;
use crate::support::services::Database;
use crate::support::wait_until;
use crate::support::world::World;

pub(crate) use self::flow::Flow;

/// What anything may take: debug builds with three servers on two cores.
pub(crate) const DEADLINE: Duration = Duration::from_secs(120);
/// Partitions of the ingest topic.
pub(crate) const PARTITIONS: i32 = 6;
/// Jobs that one instance may have started and not written, at most.
pub(crate) const UNSETTLED: usize = 500;

/// The instances of one test and what they work on.
pub(crate) struct Fleet {
    pub(crate) world: World,
    connection: DatabaseConnection,
}

/// An instance, and the topic that only it fires onto.
pub(crate) struct Member {
    pub(crate) instance: Instance,
    pub(crate) fired: String,
}

/// The state of a shard.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Shard {
    /// The name of its owner, if that one is not declared dead.
    pub(crate) owner: Option<String>,
    pub(crate) epoch: i64,
}

/// One record on the topic of a fired job.
#[derive(Clone, Debug)]
pub(crate) struct Firing {
    /// Which member's topic it is on.
    pub(crate) by: usize,
    pub(crate) fence: u64,
    /// When its instance handed it to its Kafka client.
    pub(crate) at_ms: i64,
    /// How long after it was due.
    pub(crate) late_ms: i64,
}

impl Fleet {
    pub(crate) async fn new(database: Database) -> Self {
        let world = World::new(database, PARTITIONS).await;
        let connection = world.database.connect().await;
        Self { world, connection }
    }

    /// Starts the instance `name` with the app `sms`.
    pub(crate) async fn start(&self, name: &str) -> Member {
        self.start_on(name, self.world.database.url()).await
    }

    /// The same, with the database behind another address.
    pub(crate) async fn start_on(&self, name: &str, database_url: &str) -> Member {
        let world = &self.world;
        let fired = format!("{}.{name}", world.fired);
        create_topic(&fired, 3, &[]).await;
        let config = named(&world.config_on(database_url), name).replace(&world.fired, &fired);
        // A small window bounds what may be in flight when an instance ends.
        let config = format!("{config}\nmax_in_flight = 64\nwindow = {UNSETTLED}\n");
        Member { instance: Instance::start(&config).await, fired }
    }

    /// Starts the instance `name` with no app but `other`.
    pub(crate) async fn start_without_sms(&self, name: &str) -> Instance {
        let config = named(&self.world.config(), name);
        let (common, _) = config.split_once("[apps.sms]").expect("a table of the app");
        Instance::start(&format!("{common}\n[apps.other]\n")).await
    }

    /// How many shards each live instance has, by its name.
    pub(crate) async fn shares(&self) -> BTreeMap<String, i64> {
        let sql = "select i.name, count(s.id) from scheduler_instance i left join scheduler_shard s on s.owner = i.id \
                   where not i.dead group by i.name";
        let rows = self.rows(sql).await;
        let share = |row: &sea_orm::QueryResult| {
            (row.try_get_by_index(0).expect("a name"), row.try_get_by_index(1).expect("a count"))
        };
        rows.iter().map(share).collect()
    }

    /// Waits until these instances (in the order of their names) and no others are alive and
    /// have such shares, in any order (fewest first).
    pub(crate) async fn await_shares(&self, names: &[&str], shares: &[i64]) {
        let what = format!("the shares {shares:?} of {names:?}");
        wait_until(DEADLINE, &what, async || {
            let now = self.shares().await;
            let mut counts: Vec<i64> = now.values().copied().collect();
            counts.sort_unstable();
            now.keys().eq(names) && counts == shares
        })
        .await;
    }

    /// Every shard, by id.
    pub(crate) async fn shards(&self) -> BTreeMap<i32, Shard> {
        let sql = "select s.id, i.name, s.epoch from scheduler_shard s \
                   left join scheduler_instance i on i.id = s.owner and not i.dead";
        let rows = self.rows(sql).await;
        let shard = |row: &sea_orm::QueryResult| {
            let owner = row.try_get_by_index(1).expect("a name");
            let epoch = row.try_get_by_index(2).expect("an epoch");
            (row.try_get_by_index(0).expect("an id"), Shard { owner, epoch })
        };
        rows.iter().map(shard).collect()
    }

    /// The id of the live instance `name`.
    pub(crate) async fn id_of(&self, name: &str) -> i64 {
        self.number(&format!(
            "select id from scheduler_instance where name = '{name}' and not dead"
        ))
        .await
    }

    /// Holds up whatever wants to be written into the shards of `name`, outcomes and batches,
    /// until what this gives is rolled back.
    pub(crate) async fn hold_writes_of(&self, name: &str) -> DatabaseTransaction {
        let shards = self.shards().await;
        let of_name = shards.iter().filter(|(_, shard)| shard.owner.as_deref() == Some(name));
        let transaction = self.connection.begin().await.expect("a transaction");
        for (id, _) in of_name {
            let lock = format!("select id from scheduler_shard where id = {id} for update");
            transaction.execute_unprepared(&lock).await.unwrap_or_else(|error| panic!("{error}"));
        }
        transaction
    }

    /// How many records were processed.
    pub(crate) async fn read(&self) -> usize {
        self.sum("next_offset").await
    }

    /// Records that were produced and were not processed yet.
    pub(crate) async fn lag(&self) -> usize {
        // Read first: what is produced meanwhile is not read yet.
        let read = self.read().await;
        let mut produced = 0;
        for partition in 0..PARTITIONS {
            produced += watermarks(&self.world.topic, partition).await.1 as usize;
        }
        produced - read
    }

    /// Waits until every record of `flows` was processed and every job has fired.
    pub(crate) async fn await_done(&self, flows: &[&Flow]) {
        let total: usize = flows.iter().map(|flow| flow.total).sum();
        wait_until(DEADLINE, "every record to be processed and every job to end", async || {
            self.read().await >= total
                && self.number("select count(*) from scheduler_job").await == 0
        })
        .await;
    }

    /// Records read = jobs + duplicates + dead letters, in each partition and in all.
    pub(crate) async fn check_ledger(&self, flows: &[&Flow]) {
        let sum = |part: fn(&Flow) -> usize| flows.iter().map(|flow| part(flow)).sum::<usize>();
        assert_eq!(self.read().await, sum(|flow| flow.total), "records read");
        assert_eq!(self.sum("jobs").await, sum(|flow| flow.jobs().count()), "jobs");
        assert_eq!(self.sum("duplicates").await, sum(Flow::duplicates), "duplicates");
        assert_eq!(self.sum("dead_letters").await, sum(Flow::poison), "dead letters");
        let wrong = "select count(*) from scheduler_ingest_offset \
                     where next_offset <> jobs + duplicates + operations + dead_letters";
        assert_eq!(self.number(wrong).await, 0, "partitions whose sums are wrong");
        for partition in 0..PARTITIONS {
            let sql = format!(
                "select next_offset from scheduler_ingest_offset where number = {partition}"
            );
            let (_, end) = watermarks(&self.world.topic, partition).await;
            assert_eq!(self.number(&sql).await, end, "partition {partition}");
        }
        let letters = self.number("select count(*) from scheduler_dead_letter").await;
        assert_eq!(letters as usize, sum(Flow::poison), "rows of dead letters");
        assert_eq!(self.number("select count(*) from scheduler_job").await, 0, "jobs left");
    }

    /// Every firing by request id, in the order of their moments, after checking that the
    /// jobs of `flows` fired, not early, and no others.
    pub(crate) async fn firings(
        &self,
        members: &[&Member],
        flows: &[&Flow],
    ) -> BTreeMap<String, Vec<Firing>> {
        let mut firings: BTreeMap<String, Vec<Firing>> = BTreeMap::new();
        for (by, member) in members.iter().enumerate() {
            for record in read_all(&member.fired).await {
                let request = String::from_utf8(record.key.clone().expect("a key")).expect("text");
                let fence = record.header("fence").expect("a fence").parse().expect("a number");
                let due_ms = record.json()["jobData"]["due"].as_i64().expect("a moment");
                let (at_ms, late_ms) = (record.timestamp_ms, record.timestamp_ms - due_ms);
                assert!(late_ms >= 0, "{request} fired early");
                let firing = Firing { by, fence, at_ms, late_ms };
                firings.entry(request).or_default().push(firing);
            }
        }
        for of_request in firings.values_mut() {
            of_request.sort_by_key(|firing| (firing.at_ms, firing.fence));
        }
        let fired: BTreeSet<&String> = firings.keys().collect();
        let expected: Vec<String> = flows.iter().flat_map(|flow| flow.jobs()).collect();
        let missing: Vec<_> = expected.iter().filter(|id| !fired.contains(id)).collect();
        assert!(missing.is_empty(), "{} never fired: {:?}", missing.len(), missing.first());
        assert_eq!(fired.len(), expected.len(), "nothing else fired");
        firings
    }

    /// The same, where nothing may fire twice.
    pub(crate) async fn check_fired_once(&self, members: &[&Member], flows: &[&Flow]) {
        for (request, firings) in self.firings(members, flows).await {
            assert_eq!(firings.len(), 1, "{request} fired more than once: {firings:?}");
        }
    }

    pub(crate) async fn number(&self, sql: &str) -> i64 {
        let rows = self.rows(sql).await;
        let row = rows.first().unwrap_or_else(|| panic!("{sql}: no row"));
        // Narrow on one column of one database, wide elsewhere.
        row.try_get_by_index::<i64>(0)
            .or_else(|_| row.try_get_by_index::<i32>(0).map(i64::from))
            .unwrap_or_else(|error| panic!("{sql}: {error}"))
    }

    async fn sum(&self, column: &str) -> usize {
        let integer = self.world.integer();
        let sql = format!(
            "select cast(coalesce(sum({column}), 0) as {integer}) from scheduler_ingest_offset"
        );
        self.number(&sql).await as usize
    }

    async fn rows(&self, sql: &str) -> Vec<sea_orm::QueryResult> {
        let statement = Statement::from_string(self.connection.get_database_backend(), sql);
        let rows = self.connection.query_all_raw(statement).await;
        rows.unwrap_or_else(|error| panic!("{sql}: {error}"))
    }
}

fn named(config: &str, name: &str) -> String {
    config.replace("[instance]", &format!("[instance]\nid = \"{name}\""))
}

impl Member {
    /// Waits until it has fired this many jobs.
    pub(crate) async fn await_fired(&self, count: i64) {
        wait_until(DEADLINE, &format!("{count} jobs fired by {}", self.fired), async || {
            let mut fired = 0;
            for partition in 0..3 {
                fired += watermarks(&self.fired, partition).await.1;
            }
            fired >= count
        })
        .await;
    }

    /// Waits until it has started this many attempts whose outcomes are not written.
    pub(crate) async fn await_unwritten(&self, count: u64) {
        wait_until(DEADLINE, &format!("{count} outcomes that are not written"), async || {
            let succeeded = counter(&self.instance, "apps.sms.succeeded").await;
            counter(&self.instance, "apps.sms.fired").await >= succeeded + count
        })
        .await;
    }

    /// Asks it to leave: it drains, and ends well.
    pub(crate) async fn leave(&mut self) {
        assert!(self.instance.terminate(DEADLINE).await.success(), "a drained instance exits 0");
    }
}

/// A counter of an instance.
pub(crate) async fn counter(instance: &Instance, name: &str) -> u64 {
    let answer = reqwest::get(instance.url("/api/metrics")).await.expect("an answer");
    let counters: Value = answer.json().await.expect("JSON");
    counters[name].as_u64().unwrap_or(0)
}

pub(crate) fn now_ms() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).expect("a clock after 1970");
    since.as_millis() as i64
}
