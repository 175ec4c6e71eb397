//! The input and output of admission: a batch of requests, and the decisions on them.

use std::sync::Arc;

use uuid::Uuid;

use crate::model::audit::{AuditEntry, AuditSource, By};
use crate::model::change::named::NamedChange;
use crate::model::change::{Answer, JobChange};
use crate::model::fingerprint::Fingerprint;
use crate::model::ids::ShardId;
use crate::model::ids::{JobId, LedgerId, Offset, ReaderToken};
use crate::model::job::Job;
use crate::model::letter::{DeadLetter, ErrorKind, Refusal};
use crate::model::record::RawRecord;
use crate::model::verdict::Event;
use crate::store::{AppRow, ChangeRequest, IdempotencyKey, LastRecord, ShardFence};

/// Requests and dead letters that are admitted in one transaction.
#[derive(Clone, Debug)]
pub struct Batch {
    /// The origin of the entries, which determines what else the transaction changes.
    pub source: BatchSource,
    /// The entries; those of records are in order of their offsets.
    pub entries: Vec<Entry>,
    /// The expected owner and epoch of each own shard that a job goes into, ascending by shard.
    pub fences: Vec<ShardFence>,
    /// Whether to read existing rows before the first try, because some entries are probably
    /// duplicates.
    pub read_first: bool,
    /// Whether a request with a known key or id and another time is a conflict.
    pub conflict_on_time: bool,
    /// Whether events about the requests are published for their producers.
    pub verdicts: bool,
    /// The time of the admission, epoch milliseconds.
    pub now_ms: i64,
    /// For how long operations and cancelled jobs are remembered, milliseconds.
    pub window_ms: i64,
}

/// The origin of a batch.
#[derive(Clone, Debug)]
pub enum BatchSource {
    /// Records of a partition, whose offset is advanced.
    Records(Advance),
    /// Parked records of a partition, whose rows are updated or deleted.
    Parked {
        /// The ledger row of the partition.
        ledger: LedgerId,
        /// The row of each entry.
        rows: Vec<Taken>,
    },
    /// A replay of a dead letter, whose row becomes `replayed`.
    Replay {
        /// The letter.
        letter: Uuid,
        /// When its row last changed, as it was read.
        changed_ms: i64,
        /// Where it is written down who replayed it.
        told: Told,
    },
    /// A call of the API.
    Call {
        /// Whether an earlier try of the same call had no answer, so that this one may be its
        /// duplicate.
        again: bool,
    },
}

/// A parked record as it was read. A transaction that finds its row changed writes nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Taken {
    /// Its row.
    pub id: Uuid,
    /// The number of its attempts.
    pub attempts: u32,
}

impl Batch {
    /// Whether one of its entries is an operation, which is decided by what exists.
    pub(super) fn has_operations(&self) -> bool {
        self.entries.iter().any(|entry| matches!(entry, Entry::Operation(_)))
    }
}

/// Where it is written down who replayed a letter.
#[derive(Clone, Debug)]
pub enum Told {
    /// In the audit.
    Audit(Box<AuditEntry>),
    /// At the bulk action of which it is a part, which the audit names as a whole.
    Bulk(i64),
}

impl Told {
    /// In the audit, as this entry.
    pub fn audit(entry: AuditEntry) -> Self {
        Self::Audit(Box::new(entry))
    }

    /// The bulk action.
    pub(super) fn bulk(&self) -> Option<i64> {
        match self {
            Self::Audit(_) => None,
            Self::Bulk(bulk) => Some(*bulk),
        }
    }
}

impl BatchSource {
    /// The ledger row of the records' partition.
    pub fn ledger(&self) -> Option<LedgerId> {
        match self {
            Self::Records(advance) => Some(advance.ledger),
            Self::Parked { ledger, .. } => Some(*ledger),
            Self::Replay { .. } | Self::Call { .. } => None,
        }
    }

    /// The change of the partition's offset.
    pub(super) fn advance(&self) -> Option<&Advance> {
        match self {
            Self::Records(advance) => Some(advance),
            Self::Parked { .. } | Self::Replay { .. } | Self::Call { .. } => None,
        }
    }
}

/// The change of a partition's offset.
#[derive(Clone, Copy, Debug)]
pub struct Advance {
    /// The ledger row.
    pub ledger: LedgerId,
    /// The token under which it was claimed.
    pub reader: ReaderToken,
    /// The next offset that the row has now. The offset of the first record can be greater.
    pub expected: Offset,
    /// The offset after the last record of the batch.
    pub next: Offset,
    /// The last record of the batch, if the batch is the end of what was read.
    pub last: Option<LastRecord>,
}

/// The part of a batch that comes from one record or call.
#[derive(Clone, Debug)]
pub enum Entry {
    /// A valid request.
    Job(Box<PlacedCandidate>),
    /// A valid operation on a job that is named by its request id.
    Operation(Box<PlacedOperation>),
    /// An invalid one.
    Letter(Box<DeadLetter>),
    /// A record that cannot become a job yet; it is parked and retried later.
    Wait(Box<Wait>),
}

/// A record that is to be parked.
#[derive(Clone, Debug)]
pub struct Wait {
    /// The record as a dead letter, with the number of attempts including this one.
    pub letter: DeadLetter,
    /// When it is retried, epoch milliseconds.
    pub due_ms: i64,
}

