//! What actors say to each other. Each message says who sends it, what the reply means,
//! and what happens if it is lost.
//!
//! All of them are in one file that imports no actor: a message is what two actors agree on,
//! and beside the one that answers it, its senders would have to import that one.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::mpsc::SyncSender;
use std::time::{Duration, Instant};

use actix::Message;

use super::changing::PendingChange;
use crate::kafka::{PartitionQueue, TopicPartition};
use crate::model::ids::{JobId, KeyId, LedgerId, Offset, ReaderToken, ShardId};
use crate::model::job::Job;
use crate::model::window::TicketId;
use crate::admission::ChangeReply;
use crate::store::{ChangeRequest, Lane, ShardFence};

/// Poll thread → Supervisor: these partitions are ours. Never lost: the Supervisor
/// outlives the intake.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub(super) struct PartitionsAssigned {
    pub(super) queues: Vec<PartitionQueue>,
}

/// Poll thread → Supervisor: stop reading these and say how far each got. Without an
/// answer in time the poll thread goes on: the ledger fences what comes too late.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub(super) struct PartitionsRevoked {
    pub(super) partitions: Vec<TopicPartition>,
    pub(super) reply: SyncSender<Vec<(TopicPartition, Offset)>>,
}

/// Supervisor → `PartitionReader`: finish the batch in hand and stop. The reply is the
/// partition's durable next offset; lost with the reader, when the ledger has it.
#[derive(Debug, Message)]
#[rtype(result = "Option<Offset>")]
pub(super) struct Leave;

/// `ShardKeeper` → `PartitionReader`, with each heartbeat: your partition's row has this
/// token. If it is not yours, somebody moved the row: begin again where it stands. If lost,
/// the next heartbeat says the same; one from before your latest claim makes you begin
/// again where you are, no more.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub(super) struct LedgerSeen {
    pub(super) ledger: LedgerId,
    pub(super) reader: ReaderToken,
}

/// `ShardKeeper` → `PartitionReader`: this instance goes by another id now. Claim the row
/// again, so that it names the instance that looks at it. If lost, a row that somebody
/// moves is noticed only with the next record.
#[derive(Clone, Copy, Debug, Message)]
#[rtype(result = "()")]
pub(super) struct JoinedAnew;

/// `PartitionReader` → Dedup: is any of these keys known, here or in the fleet? A lost or
/// wrong answer costs one look-up in the database.
#[derive(Debug, Message)]
#[rtype(result = "bool")]
pub(super) struct Recall {
    pub(super) keys: Vec<KeyId>,
}

/// `PartitionReader` → Dedup: these keys are in the database now. Losing it costs a look-up.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub(super) struct Remember {
    pub(super) keys: Vec<KeyId>,
}

/// Whoever admits, Outcomes, `ShardKeeper` → `RetryDlq`: this lane may have letters or
/// verdicts to publish. If lost, they are found at the next look around.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub(super) struct PublishLane(pub(super) Lane);

/// `PartitionReader`, `RetryDlq` itself → `RetryDlq`: records were parked; the first is due then. If
/// lost, they are found at the next look around.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub(super) struct RecordsParked {
    pub(super) due_ms: i64,
}

/// `PartitionReader` → `RetryDlq`: there may be something in any lane, and parked records. If
/// lost, it looks around by itself after a while.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub(super) struct LookAround;

/// Whoever admits → `AppScheduler`, before BEGIN: jobs of yours may come. The ticket must
/// come back.
#[derive(Debug, Message)]
#[rtype(result = "TicketId")]
pub(super) struct TakeTicket;

/// Whoever admitted → `AppScheduler`, after COMMIT: these rows are new. If the scheduler
/// died meanwhile its successor reads them from the database.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub(super) struct JobsAdmitted {
    pub(super) ticket: TicketId,
    pub(super) jobs: Vec<Job>,
}

/// Whoever admitted → `AppScheduler`: nobody knows what was inserted; its transaction has
/// ended. Read these shards again.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub(super) struct TicketDropped {
    pub(super) ticket: TicketId,
    pub(super) shards: Vec<ShardId>,
}

/// `ShardKeeper` → `AppScheduler`: others put these jobs into shards of yours.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub(super) struct LookFor {
    pub(super) jobs: Vec<JobId>,
}

/// `ShardKeeper` → `AppScheduler`: these shards are ours. A successor finds them in the owned.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub(super) struct ShardsTaken {
    pub(super) fences: Vec<ShardFence>,
}

/// `ShardKeeper` → `AppScheduler`: these shards are somebody else's; drop what you have of them.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub(super) struct ShardsLost {
    pub(super) shards: Vec<ShardId>,
}

/// `ShardKeeper` → `AppScheduler`: start nothing more of this shard, and say whether all that
/// ran has been written within the time given. False: keep it, try later.
#[derive(Debug, Message)]
#[rtype(result = "bool")]
pub(super) struct ReleaseShard {
    pub(super) shard: ShardId,
    pub(super) patience: Duration,
}

/// In-flight table → Outcomes: attempts have ended. If lost, the next one says the same.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub(super) struct Collect;

/// Outcomes → `AppScheduler`: attempts have ended; there is room to start others.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub(super) struct Fire;

/// Outcomes → `AppScheduler`, after COMMIT and after the in-flight table was cleared of
/// them. A successor that starts after that reads the truth from the database.
#[derive(Debug, Default, Message)]
#[rtype(result = "()")]
pub(super) struct Settled {
    /// Their rows are gone.
    pub(super) finished: Vec<JobId>,
    /// Their rows read like this now.
    pub(super) put_back: Vec<Arc<Job>>,
    /// Nobody knows: their shards were lost.
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

/// Work on a change → `AppScheduler`, after COMMIT and after the job was taken off the table of
/// changes. A successor that starts after that reads the truth from the database.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub(super) struct JobChanged {
    /// What the window is told of the job, if it was taken out of it.
    pub(super) settled: Settled,
    /// Further changes of the same job, in their order.
    pub(super) next: VecDeque<PendingChange>,
}

/// Supervisor → `AppScheduler`: start nothing more.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub(super) struct StopStarting;

/// Supervisor → `ShardKeeper`: give up all shards and leave. True when that is done.
#[derive(Debug, Message)]
#[rtype(result = "bool")]
pub(super) struct GoodBye;

/// Supervisor → every actor, each metrics interval: log your figures.
#[derive(Clone, Copy, Debug, Message)]
#[rtype(result = "()")]
pub(super) struct Report;

/// Service → Supervisor: stop everything in order within the time given. The reply comes
/// when all is written and released, or the time is over.
#[derive(Clone, Copy, Debug, Message)]
#[rtype(result = "()")]
pub(crate) struct Drain {
    /// Until when running attempts may go on; all that follows takes [`Drain::REST`] more.
    pub deadline: Instant,
}

impl Drain {
    /// What may be spent after the deadline: outcomes that are written, shards that are
    /// released.
    pub(crate) const REST: Duration = Duration::from_millis(1600);
}

/// For tests of supervision: the actor that gets it panics.
#[derive(Clone, Copy, Debug, Message)]
#[rtype(result = "()")]
pub(crate) struct Fault;
