//! Requests by API whose admission is committed while its answer is lost.

use super::*;

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_answer_to_a_request_by_api_is_not_a_second_job_on_mariadb() {
    a_lost_answer_to_a_request_by_api(Database::MariaDb).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_answer_to_a_request_by_api_is_not_a_second_job_on_mysql() {
    a_lost_answer_to_a_request_by_api(Database::MySql).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_answer_to_a_request_by_api_is_not_a_second_job_on_postgres() {
    a_lost_answer_to_a_request_by_api(Database::Postgres).await;
}

async fn a_lost_answer_to_a_request_by_api(database: Database) {
    let world = World::new(database, 1).await;
    let proxy = Proxy::start(world.database.url()).await;
    let attempts = Attempts::default();
    let scheduler = Scheduler::builder()
        .database_url(proxy.url(world.database.url()))
        .lease(LEASE)
        .register_app(AppConfig::new("sms"), Obedient(attempts.clone()))
        .start()
        .await
        .expect("a start");
    // From here on every shard is owned and read.
    let answer = scheduler.schedule(api_request("succeed").build().expect("a request")).await;
    let mut names = BTreeSet::from([accepted(answer)]);
    for loss in 0..4 * LOSSES {
        wait_until(DEADLINE, "the job fired", async || succeeded(&scheduler) == names.len()).await;
        let marker = marker(loss);
        proxy.cut_after_commit(marker.as_bytes());
        let mut request = api_request(&format!("succeed {marker}"));
        if loss % 2 == 0 {
            request = request.request_id(format!("mine-{loss}"));
        }
        if loss % 4 < 2 {
            request = request.idempotency_key(format!("key-{loss}"));
        }
        let answer = scheduler.schedule(request.build().expect("a request")).await;
        assert_eq!(proxy.cuts(), loss + 1);
        names.insert(accepted(answer));
    }
    wait_until(DEADLINE, "every job fired", async || succeeded(&scheduler) >= names.len()).await;
    scheduler.shutdown(DEADLINE).await;

    let fired = attempts.all();
    assert_eq!(fired.keys().cloned().collect::<BTreeSet<_>>(), names);
    assert!(fired.values().all(|attempts| *attempts == 1), "fired again: {fired:?}");
    assert_eq!(world.database.count("select count(*) from scheduler_job").await, 0);
}

/// The owner of the shard fires before the other instance tries again: the job existed,
/// and is done.
#[tokio::test(flavor = "multi_thread")]
async fn a_lost_answer_to_a_request_whose_job_has_ended_is_not_a_second_job() {
    let world = World::new(Database::Postgres, 1).await;
    let proxy = Proxy::start(world.database.url()).await;
    let attempts = Attempts::default();
    let owner = Scheduler::builder()
        .database_url(world.database.url())
        .lease(LEASE)
        .register_app(AppConfig::new("sms"), Obedient(attempts.clone()))
        .start()
        .await
        .expect("a start");
    let asking = Scheduler::builder().database_url(proxy.url(world.database.url())).lease(LEASE);
    let asking = asking.start().await.expect("a start");

    proxy.cut_after_commit(marker(0).as_bytes());
    let request = api_request(&marker(0)).request_id("mine").build().expect("a request");
    let asked = tokio::spawn({
        let asking = asking.clone();
        async move { asking.schedule(request).await }
    });
    wait_until(DEADLINE, "the lost answer", async || proxy.cuts() == 1).await;
    proxy.set_unavailable(true);
    wait_until(DEADLINE, "the job done", async || succeeded(&owner) == 1).await;
    proxy.set_unavailable(false);
    assert_eq!(accepted(asked.await.expect("an answer")), "mine");
    // Another one, behind which the first cannot hide.
    let request = api_request("succeed").request_id("other").build().expect("a request");
    asking.schedule(request).await.expect("an answer");
    wait_until(DEADLINE, "the other job", async || attempts.of("other") == 1).await;
    asking.shutdown(DEADLINE).await;
    owner.shutdown(DEADLINE).await;
    assert_eq!(attempts.of("mine"), 1);
    assert_eq!(world.database.count("select count(*) from scheduler_job").await, 0);
}
