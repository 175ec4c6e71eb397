//! Instances start and end while records are produced: nothing twice, nothing lost, fair shares.

pub(crate) mod fleet;

use std::time::Duration;

use crate::support::services::Database;
use crate::support::wait_until;
use fleet::{DEADLINE, Fleet, Flow, counter};

#[tokio::test(flavor = "multi_thread")]
async fn instances_join_and_leave_while_records_flow_on_mariadb() {
    instances_join_and_leave_while_records_flow(Database::MariaDb).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn instances_join_and_leave_while_records_flow_on_mysql() {
    instances_join_and_leave_while_records_flow(Database::MySql).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn instances_join_and_leave_while_records_flow_on_postgres() {
    instances_join_and_leave_while_records_flow(Database::Postgres).await;
}

async fn instances_join_and_leave_while_records_flow(database: Database) {
    let fleet = Fleet::new(database).await;
    let mut a = fleet.start("a").await;
    fleet.await_shares(&["a"], &[8]).await;
    let flow = Flow::begin("r", &fleet.world.topic);

    let mut b = fleet.start("b").await;
    fleet.await_shares(&["a", "b"], &[4, 4]).await;
    let mut c = fleet.start("c").await;
    fleet.await_shares(&["a", "b", "c"], &[2, 3, 3]).await;
    // All three are in the middle of firing when the next ones leave.
    b.await_fired(100).await;
    c.await_fired(100).await;
    b.leave().await;
    fleet.await_shares(&["a", "c"], &[4, 4]).await;
    a.leave().await;
    fleet.await_shares(&["c"], &[8]).await;

    let flow = flow.end().await;
    fleet.await_done(&[&flow]).await;
    c.leave().await;
    assert_eq!(fleet.shares().await.len(), 0, "everybody said goodbye");
    fleet.check_ledger(&[&flow]).await;
    fleet.check_fired_once(&[&a, &b, &c], &[&flow]).await;
}

/// What a job may be late that another instance has read: a heartbeat, and the
/// slowness of this machine. An audit would find it as well, but only after minutes.
const LATE_MS: i64 = 5_000;

#[tokio::test(flavor = "multi_thread")]
async fn records_read_by_an_instance_without_the_app_fire_elsewhere_on_mariadb() {
    records_read_by_an_instance_without_the_app_fire_elsewhere(Database::MariaDb).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn records_read_by_an_instance_without_the_app_fire_elsewhere_on_mysql() {
    records_read_by_an_instance_without_the_app_fire_elsewhere(Database::MySql).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn records_read_by_an_instance_without_the_app_fire_elsewhere_on_postgres() {
    records_read_by_an_instance_without_the_app_fire_elsewhere(Database::Postgres).await;
}

async fn records_read_by_an_instance_without_the_app_fire_elsewhere(database: Database) {
    let fleet = Fleet::new(database).await;
    let with = fleet.start("with").await;
    let without = fleet.start_without_sms("without").await;
    // Once it reads anything, the rebalance is over.
    let first = Flow::begin("first", &fleet.world.topic);
    wait_until(DEADLINE, "records read by both", async || {
        counter(&without, "messagesReceived").await > 0
            && counter(&with.instance, "messagesReceived").await > 0
    })
    .await;
    let first = first.end().await;
    fleet.await_done(&[&first]).await;

    let before = counter(&without, "messagesProcessed").await;
    let late = Flow::burst("late", &fleet.world.topic, 600, Duration::ZERO).await;
    let soon = Flow::burst("soon", &fleet.world.topic, 600, Duration::from_secs(3)).await;
    fleet.await_done(&[&first, &late, &soon]).await;
    let foreign = counter(&without, "messagesProcessed").await - before;
    assert!(foreign >= 100, "only {foreign} were read by the one without the app");

    let flows = [&first, &late, &soon];
    fleet.check_ledger(&flows).await;
    fleet.check_fired_once(&[&with], &flows).await;
    let latest = fleet
        .firings(&[&with], &flows)
        .await
        .iter()
        .filter(|(request, _)| !request.starts_with("first"))
        .map(|(_, firings)| firings[0].late_ms)
        .max();
    assert!(latest < Some(LATE_MS), "one fired {latest:?} ms late");
    wait_until(DEADLINE, "no command left", async || {
        fleet.number("select count(*) from scheduler_command").await == 0
    })
    .await;
}
