//! The columns of jobs, their history and idempotency keys, each named once. The column list of statements, the
//! bound values and the decoding of rows are generated from one table by macros.

#[macro_use]
mod generate;

use infinite_scheduler_entity::job;
use rusqlite::{CachedStatement, params};
use sqlx::Row as _;
use sqlx::mysql::{MySql, MySqlArguments, MySqlRow};
use sqlx::postgres::{PgArguments, PgRow, Postgres};
use sqlx::query::Query;

use crate::model::fingerprint::Fingerprint;
use crate::model::ids::{InstanceId, JobId, LedgerId, Offset, ShardId};
use crate::model::job::{
    Cancellation, Changes, Job, JobData, Mark, Origin, Priority, TraceContext,
};
use crate::model::versions::{Memory, Moved};
use crate::store::steps::Value;

/// The columns of a job as it is admitted: name, PostgreSQL's type, value of a [`Job`]. The way
/// back is [`job_of`]. Those of the second group are null in most jobs. The columns that only later
/// changes set follow where a row is read.
macro_rules! job_columns {
    ($make:ident $($later:tt)*) => {
        $make! {
            {
                id: "uuid" = |job| job.id.uuid();
                shard: "integer" = |job| job.shard.0;
                priority: "smallint" = |job| job.priority.rank();
                due_ms: "bigint" = |job| job.due_ms;
                request_id: "text" = |job| job.request_id.as_str();
                scheduled_ms: "bigint" = |job| job.scheduled_ms;
                created_ms: "bigint" = |job| job.created_ms;
                attempts: "integer" = |job| signed(job.attempts);
                data: "text" = |job| job.data.as_str();
                ledger: "integer" = |job| job.origin.as_ref().map(|origin| origin.ledger.0);
                source_offset: "bigint" = |job| job.origin.as_ref().map(|origin| origin.offset.0);
                source_time_ms: "bigint" = |job| job.origin.as_ref().and_then(|origin| origin.timestamp_ms);
            }
            {
                expires_ms: "bigint" = |job| job.expires_ms;
                flexible_ms: "bigint" = |job| job.flexible_ms.map(signed_ms);
                concurrency_key: "text" = |job| job.concurrency_key.as_deref();
                max_attempts: "integer" = |job| job.max_attempts.map(signed);
                timeout_ms: "bigint" = |job| job.timeout_ms.map(signed_ms);
                traceparent: "text" = |job| job.trace.as_ref().map(|trace| trace.parent.as_str());
                tracestate: "text" = |job| job.trace.as_ref().and_then(|trace| trace.state.as_deref());
                last_error: "text" = |job| job.last_error.as_deref();
                letter: "uuid" = |job| job.letter;
                version: "bigint" = |job| job.version;
            }
            $($later)*
        }
    };
}

/// The columns of an idempotency key: name, PostgreSQL's type, value of a [`KeyRow`].
macro_rules! key_columns {
    ($make:ident) => {
        $make! {
            id: "uuid" = |row| Uuid::from_bytes(row.key.id.into_bytes());
            app: "integer" = |row| row.app.0;
            name: "text" = |row| row.key.name.as_str();
            job: "uuid" = |row| row.job.id.uuid();
            request_id: "text" = |row| row.job.request_id.as_str();
            fingerprint: "uuid" = |row| Uuid::from_bytes(row.fingerprint.into_bytes());
            scheduled_ms: "bigint" = |row| row.job.scheduled_ms;
            expires_ms: "bigint" = |row| row.key.expires_ms;
        }
    };
}

