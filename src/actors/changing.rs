//! Which jobs are being changed on request: they do not fire meanwhile. The table
//! survives the actors, as that of the jobs in flight does.
//!
//! One change of a job is worked on at a time (`change_work`); further ones wait behind it.

use std::collections::{HashMap, VecDeque};
use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::sync::oneshot;

use crate::admission::ChangeReply;
use crate::model::ids::{AppId, JobId, ShardId};
use crate::store::ChangeRequest;

/// Every job of this instance that is being changed.
#[derive(Debug, Default)]
pub(super) struct Changing(Mutex<HashMap<JobId, Entry>>);

#[derive(Debug)]
struct Entry {
    app: AppId,
    shard: ShardId,
    next: VecDeque<PendingChange>,
}

/// A change that a caller waits for.
#[derive(Debug)]
pub(super) struct PendingChange {
    pub(super) shard: ShardId,
    pub(super) request: ChangeRequest,
    /// The command that brought it.
    pub(super) command: Option<i64>,
    pub(super) reply: oneshot::Sender<ChangeReply>,
}

impl Changing {
    /// Puts a change behind those of the same job that are under way; returns it if there are
    /// none.
    pub(super) fn queue(&self, change: PendingChange) -> Option<PendingChange> {
        match self.table().get_mut(&change.request.job) {
            Some(entry) => {
                entry.next.push_back(change);
                None
            }
            None => Some(change),
        }
    }

    /// What of `app` is being changed, for a scheduler that begins anew.
    pub(super) fn of(&self, app: AppId) -> Vec<(JobId, ShardId)> {
        let table = self.table();
        let of_app = table.iter().filter(|(_, entry)| entry.app == app);
        of_app.map(|(id, entry)| (*id, entry.shard)).collect()
    }

    /// Whether anything of `shard` is being changed.
    pub(super) fn has(&self, shard: ShardId) -> bool {
        self.table().values().any(|entry| entry.shard == shard)
    }

    /// A change begins of a job of which none is under way.
    pub(super) fn begin(&self, app: AppId, change: &PendingChange) {
        let entry = Entry { app, shard: change.shard, next: VecDeque::new() };
        self.table().insert(change.request.job, entry);
    }

    /// A change has ended. The changes that have waited.
    pub(super) fn end(&self, id: JobId) -> VecDeque<PendingChange> {
        self.table().remove(&id).map(|entry| entry.next).unwrap_or_default()
    }

    fn table(&self) -> MutexGuard<'_, HashMap<JobId, Entry>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
