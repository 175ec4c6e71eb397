//! Starts, replaces and stops the actors; nobody else does.
//!
//! A child that ends without being asked is replaced by a fresh one from its factory,
//! after a wait that doubles. What it knew is in the database and in [`Shared`].

use std::collections::HashMap;
use std::sync::mpsc::sync_channel;
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use actix::prelude::*;

use super::app_scheduler::AppScheduler;
use super::dedup::Dedup;
use super::directory::{Address, Role, hint};
use super::janitor::Janitor;
use super::messages::*;
use super::outcomes::Outcomes;
use super::reader::PartitionReader;
use super::retry_dlq::RetryDlq;
use super::shard_keeper::ShardKeeper;
use super::shared::Shared;
use super::watch::{exit_of, launch};
use crate::kafka::{Assignments, PartitionQueue, TopicPartition};

/// The wait before a child is replaced, doubling up to the second; a child that lived
/// longer than that begins at the first again.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(10));
/// How long the poll thread waits for readers to stop. Longer, and the broker would throw
/// us out of the group; the ledger fences a reader that is slower.
const REVOKE_PATIENCE: Duration = Duration::from_secs(5);
/// How often a wait for the end looks.
const LOOK: Duration = Duration::from_millis(10);
/// What writing the last outcomes may take after the handlers have ended.
const WRITE_PATIENCE: Duration = Duration::from_secs(10);

/// The parent of all actors.
#[derive(Debug)]
pub(crate) struct Supervisor {
    shared: Arc<Shared>,
    children: HashMap<Role, Child>,
    generations: u64,
    restarts: u64,
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
    /// A supervisor of the actors that `shared` calls for.
    pub(crate) fn new(shared: Arc<Shared>) -> Self {
        Self { shared, children: HashMap::new(), generations: 0, restarts: 0 }
    }

    fn start(&mut self, role: Role, queue: Option<PartitionQueue>, ctx: &mut Context<Self>) {
        let shared = self.shared.clone();
        let (address, handle) = match &role {
            Role::Dedup => wrap(launch(Dedup::new(shared)), Address::Dedup),
            Role::RetryDlq => wrap(launch(RetryDlq::new(shared)), Address::RetryDlq),
            Role::Outcomes => wrap(launch(Outcomes::new(shared)), Address::Outcomes),
            Role::ShardKeeper => wrap(launch(ShardKeeper::new(shared)), Address::ShardKeeper),
            Role::Janitor => wrap(launch(Janitor::new(shared)), Address::Janitor),
            Role::App(id) => {
                let Some(app) = shared.apps.get(id).cloned() else { return };
                wrap(launch(AppScheduler::new(shared, app)), Address::App)
            }
            Role::Reader(partition) => {
                let reader = PartitionReader::new(shared, partition.clone(), queue);
                wrap(launch(reader), Address::Reader)
            }
        };
        // Published before the actor does anything: nothing it causes can miss it.
        self.shared.directory.publish(role.clone(), address);
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
        let apps = self.shared.apps.keys().map(|app| Role::App(*app));
        fixed.into_iter().chain(apps).chain([Role::ShardKeeper, Role::Janitor]).collect()
    }

    fn report(&mut self, ctx: &mut Context<Self>) {
        ctx.run_later(self.shared.settings.metrics_interval, Self::report);
        for (_, address) in self.shared.directory.all() {
            address.report();
        }
        let metrics = self.shared.counters.read();
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

    fn forget(&mut self, role: &Role) {
        self.children.remove(role);
        self.shared.directory.remove(role);
        if let Role::Reader(partition) = role {
            self.shared.partitions.remove(partition);
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
        ctx.run_later(self.shared.settings.metrics_interval, Self::report);
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
            let address = self.shared.directory.reader(partition.clone());
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
        self.shared.draining.store(true, std::sync::atomic::Ordering::Release);
        self.shared.health.set_started(false);
        Box::pin(drain_all(self.shared.clone(), drain.patience))
    }
}

async fn drain_all(shared: Arc<Shared>, patience: Duration) {
    let deadline = Instant::now() + patience;
    if let Some(intake) = shared.intake()
        && let Err(error) = intake.shutdown(REVOKE_PATIENCE + patience).await
    {
        tracing::warn!(%error, "the intake did not stop in time");
    }
    for app in shared.apps.keys() {
        if let Some(scheduler) = shared.directory.app(*app) {
            scheduler.send(StopStarting).await.ok();
        }
    }
    if !until(deadline, || shared.in_flight.running() == 0).await {
        let running = shared.in_flight.running();
        tracing::warn!(running, "{running} attempts did not end in time: they are cancelled");
        shared.in_flight.cancel_all();
    }
    if !until(Instant::now() + WRITE_PATIENCE.min(patience), || shared.in_flight.len() == 0).await {
        let left = shared.in_flight.len();
        tracing::warn!(left, "{left} outcomes were not written: those jobs will fire again");
    }
    if let Some(kafka) = &shared.kafka
        && let Err(error) = kafka.producer.flush(WRITE_PATIENCE.min(patience)).await
    {
        tracing::warn!(%error, "not everything was sent");
    }
    drop(tokio::time::timeout(WRITE_PATIENCE, say_goodbye(&shared)).await);
}

/// To a successor, if the keeper has just panicked: without it others wait for our lease.
async fn say_goodbye(shared: &Shared) {
    while let Some(keeper) = shared.directory.shard_keeper() {
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
        let all = self.shared.directory.all().into_iter();
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
    /// among what is shared, and must end with it.
    pub(crate) shared: Weak<Shared>,
}

impl Assignments for Gate {
    fn assigned(&self, queues: Vec<PartitionQueue>) {
        // Also of none: there may be more members than partitions.
        if let Some(shared) = self.shared.upgrade() {
            shared.has_joined();
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
