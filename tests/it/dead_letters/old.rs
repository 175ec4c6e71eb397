//! Old dead letters are deleted, unless something still needs them.

use super::*;

#[tokio::test(flavor = "multi_thread")]
async fn old_letters_are_deleted_and_those_that_are_needed_stay_on_sqlite() {
    old_letters_are_deleted_and_those_that_are_needed_stay(Database::Sqlite).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn old_letters_are_deleted_and_those_that_are_needed_stay_on_mariadb() {
    old_letters_are_deleted_and_those_that_are_needed_stay(Database::MariaDb).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn old_letters_are_deleted_and_those_that_are_needed_stay_on_mysql() {
    old_letters_are_deleted_and_those_that_are_needed_stay(Database::MySql).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn old_letters_are_deleted_and_those_that_are_needed_stay_on_postgres() {
    old_letters_are_deleted_and_those_that_are_needed_stay(Database::Postgres).await;
}

async fn old_letters_are_deleted_and_those_that_are_needed_stay(database: Database) {
    let post = Post::delivered(database).await;
    let store = post.store().await;
    let all = post.count().await;
    let now_ms = post.now_ms();
    let sweep = async |keep_ms: i64| {
        let (mut after, mut gone): (Option<LetterCursor>, _) = (None, 0);
        loop {
            let step = store.expire_letters(after, now_ms - keep_ms, false).await;
            let (some, next) = step.expect("a step");
            gone += some;
            after = next;
            if after.is_none() {
                return gone;
            }
        }
    };
    assert_eq!(sweep(DAY_MS).await, 0, "all are young");
    let old = format!("created_ms = {0}, changed_ms = {0}", now_ms - 2 * DAY_MS);
    post.set_all(&old).await;
    let ids: Vec<String> = futures::future::join_all(
        ["bulk-0003", "bulk-0004", "bulk-0005", "bulk-0006", "bulk-0007"].map(|v| post.id_of(v)),
    )
    .await;
    let [parked, outbox, touched, unaware, live] = &ids[..] else { unreachable!("five") };
    post.set(parked, "state = 1").await;
    let row = format!(
        "insert into scheduler_outbox (ordering_key, letter) values (1, {})",
        post.literal(outbox)
    );
    post.world.database.execute(&row).await;
    post.set(touched, &format!("state = 3, changed_ms = {}", now_ms - DAY_MS / 2)).await;
    // A version that knows no states leaves none of this, so its letter's age is all there is.
    post.set(unaware, &format!("created_ms = {}, changed_ms = 0", now_ms - DAY_MS / 2)).await;
    post.becomes_a_job(live).await;

    assert_eq!(sweep(3 * DAY_MS).await, 0, "they are kept that long");
    assert_eq!(sweep(DAY_MS).await, all as u64 - 5);
    let mut left: Vec<String> = post
        .list(&["--state", "all"])
        .await
        .iter()
        .map(|letter| letter["id"].as_str().expect("an id").to_owned())
        .collect();
    left.sort();
    let mut meant = ids.clone();
    meant.sort();
    assert_eq!(left, meant);
    // What never came by Kafka does not wait for it where there is none.
    let without_kafka = async || store.expire_letters(None, now_ms - DAY_MS, true).await;
    assert_eq!(without_kafka().await.expect("a step"), (0, None), "a record's letter stays");
    post.set(outbox, "ledger = null").await;
    assert_eq!(without_kafka().await.expect("a step"), (1, None));
    assert_eq!(post.world.database.count("select count(*) from scheduler_outbox").await, 0);
    store.close().await;
    a_running_scheduler_sweeps_by_itself(&post, touched).await;
}

async fn a_running_scheduler_sweeps_by_itself(post: &Post, touched: &str) {
    let quick = post.world.builder().keep_dead_letters(Duration::from_secs(6 * 3600));
    let scheduler = quick.start().await.expect("a start");
    let count =
        format!("select count(*) from scheduler_dead_letter where id = {}", post.literal(touched));
    wait_until(DEADLINE, "the old letter to go", async || {
        post.world.database.count(&count).await == 0
    })
    .await;
    scheduler.shutdown(Duration::from_secs(10)).await;
    assert!(post.count().await >= 2, "the parked one and that of the live job stay");
}
