//! `max_concurrent` and `max_concurrent_per_key`.

use std::collections::{BTreeMap, BTreeSet};
use std::num::NonZeroU32;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use infinite_scheduler::{
    AppConfig, JobContext, Operations, OperationsOptions, Priority, ScheduleJobRequest, Scheduler,
    handler_fn,
};
use serde_json::{Value, json};
use tokio::sync::Semaphore;

use super::receiver::{Call, Receiver};
use super::{
    DEADLINE, PAST, await_heartbeats, await_owners, config, flood, overdue, schedule_all, start_all,
};
use crate::support::process::Instance;
use crate::support::services::Database;
use crate::support::world::LEASE;
use crate::support::{is_long, wait_until};

/// What runs, and all that has run, by concurrency key.
#[derive(Debug, Default)]
struct Runs {
    running: BTreeMap<String, usize>,
    most: BTreeMap<String, usize>,
    most_at_all: usize,
    order: Vec<String>,
}

type Shared = Arc<Mutex<Runs>>;

/// A handler that ends when the semaphore lets it.
async fn start(url: &str, app: AppConfig, runs: &Shared, gate: &Arc<Semaphore>) -> Scheduler {
    let (runs, gate) = (runs.clone(), gate.clone());
    let handler = handler_fn(move |context: JobContext, _: Value| {
        let (runs, gate) = (runs.clone(), gate.clone());
        async move {
            let key = context.job().concurrency_key.clone().unwrap_or_default();
            {
                let mut runs = runs.lock().expect("a lock");
                runs.order.push(context.job().request_id.clone());
                let now = runs.running.entry(key.clone()).or_default();
                *now += 1;
                let now = *now;
                let most = runs.most.entry(key.clone()).or_default();
                *most = now.max(*most);
                runs.most_at_all = runs.most_at_all.max(runs.running.values().sum());
            }
            gate.acquire().await.expect("a gate").forget();
            *runs.lock().expect("a lock").running.entry(key).or_default() -= 1;
            Ok(())
        }
    });
    let builder = Scheduler::builder().database_url(url).lease(LEASE);
    builder.register_app(app, handler).start().await.expect("a start")
}

fn keyed(id: &str, key: &str, priority: Priority) -> ScheduleJobRequest {
    let request = ScheduleJobRequest::builder("sms").request_id(id).at(PAST).priority(priority);
    request.concurrency_key(key).job_data(&json!({})).build().expect("a request")
}

fn running(runs: &Shared) -> usize {
    runs.lock().expect("a lock").running.values().sum()
}

fn done(runs: &Shared) -> usize {
    let runs = runs.lock().expect("a lock");
    runs.order.len() - runs.running.values().sum::<usize>()
}

