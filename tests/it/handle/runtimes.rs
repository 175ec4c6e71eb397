//! The library works on every runtime of the program.

use infinite_scheduler::AppConfig;

use super::{
    DEADLINE, DRAIN, accept, await_firings, await_no_jobs, builder, ms, of, recorder, request,
};
use crate::support::services::Database;
use crate::support::wait_for;

/// Starts, takes a job, fires it and stops, on whatever runtime this is.
async fn live_a_life() {
    let database = Database::Sqlite.fresh().await;
    let (handler, firings) = recorder(|_| async {
        tokio::time::sleep(ms(1)).await;
        Ok(())
    });
    let scheduler = builder(&database)
        .register_app(AppConfig::new("mail"), handler)
        .start()
        .await
        .expect("a start");
    accept(&scheduler, request("mail", "r")).await;
    await_firings(&firings, 1).await;
    scheduler.shutdown(DRAIN).await;
    assert_eq!(database.count("select count(*) from scheduler_job").await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn it_works_on_a_multi_thread_runtime() {
    live_a_life().await;
}

#[tokio::test(flavor = "current_thread")]
async fn it_works_on_a_current_thread_runtime() {
    live_a_life().await;
}

#[test]
fn it_works_in_a_system_of_actix() {
    actix_web::rt::System::new().block_on(live_a_life());
}

/// As a program would that has a runtime of its own for a while only.
#[test]
fn a_handle_outlives_the_runtime_that_it_was_made_on() {
    let runtime = || tokio::runtime::Runtime::new().expect("a runtime");
    let (handler, firings) = recorder(|_| async { Ok(()) });
    let (database, scheduler) = runtime().block_on(async {
        let database = Database::Sqlite.fresh().await;
        let builder = builder(&database).register_app(AppConfig::new("mail"), handler);
        let scheduler = builder.start().await.expect("a start");
        (database, scheduler)
    });
    runtime().block_on(async {
        accept(&scheduler, request("mail", "r")).await;
        let first = wait_for(DEADLINE, "a firing", async || of(&firings, "r").pop()).await;
        assert_eq!(first.attempt, 1);
        await_no_jobs(&database).await;
        scheduler.shutdown(DRAIN).await;
    });
}
