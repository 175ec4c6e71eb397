//! Telling people of jobs that fire: the first ones each, later ones by the second.

use tokio::sync::mpsc;

use super::super::output::say;
use super::super::timing::{Spread, Stopwatch, late_us};
use crate::dispatch::{JobContext, JobError, JobHandler};
use crate::model::clock::{Clock, SystemClock};
use crate::service::IngestMetrics;

/// Jobs that have a line of their own.
const LINES: u64 = 20;

/// One job that fired.
#[derive(Debug)]
pub(super) struct Firing {
    app: String,
    priority: &'static str,
    data: String,
    late_us: i64,
}

/// The handler of every app: says what it was given, and when.
#[derive(Clone, Debug)]
pub(super) struct Teller {
    firings: mpsc::UnboundedSender<Firing>,
}

impl Teller {
    pub(super) fn new() -> (Self, mpsc::UnboundedReceiver<Firing>) {
        let (firings, told) = mpsc::unbounded_channel();
        (Self { firings }, told)
    }
}

impl JobHandler for Teller {
    async fn execute(&self, context: &JobContext) -> Result<(), JobError> {
        let job = context.job();
        let firing = Firing {
            late_us: late_us(job),
            app: context.app().to_owned(),
            priority: job.priority.as_str(),
            data: job.data.as_str().to_owned(),
        };
        // Nobody listens any more when the demo is being stopped.
        self.firings.send(firing).ok();
        Ok(())
    }

    fn name(&self) -> &str {
        "teller"
    }
}

/// What was told so far.
#[derive(Debug, Default)]
pub(super) struct Journal {
    fired: u64,
    late: Stopwatch,
    /// Jobs at the last line of a second.
    told: u64,
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
        if self.fired <= LINES || self.fired == self.told {
            return;
        }
        let now = self.fired - self.told;
        self.told = self.fired;
        let IngestMetrics { messages_processed, messages_duplicate, messages_failed, .. } = metrics;
        say(format_args!(
            "{}  {now:3} fired, {} in all; {messages_processed} jobs made, {messages_duplicate} \
             duplicates, {messages_failed} dead letters",
            SystemClock.now().format("%H:%M:%S"),
            self.fired,
        ));
    }

    pub(super) fn spread(&self) -> Spread {
        self.late.spread()
    }
}