#[tokio::test(flavor = "multi_thread")]
async fn jobs_of_one_key_run_one_at_a_time_and_others_go_on() {
    let database = Database::Postgres.fresh().await;
    let (runs, gate) = (Shared::default(), Arc::new(Semaphore::new(0)));
    let mut app = AppConfig::new("sms");
    app.window = NonZeroU32::new(64).expect("a number");
    let a = start(database.url(), app.clone(), &runs, &gate).await;
    let b = start(database.url(), app, &runs, &gate).await;
    await_owners(&database, 2).await;
    // Many more of one key than the window has room for, and a few of others behind them.
    let flood = (0..300).map(|n| keyed(&format!("flood-{n}"), "flood", Priority::Normal));
    schedule_all(&a, flood.collect()).await;
    let others =
        (0..20).map(|n| keyed(&format!("other-{n}"), &format!("{}", n % 4), Priority::Low));
    schedule_all(&b, others.collect()).await;
    wait_until(DEADLINE, "one of each key", async || running(&runs) == 5).await;
    schedule_all(&a, vec![keyed("high", "flood", Priority::High)]).await;
    schedule_all(&b, vec![overdue("sms", "without a key")]).await;
    wait_until(DEADLINE, "the one without a key", async || running(&runs) == 6).await;
    // What others have admitted for its owner is in memory after two.
    await_heartbeats(&database, 3).await;
    gate.add_permits(10_000);
    wait_until(DEADLINE, "every job to end", async || done(&runs) == 322).await;
    a.shutdown(DEADLINE).await;
    b.shutdown(DEADLINE).await;
    let runs = runs.lock().expect("a lock");
    assert!(runs.most.values().all(|most| *most == 1), "{:?}", runs.most);
    let all: BTreeSet<&String> = runs.order.iter().collect();
    assert_eq!(all.len(), 322, "once each");
    let high = runs.order.iter().position(|id| id == "high").expect("it ran");
    let before = runs.order[..high].iter().filter(|id| id.starts_with("flood")).count();
    assert!(before <= 3, "{before} of normal priority went before it");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_may_run_as_often_as_the_app_says() {
    let database = Database::Sqlite.fresh().await;
    let (runs, gate) = (Shared::default(), Arc::new(Semaphore::new(0)));
    let mut app = AppConfig::new("sms");
    app.max_concurrent_per_key = NonZeroU32::new(3).expect("a number");
    let scheduler = start(database.url(), app, &runs, &gate).await;
    let jobs = (0..20).map(|n| keyed(&format!("{n}"), "a", Priority::Normal));
    schedule_all(&scheduler, jobs.collect()).await;
    wait_until(DEADLINE, "three at a time", async || running(&runs) == 3).await;
    gate.add_permits(20);
    wait_until(DEADLINE, "every job to end", async || done(&runs) == 20).await;
    assert_eq!(runs.lock().expect("a lock").most["a"], 3);
    scheduler.shutdown(DEADLINE).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn no_more_run_at_a_time_than_the_app_says_on_mariadb() {
    no_more_run_at_a_time_than_the_app_says(Database::MariaDb).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn no_more_run_at_a_time_than_the_app_says_on_mysql() {
    no_more_run_at_a_time_than_the_app_says(Database::MySql).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn no_more_run_at_a_time_than_the_app_says_on_postgres() {
    no_more_run_at_a_time_than_the_app_says(Database::Postgres).await;
}

async fn no_more_run_at_a_time_than_the_app_says(database: Database) {
    let database = database.fresh().await;
    for (most, owners) in [(4, 2), (1, 1)] {
        let (runs, gate) = (Shared::default(), Arc::new(Semaphore::new(0)));
        let mut app = AppConfig::new("sms");
        app.max_concurrent = NonZeroU32::new(most);
        let a = start(database.url(), app.clone(), &runs, &gate).await;
        let jobs = (0..100).map(|n| overdue("sms", &format!("{most}-{n}")));
        schedule_all(&a, jobs.collect()).await;
        let all = most as usize;
        wait_until(DEADLINE, "as many as may", async || running(&runs) == all).await;
        // Another instance takes its part while they run.
        let b = start(database.url(), app, &runs, &gate).await;
        gate.add_permits(20);
        await_owners(&database, owners).await;
        wait_until(DEADLINE, "as many as may again", async || running(&runs) == all).await;
        gate.add_permits(1_000);
        wait_until(DEADLINE, "every job to end", async || done(&runs) == 100).await;
        assert_eq!(runs.lock().expect("a lock").most_at_all, all);
        a.shutdown(DEADLINE).await;
        b.shutdown(DEADLINE).await;
    }
}

/// The moments at which calls begin and end, with how many ran from then on.
pub(super) fn levels(calls: &[Call]) -> Vec<(Instant, usize)> {
    let began = calls.iter().map(|call| (call.began, true));
    let ended = calls.iter().filter_map(|call| Some((call.ended?, false)));
    let mut moments: Vec<(Instant, bool)> = began.chain(ended).collect();
    moments.sort_unstable();
    let mut running: usize = 0;
    let level = |(at, begins): (Instant, bool)| {
        running = if begins { running + 1 } else { running - 1 };
        (at, running)
    };
    moments.into_iter().map(level).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_permits_of_the_dead_come_back_and_never_twice() {
    const MOST: usize = 4;
    let takes = Duration::from_millis(if is_long() { 2_000 } else { 400 });
    let rounds = if is_long() { 18 } else { 3 };
    let database = Database::Postgres.fresh().await;
    let receiver = Receiver::start(takes).await;
    let limits = format!("max_concurrent = {MOST}\ntimeout_ms = 5000");
    let config = config(&database, &receiver.url(), &limits);
    let mut instances = start_all(&config, 3).await;
    await_owners(&database, 3).await;
    let operations = Operations::connect(OperationsOptions::new(database.url()).lease(LEASE));
    let operations = operations.await.expect("a database");
    flood(&operations, "first", 2_000).await;
    receiver.await_more(2 * MOST).await;
    for round in 0..rounds {
        let chosen = round % 3;
        if round % 2 == 0 {
            instances[chosen].kill();
            receiver.await_more(MOST).await;
            instances[chosen] = Instance::start(&config).await;
        } else {
            instances[chosen].stop();
            // Longer than its lease, in which the others make twice the calls.
            await_owners(&database, 2).await;
            receiver.await_more(4 * MOST).await;
            instances[chosen].cont();
        }
        await_owners(&database, 3).await;
        receiver.await_more(2 * MOST).await;
    }
    // Nobody dies.
    let quiet = Instant::now();
    receiver.await_more(if is_long() { 110 } else { 30 }).await;
    let now = Instant::now();
    let levels = levels(&receiver.calls());
    let most = levels.iter().map(|(_, running)| *running).max().expect("calls");
    assert!(most <= 2 * MOST, "{most} at a time");
    let spans = levels.windows(2).filter(|pair| pair[0].0 >= quiet);
    let mut full = Duration::ZERO;
    for pair in spans {
        assert!(pair[0].1 <= MOST, "{} at a time while nobody died", pair[0].1);
        if pair[0].1 == MOST {
            full += pair[1].0 - pair[0].0;
        }
    }
    let part = full.as_secs_f64() / (now - quiet).as_secs_f64();
    let least = if is_long() { 0.95 } else { 0.6 };
    assert!(part > least, "{part} of the time all permits were used");
}
