//! Starts, replaces and stops the actors; nobody else does.
//!
//! A child that ends without being asked is replaced by a fresh one from its factory,
//! after a wait that doubles. What it knew is in the database and in [`Instance`].

use std::collections::{HashMap, HashSet};
use std::sync::atomic::Ordering;
use std::sync::mpsc::sync_channel;
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use actix::prelude::*;

use super::app_scheduler::AppScheduler;
use super::counters::AppMetrics;
use super::dedup::Dedup;
use super::directory::{Address, Role, hint};
use super::instance::Instance;
use super::janitor::Janitor;
use super::messages::*;
use super::outcomes::Outcomes;
use super::reader::PartitionReader;
use super::retry_dlq::RetryDlq;
use super::shard_keeper::ShardKeeper;
use super::watch::{exit_of, launch};
use crate::kafka::{Assignments, PartitionQueue, TopicPartition};
use crate::model::ids::AppId;

/// The wait before a child is replaced, doubling up to the second; a child that lived
/// longer than that begins at the first again.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(10));
/// How long the poll thread waits for readers to stop. Longer, and the broker would throw
/// us out of the group; the ledger fences a reader that is slower.
const REVOKE_PATIENCE: Duration = Duration::from_secs(5);
/// How often a wait for the end looks.
const LOOK: Duration = Duration::from_millis(10);
/// What leaving the group may take: at least, and at most.
const INTAKE_PATIENCE: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(10));
/// What writing the last outcomes may take after the handlers have ended.
const WRITE_PATIENCE: Duration = Duration::from_secs(10);
/// What the last records of the outbox may take to a broker.
const FLUSH_PATIENCE: Duration = Duration::from_millis(500);

/// The parent of all actors.
#[derive(Debug)]
pub(crate) struct Supervisor {
    instance: Arc<Instance>,
    children: HashMap<Role, Child>,
    generations: u64,
    restarts: u64,
    /// What the last lines of the apps said.
    reported: HashMap<AppId, AppMetrics>,
}

#[derive(Debug)]
struct Child {
    /// Tells an end from that of a predecessor.
    generation: u64,
    born: Instant,
    backoff: Duration,
    leaving: bool,
}

/// Child's watcher → Supervisor.
#[derive(Debug, Message)]
#[rtype(result = "()")]
struct ChildEnded {
    role: Role,
    generation: u64,
    exit: Exit,
}

impl Supervisor {
    /// A supervisor of the actors that `instance` calls for.
    pub(crate) fn new(instance: Arc<Instance>) -> Self {
        Self {
            instance,
            children: HashMap::new(),
            generations: 0,
            restarts: 0,
            reported: HashMap::new(),
        }
    }

    fn start(&mut self, role: Role, queue: Option<PartitionQueue>, ctx: &mut Context<Self>) {
        let instance = self.instance.clone();
        let (address, handle) = match &role {
            Role::Dedup => wrap(launch(Dedup::new(instance)), Address::Dedup),
            Role::RetryDlq => wrap(launch(RetryDlq::new(instance)), Address::RetryDlq),
            Role::Outcomes => wrap(launch(Outcomes::new(instance)), Address::Outcomes),
            Role::ShardKeeper => wrap(launch(ShardKeeper::new(instance)), Address::ShardKeeper),
            Role::Janitor => wrap(launch(Janitor::new(instance)), Address::Janitor),
            Role::App(id) => {
                let Some(app) = instance.apps.get(id).cloned() else { return };
                wrap(launch(AppScheduler::new(instance, app)), Address::App)
            }
            Role::Reader(partition) => {
                let reader = PartitionReader::new(instance, partition.clone(), queue);
                wrap(launch(reader), Address::Reader)
            }
        };
        // Published before the actor does anything: nothing it causes can miss it.
        self.instance.directory.publish(role.clone(), address);
        self.generations += 1;
        let generation = self.generations;
        let backoff = self.children.get(&role).map_or(BACKOFF.0, |before| before.backoff);
        let child = Child { generation, born: Instant::now(), backoff, leaving: false };
        self.children.insert(role.clone(), child);
        let watch = exit_of(handle).into_actor(self).map(move |exit, _, ctx| {
            ctx.notify(ChildEnded { role, generation, exit });
        });
        ctx.spawn(watch);
    }

    fn roles(&self) -> Vec<Role> {
        let fixed = [Role::Dedup, Role::RetryDlq, Role::Outcomes];
        let apps = self.instance.apps.keys().map(|app| Role::App(*app));
        fixed.into_iter().chain(apps).chain([Role::ShardKeeper, Role::Janitor]).collect()
    }

