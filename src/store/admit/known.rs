//! Reads the rows that exist already for the requests of a batch.

use std::collections::{HashMap, HashSet};

use futures::TryStreamExt;
use infinite_scheduler_entity::{dead_letter, idempotency_key, job};
use sea_orm::{ColumnTrait, Condition, EntityTrait, QueryFilter, QuerySelect};
use uuid::Uuid;

use super::batch::{Batch, BatchSource, Entry, OperationName};
use crate::model::fingerprint::Fingerprint;
use crate::model::ids::{JobId, KeyId};
use crate::model::job::Job;
use crate::model::versions::Memory;
use crate::store::columns::{job_of, memory_of};
use crate::store::tombstones::TOMBSTONE;
use crate::store::{Result, Store, StoredJob};

/// The jobs, keys and dead letters that existed when they were read. They may have changed since;
/// the unique keys decide when the batch is written.
#[derive(Debug, Default)]
pub(super) struct Known {
    pub(super) keys: HashMap<KeyId, Earlier>,
    pub(super) jobs: HashMap<JobId, Earlier>,
    /// Keys that may be replaced: their window is over and their job has ended, or it was
    /// cancelled. With the end of the window, and the job that was cancelled.
    pub(super) free: Vec<FreeKey>,
    /// The states of existing dead letters of records that are to be parked.
    pub(super) letters: HashMap<Uuid, i16>,
    /// Jobs that operations name, which have no row and are known to have fired.
    pub(super) fired: HashSet<JobId>,
}

impl Known {
    pub(super) fn is_empty(&self) -> bool {
        let Self { keys, jobs, free, letters, fired } = self;
        keys.is_empty()
            && jobs.is_empty()
            && free.is_empty()
            && letters.is_empty()
            && fired.is_empty()
    }
}

/// A key that may be replaced.
#[derive(Clone, Copy, Debug)]
pub(super) struct FreeKey {
    pub(super) id: KeyId,
    /// The end of its window as it was read.
    pub(super) expires_ms: i64,
}

/// The earlier request with the same id or key.
#[derive(Clone, Debug)]
pub(super) struct Earlier {
    pub(super) job: JobId,
    pub(super) request_id: String,
    pub(super) fingerprint: Fingerprint,
    /// `None` if it was rescheduled since.
    pub(super) scheduled_ms: Option<i64>,
    /// Its job was cancelled.
    pub(super) cancelled: bool,
    /// The end of the window, of a key.
    pub(super) expires_ms: Option<i64>,
    /// Of a request id: its row, without `jobData`.
    pub(super) row: Option<Box<StoredJob>>,
    /// Of a key: what is remembered of operations that named it.
    pub(super) memory: Memory,
}

impl Earlier {
    /// The job of a request id, which is live.
    pub(super) fn of(job: &Job, fingerprint: Fingerprint) -> Self {
        Self {
            job: job.id,
            request_id: job.request_id.clone(),
            fingerprint,
            scheduled_ms: job.changes.moved_ms.is_none().then_some(job.scheduled_ms),
            cancelled: false,
            expires_ms: None,
            row: None,
            memory: Memory::default(),
        }
    }

    /// Of a key: operations came before its job.
    pub(super) fn is_awaited(&self) -> bool {
        self.job.uuid().is_nil()
    }

    /// Whether it is the row of a job of a schedule with a version.
    pub(super) fn has_version(&self) -> bool {
        self.row.as_ref().is_some_and(|row| row.job.version.is_some())
    }
}

/// The most ids of one query.
const AT_ONCE: usize = 500;

