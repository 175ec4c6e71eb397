//! The scheduler of one app: a window in memory over the next jobs of its shards, one timer, and a
//! bounded number of running attempts.
//!
//! It fires nothing early, and nothing without a valid lease. It holds no state of its own that
//! could be lost: a replacement finds the shards in `OwnedShards`, the running attempts in the
//! in-flight table, and the jobs in the database.

mod changing;
mod rate;
mod reading;
mod shards;

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
use super::in_flight::{Attempt, MarkState};
use super::instance::Instance;
use super::messages::*;
use super::permits::permits_of;
use super::progress::Progress;
use super::registry::{Routes, Scope};
use crate::model::fence::Fence;
use crate::model::ids::ShardId;
use crate::model::job::Job;
use crate::model::window::{Room, TicketId, Window, WindowLimits};
use crate::store::ShardFence;

/// The longest sleep, so that a change of the system clock is noticed.
const LONGEST_SLEEP: Duration = Duration::from_secs(1);
/// The wait before a failed read is repeated.
const RETRY_READ: Duration = Duration::from_millis(200);
/// How often one list of the window is compared with its table.
const AUDIT: Duration = Duration::from_secs(60);
/// Rows per page.
const PAGE: usize = 2000;
/// How many jobs are started before other messages are handled.
const BURST: usize = 1000;

/// The scheduler of one app.
pub(super) struct AppScheduler {
    instance: Arc<Instance>,
    app: Arc<RegisteredApp>,
    window: Window,
    fences: HashMap<ShardId, ShardFence>,
    releasing: HashMap<ShardId, oneshot::Sender<bool>>,
    timer: Option<SpawnHandle>,
    /// Reads wait after an error of the database.
    reads_paused: bool,
    /// A problem with reading the rows may be reported, possibly by the actor that this one
    /// replaced.
    unreadable: bool,
    look_ups_out: usize,
    starts: rate::Starts,
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
            aging_ms: aging_ms_of(&app),
        };
        // A replacement for an actor that panicked while draining must not start jobs.
        let stopping = instance.draining.load(Ordering::Acquire);
        Self {
            instance,
            app,
            window: Window::new(limits),
            fences: HashMap::new(),
            releasing: HashMap::new(),
            timer: None,
            reads_paused: false,
            unreadable: true,
            look_ups_out: 0,
            starts: rate::Starts::default(),
            after_attempts: Vec::new(),
            stopping,
            audited: 0,
        }
    }

    /// Starts the jobs that are due, requests missing rows, and sets the timer for the next job.
    fn advance(&mut self, ctx: &mut Context<Self>) {
        for (shard, key) in self.app.keys.freed() {
            self.window.key_freed(shard, &key);
        }
        self.fire();
        self.buy_starts(ctx);
        self.window.set_aging_ms(aging_ms_of(&self.app));
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
        let room = Room {
            jobs: self.free_slots().min(BURST),
            starts: self.usable_starts(),
            bytes: self.app.memory.for_starts(),
        };
        let (keys, most_of_key) = (&self.app.keys, self.app.limits().max_concurrent_per_key);
        let due = self.window.take_due(now_ms, room, |key| keys.take(key, most_of_key));
        self.use_starts(due.iter().filter(|job| !job.is_expired(now_ms)).count());
        let attempts: Vec<Attempt> =
            due.into_iter().filter_map(|job| self.new_attempt(job, now_ms)).collect();
        if attempts.is_empty() {
            return;
        }
        // They have left the window, and count as in flight from here on.
        self.app.memory.set_window(self.window.expected_bytes());
        for attempt in self.instance.in_flight.start(attempts, self.instance.database_us()) {
            attempt::spawn(&self.instance, attempt);
        }
    }

    /// Whether anything may be started just now. A paused app keeps its jobs.
    fn may_start(&self) -> bool {
        !self.stopping && !self.app.pause.is_paused() && self.instance.lease.is_valid()
    }

    /// How many attempts may start now.
    fn free_slots(&self) -> usize {
        let most = self.app.limits().max_in_flight.get();
        let hang = self.app.figures.hanging.load(Ordering::Acquire);
        if self.app.memory.for_starts() == 0 || hang >= u64::from(most) {
            return 0;
        }
        let running = self.app.running.load(Ordering::Relaxed);
        let unwritten = self.app.unwritten.load(Ordering::Relaxed);
        let writable = self.app.max_unwritten().saturating_sub(unwritten);
        let handlers = (most as usize).saturating_sub(running).min(self.app.gate.free(running));
        handlers.min(writable).min(self.free_permits(running))
    }

    /// How many more attempts may start by the app's `max_concurrent`, while so many run.
    fn free_permits(&self, running: usize) -> usize {
        let shards = self.fences.keys().filter(|shard| !self.releasing.contains_key(shard));
        self.permits_of(shards).map_or(usize::MAX, |permits| permits.saturating_sub(running))
    }

    /// How many attempts may run for these shards; none without a limit.
    fn permits_of<'a>(&self, shards: impl Iterator<Item = &'a ShardId>) -> Option<usize> {
        let most = self.app.limits().max_concurrent?;
        Some(shards.map(|shard| permits_of(*shard, &self.app.row, most) as usize).sum())
    }

    fn new_attempt(&mut self, job: Arc<Job>, fired_ms: i64) -> Option<Attempt> {
        // After the instance was declared dead it has a new id and a new lease, which does not
        // cover the shards that it owned under the old id.
        let me = self.instance.me();
        let fence = self.fences.get(&job.shard).filter(|fence| fence.owner == me);
        let Some(fence) = fence.copied() else {
            if let Some(key) = job.concurrency_key.as_deref().filter(|_| !job.is_expired(fired_ms))
            {
                self.app.keys.give_back(job.shard, key);
            }
            self.window.outcome_unknown(job.id);
            return None;
        };
        let cancelled = CancellationToken::new();
        Some(Attempt {
            job,
            app: self.app.clone(),
            fence,
            fired_ms,
            mark: MarkState::None,
            turn: None,
            gate_number: 0,
            receiver_fence: Fence::new(0, 0),
            bytes: 0,
            cancelled,
            progress: Arc::new(Progress::new()),
            cancellation: None,
            is_cancelling: false,
            ended: None,
            ended_ms: 0,
            outcome: None,
        })
    }

    fn set_timer(&mut self, ctx: &mut Context<Self>) {
        if let Some(timer) = self.timer.take() {
            ctx.cancel_future(timer);
        }
        let Some(due_ms) = self.window.next_due() else { return };
        let wait_ms = u64::try_from(due_ms - self.instance.now_ms()).unwrap_or(0);
        // A job that is already due waits for a free slot: the end of an attempt sends `Fire`.
        let wait = if wait_ms > 0 {
            Duration::from_millis(wait_ms).min(LONGEST_SLEEP)
        } else if self.may_start() && self.free_slots() > 0 {
            self.until_start().min(LONGEST_SLEEP)
        } else if self.app.pause.is_paused() {
            // The one that sees the resumption reports it.
            LONGEST_SLEEP
        } else if let Some(wait) = self.app.gate.wait() {
            wait.min(LONGEST_SLEEP)
        } else {
            RETRY_READ
        };
        self.timer = Some(ctx.run_later(wait, |actor, ctx| {
            actor.timer = None;
            actor.advance(ctx);
        }));
    }

    /// Applies the present rows of jobs that were taken out of the window.
    fn update_window(&mut self, written: OutcomesWritten) {
        for id in written.finished {
            self.window.finished(id);
        }
        for job in written.put_back {
            self.window.put_back(job);
        }
        for id in written.unknown {
            self.window.outcome_unknown(id);
        }
    }
}

