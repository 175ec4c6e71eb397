//! Which instance is dead, which one owns a shard, and which one may write into it.

use std::sync::Arc;

use infinite_scheduler::model::ids::{Epoch, InstanceId, JobId, Offset};
use infinite_scheduler::model::verdict::Event;
use infinite_scheduler::store::{
    Admitted, Decision, Ended, Entry, InstanceRow, ListRange, Outcome, OutcomeBatch, ShardFence,
    ShardRow, Store,
};
use infinite_scheduler::{AppConfig, Job, Priority, Scheduler};

use super::{
    DEADLINE, LEASE, NO_LEASE, SERVERS, await_held_up, batch, ground_on, hold, hold_up_insert, job,
    join, own, shard, store,
};
use crate::support::fixture::Fixture;
use crate::support::services::Database;
use crate::support::{wait_for, wait_until};

/// How an instance is seen, once its lease is over if it is to be.
async fn see(store: &Store, id: InstanceId, over: bool) -> InstanceRow {
    wait_for(DEADLINE, "the instance as it is to be", async || {
        let seen = store.observe(id).await.expect("an observation");
        let row = seen.instances.into_iter().find(|row| row.id == id)?;
        (!over || row.lease_until_us < seen.now_us).then_some(row)
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn an_instance_is_declared_dead_after_its_lease_and_as_it_was_seen() {
    for backend in Database::all() {
        let database = backend.fresh().await;
        let store = store(&database).await;
        let (late, alive) = (join(&store, NO_LEASE).await, join(&store, LEASE).await);
        let (late, alive) = (see(&store, late, true).await, see(&store, alive, false).await);
        let dead = async |row: &InstanceRow| store.declare_dead(row).await.expect("an answer");
        assert!(!dead(&alive).await, "{backend:?}: its lease is not over");
        let before = InstanceRow { beat: late.beat - 1, ..late.clone() };
        assert!(!dead(&before).await, "{backend:?}: it has given a sign of life since");
        assert!(dead(&late).await, "{backend:?}");
        assert!(!dead(&late).await, "{backend:?}: it was dead already");
        let beat = async |id| store.beat(id, LEASE, None).await.expect("an answer");
        assert!(!beat(late.id).await, "{backend:?}: the dead do not come back");
        assert!(beat(alive.id).await, "{backend:?}");
        let seen = store.observe(alive.id).await.expect("an observation");
        let ids: Vec<_> = seen.instances.iter().map(|row| row.id).collect();
        assert_eq!(ids, [alive.id], "{backend:?}");
        store.close().await;
    }
}

/// An instance is dead only if its beat was unchanged for a whole lease by the other's own clock.
#[tokio::test(flavor = "multi_thread")]
async fn a_database_clock_that_jumps_ahead_kills_nobody() {
    for backend in SERVERS {
        let database = backend.fresh().await;
        let start = async || {
            let builder = Scheduler::builder().database_url(database.url()).lease(LEASE);
            builder.start().await.expect("a start")
        };
        let both = [start().await, start().await];
        wait_until(DEADLINE, "some heartbeats of both", async || {
            database.execute("update scheduler_instance set lease_until_us = 1").await;
            let dead = database.count("select count(*) from scheduler_instance where dead").await;
            assert_eq!(dead, 0, "{backend:?}: both give signs of life");
            database.count("select count(*) from scheduler_instance where beat >= 6").await == 2
        })
        .await;
        for scheduler in both {
            scheduler.shutdown(DEADLINE).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_shard_is_taken_from_nobody_or_the_dead_and_given_up_by_its_owner() {
    for backend in Database::all() {
        let database = backend.fresh().await;
        let store = store(&database).await;
        let app = store.register_app(&AppConfig::new("sms"), 0).await.expect("a row");
        let id = app.shards[0];
        let (a, b) = (join(&store, NO_LEASE).await, join(&store, LEASE).await);
        let take = async |seen: &ShardRow, by| {
            super::take(&store, seen, by).await.map(|fence| fence.epoch)
        };
        let free = shard(&store, id).await;
        let first = take(&free, a).await.expect("taken");
        assert!(first > free.epoch, "{backend:?}: it has changed hands");
        let owned = shard(&store, id).await;
        assert_eq!((owned.owner, owned.epoch), (Some(a), first), "{backend:?}");
        assert_eq!(take(&owned, b).await, None, "{backend:?}: its owner is not dead");

        let fence = ShardFence { shard: id, owner: a, epoch: first };
        for other in [ShardFence { owner: b, ..fence }, ShardFence { epoch: free.epoch, ..fence }] {
            store.release_shards(&[other]).await.expect("an answer");
            assert_eq!(shard(&store, id).await.owner, Some(a), "{backend:?}: {other:?}");
        }
        store.release_shards(&[fence]).await.expect("an answer");
        assert_eq!(shard(&store, id).await.owner, None, "{backend:?}");
        assert_eq!(take(&free, b).await, None, "{backend:?}: it was somebody's since it was seen");

        // The dead let go of nothing themselves.
        let second = take(&shard(&store, id).await, a).await.expect("taken");
        let late = see(&store, a, true).await;
        assert!(store.declare_dead(&late).await.expect("an answer"), "{backend:?}");
        let ancient = format!("update scheduler_instance set lease_until_us = 0 where id = {a}");
        database.execute(&ancient).await;
        join(&store, LEASE).await;
        let kept = format!("select count(*) from scheduler_instance where id = {a}");
        assert_eq!(database.count(&kept).await, 1, "{backend:?}: as long as a shard names it");
        let third = take(&shard(&store, id).await, b).await.expect("taken from the dead");
        assert!(third > second, "{backend:?}");
        join(&store, LEASE).await;
        assert_eq!(database.count(&kept).await, 0, "{backend:?}: nothing names it now");
        store.close().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_admission_into_a_shard_of_an_old_epoch_writes_nothing() {
    for backend in Database::all() {
        let database = backend.fresh().await;
        let fixture = ground_on(&database).await;
        let fence = own(&fixture).await;
        let wrong = [
            ShardFence { epoch: Epoch(fence.epoch.0 - 1), ..fence },
            ShardFence { owner: InstanceId(fence.owner.0 ^ 1), ..fence },
        ];
        // Alone a job takes the short way; with a letter it takes the long one.
        let letter = || Entry::Letter(Box::new(fixture.letter(1)));
        for entries in [vec![job(&fixture, "r")], vec![job(&fixture, "r"), letter()]] {
            for fence in wrong {
                let late = batch(fixture.records(0), entries.clone(), vec![fence]);
                let answer = fixture.store.admit(&late).await.expect("an answer");
                assert_eq!(answer, Admitted::ShardsMoved, "{backend:?}");
            }
        }
        for table in ["scheduler_job", "scheduler_dead_letter", "scheduler_outbox"] {
            let rows = database.count(&format!("select count(*) from {table}")).await;
            assert_eq!(rows, 0, "{backend:?}: {table}");
        }
        let row = fixture.store.read_ledger(fixture.ledger.id).await.expect("the row");
        assert_eq!(row.next_offset, Offset(0), "{backend:?}");
        let ours = batch(fixture.records(0), vec![job(&fixture, "r")], vec![fence]);
        let answer = fixture.store.admit(&ours).await.expect("an answer");
        assert_eq!(answer, Admitted::Done(vec![Decision::Accepted]), "{backend:?}");
        fixture.store.close().await;
    }
}

/// Of many some are free, some are not, and one is locked just now.
#[tokio::test(flavor = "multi_thread")]
async fn shards_are_taken_and_given_up_together() {
    for backend in Database::all() {
        let database = backend.fresh().await;
        let store = store(&database).await;
        let apps: Vec<AppConfig> = (0..200).map(|n| AppConfig::new(format!("app-{n}"))).collect();
        let configs: Vec<&AppConfig> = apps.iter().collect();
        let rows = store.register_apps(&configs, 0).await.expect("rows");
        assert_eq!(rows.iter().map(|row| row.shards.len()).sum::<usize>(), 1600, "{backend:?}");
        assert_eq!(store.register_apps(&configs, 0).await.expect("rows"), rows, "{backend:?}");
        let (me, other) = (join(&store, LEASE).await, join(&store, LEASE).await);
        let seen = async || store.observe(me).await.expect("an observation").shards;
        let all = seen().await;
        let theirs = store.take_shards(&all[..100], other, 0).await.expect("an answer");
        assert_eq!(theirs.len(), 100, "{backend:?}");
        let locked = all[700].id;
        let holder = match backend {
            Database::Sqlite => None,
            _ => {
                let lock = format!("select id from scheduler_shard where id = {locked} for update");
                Some(hold(&database, &lock).await)
            }
        };
        let taken = store.take_shards(&all, me, 0).await.expect("an answer");
        let missing = 100 + usize::from(holder.is_some());
        assert_eq!(taken.len(), 1600 - missing, "{backend:?}");
        let now_s = store.observe(me).await.expect("an observation").now_us / 1_000_000;
        for fence in &taken {
            assert!(fence.epoch.0 <= now_s + 1 && fence.epoch.0 > now_s - 60, "{fence:?}");
        }
        if let Some(holder) = holder {
            holder.rollback().await.expect("a rollback");
        }
        let old = ShardFence { epoch: Epoch(0), ..taken[0] };
        store.release_shards(&[&[old], &taken[1..]].concat()).await.expect("an answer");
        let owned: Vec<_> = seen().await.into_iter().filter(|row| row.owner == Some(me)).collect();
        assert_eq!(owned.iter().map(|row| row.id).collect::<Vec<_>>(), [taken[0].shard]);
        store.leave(other).await.expect("an answer");
        let owners = "select count(*) from scheduler_shard where owner is not null";
        assert_eq!(database.count(owners).await, 1, "{backend:?}");
        store.close().await;
    }
}

/// A failover may lose the commit that took a shard, and the database's clock may be behind.
#[tokio::test(flavor = "multi_thread")]
async fn an_epoch_is_later_than_those_that_a_failover_lost() {
    for backend in Database::all() {
        let database = backend.fresh().await;
        let store = store(&database).await;
        let app = store.register_app(&AppConfig::new("sms"), 0).await.expect("a row");
        let me = join(&store, LEASE).await;
        let now_s = store.observe(me).await.expect("an observation").now_us / 1_000_000;
        let ahead_s = now_s + 3_000;
        for (own_s, at_least) in [(0, now_s), (now_s + 30, now_s + 30), (ahead_s, now_s + 60)] {
            let back = "update scheduler_shard set owner = null, epoch = 7";
            database.execute(back).await;
            let seen = shard(&store, app.shards[0]).await;
            let taken = store.take_shards(&[seen], me, own_s * 1000).await.expect("an answer");
            let epoch = taken.first().expect("taken").epoch.0;
            assert!(epoch > at_least, "{backend:?}: {epoch}");
            assert!(epoch < now_s + 120, "{backend:?}: a wrong clock of ours counts little");
        }
        store.close().await;
    }
}

/// Nor does the taker wait for a transaction that writes: behind it every admission would queue.
#[tokio::test(flavor = "multi_thread")]
async fn a_shard_is_not_taken_while_a_batch_for_it_is_uncommitted() {
    for backend in SERVERS {
        let database = backend.fresh().await;
        let fixture = ground_on(&database).await;
        let fence = own(&fixture).await;
        let seed = batch(fixture.records(0), vec![job(&fixture, "seed")], vec![fence]);
        fixture.store.admit(&seed).await.expect("an answer");
        // By owner and epoch it could be taken from here on.
        let dead = format!("update scheduler_instance set dead = true where id = {}", fence.owner);
        database.execute(&dead).await;
        let me = join(&fixture.store, LEASE).await;
        let seen = shard(&fixture.store, fence.shard).await;
        let take = async || {
            let taken =
                tokio::time::timeout(LEASE / 2, super::take(&fixture.store, &seen, me)).await;
            taken.expect("no wait")
        };

        // Alone a job takes the short way; with a letter it takes the long one.
        let letter = Entry::Letter(Box::new(fixture.letter(1)));
        let ways = [("short", vec![]), ("long", vec![letter])];
        for (offset, (name, mut entries)) in (1..).zip(ways) {
            entries.insert(0, job(&fixture, name));
            let batch = batch(fixture.records(offset), entries, vec![fence]);
            let holder = hold_up_insert(&database, name).await;
            let store = fixture.store.clone();
            let admitting = tokio::spawn(async move { store.admit(&batch).await });
            await_held_up(&database, 1).await;
            assert_eq!(take().await, None, "{backend:?}: the {name} way");
            holder.rollback().await.expect("a rollback");
            let answer = admitting.await.expect("an end").expect("an answer");
            assert!(matches!(answer, Admitted::Done(_)), "{backend:?}: {answer:?}");
        }

        let outcomes = outcomes_of(vec![(fence, seed_job(&fixture).await, Outcome::Succeeded)]);
        let holder = hold(&database, "select id from scheduler_job for update").await;
        let store = fixture.store.clone();
        let writing = tokio::spawn(async move { store.write_outcomes(&outcomes).await });
        await_held_up(&database, 1).await;
        assert_eq!(take().await, None, "{backend:?}: outcomes");
        holder.rollback().await.expect("a rollback");
        assert_eq!(writing.await.expect("an end").expect("an answer").lost, [], "{backend:?}");
        assert!(take().await.is_some(), "{backend:?}: nothing is in the way any more");
        fixture.store.close().await;
    }
}

fn outcomes_of(ended: Vec<(ShardFence, Job, Outcome)>) -> Arc<OutcomeBatch> {
    let mut fences: Vec<_> = ended.iter().map(|(fence, ..)| *fence).collect();
    fences.sort_unstable();
    let told = |name: &str| Event { key: None, json: format!("\"{name}\"") };
    let outcomes = ended.into_iter().map(|(_, job, outcome)| Ended {
        verdicts: vec![told(&job.request_id)],
        kept: None,
        job: Arc::new(job),
        outcome,
    });
    Arc::new(OutcomeBatch { outcomes: outcomes.collect(), fences })
}

async fn seed_job(fixture: &Fixture) -> Job {
    let id = JobId::derive("sms", "seed");
    fixture.store.jobs_by_id(&[id], 1).await.expect("an answer").0.pop().expect("the job")
}

#[tokio::test(flavor = "multi_thread")]
async fn of_a_shard_that_was_lost_nothing_is_written_or_published() {
    for backend in Database::all() {
        let database = backend.fresh().await;
        let fixture = ground_on(&database).await;
        let ours = own(&fixture).await;
        let seed = batch(fixture.records(0), vec![job(&fixture, "seed")], vec![ours]);
        fixture.store.admit(&seed).await.expect("an answer");
        let lost = ShardFence { shard: fixture.app.shards[1], ..ours };
        let elsewhere = async |outcome: Outcome| {
            let other = Job { shard: lost.shard, ..seed_job(&fixture).await };
            (lost, Job { request_id: "lost".into(), ..other }, outcome)
        };
        let buried = || Outcome::Buried(Arc::new(fixture.letter(1)));
        let retry = Outcome::Retry { due_ms: 1, attempts: 1, error: None };
        for outcome in [Outcome::Succeeded, retry, buried()] {
            let batch = outcomes_of(vec![elsewhere(outcome).await]);
            let written = fixture.store.write_outcomes(&batch).await.expect("an answer");
            assert_eq!(written.lost, [lost.shard], "{backend:?}");
        }
        for table in ["scheduler_dead_letter", "scheduler_outbox"] {
            let rows = database.count(&format!("select count(*) from {table}")).await;
            assert_eq!(rows, 0, "{backend:?}: {table}");
        }
        // In addition to one that is ours, and of that one only the version that was fired.
        let seed = seed_job(&fixture).await;
        let younger = Job { created_ms: seed.created_ms + 1, ..seed.clone() };
        for (fired, left) in [(younger, 1), (seed, 0)] {
            let ended = vec![elsewhere(buried()).await, (ours, fired, Outcome::Succeeded)];
            let written = fixture.store.write_outcomes(&outcomes_of(ended)).await;
            assert_eq!(written.expect("an answer").lost, [lost.shard], "{backend:?}");
            let jobs = database.count("select count(*) from scheduler_job").await;
            assert_eq!(jobs, left, "{backend:?}");
        }
        let told = "select count(*) from scheduler_outbox where verdicts like '%lost%'";
        assert_eq!(database.count(told).await, 0, "{backend:?}");
        assert_eq!(
            database.count("select count(*) from scheduler_dead_letter").await,
            0,
            "{backend:?}"
        );
        fixture.store.close().await;
    }
}

/// The jobs and the word of them are one; it is read by the shard's owner, until it is removed.
#[tokio::test(flavor = "multi_thread")]
async fn the_owner_of_a_shard_learns_what_others_put_there() {
    for backend in Database::all() {
        let database = backend.fresh().await;
        let fixture = ground_on(&database).await;
        let fence = own(&fixture).await;
        let put = fixture.admit(fixture.records(0), fixture.job()).await;
        assert_eq!(put, Admitted::Done(vec![Decision::Accepted]), "{backend:?}");
        let looks = async |id| fixture.store.observe(id).await.expect("an observation").looks;
        let other = join(&fixture.store, LEASE).await;
        assert_eq!(looks(other).await, [], "{backend:?}: it is not its shard");
        let told = looks(fence.owner).await;
        let [look] = &told[..] else { panic!("{backend:?}: {told:?}") };
        let expected = (fence.shard, vec![JobId::derive("sms", "r")]);
        assert_eq!((look.shard, look.jobs.clone()), expected, "{backend:?}");
        assert_eq!(looks(fence.owner).await, told, "{backend:?}: as often as it looks");
        fixture.store.finish_commands(&[look.command]).await.expect("an answer");
        assert_eq!(looks(fence.owner).await, [], "{backend:?}");
        fixture.store.close().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_page_begins_behind_its_mark() {
    for backend in Database::all() {
        let database = backend.fresh().await;
        let fixture = ground_on(&database).await;
        let fence = own(&fixture).await;
        let mut ids: Vec<JobId> = Vec::new();
        for (offset, name) in (0..).zip(["a", "b", "c"]) {
            let entry = job(&fixture, name);
            let batch = batch(fixture.records(offset), vec![entry], vec![fence]);
            fixture.store.admit(&batch).await.expect("an answer");
            ids.push(JobId::derive("sms", name));
        }
        ids.sort_unstable();
        // All are due at 0: the mark is at the second of them.
        let after = (0, ids[1]);
        let list = ListRange { shard: fence.shard, priority: Priority::Normal, after, limit: 9 };
        let pages = fixture.store.pages(&[list], usize::MAX).await.expect("an answer").pages;
        let read: Vec<Vec<JobId>> =
            pages.iter().map(|page| page.iter().map(|job| job.id).collect()).collect();
        assert_eq!(read, [vec![ids[2]]], "{backend:?}");
        fixture.store.close().await;
    }
}

/// One whose row locks stop nobody: here there is no row behind the name.
#[tokio::test(flavor = "multi_thread")]
async fn a_server_whose_row_locks_stop_nobody_is_refused() {
    let database = Database::Postgres.fresh().await;
    let store = store(&database).await;
    store.probe_row_locks().await.expect("real locks");
    database.execute("alter table scheduler_schema_lease rename to no_lease").await;
    database.execute("create view scheduler_schema_lease as select 1 as id").await;
    let refusal = store.probe_row_locks().await.expect_err("no locks").to_string();
    assert!(refusal.contains("does not let a shared row lock prevent an update"), "{refusal}");
    store.close().await;
}
