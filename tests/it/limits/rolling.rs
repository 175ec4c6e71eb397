//! A rolling restart under load: each job once, and within the limits.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use infinite_scheduler::{Operations, OperationsOptions};

use super::concurrency::levels;
use super::rate::check_bound;
use super::receiver::Receiver;
use super::{DEADLINE, await_owners, config, flood, start_all};
use crate::support::process::Instance;
use crate::support::services::Database;
use crate::support::world::LEASE;
use crate::support::{is_long, wait_until};

const MOST: usize = 4;
const RATE: f64 = 50.0;

#[tokio::test(flavor = "multi_thread")]
async fn a_rolling_restart_under_load_keeps_the_limits_and_runs_each_job_once() {
    let (rounds, jobs) = if is_long() { (5, 6_000) } else { (1, 900) };
    let database = Database::Postgres.fresh().await;
    let receiver = Receiver::start(Duration::from_millis(40)).await;
    let limits = format!("max_concurrent = {MOST}\nrate_per_second = {RATE}\nburst = 10");
    let config = config(&database, &receiver.url(), &limits);
    let mut instances = start_all(&config, 3).await;
    await_owners(&database, 3).await;
    let operations = Operations::connect(OperationsOptions::new(database.url()).lease(LEASE));
    let operations = operations.await.expect("a database");
    flood(&operations, "due", jobs).await;
    receiver.await_more(MOST).await;
    for chosen in (0..3 * rounds).map(|n| n % 3) {
        let status = instances[chosen].terminate(DEADLINE).await;
        assert!(status.success(), "{status}");
        receiver.await_more(2 * MOST).await;
        instances[chosen] = Instance::start(&config).await;
        await_owners(&database, 3).await;
        receiver.await_more(2 * MOST).await;
    }
    assert!(receiver.count() < jobs, "the load was over before the restarts were");
    let done = "select count(*) from scheduler_job_history where state = 1";
    wait_until(DEADLINE, "every job to end", async || database.count(done).await == jobs as i64)
        .await;
    operations.close().await;

    let calls = receiver.calls();
    let called: BTreeSet<&String> = calls.iter().map(|call| &call.job).collect();
    assert_eq!((called.len(), calls.len()), (jobs, jobs), "each job once");
    let most = levels(&calls).into_iter().map(|(_, running)| running).max().expect("calls");
    assert!(most <= MOST, "{most} at a time");
    let starts: Vec<Instant> = calls.iter().map(|call| call.began).collect();
    check_bound(&starts, RATE, 10.0);
    assert_eq!(database.count("select count(*) from scheduler_dead_letter").await, 0);
}