fn aging_ms_of(app: &RegisteredApp) -> i64 {
    i64::try_from(app.limits().priority_aging.as_millis()).unwrap_or(i64::MAX)
}

impl Actor for AppScheduler {
    type Context = Context<Self>;

    /// Takes over the state that the replaced actor left behind.
    fn started(&mut self, ctx: &mut Context<Self>) {
        self.instance.in_flight.recount_keys(&self.app);
        self.window.adopt_in_flight(self.instance.in_flight.of(self.app.id));
        self.window.adopt_in_flight(self.instance.changing.of(self.app.id));
        for fence in self.instance.owned.of(self.app.id).iter() {
            self.add_shard(*fence);
        }
        ctx.run_later(AUDIT, Self::audit_next);
        self.advance(ctx);
    }
}

impl Child for AppScheduler {
    const KIND: &'static str = "app-scheduler";

    fn scope(&self) -> Scope {
        self.app.id.into()
    }

    fn routes(routes: Routes<Self>) -> Routes<Self> {
        routes
            .handles::<TakeTicket>()
            .handles::<JobsAdmitted>()
            .handles::<TicketDropped>()
            .handles::<LoadJobs>()
            .handles::<ShardsTaken>()
            .handles::<ShardsLost>()
            .handles::<ReleaseShard>()
            .handles::<Fire>()
            .handles::<OutcomesWritten>()
            .handles::<ChangeJob>()
            .handles::<ChangeBatch>()
            .handles::<JobChanged>()
            .handles::<StopStarting>()
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
        self.advance(ctx);
    }
}

impl Handler<TicketDropped> for AppScheduler {
    type Result = ();

    fn handle(&mut self, dropped: TicketDropped, ctx: &mut Context<Self>) {
        self.window.drop_ticket(dropped.ticket, &dropped.shards);
        self.advance(ctx);
    }
}

impl Handler<LoadJobs> for AppScheduler {
    type Result = ();

    fn handle(&mut self, load: LoadJobs, ctx: &mut Context<Self>) {
        for job in load.jobs {
            self.window.look_up(job);
        }
        self.advance(ctx);
    }
}

impl Handler<Fire> for AppScheduler {
    type Result = ();

    fn handle(&mut self, _: Fire, ctx: &mut Context<Self>) {
        self.advance(ctx);
    }
}

impl Handler<OutcomesWritten> for AppScheduler {
    type Result = ();

    fn handle(&mut self, written: OutcomesWritten, ctx: &mut Context<Self>) {
        self.update_window(written);
        // Before any of these jobs starts again.
        self.change_after_attempts();
        self.finish_releases();
        self.advance(ctx);
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
        let app = self.app.figures.read(self.instance.clock.now_ms());
        tracing::info!(
            actor = "app-scheduler",
            app = %self.app.name,
            shards = self.fences.len(),
            in_memory = window.jobs,
            in_memory_bytes = window.bytes,
            memory_of_all_apps_bytes = self.instance.job_memory.held(),
            running = self.app.running.load(Ordering::Relaxed),
            unwritten = self.app.unwritten.load(Ordering::Relaxed),
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