/// A request that may become a job, with its shard.
#[derive(Clone, Debug)]
pub struct PlacedCandidate {
    /// The app.
    pub app: Arc<AppRow>,
    /// The job to insert.
    pub job: Job,
    /// The fingerprint of its `jobData`.
    pub fingerprint: Fingerprint,
    /// Its idempotency key, if it has one.
    pub key: Option<IdempotencyKey>,
    /// Whether its shard belongs to another instance, whose owner is notified by a command.
    pub foreign: bool,
    /// Its record, for the dead letter of a conflict.
    pub record: Option<Arc<RawRecord>>,
}

/// An operation on a job, with the shard of what is remembered of it if the job does not exist.
#[derive(Clone, Debug)]
pub struct PlacedOperation {
    /// The app.
    pub app: Arc<AppRow>,
    /// The job.
    pub job: JobId,
    /// The request id that stands for it.
    pub target: String,
    /// The shard.
    pub shard: ShardId,
    /// What is asked for.
    pub change: NamedChange,
    /// Its record, for a dead letter.
    pub record: Option<Arc<RawRecord>>,
}

/// The result of admitting a batch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Admitted {
    /// The batch was committed, with this decision on each entry.
    Done(Vec<Decision>),
    /// The row that it came from (of the ledger, a parked record or a dead letter) is not as
    /// expected. Nothing was written; the caller reads the row again.
    Fenced,
    /// Some shards are no longer owned by this instance. Nothing was written; the caller chooses
    /// other shards.
    ShardsMoved,
}

/// The decision on one entry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Decision {
    /// It became a job.
    Accepted,
    /// It became a job whose name has operations.
    Met {
        /// The job as it is now.
        job: Box<Job>,
        /// Whether it lives, at the end of the batch.
        is_live: bool,
        /// Whether it was cancelled before it came.
        cancelled: bool,
    },
    /// It is an operation, or a schedule that was decided like one.
    Operated {
        /// The answer.
        answer: Box<Answer>,
        /// The shard of the job, or of what is remembered.
        shard: ShardId,
        /// The verdicts.
        events: Vec<Event>,
    },
    /// Its job is live, and the owner of the shard carries it out. A call asks the owner itself;
    /// everything else has written a command.
    Asked(Box<Asked>),
    /// It is a duplicate of an earlier request.
    Duplicate {
        /// The request id of the earlier request.
        of: String,
        /// The job of the earlier request.
        job: JobId,
        /// Whether that was cancelled.
        cancelled: bool,
    },
    /// It became a dead letter. A call is refused without one.
    Dead(Refusal),
    /// It was parked, or stays parked, and will be retried.
    Waits,
}

/// A change to be carried out by the owner of a job's shard.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Asked {
    /// The shard.
    pub shard: ShardId,
    /// The change.
    pub request: ChangeRequest,
    /// How it would be answered now.
    pub foreseen: Answer,
}

impl Asked {
    /// The decision as it would be.
    pub fn into_foreseen(self) -> Decision {
        let Self { shard, foreseen, .. } = self;
        Decision::Operated { answer: Box::new(foreseen), shard, events: Vec::new() }
    }

    /// Asks for a change of this live job.
    pub(super) fn of(job: &Job, change: NamedChange, foreseen: Answer) -> Box<Self> {
        let by = By::new(format!("request {}", change.message.request_id));
        let by = by.through(match change.message.source {
            Some(_) => AuditSource::Kafka,
            None => AuditSource::Handle,
        });
        let request = ChangeRequest {
            job: job.id,
            created_ms: job.created_ms,
            change: JobChange::Named(Box::new(change)),
            if_match: None,
            by,
            bulk: None,
        };
        Box::new(Self { shard: job.shard, request, foreseen })
    }
}

impl Entry {
    /// The offset of its record, if it has one.
    pub fn offset(&self) -> Option<Offset> {
        let of_letter = |letter: &DeadLetter| letter.source.as_ref().map(|source| source.offset);
        match self {
            Self::Job(candidate) => candidate.job.origin.as_ref().map(|origin| origin.offset),
            Self::Operation(operation) => operation.record.as_ref().map(|record| record.offset),
            Self::Letter(letter) => of_letter(letter),
            Self::Wait(wait) => of_letter(&wait.letter),
        }
    }
}

impl PlacedOperation {
    pub(super) fn refusal(&self, kind: ErrorKind, message: String) -> Refusal {
        Refusal {
            request_id: Some(self.change.message.request_id.clone()),
            app: Some(self.app.name.clone()),
            ..Refusal::new(kind, message)
        }
    }

    /// As of a [`PlacedCandidate`].
    pub(super) fn letter(&self, refusal: Refusal, now_ms: i64) -> Option<DeadLetter> {
        let record = self.record.as_ref()?;
        Some(DeadLetter::of_record(record, refusal, now_ms))
    }
}

impl PlacedCandidate {
    pub(super) fn refusal(&self, kind: ErrorKind, message: String) -> Refusal {
        Refusal {
            request_id: Some(self.job.request_id.clone()),
            app: Some(self.app.name.clone()),
            ..Refusal::new(kind, message)
        }
    }

    /// The dead letter of a refused record. `None` for a call, to which the refusal is returned.
    pub(super) fn letter(&self, refusal: Refusal, now_ms: i64) -> Option<DeadLetter> {
        let record = self.record.as_ref()?;
        Some(DeadLetter::of_record(record, refusal, now_ms))
    }
}
