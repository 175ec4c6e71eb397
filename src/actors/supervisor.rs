//! Starts, restarts and stops all other actors.
//!
//! A child that ends without being asked is started again by its factory, after a wait that
//! doubles. Its state is in the database and in [`Instance`].

mod drain;

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use actix::prelude::*;

use super::app_scheduler::AppScheduler;
use super::child::{Child as _, Exit, Factory, Role, exit_of, launch, single};
use super::counters::AppMetrics;
#[cfg(feature = "failpoints")]
use super::failpoints::{Break, Fault};
use super::instance::Instance;
use super::messages::*;
use super::reader::PartitionReader;
use super::registry::{Key, Scope, notify_recipient};
use crate::kafka::PartitionQueue;
use crate::model::ids::AppId;

/// The wait before a child is restarted, doubling up to the second value. It is reset for a child
/// that ran for longer than the second value.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(10));

/// The parent of all actors.
pub(crate) struct Supervisor {
    instance: Arc<Instance>,
    children: HashMap<Role, Running>,
    generations: u64,
    restarts: u64,
    /// The counters in the last log line of each app.
    reported: HashMap<AppId, AppMetrics>,
}

/// A child that is running or waits for its restart.
struct Running {
    factory: Factory,
    /// Its entries in the registry.
    keys: Vec<Key>,
    report: Recipient<Report>,
    #[cfg(feature = "failpoints")]
    fault: Fault,
    /// Distinguishes the end of this actor from that of the one that it replaced.
    generation: u64,
    started_at: Instant,
    backoff: Duration,
    leaving: bool,
}

/// Watcher of a child → Supervisor: the child has ended.
#[derive(Debug, Message)]
#[rtype(result = "()")]
struct ChildEnded {
    role: Role,
    generation: u64,
    exit: Exit,
}

impl Supervisor {
    /// A supervisor of the actors that `instance` needs.
    pub(crate) fn new(instance: Arc<Instance>) -> Self {
        Self {
            instance,
            children: HashMap::new(),
            generations: 0,
            restarts: 0,
            reported: HashMap::new(),
        }
    }

    /// Starts a child, which is restarted after `backoff` if it ends by itself.
    fn start(&mut self, mut factory: Factory, backoff: Duration, ctx: &mut Context<Self>) {
        let launched = factory(&self.instance);
        self.generations += 1;
        let (role, generation) = (launched.role, self.generations);
        let child = Running {
            factory,
            keys: launched.keys,
            report: launched.report,
            #[cfg(feature = "failpoints")]
            fault: launched.fault,
            generation,
            started_at: Instant::now(),
            backoff,
            leaving: false,
        };
        self.children.insert(role.clone(), child);
        let watch = exit_of(launched.handle).into_actor(self).map(move |exit, _, ctx| {
            ctx.notify(ChildEnded { role, generation, exit });
        });
        ctx.spawn(watch);
    }

    fn report(&mut self, ctx: &mut Context<Self>) {
        ctx.run_later(self.instance.settings.metrics_interval, Self::report);
        let active = self.active_apps();
        for (role, child) in &self.children {
            if !matches!(role.scope, Scope::App(app) if !active.contains(&app)) {
                notify_recipient(&child.report, Report);
            }
        }
        let (apps, quiet) = (self.instance.apps.len(), self.instance.apps.len() - active.len());
        if quiet > 0 {
            let shards: usize =
                self.instance.apps.keys().map(|app| self.instance.owned.of(*app).len()).sum();
            tracing::info!(
                actor = "app-schedulers",
                apps,
                quiet,
                shards,
                "{quiet} of {apps} apps without activity since the last line"
            );
        }
        let now_ms = self.instance.clock.now_ms();
        let metrics = self.instance.counters.read(now_ms);
        tracing::info!(
            actor = "supervisor",
            children = self.children.len(),
            restarts = self.restarts,
            messagesReceived = metrics.messages_received,
            messagesProcessed = metrics.messages_processed,
            messagesFailed = metrics.messages_failed,
            messagesSentToDLQ = metrics.messages_sent_to_dlq,
            messagesDuplicate = metrics.messages_duplicate,
            messagesRetried = metrics.messages_retried,
            idempotencyCacheSize = metrics.idempotency_cache_size,
            "{} received, {} jobs, {} duplicates, {} failed",
            metrics.messages_received,
            metrics.messages_processed,
            metrics.messages_duplicate,
            metrics.messages_failed,
        );
    }

    /// The apps that have running attempts, or whose counters have changed since their last log
    /// line. The lines of the other apps are left out.
    fn active_apps(&mut self) -> HashSet<AppId> {
        let mut active = HashSet::new();
        for (id, app) in &self.instance.apps {
            let figures = app.figures.activity();
            let is_at_work = app.unwritten.load(Ordering::Relaxed) > 0;
            let before = self.reported.insert(*id, figures.clone()).unwrap_or_default();
            if is_at_work || before != figures {
                active.insert(*id);
            }
        }
        active
    }

    fn forget(&mut self, role: &Role) {
        if let Some(child) = self.children.remove(role) {
            self.instance.registry.remove(&child.keys);
        }
        if let Scope::Partition(partition) = &role.scope {
            self.instance.partitions.remove(partition);
        }
    }
}