impl Store {
    pub(super) async fn known(&self, batch: &Batch) -> Result<Known> {
        let candidates = batch.entries.iter().filter_map(|entry| match entry {
            Entry::Job(candidate) => Some(candidate),
            Entry::Operation(_) | Entry::Letter(_) | Entry::Wait(_) => None,
        });
        let operations = batch.entries.iter().filter_map(|entry| match entry {
            Entry::Operation(operation) => Some(operation),
            Entry::Job(_) | Entry::Letter(_) | Entry::Wait(_) => None,
        });
        let mut known = Known::default();
        let named = operations.clone().filter_map(|operation| match &operation.name {
            OperationName::Key(key) => Some(key.id),
            OperationName::Request { .. } => None,
        });
        let named: HashSet<KeyId> = named.collect();
        let mut keys: Vec<KeyId> = named.iter().copied().collect();
        keys.extend(candidates.clone().filter_map(|candidate| Some(candidate.key.as_ref()?.id)));
        let ended = self.read_keys(&keys, batch.now_ms, &mut known).await?;
        let versioned: HashSet<KeyId> = candidates
            .clone()
            .filter(|candidate| candidate.job.version.is_some())
            .filter_map(|candidate| Some(candidate.key.as_ref()?.id))
            .collect();
        let mut ids: Vec<JobId> = candidates.map(|candidate| candidate.job.id).collect();
        ids.extend(ended.iter().map(|row| JobId::from_uuid(row.job)));
        let targets = operations.filter_map(|operation| match &operation.name {
            OperationName::Request { job, id } => Some((*job, id.as_str())),
            OperationName::Key(_) => None,
        });
        ids.extend(targets.clone().map(|(job, _)| job));
        self.read_jobs(&ids, &mut known).await?;
        let gone: Vec<(JobId, &str)> =
            targets.filter(|(job, _)| !known.jobs.contains_key(job)).collect();
        known.fired = self.fired(&gone).await?;
        for row in ended {
            let job = known.jobs.get(&JobId::from_uuid(row.job));
            match job.is_some_and(|job| is_kept(&row, job)) {
                true => drop(known.keys.insert(key_id(&row), earlier_of_key(&row))),
                false => {
                    known.free.push(FreeKey { id: key_id(&row), expires_ms: row.expires_ms });
                }
            }
        }
        let with_versions = self.note_cancelled(&mut known).await?;
        // The versions of these decide.
        let decide = |(key, earlier): (&KeyId, &Earlier)| {
            let decides = named.contains(key)
                || versioned.contains(key)
                || with_versions.contains(&earlier.job)
                || batch.cancelling.contains(&earlier.job)
                || !earlier.memory.is_empty();
            (decides && !known.jobs.contains_key(&earlier.job)).then_some(earlier.job)
        };
        let ids: Vec<JobId> = known.keys.iter().filter_map(decide).collect();
        self.read_jobs(&ids, &mut known).await?;
        // A parked record that is retried would only find its own row.
        if let BatchSource::Records(_) = batch.source {
            self.read_letters(batch, &mut known).await?;
        }
        Ok(known)
    }

    /// Returns the rows of the keys whose window has ended; adds the others to `known`.
    async fn read_keys(
        &self,
        keys: &[KeyId],
        now_ms: i64,
        known: &mut Known,
    ) -> Result<Vec<idempotency_key::Model>> {
        let mut ended = Vec::new();
        for some in keys.chunks(AT_ONCE) {
            let ids = some.iter().map(|key| Uuid::from_bytes(key.into_bytes()));
            let rows = idempotency_key::Entity::find()
                .filter(idempotency_key::Column::Id.is_in(ids))
                .all(&self.inner.pool)
                .await?;
            for row in rows {
                if row.expires_ms <= now_ms {
                    ended.push(row);
                } else {
                    known.keys.insert(key_id(&row), earlier_of_key(&row));
                }
            }
        }
        Ok(ended)
    }

