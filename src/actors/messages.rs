//! The messages between actors. Each one documents who sends it, what the reply means, and what
//! happens if it is lost.
//!
//! They are all in one file that imports no actor. If a message were defined next to the actor that
//! handles it, its senders would have to import that actor.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::mpsc::SyncSender;
use std::time::{Duration, Instant};

use actix::Message;

use super::changing::PendingChange;
use crate::admission::ChangeReply;
use crate::kafka::{PartitionQueue, TopicPartition};
use crate::model::ids::{JobId, KeyId, LedgerId, Offset, ReaderToken, ShardId};
use crate::model::job::Job;
use crate::model::window::TicketId;
use crate::store::{BatchRequest, ChangeRequest, OrderingKey, ShardFence};

/// Poll thread → Supervisor: these partitions are assigned to this instance. Never lost: the
/// Supervisor outlives the intake.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub(super) struct PartitionsAssigned {
    pub(super) queues: Vec<PartitionQueue>,
}

/// Poll thread → Supervisor: stop reading these partitions, and reply with their next offsets. The
/// poll thread waits for a limited time only: the ledger fences a write that comes later.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub(super) struct PartitionsRevoked {
    pub(super) partitions: Vec<TopicPartition>,
    pub(super) reply: SyncSender<Vec<(TopicPartition, Offset)>>,
}

/// Supervisor → `PartitionReader`: finish the current batch and stop. The reply is the partition's
/// durable next offset. If the reply is lost with the reader, the offset is in the ledger.
#[derive(Debug, Message)]
#[rtype(result = "Option<Offset>")]
pub(super) struct StopReading;

/// `ShardKeeper` → `PartitionReader`, with each heartbeat: the partition's ledger row has this
/// token. If it is not the reader's own, the row was changed, and the reader restarts at the row's
/// offset. If lost, the next heartbeat sends it again. One that was sent before the reader's latest
/// claim only makes it restart at the same offset.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub(super) struct LedgerSeen {
    pub(super) ledger: LedgerId,
    pub(super) reader: ReaderToken,
}

/// `ShardKeeper` → `PartitionReader`: this instance has a new id. The reader claims its row again,
/// so that the row names that id. If lost, the reader notices only with its next record that an
/// operator has changed the row.
#[derive(Clone, Copy, Debug, Message)]
#[rtype(result = "()")]
pub(super) struct Rejoined;

/// `PartitionReader` → `Dedup`: is any of these keys cached, in memory or in Redis? A lost or wrong
/// answer costs one additional read or write of the batch.
#[derive(Debug, Message)]
#[rtype(result = "bool")]
pub(super) struct FindKeys {
    pub(super) keys: Vec<KeyId>,
}

/// `PartitionReader` → `Dedup`: these keys are in the database now. If lost, a duplicate is found
/// by the write instead of by a read.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub(super) struct RememberKeys {
    pub(super) keys: Vec<KeyId>,
}

/// Admission, `Outcomes`, `ShardKeeper` → `RetryDlq`: this lane of the outbox may have letters or
/// verdicts to publish. If lost, the next scan finds them.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub(super) struct PublishOutbox(pub(super) OrderingKey);

/// Admission → `ShardKeeper`: there are commands for shards of this instance. If lost, the next
/// heartbeat sees them.
#[derive(Clone, Copy, Debug, Message)]
#[rtype(result = "()")]
pub(super) struct SeeCommands;

/// Admission, `RetryDlq` itself → `RetryDlq`: records were parked, and the first one is due at this
/// time. If lost, the next scan finds them.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub(super) struct RecordsParked {
    pub(super) due_ms: i64,
}

/// `PartitionReader`, `ShardKeeper` → `RetryDlq`: scan all lanes of the outbox and the parked
/// records. If lost, the next periodic scan finds them.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub(super) struct ScanOutbox;

/// Admission → `AppScheduler`, before BEGIN: jobs may be inserted into this app's shards. The reply
/// is a ticket that must be returned.
#[derive(Debug, Message)]
#[rtype(result = "TicketId")]
pub(super) struct TakeTicket;

/// Admission → `AppScheduler`, after COMMIT: returns the ticket with the inserted jobs. If the
/// scheduler has been restarted meanwhile, it has read them from the database.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub(super) struct JobsAdmitted {
    pub(super) ticket: TicketId,
    pub(super) jobs: Vec<Job>,
}

/// Admission → `AppScheduler`: returns the ticket without knowing what was inserted, after the
/// transaction has ended. The scheduler reads these shards again.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub(super) struct TicketDropped {
    pub(super) ticket: TicketId,
    pub(super) shards: Vec<ShardId>,
}

