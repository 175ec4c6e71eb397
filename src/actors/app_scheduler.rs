//! One app's scheduler: the window of its shards' next jobs in memory, one timer, and a
//! number of attempts that is bounded, as are the bytes of its jobs.
//!
//! It fires nothing without a lease that is valid here, and nothing early. It owns no
//! truth: a successor finds the shards in the owned, what runs in the in-flight table,
//! and the jobs in the database.

mod changing;
mod reading;

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use actix::prelude::*;
use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;

use super::app::RegisteredApp;
use super::attempt;
use super::changing::PendingChange;
use super::child::Child;
use super::in_flight::Flight;
use super::instance::Instance;
use super::messages::*;
use super::registry::{Answers, Scope};
use crate::model::fence::Fence;
use crate::model::ids::ShardId;
use crate::model::job::Job;
use crate::model::window::{TicketId, Window, WindowLimits};
use crate::store::ShardFence;

/// The longest sleep, so that a stepped clock is noticed.
const LONGEST_SLEEP: Duration = Duration::from_secs(1);
/// The wait before what could not be read is asked for again.
const READ_AGAIN: Duration = Duration::from_millis(200);
/// How often one list is compared with its table.
const AUDIT: Duration = Duration::from_secs(60);
/// Rows of one page.
const PAGE: usize = 2000;
/// Jobs that are started before other messages get their turn.
const BURST: usize = 1000;

/// The scheduler of one app.
pub(super) struct AppScheduler {
    instance: Arc<Instance>,
    app: Arc<RegisteredApp>,
    window: Window,
    fences: HashMap<ShardId, ShardFence>,
    releasing: HashMap<ShardId, oneshot::Sender<bool>>,
    timer: Option<SpawnHandle>,
    /// A database that did not answer is not asked again at once.
    reads_wait: bool,
    /// That its rows cannot be read may have been reported, by a predecessor perhaps.
    unreadable: bool,
    look_ups_out: usize,
    /// Changes of jobs whose attempt has ended and is not written yet.
    after_attempts: Vec<PendingChange>,
    stopping: bool,
    audited: usize,
}

impl AppScheduler {
    pub(super) fn new(instance: Arc<Instance>, app: Arc<RegisteredApp>) -> Self {
        let jobs = app.config.window.get() as usize;
        let limits = WindowLimits {
            max_jobs: jobs,
            max_bytes: app.memory.for_window(),
            page_size: PAGE,
            aging_ms: i64::try_from(app.config.priority_aging.as_millis()).unwrap_or(i64::MAX),
        };
        // The place of one that panicked while draining is not that of one that may start.
        let stopping = instance.draining.load(Ordering::Acquire);
        Self {
            instance,
            app,
            window: Window::new(limits),
            fences: HashMap::new(),
            releasing: HashMap::new(),
            timer: None,
            reads_wait: false,
            unreadable: true,
            look_ups_out: 0,
            after_attempts: Vec::new(),
            stopping,
            audited: 0,
        }
    }

    /// Starts what is due, asks for what is missing, and sleeps until the next moment.
    fn go_on(&mut self, ctx: &mut Context<Self>) {
        self.fire();
        self.window.set_max_bytes(self.app.memory.for_window());
        self.read(ctx);
        self.app.memory.set_window(self.window.expected_bytes());
        self.set_timer(ctx);
    }

    fn fire(&mut self) {
        if !self.may_start() {
            return;
        }
        let now_ms = self.instance.now_ms();
        let due =
            self.window.take_due(now_ms, self.room().min(BURST), self.app.memory.for_starts());
        let flights: Vec<Flight> =
            due.into_iter().filter_map(|job| self.flight(job, now_ms)).collect();
        if flights.is_empty() {
            return;
        }
        // They are not in the window any more, and are counted as in flight from here on.
        self.app.memory.set_window(self.window.expected_bytes());
        for flight in self.instance.in_flight.start(flights, self.instance.database_us()) {
            attempt::spawn(&self.instance, flight);
        }
    }

    /// Whether anything may be started just now. A paused app keeps its jobs.
    fn may_start(&self) -> bool {
        !self.stopping && !self.app.pause.is_paused() && self.instance.lease.is_valid()
    }