/// The factories of the actors that an instance has from its start, in this order; readers are
/// started when partitions are assigned.
fn actors_of(instance: &Instance) -> Vec<Factory> {
    let mut all = vec![
        single(super::dedup::Dedup::new),
        single(super::retry_dlq::RetryDlq::new),
        single(super::outcomes::Outcomes::new),
    ];
    for app in instance.apps.values() {
        let app = app.clone();
        all.push(Box::new(move |instance| {
            launch(instance, AppScheduler::new(instance.clone(), app.clone()))
        }));
    }
    all.push(single(super::shard_keeper::ShardKeeper::new));
    all.push(single(super::janitor::Janitor::new));
    all
}

/// The factory of a partition's reader. The first reader gets this queue, a restarted one splits
/// its own.
fn reader_of(queue: PartitionQueue) -> Factory {
    let partition = queue.partition().clone();
    let mut queue = Some(queue);
    Box::new(move |instance| {
        let reader = PartitionReader::new(instance.clone(), partition.clone(), queue.take());
        launch(instance, reader)
    })
}

impl Actor for Supervisor {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Context<Self>) {
        for factory in actors_of(&self.instance) {
            self.start(factory, BACKOFF.0, ctx);
        }
        ctx.run_later(self.instance.settings.metrics_interval, Self::report);
    }
}

impl Handler<ChildEnded> for Supervisor {
    type Result = ();

    fn handle(&mut self, ended: ChildEnded, ctx: &mut Context<Self>) {
        let ChildEnded { role, generation, exit } = ended;
        let Some(child) = self.children.get_mut(&role) else { return };
        if child.generation != generation {
            return;
        }
        let exit = if child.leaving { Exit::Drained } else { exit };
        if child.started_at.elapsed() > BACKOFF.1 {
            child.backoff = BACKOFF.0;
        }
        let wait = child.backoff;
        child.backoff = (wait * 2).min(BACKOFF.1);
        match exit {
            Exit::Panicked(why) => tracing::error!(actor = %role, "{role} panicked: {why}"),
            Exit::Failed(why) => tracing::error!(actor = %role, "{role} failed: {why}"),
            Exit::Drained => return self.forget(&role),
        }
        self.restarts += 1;
        ctx.run_later(wait, move |supervisor, ctx| {
            let still = supervisor.children.get(&role);
            if still.is_some_and(|child| child.generation == generation && !child.leaving)
                && let Some(ended) = supervisor.children.remove(&role)
            {
                supervisor.start(ended.factory, ended.backoff, ctx);
            }
        });
    }
}

impl Handler<PartitionsAssigned> for Supervisor {
    type Result = ();

    fn handle(&mut self, assigned: PartitionsAssigned, ctx: &mut Context<Self>) {
        for queue in assigned.queues {
            let partition = queue.partition().clone();
            tracing::info!(%partition, "{partition} is assigned to this instance");
            self.start(reader_of(queue), BACKOFF.0, ctx);
        }
    }
}

impl Handler<PartitionsRevoked> for Supervisor {
    type Result = ();

    fn handle(&mut self, revoked: PartitionsRevoked, ctx: &mut Context<Self>) {
        let mut stopping = Vec::new();
        for partition in revoked.partitions {
            tracing::info!(%partition, "{partition} is not ours any more");
            let registry = &self.instance.registry;
            let is_alive = registry.is_alive::<StopReading>(partition.clone());
            let stopped = registry.ask(partition.clone(), StopReading);
            let role = Role { kind: PartitionReader::KIND, scope: partition.clone().into() };
            if let Some(child) = self.children.get_mut(&role) {
                child.leaving = true;
                // A reader that panicked and waits for its restart cannot reply, so it is removed
                // here.
                if !is_alive {
                    self.forget(&role);
                }
            }
            stopping.push(async move { Some((partition, stopped.await.flatten()?)) });
        }
        let reply = revoked.reply;
        let gone = futures::future::join_all(stopping).into_actor(self).map(move |ends, _, _| {
            // Fails if the poll thread has stopped waiting.
            drop(reply.try_send(ends.into_iter().flatten().collect()));
        });
        ctx.spawn(gone);
    }
}

impl Handler<Drain> for Supervisor {
    type Result = ResponseFuture<()>;

    /// Stops the ingest first, then waits for the attempts and their outcomes, and releases the
    /// shards last.
    fn handle(&mut self, drain: Drain, _: &mut Context<Self>) -> Self::Result {
        self.instance.draining.store(true, Ordering::Release);
        self.instance.health.set_started(false);
        Box::pin(drain::drain_all(self.instance.clone(), drain.deadline))
    }
}

#[cfg(feature = "failpoints")]
impl Handler<Break> for Supervisor {
    type Result = usize;

    fn handle(&mut self, which: Break, _: &mut Context<Self>) -> usize {
        let all = self.children.iter();
        let chosen = all.filter(|(role, _)| role.to_string().starts_with(&which.0));
        chosen.map(|(_, child)| child.fault.inject()).count()
    }
}