/// `ShardKeeper` → `AppScheduler`: another instance inserted these jobs into this app's shards;
/// load them.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub(super) struct LoadJobs {
    pub(super) jobs: Vec<JobId>,
}

/// `ShardKeeper` → `AppScheduler`: this instance has taken these shards. If lost with the
/// scheduler, its replacement finds them in `OwnedShards`.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub(super) struct ShardsTaken {
    pub(super) fences: Vec<ShardFence>,
}

/// `ShardKeeper` → `AppScheduler`: these shards belong to another instance now; remove their jobs.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub(super) struct ShardsLost {
    pub(super) shards: Vec<ShardId>,
}

/// `ShardKeeper` → `AppScheduler`: start no more jobs of this shard. The reply is whether all
/// outcomes were written within `max_wait`; if not, the shard is kept.
#[derive(Debug, Message)]
#[rtype(result = "bool")]
pub(super) struct ReleaseShard {
    pub(super) shard: ShardId,
    pub(super) max_wait: Duration,
}

/// In-flight table → `Outcomes`: attempts have ended. If lost, the next one has the same effect.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub(super) struct CollectEnded;

/// An attempt → `Outcomes`: attempts wait in the in-flight table for their marks. If lost, they
/// are found when attempts are looked through for marks.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub(super) struct MarkFirst;

/// `Outcomes` → `AppScheduler`: attempts have ended, so that others can start. If lost, the timer
/// starts them.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub(super) struct Fire;

/// `Outcomes` → `AppScheduler`, after COMMIT and after the attempts were removed from the in-flight
/// table. If lost with the scheduler, its replacement reads the jobs from the database.
#[derive(Debug, Default, Message)]
#[rtype(result = "()")]
pub(super) struct OutcomesWritten {
    /// Jobs whose rows were deleted.
    pub(super) finished: Vec<JobId>,
    /// Jobs that are to run again, as their rows are now.
    pub(super) put_back: Vec<Arc<Job>>,
    /// Jobs whose shards were lost, so that their state is unknown.
    pub(super) unknown: Vec<JobId>,
}

/// A call, `ShardKeeper` → `AppScheduler`: this change of one of your jobs is asked for. Without an
/// answer it is asked again: what was committed is found to be so.
#[derive(Debug, Message)]
#[rtype(result = "ChangeReply")]
pub(super) struct ChangeJob {
    pub(super) shard: ShardId,
    pub(super) request: ChangeRequest,
    /// The command that brought it.
    pub(super) command: Option<i64>,
}

/// A call, `ShardKeeper` → `AppScheduler`: a part of a bulk action, of jobs in one of your shards. The
/// answers are in the order of the jobs. Without them it is asked again, as of a [`ChangeJob`].
#[derive(Debug, Message)]
#[rtype(result = "Vec<ChangeReply>")]
pub(super) struct ChangeBatch {
    pub(super) shard: ShardId,
    pub(super) request: Arc<BatchRequest>,
}

/// Work on a change → `AppScheduler`, after COMMIT and after the job was taken off the table of
/// changes. A successor that starts after that reads the truth from the database.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub(super) struct JobChanged {
    /// What the window is to do with the job, if it was taken out of it.
    pub(super) written: OutcomesWritten,
    /// Further changes of the same job, in their order.
    pub(super) next: VecDeque<PendingChange>,
}

/// Supervisor → `AppScheduler`: start no more jobs.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub(super) struct StopStarting;

/// Supervisor → `ShardKeeper`: release all shards and delete the instance's row. The reply is
/// whether that succeeded.
#[derive(Debug, Message)]
#[rtype(result = "bool")]
pub(super) struct ReleaseAll;

/// Supervisor → every actor, at each metrics interval: log the actor's counters.
#[derive(Clone, Copy, Debug, Message)]
#[rtype(result = "()")]
pub(super) struct Report;

/// Service → Supervisor: stop everything in order. The reply comes when all outcomes are written
/// and all shards released, or when the time is over.
#[derive(Clone, Copy, Debug, Message)]
#[rtype(result = "()")]
pub(crate) struct Drain {
    /// Running attempts may go on until this time; the steps after it take [`Drain::REST`] at most.
    pub deadline: Instant,
}

impl Drain {
    /// The time for the steps after the deadline: writing outcomes and releasing shards.
    pub(crate) const REST: Duration = Duration::from_millis(1600);
}
