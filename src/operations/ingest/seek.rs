//! Changes the offsets from which partitions are read on, with or without running instances.
//!
//! Each offset is changed by one compare-and-set of its ledger row, which also replaces the
//! reader's token: the reader cannot write its current batch, and restarts at the row.

use std::collections::{BTreeMap, HashMap};

use serde::Serialize;
use serde_json::json;
use utoipa::ToSchema;

use super::plan::{PartitionMove, Place};
use super::{Context, Ingest};
use crate::kafka::{ClusterInspector, KafkaIngestConfig, LogRange, TopicPartition};
use crate::model::audit::{AuditAction, AuditEntry};
use crate::model::ids::{Offset, Partition, ReaderToken};
use crate::operations::{Error, Result};
use crate::store::{LedgerKey, LedgerRow};

/// How many times a row is tried that its reader changes at the same time.
const TRIES: usize = 10;

/// A seek of one or more partitions.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seek {
    /// The position to seek to.
    pub to: SeekTo,
    /// Only this topic; `None` for all ingest topics.
    pub topic: Option<String>,
    /// Only these partitions of the topic; all if empty.
    pub partitions: Vec<Partition>,
    /// Only determines what would be read again or skipped.
    pub dry_run: bool,
}

/// The position to seek to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum SeekTo {
    /// This offset.
    Offset(Offset),
    /// The first record at or after this time, epoch milliseconds.
    Time(i64),
    /// The first record in the log.
    Beginning,
    /// After the last record in the log.
    End,
}

/// The result of a seek, or of its dry run.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
#[non_exhaustive]
pub struct SeekAnswer {
    /// The consumer group.
    pub group: String,
    /// Whether an offset was changed, and no change failed.
    pub moved: bool,
    /// The partitions, by topic and number.
    pub partitions: Vec<PartitionMove>,
    /// The error that ended the seek before all offsets were changed.
    #[serde(skip)]
    pub failure: Option<Error>,
}

impl SeekAnswer {
    /// Whether every partition is already at its offset.
    pub fn is_noop(&self) -> bool {
        self.partitions.iter().all(PartitionMove::is_noop)
    }
}

impl Ingest<'_> {
    /// Changes the offsets from which partitions are read on. After a backward seek records are
    /// read again: a repeated request is recognised as a duplicate while its job or its idempotency
    /// key exists. A forward seek skips records permanently. All partitions are checked before the
    /// first is moved.
    ///
    /// # Errors
    /// [`Error::Invalid`] if the topic or a partition is not read, or no Kafka is configured;
    /// [`Error::Conflict`] if a log does not have the offset; [`Error::Unavailable`] when Kafka or
    /// the database does not answer. In these cases nothing was changed. A later error is in
    /// [`SeekAnswer::failure`].
    pub async fn seek(&self, seek: Seek) -> Result<SeekAnswer> {
        self.context.run(|context| async move { run(&context, &seek).await }).await
    }
}

async fn run(context: &Context, seek: &Seek) -> Result<SeekAnswer> {
    let kafka = context.kafka()?;
    let inspector = ClusterInspector::start(kafka)?;
    let chosen = choose(&inspector, kafka, seek).await?;
    let mut parts = plan(context, &inspector, chosen, seek.to).await?;
    let failure = match seek.dry_run {
        true => None,
        // An error does not undo the moves before it.
        false => move_all(context, &mut parts).await.err(),
    };
    let partitions: Vec<PartitionMove> = parts.into_iter().map(|part| part.planned).collect();
    let all_moved = partitions.iter().all(|one| one.moved || one.is_noop());
    let moved = all_moved && partitions.iter().any(|one| one.moved);
    Ok(SeekAnswer { group: kafka.group_id.clone(), moved, partitions, failure })
}

/// The partitions that `seek` refers to.
async fn choose(
    inspector: &ClusterInspector,
    kafka: &KafkaIngestConfig,
    seek: &Seek,
) -> Result<Vec<TopicPartition>> {
    let known = || kafka.topics.join(", ");
    let topics = match &seek.topic {
        None => kafka.topics.clone(),
        Some(topic) if kafka.topics.contains(topic) => vec![topic.clone()],
        Some(topic) => {
            let known = known();
            return Err(Error::Invalid(format!(
                "topic {topic} is not read: kafka.topics has {known}"
            )));
        }
    };
    if topics.len() > 1 && !seek.partitions.is_empty() {
        let known = known();
        return Err(Error::Invalid(format!("a partition needs its topic, one of {known}")));
    }
    let mut partitions = inspector.partitions(topics.clone()).await?;
    for topic in &topics {
        let of_topic = partitions.iter().filter(|one| *one.topic == **topic);
        let numbers: Vec<Partition> = of_topic.map(|one| one.partition).collect();
        if numbers.is_empty() {
            return Err(Error::Invalid(format!("topic {topic} does not exist")));
        }
        if let Some(number) = seek.partitions.iter().find(|number| !numbers.contains(number)) {
            let last = numbers.len() - 1;
            return Err(Error::Invalid(format!(
                "partition {number} does not exist: {topic} has partitions 0 to {last}"
            )));
        }
    }
    let is_chosen =
        |number: &Partition| seek.partitions.is_empty() || seek.partitions.contains(number);
    partitions.retain(|one| is_chosen(&one.partition));
    Ok(partitions)
}

/// A partition whose offset is to be changed.
struct Part {
    key: LedgerKey,
    /// Its ledger row, if it was ever read.
    row: Option<LedgerRow>,
    log: LogRange,
    planned: PartitionMove,
}

