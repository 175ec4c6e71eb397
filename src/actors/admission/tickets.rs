//! Tickets: the schedulers know of an admission before it begins, so that no job falls
//! between what they read and what is written.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use super::super::directory::hint;
use super::super::messages::*;
use super::super::shared::Shared;
use crate::model::ids::{AppId, ShardId};
use crate::model::job::Job;
use crate::model::window::TicketId;
use crate::store::{Batch, Entry, Fate};

/// The wait for a scheduler that is being started again.
const SHORT_WAIT: Duration = Duration::from_millis(50);

/// The tickets of every app that a batch may bring jobs to. Dropped without a word (a
/// panic), the schedulers read the shards again.
pub(in crate::actors) struct Tickets {
    shared: Arc<Shared>,
    tickets: Taken,
}

impl Tickets {
    /// Before BEGIN: from then on the schedulers know that something may come.
    ///
    /// `None`: we are leaving.
    pub(in crate::actors) async fn take(
        shared: &Arc<Shared>,
        batch: &Batch,
        leaving: &CancellationToken,
    ) -> Option<Self> {
        let mut shards: BTreeMap<AppId, Vec<ShardId>> = BTreeMap::new();
        for entry in &batch.entries {
            if let Entry::Job(candidate) = entry
                && !candidate.foreign
            {
                let of_app = shards.entry(candidate.app).or_default();
                if !of_app.contains(&candidate.job.shard) {
                    of_app.push(candidate.job.shard);
                }
            }
        }
        let mut taken = Self { shared: shared.clone(), tickets: Vec::new() };
        for (app, shards) in shards {
            let ticket = loop {
                if leaving.is_cancelled() {
                    taken.give_back_nothing();
                    return None;
                }
                if let Some(scheduler) = shared.directory.app(app)
                    && let Ok(ticket) = scheduler.send(TakeTicket).await
                {
                    break ticket;
                }
                tokio::time::sleep(SHORT_WAIT).await;
            };
            taken.tickets.push((app, ticket, shards));
        }
        Some(taken)
    }

    /// After COMMIT: what was accepted goes to its scheduler.
    pub(in crate::actors) fn give_back(mut self, batch: Arc<Batch>, fates: &[Fate]) {
        let mut jobs: BTreeMap<AppId, Vec<Job>> = BTreeMap::new();
        let entries =
            Arc::try_unwrap(batch).map_or_else(|shared| shared.entries.clone(), |b| b.entries);
        for (entry, fate) in entries.into_iter().zip(fates) {
            if let (Entry::Job(candidate), Fate::Accepted) = (entry, fate)
                && !candidate.foreign
            {
                jobs.entry(candidate.app).or_default().push(candidate.job);
            }
        }
        for (app, ticket, _) in std::mem::take(&mut self.tickets) {
            let jobs = jobs.remove(&app).unwrap_or_default();
            hint(self.shared.directory.app(app), JobsAdmitted { ticket, jobs });
        }
    }

    /// Nothing was written.
    pub(in crate::actors) fn give_back_nothing(mut self) {
        for (app, ticket, _) in std::mem::take(&mut self.tickets) {
            hint(self.shared.directory.app(app), JobsAdmitted { ticket, jobs: Vec::new() });
        }
    }

    /// Nobody knows what was written; the transaction has ended.
    pub(in crate::actors) fn read_again(mut self) {
        let tickets = std::mem::take(&mut self.tickets);
        tell_dropped(&self.shared, tickets);
    }
}

type Taken = Vec<(AppId, TicketId, Vec<ShardId>)>;

fn tell_dropped(shared: &Shared, tickets: Taken) {
    for (app, ticket, shards) in tickets {
        hint(shared.directory.app(app), TicketDropped { ticket, shards });
    }
}

/// Nobody knows what was written, nor whether the transaction has ended. The limits of
/// our sessions end it within two leases; read before that, it could be missed.
impl Drop for Tickets {
    fn drop(&mut self) {
        let tickets = std::mem::take(&mut self.tickets);
        let shared = self.shared.clone();
        if !tickets.is_empty()
            && let Ok(runtime) = tokio::runtime::Handle::try_current()
        {
            drop(runtime.spawn(async move {
                tokio::time::sleep(shared.lease.length() * 2).await;
                tell_dropped(&shared, tickets);
            }));
        }
    }
}
