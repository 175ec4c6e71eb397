//! Batches that are written in parts, because the database refuses one of their rows: what is
//! committed if a later part fails.

use std::time::Duration;

use infinite_scheduler::Scheduler;
use infinite_scheduler::model::ids::JobId;
use sea_orm::{ConnectionTrait, DatabaseTransaction};

use crate::support::kafka::{RawRecord, produce, read_all};
use crate::support::services::{Database, TestDatabase};
use crate::support::wait_until;
use crate::support::world::World;
use crate::writers::{await_held_up, hold_up_insert};

const DEADLINE: Duration = Duration::from_secs(90);
/// Nobody waits for a lock for longer.
const LEASE: Duration = Duration::from_secs(60);

/// Refuses one row for its content.
pub(crate) const REFUSE: [&str; 2] = [
    "create function refuse() returns trigger language plpgsql as $$
        begin
            raise exception 'it is refused' using errcode = '22000';
        end
        $$",
    "create trigger refuse before insert on scheduler_job for each row \
     when (new.data like '%refuse%') execute function refuse()",
];

/// Four records that are read together, one of which the database refuses.
struct Four {
    world: World,
    scheduler: Scheduler,
    /// Keeps the one that is held from being written.
    holder: DatabaseTransaction,
    names: Vec<String>,
    refused: usize,
}

impl Four {
    /// Those at these places are refused and held. Rows are written in the order of their ids:
    /// the one that is refused comes first, and so before any statement waits for the one that is held.
    async fn start(refused: usize, held: usize) -> Self {
        let world = World::new(Database::Postgres, 1).await;
        let start = async || world.builder().lease(LEASE).start().await.expect("a start");
        let first = start().await;
        let seed = RawRecord::new(0, request("seed", 2_000_000_000_000, ""));
        produce(&world.topic, &[seed]).await;
        await_offset(&world.database, 1).await;
        first.shutdown(DEADLINE).await;

        for sql in REFUSE {
            world.database.execute(sql).await;
        }
        let mut names: Vec<String> = (0..4).map(|n| format!("r-{n}")).collect();
        names.sort_by_key(|name| JobId::derive("sms", name));
        names.swap(0, refused);
        let data = |n: usize| if n == refused { "refuse" } else { "" };
        let record = |(n, name): (usize, &String)| RawRecord::new(0, request(name, 0, data(n)));
        let records: Vec<_> = names.iter().enumerate().map(record).collect();
        // They are there before any instance reads, so that they are read together.
        produce(&world.topic, &records).await;
        let holder = hold_up_insert(&world.database, &names[held]).await;
        let scheduler = start().await;
        Self { world, scheduler, holder, names, refused }
    }

    /// Nothing is held any more, and one more record comes: all is written once and fires.
    async fn finish(self) -> Scheduler {
        let Self { world, scheduler, holder, mut names, refused } = self;
        holder.rollback().await.expect("a rollback");
        produce(&world.topic, &[RawRecord::new(0, request("last", 0, ""))]).await;
        await_offset(&world.database, 6).await;
        wait_until(DEADLINE, "the end of every job but the seed", async || {
            world.database.count("select count(*) from scheduler_job").await == 1
        })
        .await;
        scheduler.shutdown(DEADLINE).await;
        assert_eq!(scheduler.ingest_metrics().jobs_rescued, 0);
        let totals = "select count(*) from scheduler_ingest_offset \
                      where records = 6 and jobs = 5 and dead_letters = 1";
        assert_eq!(world.database.count(totals).await, 1);
        let fired = read_all(&world.fired).await;
        let mut fired: Vec<_> = fired
            .iter()
            .map(|r| r.json()["requestId"].as_str().expect("an id").to_owned())
            .collect();
        names.remove(refused);
        names.push("last".into());
        names.sort_unstable();
        fired.sort_unstable();
        assert_eq!(fired, names, "each fired once");
        scheduler
    }
}

fn request(id: &str, due_ms: i64, data: &str) -> String {
    format!(
        r#"{{"requestId":"{id}","appName":"sms","scheduledTime":{due_ms},"jobData":{{"data":"{data}"}}}}"#
    )
}

async fn await_offset(database: &TestDatabase, offset: i64) {
    wait_until(DEADLINE, "the records read", async || {
        database.count("select next_offset from scheduler_ingest_offset").await == offset
    })
    .await;
}

/// What was written in the first part is not written again, and the rest is not passed over.
#[tokio::test(flavor = "multi_thread")]
async fn after_a_committed_part_the_rest_is_read_again() {
    let four = Four::start(1, 2).await;
    let database = &four.world.database;
    // A part is committed, and the rest waits.
    await_offset(database, 3).await;
    await_held_up(database, 1).await;
    let end_waiting = "select pg_terminate_backend(pid) from pg_stat_activity \
                       where datname = current_database() and wait_event_type = 'Lock'";
    database.execute(end_waiting).await;
    four.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_jobs_of_a_committed_part_fire_although_the_rest_was_fenced() {
    let four = Four::start(3, 0).await;
    let database = &four.world.database;
    await_held_up(database, 1).await;
    let claiming = database.connect().await;
    let claim = "update scheduler_ingest_offset set reader = reader + 1";
    let claiming = tokio::spawn(async move { claiming.execute_unprepared(claim).await });
    await_held_up(database, 2).await;
    let scheduler = four.finish().await;
    claiming.await.expect("no panic").expect("a claim");
    assert_eq!(scheduler.ingest_metrics().batches_fenced, 1);
}
