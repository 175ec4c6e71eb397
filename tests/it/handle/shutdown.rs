//! Shutdown: running attempts may end, or are cancelled.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use infinite_scheduler::{AppConfig, JobError, OperationError};
use tokio::sync::Semaphore;

use super::{
    DEADLINE, DRAIN, accept, await_firings, await_no_jobs, builder, ms, now, of, recorder, request,
};
use crate::support::services::Database;
use crate::support::wait_until;

#[tokio::test(flavor = "multi_thread")]
async fn shutdown_waits_for_what_runs() {
    let database = Database::Sqlite.fresh().await;
    let gate = Arc::new(Semaphore::new(0));
    let ended = Arc::new(AtomicBool::new(false));
    let (of_handler, ends) = (gate.clone(), ended.clone());
    let (handler, firings) = recorder(move |ctx| {
        let (gate, ended) = (of_handler.clone(), ends.clone());
        async move {
            gate.acquire().await.map_err(JobError::retry)?.forget();
            // It has the time that was promised: it is not asked to stop meanwhile.
            ended.store(!ctx.cancelled().is_cancelled(), Ordering::SeqCst);
            Ok(())
        }
    });
    let scheduler = builder(&database)
        .register_app(AppConfig::new("mail"), handler)
        .start()
        .await
        .expect("a start");
    accept(&scheduler, request("mail", "slow")).await;
    await_firings(&firings, 1).await;
    let leaving = scheduler.clone();
    let shutdown = tokio::spawn(async move { leaving.shutdown(DEADLINE).await });
    wait_until(DEADLINE, "the shutdown to begin", async || !scheduler.is_running()).await;
    let refused = scheduler.schedule(request("mail", "late")).await;
    assert!(matches!(refused, Err(OperationError::ShutDown)), "{refused:?}");
    assert!(!shutdown.is_finished() && !ended.load(Ordering::SeqCst));
    gate.add_permits(1);
    shutdown.await.expect("a shutdown");
    assert!(ended.load(Ordering::SeqCst));
    assert_eq!(
        database.count("select count(*) from scheduler_job").await,
        0,
        "its outcome was written"
    );
}

/// The one handler looks at its token, the other never does: both jobs fire again, and
/// neither attempt counts.
#[tokio::test(flavor = "multi_thread")]
async fn shutdown_cancels_what_does_not_end_and_its_job_fires_again() {
    let database = Database::Sqlite.fresh().await;
    let told = Arc::new(AtomicUsize::new(0));
    let tells = told.clone();
    let (handler, firings) = recorder(move |ctx| {
        let told = tells.clone();
        async move {
            if ctx.job().request_id == "polite" {
                ctx.cancelled().cancelled().await;
                told.fetch_add(1, Ordering::SeqCst);
                return Err(JobError::Snooze(now()));
            }
            std::future::pending().await
        }
    });
    let scheduler = builder(&database)
        .register_app(AppConfig::new("mail"), handler)
        .start()
        .await
        .expect("a start");
    for id in ["polite", "deaf"] {
        accept(&scheduler, request("mail", id)).await;
    }
    await_firings(&firings, 2).await;
    tokio::time::timeout(DEADLINE, scheduler.shutdown(ms(300))).await.expect("an end");
    assert_eq!(told.load(Ordering::SeqCst), 1);
    assert_eq!(database.count("select count(*) from scheduler_job where attempts = 0").await, 2);

    let (handler, again) = recorder(|_| async { Ok(()) });
    let scheduler = builder(&database)
        .register_app(AppConfig::new("mail"), handler)
        .start()
        .await
        .expect("a second start");
    await_no_jobs(&database).await;
    scheduler.shutdown(DRAIN).await;
    for id in ["polite", "deaf"] {
        let (before, after) = (of(&firings, id), of(&again, id));
        assert_eq!((before.len(), after.len()), (1, 1), "{id}");
        assert_eq!(after[0].attempt, 1, "{id}: a cancelled attempt does not count");
        assert!(after[0].fence > before[0].fence, "{id}");
    }
}