    fn report(&mut self, ctx: &mut Context<Self>) {
        ctx.run_later(self.instance.settings.metrics_interval, Self::report);
        let active = self.active_apps();
        for (role, address) in self.instance.directory.all() {
            if !matches!(role, Role::App(app) if !active.contains(&app)) {
                address.report();
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
        let metrics = self.instance.counters.read();
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

    /// Those with something new to tell, or at work. A line of each of the others would say
    /// the same as the one before.
    fn active_apps(&mut self) -> HashSet<AppId> {
        let mut active = HashSet::new();
        for (id, app) in &self.instance.apps {
            let figures = app.figures.read();
            let is_at_work = app.unsettled.load(Ordering::Relaxed) > 0;
            let before = self.reported.insert(*id, figures.clone()).unwrap_or_default();
            if is_at_work || before != figures {
                active.insert(*id);
            }
        }
        active
    }

    fn forget(&mut self, role: &Role) {
        self.children.remove(role);
        self.instance.directory.remove(role);
        if let Role::Reader(partition) = role {
            self.instance.partitions.remove(partition);
        }
    }
}

fn wrap<A: Actor>(
    (address, handle): (Addr<A>, actix_rt::task::JoinHandle<()>),
    kind: fn(Addr<A>) -> Address,
) -> (Address, actix_rt::task::JoinHandle<()>) {
    (kind(address), handle)
}

impl Address {
    fn report(self) {
        match self {
            Self::Dedup(address) => hint(Some(address), Report),
            Self::RetryDlq(address) => hint(Some(address), Report),
            Self::Outcomes(address) => hint(Some(address), Report),
            Self::ShardKeeper(address) => hint(Some(address), Report),
            Self::Janitor(address) => hint(Some(address), Report),
            Self::App(address) => hint(Some(address), Report),
            Self::Reader(address) => hint(Some(address), Report),
        }
    }

    fn fault(self) {
        match self {
            Self::Dedup(address) => hint(Some(address), Fault),
            Self::RetryDlq(address) => hint(Some(address), Fault),
            Self::Outcomes(address) => hint(Some(address), Fault),
            Self::ShardKeeper(address) => hint(Some(address), Fault),
            Self::Janitor(address) => hint(Some(address), Fault),
            Self::App(address) => hint(Some(address), Fault),
            Self::Reader(address) => hint(Some(address), Fault),
        }
    }
}

impl Actor for Supervisor {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Context<Self>) {
        for role in self.roles() {
            self.start(role, None, ctx);
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
        if child.born.elapsed() > BACKOFF.1 {
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
            if still.is_some_and(|child| child.generation == generation && !child.leaving) {
                supervisor.start(role, None, ctx);
            }
        });
    }
}

impl Handler<PartitionsAssigned> for Supervisor {
    type Result = ();

    fn handle(&mut self, assigned: PartitionsAssigned, ctx: &mut Context<Self>) {
        for queue in assigned.queues {
            let partition = queue.partition().clone();
            tracing::info!(%partition, "{partition} is ours to read");
            self.start(Role::Reader(partition), Some(queue), ctx);
        }
    }
}

impl Handler<PartitionsRevoked> for Supervisor {
    type Result = ();

    fn handle(&mut self, revoked: PartitionsRevoked, ctx: &mut Context<Self>) {
        let mut farewells = Vec::new();
        for partition in revoked.partitions {
            tracing::info!(%partition, "{partition} is not ours any more");
            let address = self.instance.directory.reader(partition.clone());
            let role = Role::Reader(partition.clone());
            if let Some(child) = self.children.get_mut(&role) {
                child.leaving = true;
                // One that panicked, and would be started again in a moment, ends only here.
                if address.as_ref().is_none_or(|reader| !reader.connected()) {
                    self.forget(&role);
                }
            }
            farewells.push(async move {
                let next = address?.send(Leave).await.ok().flatten()?;
                Some((partition, next))
            });
        }
        let reply = revoked.reply;
        let gone = futures::future::join_all(farewells).into_actor(self).map(move |ends, _, _| {
            // The poll thread may have stopped waiting.
            drop(reply.try_send(ends.into_iter().flatten().collect()));
        });
        ctx.spawn(gone);
    }
}

impl Handler<Drain> for Supervisor {
    type Result = ResponseFuture<()>;

    /// Kafka first, so that nothing comes in; then the attempts; then what they leave
    /// behind is written; then the shards are released.
    fn handle(&mut self, drain: Drain, _: &mut Context<Self>) -> Self::Result {
        self.instance.draining.store(true, Ordering::Release);
        self.instance.health.set_started(false);
        Box::pin(drain_all(self.instance.clone(), drain.deadline))
    }
}

/// Each step ends in time for the next, whatever group, broker or database do: what is not
/// done by then is done again by whoever has our shards and partitions next.
async fn drain_all(instance: Arc<Instance>, deadline: Instant) {
    let left = |until: Instant| until.saturating_duration_since(Instant::now());
    let patience = left(deadline);
    if let Some(intake) = instance.intake() {
        // The attempts need the rest of the time, and a group may take longer than all of it.
        let patience = (patience / 2).clamp(INTAKE_PATIENCE.0, INTAKE_PATIENCE.1);
        if let Err(error) = intake.shutdown(patience).await {
            tracing::warn!(%error, "the intake did not stop in time: it is left to itself");
        }
    }
    stop_starting(&instance, left(deadline)).await;
    if !until(deadline, || instance.in_flight.running() == 0).await {
        let running = instance.in_flight.running();
        tracing::warn!(running, "{running} attempts did not end in time: they are cancelled");
        instance.in_flight.cancel_all();
    }
    let written = (Instant::now() + WRITE_PATIENCE).min(deadline + Drain::REST / 2);
    if !until(written, || instance.in_flight.len() == 0).await {
        let left = instance.in_flight.len();
        tracing::warn!(left, "{left} outcomes were not written: those jobs will fire again");
    }
    let gone = (Instant::now() + WRITE_PATIENCE).min(deadline + Drain::REST);
    let goodbye = tokio::time::timeout(left(gone), say_goodbye(&instance));
    if tokio::join!(goodbye, flush(&instance)).0.is_err() {
        tracing::warn!("no time left to say goodbye: others wait for the lease");
    }
}

/// What jobs sent has been acknowledged, and letters and verdicts stay in the outbox until they
/// are: nothing is lost without this, and less is published twice.
async fn flush(instance: &Instance) {
    let Some(kafka) = &instance.kafka else { return };
    // A clock that is set back makes the client's own wait longer.
    let flushed = tokio::time::timeout(FLUSH_PATIENCE * 2, kafka.producer.flush(FLUSH_PATIENCE));
    match flushed.await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => tracing::warn!(%error, "not everything was sent"),
        Err(_) => tracing::warn!("the producer does not answer: not everything may be sent"),
    }
}

async fn stop_starting(instance: &Instance, patience: Duration) {
    let schedulers = instance.apps.keys().filter_map(|app| instance.directory.app(*app));
    let asked = schedulers.map(|scheduler| scheduler.send(StopStarting));
    drop(tokio::time::timeout(patience, futures::future::join_all(asked)).await);
}

/// To a successor, if the keeper has just panicked: without it others wait for our lease.
async fn say_goodbye(instance: &Instance) {
    while let Some(keeper) = instance.directory.shard_keeper() {
        if keeper.send(GoodBye).await.is_ok() {
            return;
        }
        tokio::time::sleep(LOOK).await;
    }
}

async fn until(deadline: Instant, done: impl Fn() -> bool) -> bool {
    while !done() {
        if Instant::now() >= deadline {
            return false;
        }
        tokio::time::sleep(LOOK).await;
    }
    true
}

/// For tests of supervision: every actor whose role begins with this panics.
#[derive(Clone, Debug, Message)]
#[rtype(result = "usize")]
pub(crate) struct Break(pub String);

impl Handler<Break> for Supervisor {
    type Result = usize;