impl Part {
    /// Records the actual move, whose `from` may differ from the planned one.
    fn note(&mut self, from: Offset, to: Offset) {
        if from != self.planned.from {
            // The reader has read up to there, so the log has these records.
            self.log.end = self.log.end.max(from);
        }
        self.planned = PartitionMove::of(&self.key.topic, self.key.partition, from, to, self.log);
        self.planned.moved = from != to;
    }
}

async fn plan(
    context: &Context,
    inspector: &ClusterInspector,
    partitions: Vec<TopicPartition>,
    to: SeekTo,
) -> Result<Vec<Part>> {
    let group = &context.kafka()?.group_id;
    let cluster = inspector.cluster_id().await?;
    let logs = inspector.logs(partitions.clone()).await?;
    let places = places(inspector, &partitions, to).await?;
    let read = context.store().partitions(group, Some(&cluster)).await;
    let rows = read.map_err(|error| context.database_error(error))?.into_iter();
    let rows: HashMap<LedgerKey, LedgerRow> = rows.map(|one| (one.key, one.row)).collect();
    let committed = inspector.committed(partitions.clone()).await?;
    let mut parts = Vec::new();
    for partition in partitions {
        let (Some(log), Some(place)) = (logs.get(&partition), places.get(&partition)) else {
            return Err(Error::Unavailable(format!("Kafka did not report {partition}: try again")));
        };
        let key = LedgerKey {
            cluster: cluster.clone(),
            group: group.clone(),
            topic: partition.topic.to_string(),
            partition: partition.partition,
        };
        let row = rows.get(&key).cloned();
        let start = committed.get(&partition).copied().unwrap_or(log.begin);
        let from = row.as_ref().map_or(start, |row| row.next_offset);
        let Some(to) = place.in_log(*log) else {
            let LogRange { begin, end, .. } = log;
            return Err(Error::Conflict(format!(
                "{partition} does not have that offset: its log begins at {begin} and ends at {end}"
            )));
        };
        let planned = PartitionMove::of(&key.topic, key.partition, from, to, *log);
        parts.push(Part { key, row, log: *log, planned });
    }
    Ok(parts)
}

/// The position to seek to in each partition.
async fn places(
    inspector: &ClusterInspector,
    partitions: &[TopicPartition],
    to: SeekTo,
) -> Result<BTreeMap<TopicPartition, Place>> {
    let all = |place| Ok(partitions.iter().map(|one| (one.clone(), place)).collect());
    let time_ms = match to {
        SeekTo::Offset(offset) => return all(Place::Offset(offset)),
        SeekTo::Beginning => return all(Place::Beginning),
        SeekTo::End => return all(Place::End),
        SeekTo::Time(ms) => ms,
    };
    let found = inspector.offsets_at(partitions.to_vec(), time_ms).await?;
    let place = |one: &TopicPartition| Place::Moment(found.get(one).copied());
    Ok(partitions.iter().map(|one| (one.clone(), place(one))).collect())
}

async fn move_all(context: &Context, parts: &mut [Part]) -> Result<()> {
    for part in parts {
        let about = format!("{}/{}", part.key.topic, part.key.partition);
        move_one(context, part).await.map_err(|error| {
            Error::Unavailable(format!("{about} may not have been moved: see `ingest`: {error}"))
        })?;
    }
    Ok(())
}

/// Moves one partition, and records from which offset, which may be further than planned.
async fn move_one(context: &Context, part: &mut Part) -> Result<()> {
    let planned = part.planned.clone();
    if planned.is_noop() {
        return Ok(());
    }
    let mut row = row_of(context, part).await?;
    for _ in 0..TRIES {
        let from = row.next_offset;
        let to = planned.to_from(from);
        if from == to || move_row(context, &part.key, &row, to).await? {
            part.note(from, to);
            return Ok(());
        }
        row = take_from_reader(context, &row).await?;
    }
    Err(Error::Unavailable(format!("its readers claimed it {TRIES} times meanwhile: try again")))
}

/// The partition's row, which is created first if the partition was never read.
async fn row_of(context: &Context, part: &Part) -> Result<LedgerRow> {
    if let Some(row) = part.row.clone() {
        return Ok(row);
    }
    let store = context.store();
    let of_store = |error| context.database_error(error);
    store.open_ledger(&part.key, part.planned.from).await.map_err(of_store)?;
    let found = store.find_ledger(&part.key).await.map_err(of_store)?;
    found.ok_or_else(|| Error::Unavailable("its ledger row does not exist yet".into()))
}

async fn move_row(context: &Context, key: &LedgerKey, row: &LedgerRow, to: Offset) -> Result<bool> {
    let partition = format!("{}/{}", key.topic, key.partition);
    let entry = AuditEntry {
        details: json!({ "group": key.group, "from": row.next_offset, "to": to }),
        ..context.entry(AuditAction::SeekIngest, partition)
    };
    let moved = context.store().seek_ledger(row, ReaderToken::random(), to, &entry).await;
    moved.map_err(|error| context.database_error(error))
}

/// Replaces the reader's token, because batches change the row more often than a compare-and-set
/// can succeed. Until the reader has claimed the row again, it does not change.
async fn take_from_reader(context: &Context, row: &LedgerRow) -> Result<LedgerRow> {
    let store = context.store();
    let taken = store.reclaim_ledger(row.id, row.reader, ReaderToken::random()).await;
    let row = match taken.map_err(|error| context.database_error(error))? {
        Some(row) => Ok(row),
        None => store.read_ledger(row.id).await,
    };
    row.map_err(|error| context.database_error(error))
}