    /// How many attempts may start now.
    fn room(&self) -> usize {
        if self.app.memory.for_starts() == 0 {
            return 0;
        }
        let running = self.app.running.load(Ordering::Relaxed);
        let unsettled = self.app.unsettled.load(Ordering::Relaxed);
        let most = self.app.most_unsettled();
        let handlers = (self.app.config.max_in_flight.get() as usize).saturating_sub(running);
        handlers.min(most.saturating_sub(unsettled))
    }

    fn flight(&mut self, job: Arc<Job>, fired_ms: i64) -> Option<Flight> {
        // A lease allows nothing with the shards of who we were before we were declared dead.
        let me = self.instance.me();
        let fence = self.fences.get(&job.shard).filter(|fence| fence.owner == me);
        let Some(fence) = fence.copied() else {
            self.window.outcome_unknown(job.id);
            return None;
        };
        let cancelled = CancellationToken::new();
        Some(Flight {
            job,
            app: self.app.clone(),
            fence,
            fired_ms,
            shown: Fence::new(0, 0),
            bytes: 0,
            cancelled,
            cancellation: None,
            is_marking: false,
            ended: None,
            judged: None,
        })
    }

    fn set_timer(&mut self, ctx: &mut Context<Self>) {
        if let Some(timer) = self.timer.take() {
            ctx.cancel_future(timer);
        }
        let Some(due_ms) = self.window.next_due() else { return };
        let wait_ms = u64::try_from(due_ms - self.instance.now_ms()).unwrap_or(0);
        // What is due already waits for room: an attempt that ends will say so.
        let wait = if wait_ms > 0 {
            Duration::from_millis(wait_ms).min(LONGEST_SLEEP)
        } else if self.may_start() && self.room() > 0 {
            Duration::ZERO
        } else if self.app.pause.is_paused() {
            // Whoever sees that it is resumed says so.
            LONGEST_SLEEP
        } else {
            READ_AGAIN
        };
        self.timer = Some(ctx.run_later(wait, |actor, ctx| {
            actor.timer = None;
            actor.go_on(ctx);
        }));
    }

    /// Answers for the shards that nothing runs of any more.
    fn finish_releases(&mut self) {
        let idle: Vec<ShardId> = self
            .releasing
            .keys()
            .filter(|shard| {
                !self.instance.in_flight.has(**shard) && !self.instance.changing.has(**shard)
            })
            .copied()
            .collect();
        for shard in idle {
            self.window.remove_shard(shard);
            self.fences.remove(&shard);
            if let Some(reply) = self.releasing.remove(&shard) {
                reply.send(true).ok();
            }
        }
    }

    /// Tells the window what became of jobs that were taken out of it.
    fn settle(&mut self, settled: Settled) {
        for id in settled.finished {
            self.window.finished(id);
        }
        for job in settled.put_back {
            self.window.put_back(job);
        }
        for id in settled.unknown {
            self.window.outcome_unknown(id);
        }
    }

    fn give_up_release(&mut self, shard: ShardId) {
        if let Some(reply) = self.releasing.remove(&shard) {
            self.window.unhold(shard);
            reply.send(false).ok();
        }
    }

    fn own(&mut self, fence: ShardFence) {
        self.fences.insert(fence.shard, fence);
        self.window.add_shard(fence.shard, fence.epoch);
        self.window.unhold(fence.shard);
    }
}

impl Actor for AppScheduler {
    type Context = Context<Self>;

    /// Takes over what a predecessor left.
    fn started(&mut self, ctx: &mut Context<Self>) {
        self.window.adopt_in_flight(self.instance.in_flight.of(self.app.id));
        self.window.adopt_in_flight(self.instance.changing.of(self.app.id));
        for fence in self.instance.owned.of(self.app.id).iter() {
            self.own(*fence);
        }
        ctx.run_later(AUDIT, Self::audit_next);
        self.go_on(ctx);
    }
}

impl Child for AppScheduler {
    const KIND: &'static str = "app-scheduler";

    fn scope(&self) -> Scope {
        self.app.id.into()
    }

    fn answers(answers: Answers<Self>) -> Answers<Self> {
        answers
            .to::<TakeTicket>()
            .to::<JobsAdmitted>()
            .to::<TicketDropped>()
            .to::<LookFor>()
            .to::<ShardsTaken>()
            .to::<ShardsLost>()
            .to::<ReleaseShard>()
            .to::<Fire>()
            .to::<Settled>()
            .to::<ChangeJob>()
            .to::<JobChanged>()
            .to::<StopStarting>()
    }
}