/// The columns of an attempt that has ended: name, PostgreSQL's type, value of a [`HistoryRow`].
macro_rules! history_columns {
    ($make:ident) => {
        $make! {
            id: "uuid" = |row| row.job.id.uuid();
            created_ms: "bigint" = |row| row.job.created_ms;
            attempt: "integer" = |row| signed(row.attempt);
            state: "smallint" = |row| row.state.code();
            app: "integer" = |row| row.kept.app.0;
            request_id: "text" = |row| row.job.request_id.as_str();
            scheduled_ms: "bigint" = |row| row.job.scheduled_ms;
            due_ms: "bigint" = |row| row.job.due_ms;
            started_ms: "bigint" = |row| row.kept.started_ms;
            ended_ms: "bigint" = |row| row.kept.ended_ms;
            lateness_ms: "bigint" = |row| row.lateness_ms();
            kind: "text" = |row| row.kind;
            error: "text" = |row| row.error;
            instance: "text" = |row| &*row.kept.instance;
            cancelled_by: "text" = |row| row.cancelled_by;
            priority: "smallint" = |row| row.job.priority.rank();
            max_attempts: "integer" = |row| row.job.max_attempts.map(signed);
            timeout_ms: "bigint" = |row| row.job.timeout_ms.map(signed_ms);
            data: "text" = |row| row.data();
            ledger: "integer" = |row| row.job.origin.as_ref().map(|origin| origin.ledger.0);
            source_offset: "bigint" = |row| row.job.origin.as_ref().map(|origin| origin.offset.0);
        }
    };
}

/// Rows of `scheduler_job`.
pub(super) mod jobs {
    use super::*;

    type Row<'q> = &'q Job;

    job_columns!(writing_all);
    job_columns!(comparing);
    job_columns!(
        reading_all @ revision: moved_ms, original, cancelled_ms, cancelled_by, cancel_version,
        move_version, move_ms, awaited; started_ms, started_by,
        interruptions
    );

    /// The columns that are named when jobs are inserted.
    #[derive(Clone, Copy)]
    pub(in crate::store) struct Inserted {
        pub(in crate::store) columns: &'static str,
        pub(in crate::store) postgres_types: &'static [&'static str],
        pub(in crate::store) bind_postgres: BindPostgres,
        pub(in crate::store) bind_mysql: BindMysql,
        pub(in crate::store) execute_sqlite: ExecuteSqlite,
    }

    type PostgresQuery<'q> = Query<'q, Postgres, PgArguments>;
    type BindPostgres = for<'q> fn(PostgresQuery<'q>, &[Row<'q>]) -> PostgresQuery<'q>;
    type MysqlQuery<'q> = Query<'q, MySql, MySqlArguments>;
    type BindMysql = for<'q> fn(MysqlQuery<'q>, Row<'q>) -> MysqlQuery<'q>;
    type ExecuteSqlite = for<'q> fn(&mut CachedStatement<'_>, Row<'q>) -> rusqlite::Result<usize>;

    impl Inserted {
        /// All columns, or without those that are null in each of `jobs`: a null costs a server
        /// time for each row, too.
        pub(in crate::store) fn of(jobs: &[&Job]) -> Self {
            match jobs.iter().all(|job| is_usual(job)) {
                true => Self {
                    columns: usual::COLUMNS,
                    postgres_types: usual::POSTGRES_TYPES,
                    bind_postgres: usual::bind_postgres,
                    bind_mysql: usual::bind_mysql,
                    execute_sqlite: usual::execute_sqlite,
                },
                false => Self {
                    columns: COLUMNS,
                    postgres_types: POSTGRES_TYPES,
                    bind_postgres,
                    bind_mysql,
                    execute_sqlite,
                },
            }
        }

        pub(in crate::store) const fn width(self) -> usize {
            self.postgres_types.len()
        }
    }

    /// The same without the columns that are null in most jobs.
    mod usual {
        use super::*;

        job_columns!(writing_usual);
    }
}

/// Rows of `scheduler_job_history`.
pub(super) mod history {
    use super::*;
    use crate::store::history_row::HistoryRow;

    type Row<'q> = HistoryRow<'q>;

    history_columns!(writing);
}

/// Rows of `scheduler_idempotency_key`.
pub(super) mod keys {
    use uuid::Uuid;

    use super::*;
    use crate::model::fingerprint::Fingerprint;
    use crate::model::ids::AppId;
    use crate::store::IdempotencyKey;

