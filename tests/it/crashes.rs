//! Instances are killed and suspended under load: their work is taken over in time, exactly once by
//! the ledger, and their late writes change nothing.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use sea_orm::DatabaseTransaction;

use crate::instances::fleet::{DEADLINE, Firing, Fleet, Flow, Member, Shard, UNSETTLED, now_ms};
use crate::support::proxy::Proxy;
use crate::support::services::Database;
use crate::support::wait_until;
use crate::support::world::LEASE;

/// From the death of an instance until all its shards are another instance's: a lease by the
/// database's clock, some heartbeats, and the slowness of this machine.
const TAKEOVER: Duration = Duration::from_secs(LEASE.as_secs() + 7);

/// Members by their place in what is given to [`Fleet::firings`].
const A: usize = 0;
const B: usize = 1;

#[tokio::test(flavor = "multi_thread")]
async fn what_a_killed_instance_had_is_done_by_the_other_on_mariadb() {
    what_a_killed_instance_had_is_done_by_the_other(Database::MariaDb).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_killed_instance_had_is_done_by_the_other_on_mysql() {
    what_a_killed_instance_had_is_done_by_the_other(Database::MySql).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_killed_instance_had_is_done_by_the_other_on_postgres() {
    what_a_killed_instance_had_is_done_by_the_other(Database::Postgres).await;
}

async fn what_a_killed_instance_had_is_done_by_the_other(database: Database) {
    let (fleet, mut a, mut b) = two_instances(database).await;
    let before = fleet.shards().await;
    let flow = Flow::begin("r", &fleet.world.topic);
    both_read_and_fire(&a, &b).await;
    let ([soon, late], writes) = in_the_middle_of_everything(&fleet, &a).await;
    a.instance.kill();
    let (killed, killed_ms) = (Instant::now(), now_ms());
    writes.rollback().await.expect("a rollback");

    await_takeover(&fleet, killed).await;
    check_taken(&before, &fleet.shards().await);
    let flow = flow.end().await;
    let flows = [&flow, &soon, &late];
    fleet.await_done(&flows).await;
    b.leave().await;
    fleet.check_ledger(&flows).await;
    let firings = fleet.firings(&[&a, &b], &flows).await;
    let doubled = check_doubled(&firings, killed_ms);
    assert!(doubled > 0, "what was fired and not written fires again");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_suspended_instance_loses_its_shards_and_wakes_up_harmless_on_mariadb() {
    a_suspended_instance_loses_its_shards_and_wakes_up_harmless(Database::MariaDb).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_suspended_instance_loses_its_shards_and_wakes_up_harmless_on_mysql() {
    a_suspended_instance_loses_its_shards_and_wakes_up_harmless(Database::MySql).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_suspended_instance_loses_its_shards_and_wakes_up_harmless_on_postgres() {
    a_suspended_instance_loses_its_shards_and_wakes_up_harmless(Database::Postgres).await;
}

async fn a_suspended_instance_loses_its_shards_and_wakes_up_harmless(database: Database) {
    let (fleet, mut a, mut b) = two_instances(database).await;
    let (before, former) = (fleet.shards().await, fleet.id_of("a").await);
    let flow = Flow::begin("r", &fleet.world.topic);
    both_read_and_fire(&a, &b).await;
    let ([soon, late], writes) = in_the_middle_of_everything(&fleet, &a).await;
    a.instance.stop();
    // Its threads stop within moments.
    let (stopped, stopped_ms) = (Instant::now(), now_ms() + 200);
    writes.rollback().await.expect("a rollback");

    await_takeover(&fleet, stopped).await;
    let taken = fleet.shards().await;
    check_taken(&before, &taken);
    // Longer than Kafka's session, too: all that it read is read by the other.
    let flow = flow.end().await;
    fleet.await_done(&[&flow, &soon, &late]).await;
    assert_eq!(fleet.shards().await, taken, "nobody but the taker has had them since");

    // Both work again when it wakes up, with all that it had still in its memory.
    let again = Flow::begin("again", &fleet.world.topic);
    a.instance.cont();
    await_return(&fleet, &taken, former).await;
    let again = again.end().await;
    let flows = [&flow, &soon, &late, &again];
    fleet.await_done(&flows).await;
    a.leave().await;
    b.leave().await;
    fleet.check_ledger(&flows).await;
    let firings = fleet.firings(&[&a, &b], &flows).await;
    let doubled = check_doubled(&firings, stopped_ms);
    assert!(doubled > 0, "what was fired and not written fires again");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_suspended_transaction_delays_no_takeover_on_mariadb() {
    a_suspended_transaction_delays_no_takeover(Database::MariaDb).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_suspended_transaction_delays_no_takeover_on_mysql() {
    a_suspended_transaction_delays_no_takeover(Database::MySql).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_suspended_transaction_delays_no_takeover_on_postgres() {
    a_suspended_transaction_delays_no_takeover(Database::Postgres).await;
}

async fn a_suspended_transaction_delays_no_takeover(database: Database) {
    let fleet = Fleet::new(database).await;
    let url = fleet.world.database.url();
    let proxy = Proxy::start(url).await;
    let mut a = fleet.start_on("a", &proxy.url(url)).await;
    let mut b = fleet.start("b").await;
    fleet.await_shares(&["a", "b"], &[4, 4]).await;
    let warm = Flow::begin("warm", &fleet.world.topic);
    both_read_and_fire(&a, &b).await;
    let warm = warm.end().await;
    fleet.await_done(&[&warm]).await;
    let (before, former) = (fleet.shards().await, fleet.id_of("a").await);

    // Of its first batch with these, the jobs are inserted, and the commit does not follow. The
    // dead letters make it a transaction of several statements everywhere.
    proxy.hold_after(b"held-");
    let held = Flow::half_poison("held", &fleet.world.topic, 120, Duration::from_secs(5)).await;
    wait_until(DEADLINE, "a transaction that is held", async || proxy.holds() == 1).await;
    a.instance.stop();
    let stopped = Instant::now();
    if database == Database::Postgres {
        // What is held there is the end of that statement; the process sends no more.
        proxy.release();
    }
    wait_until(TAKEOVER, "an open transaction of the suspended instance", async || {
        fleet.number(idle_transactions(database)).await > 0
    })
    .await;

    await_takeover(&fleet, stopped).await;
    let taken = fleet.shards().await;
    check_taken(&before, &taken);
    assert_eq!(fleet.number(idle_transactions(database)).await, 0, "the server has ended it");
    let flows = [&warm, &held];
    fleet.await_done(&flows).await;

    a.instance.cont();
    proxy.release();
    await_return(&fleet, &taken, former).await;
    a.leave().await;
    b.leave().await;
    fleet.check_ledger(&flows).await;
    fleet.check_fired_once(&[&a, &b], &flows).await;
}

/// Transactions that another client leaves open for a while.
fn idle_transactions(database: Database) -> &'static str {
    match database {
        Database::Postgres => {
            "select count(*) from pg_stat_activity where datname = current_database() \
             and state = 'idle in transaction' and state_change < now() - interval '400 ms'"
        }
        // It knows the time in whole seconds only.
        Database::MySql => {
            "select count(*) from information_schema.innodb_trx t \
             join performance_schema.threads p on p.processlist_id = t.trx_mysql_thread_id \
             where p.processlist_db = database() and p.processlist_command = 'Sleep' \
             and p.processlist_time > 0"
        }
        _ => {
            "select count(*) from information_schema.innodb_trx t \
             join information_schema.processlist p on p.id = t.trx_mysql_thread_id \
             where p.db = database() and p.command = 'Sleep' and p.time_ms > 400"
        }
    }
}

async fn two_instances(database: Database) -> (Fleet, Member, Member) {
    let fleet = Fleet::new(database).await;
    let a = fleet.start("a").await;
    let b = fleet.start("b").await;
    fleet.await_shares(&["a", "b"], &[4, 4]).await;
    (fleet, a, b)
}

/// An instance fires what it has read, so both have partitions then.
async fn both_read_and_fire(a: &Member, b: &Member) {
    a.await_fired(300).await;
    b.await_fired(300).await;
}

/// Brings `a` to where batches are being written, jobs have been fired, and nothing of it is
/// committed. Gives the records that were produced for that, and what holds up the writes.
async fn in_the_middle_of_everything(
    fleet: &Fleet,
    a: &Member,
) -> ([Flow; 2], DatabaseTransaction) {
    let topic = &fleet.world.topic;
    let soon = Flow::burst("soon", topic, 1_000, Duration::from_secs(5)).await;
    wait_until(DEADLINE, "jobs that are due soon", async || {
        let kept = "select count(*) from scheduler_job where request_id like 'soon-%'";
        fleet.number(kept).await as usize == soon.jobs().count()
    })
    .await;
    let writes = fleet.hold_writes_of("a").await;
    let late = Flow::burst("late", topic, 3_000, Duration::ZERO).await;
    a.await_unwritten(50).await;
    assert!(fleet.lag().await > 0, "batches are under way");
    ([soon, late], writes)
}

/// Waits until `b` has every shard, and fails if that took too long.
async fn await_takeover(fleet: &Fleet, since: Instant) {
    fleet.await_shares(&["b"], &[8]).await;
    let took = since.elapsed();
    assert!(took <= TAKEOVER, "the takeover took {took:?}, more than {TAKEOVER:?}");
}

/// All are of `b`, and those that it took have a later epoch.
fn check_taken(before: &BTreeMap<i32, Shard>, taken: &BTreeMap<i32, Shard>) {
    assert!(before.keys().eq(taken.keys()));
    for (id, shard) in taken {
        assert_eq!(shard.owner.as_deref(), Some("b"), "shard {id}");
        check_epoch(*id, &before[id], shard);
    }
}

/// It is the same, or later if the shard has another owner.
fn check_epoch(id: i32, before: &Shard, after: &Shard) {
    match before.owner == after.owner {
        true => assert_eq!(before.epoch, after.epoch, "shard {id}"),
        false => assert!(before.epoch < after.epoch, "shard {id}: {before:?}, {after:?}"),
    }
}

/// Waits until `a` has its share again, as a new instance that took it in the usual way.
async fn await_return(fleet: &Fleet, taken: &BTreeMap<i32, Shard>, former: i64) {
    fleet.await_shares(&["a", "b"], &[4, 4]).await;
    assert_ne!(fleet.id_of("a").await, former, "it came back as a new instance");
    let dead = format!("select count(*) from scheduler_instance where id = {former} and dead");
    assert_eq!(fleet.number(&dead).await, 1, "its former self is dead");
    for (id, shard) in fleet.shards().await {
        check_epoch(id, &taken[&id], &shard);
    }
}

/// What fired twice was started by `a` before `until_ms` and not written down: no more than
/// may be in flight, and under a higher fence the second time. Gives their number.
fn check_doubled(firings: &BTreeMap<String, Vec<Firing>>, until_ms: i64) -> usize {
    let doubled = firings.iter().filter(|(_, firings)| firings.len() > 1);
    let mut count = 0;
    for (request, firings) in doubled {
        let [first, second] = &firings[..] else { panic!("{request}: {firings:?}") };
        assert_eq!((first.by, second.by), (A, B), "{request}: {firings:?}");
        assert!(first.at_ms <= until_ms, "{request} fired too late: {firings:?}");
        assert!(second.fence > first.fence, "{request}: {firings:?}");
        count += 1;
    }
    assert!(count <= UNSETTLED, "{count} fired again, more than were in flight");
    count
}
