//! Reports the jobs that fire: the first ones one by one, later ones as a count each second.

use tokio::sync::mpsc;

use super::super::output::say;
use super::super::timing::{Spread, Stopwatch, late_us};
use crate::dispatch::{JobContext, JobError, JobHandler};
use crate::model::clock::{Clock, SystemClock};
use crate::service::IngestMetrics;

/// The jobs that are reported one by one.
const LINES: u64 = 20;

/// One job that fired.
#[derive(Debug)]
pub(super) struct Firing {
    app: String,
    priority: &'static str,
    data: String,
    late_us: i64,
}

/// The handler of every app: reports each job, and how late it started.
#[derive(Clone, Debug)]
pub(super) struct Reporter {
    firings: mpsc::UnboundedSender<Firing>,
}

impl Reporter {
    pub(super) fn new() -> (Self, mpsc::UnboundedReceiver<Firing>) {
        let (firings, received) = mpsc::unbounded_channel();
        (Self { firings }, received)
    }
}

impl JobHandler for Reporter {
    async fn execute(&self, context: &JobContext) -> Result<(), JobError> {
        let job = context.job();
        let firing = Firing {
            late_us: late_us(job),
            app: context.app().to_owned(),
            priority: job.priority.as_str(),
            data: job.data.as_str().to_owned(),
        };
        // The receiver is gone when the demo ends.
        self.firings.send(firing).ok();
        Ok(())
    }

    fn name(&self) -> &str {
        "reporter"
    }
}

/// What was reported so far.
#[derive(Debug, Default)]
pub(super) struct Journal {
    fired: u64,
    late: Stopwatch,
    /// `fired` at the last count.
    reported: u64,
}

impl Journal {
    pub(super) fn fired(&mut self, firing: &Firing) {
        self.fired += 1;
        self.late.note(firing.late_us);
        let Firing { app, priority, data, late_us } = firing;
        if self.fired <= LINES {
            let (time, late_ms) = (SystemClock.now().format("%H:%M:%S%.3f"), *late_us as f64 / 1e3);
            say(format_args!("{time}  {app:<15}  {priority:<6}  {late_ms:4.1} ms late  {data}"));
        }
        if self.fired == LINES {
            say("(from now on one line a second)");
        }
    }

    /// Called each second.
    pub(super) fn second(&mut self, metrics: &IngestMetrics) {
        if self.fired <= LINES || self.fired == self.reported {
            return;
        }
        let now = self.fired - self.reported;
        self.reported = self.fired;
        let IngestMetrics { messages_processed, messages_duplicate, messages_failed, .. } = metrics;
        say(format_args!(
            "{}  {now:3} fired, {} in all; {messages_processed} jobs created, {messages_duplicate} \
             duplicates, {messages_failed} dead letters",
            SystemClock.now().format("%H:%M:%S"),
            self.fired,
        ));
    }

    pub(super) fn spread(&self) -> Spread {
        self.late.spread()
    }
}