    /// The values of a row.
    #[derive(Clone, Copy)]
    pub(in crate::store) struct KeyRow<'a> {
        pub(in crate::store) key: &'a IdempotencyKey,
        pub(in crate::store) app: AppId,
        pub(in crate::store) job: &'a Job,
        pub(in crate::store) fingerprint: Fingerprint,
    }

    type Row<'q> = KeyRow<'q>;

    key_columns!(writing);
}

/// The job in a row.
pub(super) fn job_of(row: job::Model) -> Job {
    let origin = row.ledger.zip(row.source_offset).map(|(ledger, offset)| Origin {
        ledger: LedgerId(ledger),
        offset: Offset(offset),
        timestamp_ms: row.source_time_ms,
    });
    let state = row.tracestate;
    let flags = row.awaited.unwrap_or_default();
    let memory = Memory {
        cancelled: row.cancel_version,
        moved: row.move_ms.map(|to_ms| Moved {
            version: row.move_version,
            to_ms,
            by_key: flags & MOVED_BY_KEY != 0,
        }),
        awaits_cancel: flags & AWAITS_CANCEL != 0,
    };
    Job {
        id: JobId::from_uuid(row.id),
        shard: ShardId(row.shard),
        priority: Priority::from_rank(row.priority),
        due_ms: row.due_ms,
        request_id: row.request_id,
        scheduled_ms: row.scheduled_ms,
        expires_ms: row.expires_ms,
        flexible_ms: row.flexible_ms.and_then(|n| n.try_into().ok()),
        concurrency_key: row.concurrency_key,
        created_ms: row.created_ms,
        attempts: row.attempts.try_into().unwrap_or(0),
        max_attempts: row.max_attempts.and_then(|n| n.try_into().ok()),
        timeout_ms: row.timeout_ms.and_then(|n| n.try_into().ok()),
        data: JobData::from_trusted(row.data),
        trace: row.traceparent.map(|parent| TraceContext { parent, state }),
        origin,
        last_error: row.last_error,
        letter: row.letter,
        version: row.version,
        changes: Changes {
            revision: row.revision.try_into().unwrap_or(0),
            moved_ms: row.moved_ms,
            original: row.original.map(|hash| Fingerprint::from_bytes(hash.into_bytes())),
            cancelled: row.cancelled_ms.map(|at_ms| {
                let by = row.cancelled_by.unwrap_or_default();
                Box::new(Cancellation { at_ms, by })
            }),
            memory: Some(Box::new(memory)).filter(|memory| !memory.is_empty()),
            mark: row
                .started_ms
                .zip(row.started_by)
                .map(|(started_ms, by)| Mark { started_ms, by: InstanceId(by) }),
            interruptions: row
                .interruptions
                .and_then(|text| serde_json::from_str(&text).ok())
                .unwrap_or_default(),
        },
    }
}

/// The columns of what is remembered of a name, in the order of [`memory_values`].
pub(super) const MEMORY_COLUMNS: [&str; 4] =
    ["cancel_version", "move_version", "move_ms", "awaited"];

const AWAITS_CANCEL: i16 = 1;
const MOVED_BY_KEY: i16 = 2;

/// The values of [`MEMORY_COLUMNS`].
pub(super) fn memory_values(memory: &Memory) -> [Value; 4] {
    let Memory { cancelled, moved, awaits_cancel } = memory;
    let by_key = moved.is_some_and(|moved| moved.by_key);
    let flags = i16::from(*awaits_cancel) * AWAITS_CANCEL + i16::from(by_key) * MOVED_BY_KEY;
    [
        (*cancelled).into(),
        moved.and_then(|moved| moved.version).into(),
        moved.map(|moved| moved.to_ms).into(),
        Some(i32::from(flags)).filter(|flags| *flags != 0).into(),
    ]
}

pub(super) fn signed_ms(ms: u64) -> i64 {
    i64::try_from(ms).unwrap_or(i64::MAX)
}

fn signed(number: u32) -> i32 {
    i32::try_from(number).unwrap_or(i32::MAX)
}
