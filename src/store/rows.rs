//! A job's row, read by whichever driver.

use infinite_scheduler_entity::job;
use uuid::Uuid;

use crate::model::ids::{JobId, LedgerId, ShardId};
use crate::model::job::{Job, JobData, Origin, Priority, TraceContext};

/// The columns of `job` in the order in which everything here reads and writes them.
pub(super) const COLUMNS: &str = "id, shard, priority, due_ms, request_id, scheduled_ms, \
     expires_ms, created_ms, attempts, max_attempts, timeout_ms, data, traceparent, tracestate, \
     ledger, source_offset, source_time_ms, last_error, letter";
/// How many they are.
pub(super) const WIDTH: usize = 19;

/// Decodes one job from a row: `$get` reads the column at an index, `$first` is the id's.
macro_rules! decode_job {
    ($get:ident, $first:expr) => {{
        let at = |index: usize| index + $first;
        $crate::store::rows::job_of(::infinite_scheduler_entity::job::Model {
            id: $get!(at(0)),
            shard: $get!(at(1)),
            priority: $get!(at(2)),
            due_ms: $get!(at(3)),
            request_id: $get!(at(4)),
            scheduled_ms: $get!(at(5)),
            expires_ms: $get!(at(6)),
            created_ms: $get!(at(7)),
            attempts: $get!(at(8)),
            max_attempts: $get!(at(9)),
            timeout_ms: $get!(at(10)),
            data: $get!(at(11)),
            traceparent: $get!(at(12)),
            tracestate: $get!(at(13)),
            ledger: $get!(at(14)),
            source_offset: $get!(at(15)),
            source_time_ms: $get!(at(16)),
            last_error: $get!(at(17)),
            letter: $get!(at(18)),
        })
    }};
}
pub(super) use decode_job;

pub(super) fn job_of(row: job::Model) -> Job {
    let origin = row.ledger.zip(row.source_offset).map(|(ledger, offset)| Origin {
        ledger: LedgerId(ledger),
        offset,
        timestamp_ms: row.source_time_ms,
    });
    let state = row.tracestate;
    Job {
        id: JobId::from_uuid(row.id),
        shard: ShardId(row.shard),
        priority: Priority::from_rank(row.priority),
        due_ms: row.due_ms,
        request_id: row.request_id,
        scheduled_ms: row.scheduled_ms,
        expires_ms: row.expires_ms,
        created_ms: row.created_ms,
        attempts: row.attempts.try_into().unwrap_or(0),
        max_attempts: row.max_attempts.and_then(|n| n.try_into().ok()),
        timeout_ms: row.timeout_ms.and_then(|n| n.try_into().ok()),
        data: JobData::from_trusted(row.data),
        trace: row.traceparent.map(|parent| TraceContext { parent, state }),
        origin,
        last_error: row.last_error,
        letter: row.letter,
    }
}

/// The columns of a job that are not simply its fields.
pub(super) struct Encoded<'a> {
    pub(super) id: Uuid,
    pub(super) attempts: i32,
    pub(super) max_attempts: Option<i32>,
    pub(super) timeout_ms: Option<i64>,
    pub(super) traceparent: Option<&'a str>,
    pub(super) tracestate: Option<&'a str>,
    pub(super) ledger: Option<i32>,
    pub(super) source_offset: Option<i64>,
    pub(super) source_time_ms: Option<i64>,
}

pub(super) fn encode(job: &Job) -> Encoded<'_> {
    let origin = job.origin.as_ref();
    Encoded {
        id: job.id.uuid(),
        attempts: signed(job.attempts),
        max_attempts: job.max_attempts.map(signed),
        timeout_ms: job.timeout_ms.map(|ms| i64::try_from(ms).unwrap_or(i64::MAX)),
        traceparent: job.trace.as_ref().map(|trace| trace.parent.as_str()),
        tracestate: job.trace.as_ref().and_then(|trace| trace.state.as_deref()),
        ledger: origin.map(|origin| origin.ledger.0),
        source_offset: origin.map(|origin| origin.offset),
        source_time_ms: origin.and_then(|origin| origin.timestamp_ms),
    }
}

fn signed(number: u32) -> i32 {
    i32::try_from(number).unwrap_or(i32::MAX)
}