    /// Marks the keys whose jobs were cancelled. A cancelled job gives its key back: it is there
    /// for other requests, while the request that was cancelled stays so. Returns the jobs that have
    /// a version.
    async fn note_cancelled(&self, known: &mut Known) -> Result<HashSet<JobId>> {
        let jobs: Vec<Uuid> = known.keys.values().map(|earlier| earlier.job.uuid()).collect();
        let (mut cancelled, mut versioned) = (HashSet::new(), HashSet::new());
        for some in jobs.chunks(AT_ONCE) {
            // A row with this priority that is of no cancelled job is that of an awaited name: its
            // job has fired, and the key is not free.
            let is_cancelled = Condition::all()
                .add(job::Column::Priority.eq(TOMBSTONE))
                .add(job::Column::CancelledMs.is_not_null());
            let rows: Vec<(Uuid, i16)> = job::Entity::find()
                .select_only()
                .column(job::Column::Id)
                .column(job::Column::Priority)
                .filter(job::Column::Id.is_in(some.iter().copied()))
                .filter(Condition::any().add(is_cancelled).add(job::Column::Version.is_not_null()))
                .into_tuple()
                .all(&self.inner.pool)
                .await?;
            for (id, priority) in rows {
                let set = if priority == TOMBSTONE { &mut cancelled } else { &mut versioned };
                set.insert(JobId::from_uuid(id));
            }
        }
        let keys = known.keys.values_mut().filter(|earlier| cancelled.contains(&earlier.job));
        keys.for_each(|earlier| earlier.cancelled = true);
        Ok(versioned)
    }

    async fn read_letters(&self, batch: &Batch, known: &mut Known) -> Result<()> {
        let waiting = batch.entries.iter().filter_map(|entry| match entry {
            Entry::Wait(wait) => Some(wait.letter.id()),
            Entry::Job(_) | Entry::Operation(_) | Entry::Letter(_) => None,
        });
        let ids: Vec<Uuid> = waiting.collect();
        for some in ids.chunks(AT_ONCE) {
            let rows: Vec<(Uuid, i16)> = dead_letter::Entity::find()
                .select_only()
                .column(dead_letter::Column::Id)
                .column(dead_letter::Column::State)
                .filter(dead_letter::Column::Id.is_in(some.iter().copied()))
                .into_tuple()
                .all(&self.inner.pool)
                .await?;
            known.letters.extend(rows);
        }
        Ok(())
    }

    async fn read_jobs(&self, ids: &[JobId], known: &mut Known) -> Result<()> {
        for some in ids.chunks(AT_ONCE) {
            // As a stream, since each row may be as large as a record.
            let mut rows = job::Entity::find()
                .filter(job::Column::Id.is_in(some.iter().map(|id| id.uuid())))
                .stream(&self.inner.pool)
                .await?;
            while let Some(row) = rows.try_next().await? {
                let requested = row.original.map(|hash| Fingerprint::from_bytes(hash.into_bytes()));
                let fingerprint = requested
                    .or_else(|| Fingerprint::of_json(&row.data).ok())
                    .unwrap_or(Fingerprint::from_bytes([0; 16]));
                let is_tombstone = row.priority == TOMBSTONE;
                let mut job = job_of(job::Model { data: "{}".to_owned(), ..row });
                job.changes.original = Some(fingerprint);
                let cancelled = is_tombstone && job.changes.cancelled.is_some();
                let earlier = Earlier { cancelled, ..Earlier::of(&job, fingerprint) };
                let row = Some(Box::new(StoredJob { job, is_tombstone }));
                let earlier = Earlier { row, ..earlier };
                known.jobs.insert(earlier.job, earlier);
            }
        }
        Ok(())
    }
}

/// Whether a key is valid after the end of its window: it is for as long as its job lives, and what
/// is remembered of it for as long as its cancelled job is.
fn is_kept(key: &idempotency_key::Model, job: &Earlier) -> bool {
    let has_memory = key.cancel_version.is_some() || key.move_ms.is_some();
    let is_live = job.row.as_ref().is_some_and(|row| !row.is_tombstone);
    is_live || (job.cancelled && has_memory)
}

fn key_id(row: &idempotency_key::Model) -> KeyId {
    KeyId::from_bytes(row.id.into_bytes())
}

fn earlier_of_key(row: &idempotency_key::Model) -> Earlier {
    Earlier {
        job: JobId::from_uuid(row.job),
        request_id: row.request_id.clone(),
        fingerprint: Fingerprint::from_bytes(row.fingerprint.into_bytes()),
        scheduled_ms: Some(row.scheduled_ms),
        cancelled: false,
        expires_ms: Some(row.expires_ms),
        row: None,
        memory: memory_of(row.cancel_version, row.move_version, row.move_ms, row.awaited),
    }
}
