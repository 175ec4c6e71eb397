//! Tickets: a scheduler learns of an admission before its transaction begins, so that it misses no
//! job that is committed while it reads.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use super::{Admission, ShardAccess};
use crate::model::ids::{AppId, ShardId};
use crate::model::job::Job;
use crate::model::window::TicketId;
use crate::store::{Batch, Decision, Entry};

/// The wait for a scheduler that is being restarted.
const SHORT_WAIT: Duration = Duration::from_millis(50);

/// The tickets for every app that a batch may insert jobs of. If they are dropped, by a panic or
/// because the result will not be asked for, the schedulers read the shards again once the
/// transaction must have ended.
#[derive(Debug, Default)]
pub(super) struct Tickets(Option<Taken>);

#[derive(Debug)]
struct Taken {
    shards: Arc<dyn ShardAccess>,
    /// After this time the transaction has ended.
    max_wait: Duration,
    tickets: Vec<(AppId, TicketId, Vec<ShardId>)>,
}

impl Tickets {
    /// Takes the tickets before BEGIN.
    ///
    /// Returns `None` if `leaving` is cancelled.
    pub(super) async fn take(
        admission: &Admission,
        batch: &Batch,
        leaving: &CancellationToken,
    ) -> Option<Self> {
        let mut apps: BTreeMap<AppId, Vec<ShardId>> = BTreeMap::new();
        for entry in &batch.entries {
            if let Entry::Job(candidate) = entry
                && !candidate.foreign
            {
                let shards = apps.entry(candidate.app.id).or_default();
                if !shards.contains(&candidate.job.shard) {
                    shards.push(candidate.job.shard);
                }
            }
        }
        let shards = admission.shards.clone();
        let max_wait = admission.database.max_wait();
        let mut taken = Taken { shards, max_wait, tickets: Vec::with_capacity(apps.len()) };
        for (app, shards) in apps {
            let ticket = loop {
                if leaving.is_cancelled() {
                    Self(Some(taken)).return_nothing();
                    return None;
                }
                if let Some(ticket) = taken.shards.take_ticket(app).await {
                    break ticket;
                }
                tokio::time::sleep(SHORT_WAIT).await;
            };
            taken.tickets.push((app, ticket, shards));
        }
        Some(Self(Some(taken)))
    }

    /// Returns the tickets after COMMIT, with the accepted jobs.
    pub(super) fn return_jobs(mut self, entries: Vec<Entry>, decisions: &[Decision]) {
        let Some(Taken { shards, tickets, .. }) = self.0.take() else { return };
        let mut jobs: BTreeMap<AppId, Vec<Job>> = BTreeMap::new();
        for (entry, decision) in entries.into_iter().zip(decisions) {
            let Entry::Job(candidate) = entry else { continue };
            let job = match decision {
                Decision::Accepted => candidate.job,
                Decision::Met { job, is_live: true, .. } => Job::clone(job),
                _ => continue,
            };
            if !candidate.foreign {
                jobs.entry(candidate.app.id).or_default().push(job);
            }
        }
        for (app, ticket, _) in tickets {
            shards.return_ticket(app, ticket, jobs.remove(&app).unwrap_or_default());
        }
    }

    /// Returns the tickets when nothing was written.
    pub(super) fn return_nothing(mut self) {
        let Some(Taken { shards, tickets, .. }) = self.0.take() else { return };
        for (app, ticket, _) in tickets {
            shards.return_ticket(app, ticket, Vec::new());
        }
    }

    /// Returns the tickets when the transaction has ended with an unknown result.
    pub(super) fn read_again(mut self) {
        if let Some(taken) = self.0.take() {
            taken.read_again();
        }
    }

    /// Merges these with the tickets of an earlier try.
    pub(super) fn add(&mut self, mut other: Self) {
        match (&mut self.0, other.0.take()) {
            (Some(taken), Some(more)) => taken.tickets.extend(more.tickets),
            (nothing @ None, more) => *nothing = more,
            (Some(_), None) => {}
        }
    }
}

impl Taken {
    fn read_again(self) {
        for (app, ticket, shards) in self.tickets {
            self.shards.read_again(app, ticket, shards);
        }
    }
}

/// Neither the result nor the end of the transaction is known. The schedulers read the shards after
/// the time within which the settings of our sessions end it; an earlier read could miss its jobs.
impl Drop for Tickets {
    fn drop(&mut self) {
        if let Some(taken) = self.0.take().filter(|taken| !taken.tickets.is_empty())
            && let Ok(runtime) = tokio::runtime::Handle::try_current()
        {
            drop(runtime.spawn(async move {
                tokio::time::sleep(taken.max_wait).await;
                taken.read_again();
            }));
        }
    }
}
