//! What is to be admitted together, and what may become of it.

use std::sync::Arc;

use uuid::Uuid;

use crate::model::audit::AuditEntry;
use crate::model::fingerprint::Fingerprint;
use crate::model::ids::{JobId, LedgerId, Offset, ReaderToken};
use crate::model::job::Job;
use crate::model::letter::{DeadLetter, ErrorKind, Refusal};
use crate::model::record::RawRecord;
use crate::store::{AppRow, IdempotencyKey, LastRecord, ShardFence};

/// What is to be admitted together.
#[derive(Clone, Debug)]
pub struct Batch {
    /// Where the entries come from, and so what else the transaction changes.
    pub source: BatchSource,
    /// Requests and dead letters; of records in order of their offsets.
    pub entries: Vec<Entry>,
    /// Our belief of each shard of ours that a job goes into, ascending.
    pub fences: Vec<ShardFence>,
    /// Some names are probably known already: read before writing.
    pub read_first: bool,
    /// Whether the same key with another time is a conflict.
    pub conflict_on_time: bool,
    /// Whether producers are told what became of their requests.
    pub verdicts: bool,
    /// When, epoch milliseconds.
    pub now_ms: i64,
}

/// Where a batch comes from.
#[derive(Clone, Debug)]
pub enum BatchSource {
    /// Records of a partition: its offset moves.
    Records(Advance),
    /// Records of a partition that were parked: their rows are taken, one for each entry.
    Parked {
        /// The ledger row of the partition.
        ledger: LedgerId,
        /// The rows, in the order of the entries.
        rows: Vec<Taken>,
    },
    /// A dead letter that is replayed: its row is taken.
    Replay {
        /// The letter.
        letter: Uuid,
        /// When its row came into the state in which it was read.
        changed_ms: i64,
        /// What the audit says of it.
        entry: Box<AuditEntry>,
    },
    /// A call by API.
    Call {
        /// An earlier try of the same call got no answer: what it is a duplicate of may be
        /// that try.
        again: bool,
    },
}

/// A parked record as it was read. A transaction that finds it otherwise writes nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Taken {
    /// Its row.
    pub id: Uuid,
    /// How often it had been tried.
    pub attempts: u32,
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

    /// The move of the partition's offset.
    pub(super) fn advance(&self) -> Option<&Advance> {
        match self {
            Self::Records(advance) => Some(advance),
            Self::Parked { .. } | Self::Replay { .. } | Self::Call { .. } => None,
        }
    }
}

/// The move of a partition's offset.
#[derive(Clone, Copy, Debug)]
pub struct Advance {
    /// The ledger row.
    pub ledger: LedgerId,
    /// The token under which it was claimed.
    pub reader: ReaderToken,
    /// Where the row stands: its own value, never the first record's offset.
    pub expected: Offset,
    /// The offset after the last record of the batch.
    pub next: Offset,
    /// That last record.
    pub last: Option<LastRecord>,
}

/// One record's, or one call's, part of a batch.
#[derive(Clone, Debug)]
pub enum Entry {
    /// A request that passed every pure rule.
    Job(Box<PlacedCandidate>),
    /// One that did not.
    Letter(Box<DeadLetter>),
    /// One whose failure may heal: it is tried again later.
    Wait(Box<Wait>),
}

/// A record that is to be tried again.
#[derive(Clone, Debug)]
pub struct Wait {
    /// What it is so far: its attempts include the last one.
    pub letter: DeadLetter,
    /// When it is tried again, epoch milliseconds.
    pub due_ms: i64,
}

/// A request that may become a job, with the shard that it would go into.
#[derive(Clone, Debug)]
pub struct PlacedCandidate {
    /// The app.
    pub app: Arc<AppRow>,
    /// The job as it will be.
    pub job: Job,
    /// Of its `jobData`.
    pub fingerprint: Fingerprint,
    /// Its idempotency key, if it brought one.
    pub key: Option<IdempotencyKey>,
    /// Its shard is not ours: the owner is told to look.
    pub foreign: bool,
    /// The record that it came by, should it turn out to be a conflict.
    pub record: Option<Arc<RawRecord>>,
}

/// What became of a batch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Admitted {
    /// It is committed; what was decided of each entry.
    Done(Vec<Decision>),
    /// The row that it came from (the ledger's, a parked record's, a letter's) is not as
    /// expected: nothing was written. Read it and see.
    Fenced,
    /// Some shards are not ours any more: nothing was written. Choose others.
    ShardsMoved,
}

/// What was decided of one entry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Decision {
    /// It is a job now.
    Accepted,
    /// It is the same as an earlier request.
    Duplicate {
        /// That request's name.
        of: String,
        /// Its job.
        job: JobId,
        /// Whether that was cancelled.
        cancelled: bool,
    },
    /// It is a dead letter (by API: refused).
    Dead(Refusal),
    /// It will be tried again.
    Waits,
}

impl Entry {
    /// The place of its record in the partition.
    pub fn offset(&self) -> Option<Offset> {
        let of_letter = |letter: &DeadLetter| letter.source.as_ref().map(|source| source.offset);
        match self {
            Self::Job(candidate) => candidate.job.origin.as_ref().map(|origin| origin.offset),
            Self::Letter(letter) => of_letter(letter),
            Self::Wait(wait) => of_letter(&wait.letter),
        }
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

    /// By API a refusal is an answer, not a dead letter.
    pub(super) fn letter(&self, refusal: Refusal, now_ms: i64) -> Option<DeadLetter> {
        let record = self.record.as_ref()?;
        Some(DeadLetter::of_record(record, refusal, now_ms))
    }
}