impl Handler<TakeTicket> for AppScheduler {
    type Result = MessageResult<TakeTicket>;

    fn handle(&mut self, _: TakeTicket, _: &mut Context<Self>) -> Self::Result {
        let ticket: TicketId = self.window.take_ticket();
        MessageResult(ticket)
    }
}

impl Handler<JobsAdmitted> for AppScheduler {
    type Result = ();

    fn handle(&mut self, admitted: JobsAdmitted, ctx: &mut Context<Self>) {
        self.window.return_ticket(admitted.ticket, admitted.jobs);
        self.go_on(ctx);
    }
}

impl Handler<TicketDropped> for AppScheduler {
    type Result = ();

    fn handle(&mut self, dropped: TicketDropped, ctx: &mut Context<Self>) {
        self.window.drop_ticket(dropped.ticket, &dropped.shards);
        self.go_on(ctx);
    }
}

impl Handler<LookFor> for AppScheduler {
    type Result = ();

    fn handle(&mut self, look: LookFor, ctx: &mut Context<Self>) {
        for job in look.jobs {
            self.window.look_up(job);
        }
        self.go_on(ctx);
    }
}

impl Handler<ShardsTaken> for AppScheduler {
    type Result = ();

    fn handle(&mut self, taken: ShardsTaken, ctx: &mut Context<Self>) {
        for fence in taken.fences {
            self.own(fence);
        }
        self.go_on(ctx);
    }
}

impl Handler<ShardsLost> for AppScheduler {
    type Result = ();

    fn handle(&mut self, lost: ShardsLost, _: &mut Context<Self>) {
        for shard in &lost.shards {
            self.window.remove_shard(*shard);
            self.fences.remove(shard);
            if let Some(reply) = self.releasing.remove(shard) {
                reply.send(true).ok();
            }
        }
        self.instance.in_flight.cancel(&lost.shards.into_iter().collect());
    }
}

impl Handler<ReleaseShard> for AppScheduler {
    type Result = ResponseFuture<bool>;

    fn handle(&mut self, release: ReleaseShard, ctx: &mut Context<Self>) -> Self::Result {
        let (reply, answer) = oneshot::channel();
        let shard = release.shard;
        self.window.hold(shard);
        self.releasing.insert(shard, reply);
        self.finish_releases();
        ctx.run_later(release.patience, move |actor, _| actor.give_up_release(shard));
        Box::pin(async move { answer.await.unwrap_or(false) })
    }
}

impl Handler<Fire> for AppScheduler {
    type Result = ();

    fn handle(&mut self, _: Fire, ctx: &mut Context<Self>) {
        self.go_on(ctx);
    }
}

impl Handler<Settled> for AppScheduler {
    type Result = ();

    fn handle(&mut self, settled: Settled, ctx: &mut Context<Self>) {
        self.settle(settled);
        // Before anything of them starts again.
        self.change_after_attempts();
        self.finish_releases();
        self.go_on(ctx);
    }
}

impl Handler<StopStarting> for AppScheduler {
    type Result = ();

    fn handle(&mut self, _: StopStarting, _: &mut Context<Self>) {
        self.stopping = true;
    }
}

impl Handler<Report> for AppScheduler {
    type Result = ();

    fn handle(&mut self, _: Report, _: &mut Context<Self>) {
        let window = self.window.figures();
        let app = self.app.figures.read();
        tracing::info!(
            actor = "app-scheduler",
            app = %self.app.name,
            shards = self.fences.len(),
            in_memory = window.jobs,
            in_memory_bytes = window.bytes,
            memory_of_all_apps_bytes = self.instance.job_memory.held(),
            running = self.app.running.load(Ordering::Relaxed),
            unsettled = self.app.unsettled.load(Ordering::Relaxed),
            scheduled = app.scheduled,
            fired = app.fired,
            succeeded = app.succeeded,
            failed = app.failed,
            retried = app.retried,
            dead = app.dead,
            lateness_mean_ms = app.lateness_mean_ms,
            lateness_max_ms = app.lateness_max_ms,
            "{}: {} jobs in memory, {} fired, {} succeeded",
            self.app.name, window.jobs, app.fired, app.succeeded,
        );
    }
}

impl Handler<Fault> for AppScheduler {
    type Result = ();

    fn handle(&mut self, _: Fault, _: &mut Context<Self>) {
        panic!("a fault was asked for");
    }
}