    fn handle(&mut self, which: Break, _: &mut Context<Self>) -> usize {
        let all = self.instance.directory.all().into_iter();
        let chosen: Vec<Address> = all
            .filter(|(role, _)| role.to_string().starts_with(&which.0))
            .map(|(_, address)| address)
            .collect();
        let count = chosen.len();
        chosen.into_iter().for_each(Address::fault);
        count
    }
}

/// Takes what the poll thread says to the Supervisor.
#[derive(Debug)]
pub(crate) struct Gate {
    /// Whom to tell.
    pub(crate) supervisor: Addr<Supervisor>,
    /// Whose health says that the group has answered. Weak: the intake that holds us is
    /// among what is instance, and must end with it.
    pub(crate) instance: Weak<Instance>,
}

impl Assignments for Gate {
    fn assigned(&self, queues: Vec<PartitionQueue>) {
        // Also of none: there may be more members than partitions.
        if let Some(instance) = self.instance.upgrade() {
            instance.has_joined();
        }
        if !queues.is_empty() {
            tell(&self.supervisor, PartitionsAssigned { queues });
        }
    }

    fn revoked(&self, partitions: Vec<TopicPartition>, lost: bool) -> Vec<(TopicPartition, i64)> {
        if partitions.is_empty() {
            return Vec::new();
        }
        if lost {
            tracing::warn!(?partitions, "partitions were lost: the group gave them away");
        }
        let (reply, answer) = sync_channel(1);
        tell(&self.supervisor, PartitionsRevoked { partitions, reply });
        answer.recv_timeout(REVOKE_PATIENCE).unwrap_or_default()
    }
}

#[allow(clippy::disallowed_methods, reason = "the poll thread cannot await")]
fn tell<M>(supervisor: &Addr<Supervisor>, message: M)
where
    Supervisor: Handler<M>,
    M: Message<Result = ()> + Send + 'static,
{
    supervisor.do_send(message);
}
