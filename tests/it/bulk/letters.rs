//! Dead letters in bulk: each that matched is replayed or discarded once, though replays of it die
//! again and others die meanwhile.

use std::num::NonZeroU32;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use infinite_scheduler::operations::{
    BulkAction, BulkItem, BulkRequest, BulkSamples, BulkState, JobFilter, Operations,
};
use infinite_scheduler::{
    AppConfig, JobContext, JobError, JobHandler, OperationError, ScheduleJobRequest, Scheduler,
};

use super::{DEADLINE, counts, until_ended};
use crate::support::services::{Database, TestDatabase};
use crate::support::wait_until;
use crate::support::world::LEASE;

const LETTERS: u64 = 50;
const NEWCOMERS: u64 = 20;

/// Refuses every job.
#[derive(Debug, Default)]
struct Refuses(AtomicU64);

impl JobHandler for Refuses {
    async fn execute(&self, _: &JobContext) -> Result<(), JobError> {
        self.0.fetch_add(1, Ordering::AcqRel);
        Err(JobError::fail("no such number"))
    }
}

async fn die(scheduler: &Scheduler, name: &str, count: u64) {
    let request = |n| {
        let request = ScheduleJobRequest::builder("sms").request_id(format!("{name}-{n}"));
        request.at("2020-01-01T00:00:00Z").build().expect("a request")
    };
    for submitted in scheduler.schedule_all((0..count).map(request)).await {
        submitted.expect("a job");
    }
}

async fn letters(database: &TestDatabase, state: i16) -> u64 {
    let sql = format!("select count(*) from scheduler_dead_letter where state = {state}");
    database.count(&sql).await.unsigned_abs()
}

fn filter(pairs: &[(&str, &str)]) -> JobFilter {
    JobFilter::from_pairs(pairs.iter().copied(), None).expect("a filter")
}

async fn done(operations: &Operations, asked: BulkRequest) -> BulkItem {
    let id = operations.bulk().start(asked).await.expect("a start").bulk.id;
    until_ended(operations, id).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replay_that_feeds_itself_replays_each_letter_once() {
    for backend in Database::all() {
        let database = backend.fresh().await;
        let handler = Arc::new(Refuses::default());
        let builder = Scheduler::builder().database_url(database.url()).lease(LEASE);
        let builder = builder.register_app(AppConfig::new("sms"), handler.clone());
        let scheduler = builder.start().await.expect("a start");
        let operations = scheduler.by(infinite_scheduler::operations::By::new("ann"));
        die(&scheduler, "early", LETTERS).await;
        wait_until(DEADLINE, "the letters", async || letters(&database, 0).await == LETTERS).await;
        // Two were replayed as often as is allowed, and the requests of three are refused.
        let worn = "update scheduler_dead_letter set replays = 5 \
                    where request_id in ('early-0', 'early-1')";
        database.execute(worn).await;
        let other = hex("{\"appName\":\"smss\",\"scheduledTime\":0}");
        let value = match database.backend() {
            Database::Postgres => format!("'\\x{other}'::bytea"),
            _ => format!("x'{other}'"),
        };
        let refused = format!(
            "update scheduler_dead_letter set record_value = {value} \
             where request_id in ('early-2', 'early-3', 'early-4')"
        );
        database.execute(&refused).await;

        let of_app = || filter(&[("app", "sms"), ("errorKind", "attempts-exhausted")]);
        let replay = || BulkRequest::new(BulkAction::Replay, of_app());
        let preview = operations.bulk().preview(&replay()).await.expect("a preview");
        let BulkSamples::Letters(samples) = &preview.samples else { panic!("{preview:?}") };
        assert_eq!((preview.matched, preview.has_more, samples.len()), (LETTERS, false, 10));
        let slowly = replay().rate(NonZeroU32::new(50));
        let id = operations.bulk().start(slowly).await.expect("a start").bulk.id;
        die(&scheduler, "new", NEWCOMERS).await;
        let ended = until_ended(&operations, id).await;
        let replayed = LETTERS - 5;
        assert_eq!(ended.state, BulkState::Finished, "{backend:?}");
        assert_eq!(counts(&ended), [LETTERS, replayed, 5, 0], "{backend:?}");
        wait_until(DEADLINE, "the replayed ones to die again", async || {
            let item = operations.bulk().show(id).await.expect("a bulk action");
            item.failed_again == replayed
        })
        .await;
        let dead = LETTERS + NEWCOMERS;
        wait_until(DEADLINE, "the newcomers to die", async || letters(&database, 0).await == dead)
            .await;
        assert_eq!(letters(&database, 2).await, replayed, "{backend:?}");
        assert_eq!(handler.0.load(Ordering::Acquire), dead + replayed, "{backend:?}");
        let audited = "select count(*) from scheduler_audit where action <> 'bulk.start'";
        assert_eq!(database.count(audited).await, 0, "{backend:?}: told once, as a whole");

        let elsewhere = filter(&[("app", "sms"), ("partition", "t/0")]);
        let none = done(&operations, BulkRequest::new(BulkAction::Discard, elsewhere)).await;
        assert_eq!(counts(&none), [0; 4], "{backend:?}");
        let discard = || BulkRequest::new(BulkAction::Discard, of_app());
        assert_eq!(counts(&done(&operations, discard()).await), [dead, dead, 0, 0], "{backend:?}");
        assert_eq!(letters(&database, 3).await, dead, "{backend:?}");
        assert_eq!(counts(&done(&operations, replay()).await), [0; 4], "{backend:?}");
        let wrong = BulkRequest::new(BulkAction::Replay, filter(&[("key", "k")]));
        let wrong = operations.bulk().start(wrong).await;
        let Err(OperationError::Invalid(why)) = wrong else { panic!("{wrong:?}") };
        assert_eq!(why, "key is not one of dead letters: leave it out");
        scheduler.shutdown(DEADLINE).await;
    }
}

fn hex(text: &str) -> String {
    text.bytes().map(|byte| format!("{byte:02x}")).collect()
}
