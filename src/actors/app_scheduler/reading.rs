//! What the window wants from the database: pages of its lists, rows by id, and one list at a
//! time to compare with its table.

use actix::prelude::*;

use super::{AUDIT, AppScheduler, READ_AGAIN};
use crate::model::ids::{JobId, ShardId};
use crate::model::job::{Job, Priority};
use crate::model::window::{Audit, LookUp, PageRequest};
use crate::store::{ListRange, Page, Result as StoreResult};

/// Ids of one look-up.
const LOOK_UP: usize = 500;
/// Rows that one audit compares at most, and their bytes, about.
const AUDIT_ROWS: usize = 1000;
const AUDIT_BYTES: usize = 8 << 20;

impl AppScheduler {
    /// Reads the pages and rows that the window wants, one statement at a time each.
    pub(super) fn read(&mut self, ctx: &mut Context<Self>) {
        if self.reads_wait {
            return;
        }
        let pages = self.window.wanted_pages();
        if !pages.is_empty() {
            let ranges: Vec<ListRange> = pages.iter().map(range_of).collect();
            let shared = self.shared.clone();
            let read =
                tokio::spawn(async move { shared.bounded(shared.store.pages(&ranges)).await });
            let done = read.into_actor(self).map(move |rows, actor, ctx| {
                let rows = rows.unwrap_or_else(|error| panic!("reading pages: {error}"));
                actor.pages_read(pages, rows, ctx);
            });
            ctx.spawn(done);
        }
        while let Some(look_up) = self.window.wanted_look_up(LOOK_UP) {
            let (shared, ids) = (self.shared.clone(), look_up.ids.clone());
            let read =
                tokio::spawn(async move { shared.bounded(shared.store.jobs_by_id(&ids)).await });
            let done = read.into_actor(self).map(move |rows, actor, ctx| {
                let rows = rows.unwrap_or_else(|error| panic!("looking jobs up: {error}"));
                actor.looked_up(look_up, rows, ctx);
            });
            ctx.spawn(done);
        }
    }

    fn pages_read(
        &mut self,
        requests: Vec<PageRequest>,
        pages: StoreResult<Vec<Page>>,
        ctx: &mut Context<Self>,
    ) {
        match pages {
            Ok(pages) => {
                for (request, rows) in requests.into_iter().zip(pages) {
                    self.window.apply_page(request, rows);
                }
                self.go_on(ctx);
            }
            Err(error) => {
                tracing::debug!(app = %self.app.name, %error, "pages could not be read");
                for request in requests {
                    self.window.page_failed(request);
                }
                self.read_later(ctx);
            }
        }
    }

    fn looked_up(&mut self, look_up: LookUp, rows: StoreResult<Vec<Job>>, ctx: &mut Context<Self>) {
        match rows {
            Ok(rows) => {
                self.window.apply_look_up(look_up, rows);
                self.go_on(ctx);
            }
            Err(error) => {
                tracing::debug!(app = %self.app.name, %error, "jobs could not be looked up");
                self.window.look_up_failed(look_up);
                self.read_later(ctx);
            }
        }
    }

    fn read_later(&mut self, ctx: &mut Context<Self>) {
        if std::mem::replace(&mut self.reads_wait, true) {
            return;
        }
        let shared = self.shared.clone();
        let waited = async move { shared.database.wait(READ_AGAIN).await };
        ctx.spawn(waited.into_actor(self).map(|(), actor, ctx| {
            actor.reads_wait = false;
            actor.go_on(ctx);
        }));
    }

    /// Compares one list with its table, another one each time.
    pub(super) fn audit_next(&mut self, ctx: &mut Context<Self>) {
        ctx.run_later(AUDIT, Self::audit_next);
        let lists: Vec<(ShardId, Priority)> = self
            .window
            .shards()
            .flat_map(|(shard, _)| Priority::ALL.map(|priority| (shard, priority)))
            .collect();
        self.audited += 1;
        let Some((shard, priority)) = lists.get(self.audited % lists.len().max(1)) else { return };
        let Some(audit) = self.window.audit(*shard, *priority) else { return };
        let held = self.window.figures();
        let row_bytes = held.bytes / held.jobs.max(1);
        let rows = (AUDIT_BYTES / row_bytes.max(1)).clamp(1, AUDIT_ROWS);
        let limit = u32::try_from(rows).unwrap_or(u32::MAX);
        let after = (i64::MIN, JobId::from_bytes([0; 16]));
        let range = ListRange { shard: *shard, priority: *priority, after, limit };
        let store = self.shared.store.clone();
        let read = tokio::spawn(async move { store.pages(&[range]).await });
        let done = read.into_actor(self).map(move |rows, actor, ctx| {
            actor.audited(
                audit,
                rows.ok().and_then(StoreResult::ok).and_then(|mut p| p.pop()),
                ctx,
            );
        });
        ctx.spawn(done);
    }

    fn audited(&mut self, audit: Audit, rows: Option<Page>, ctx: &mut Context<Self>) {
        let rescued = self.window.apply_audit(audit, rows.unwrap_or_default());
        if rescued > 0 {
            self.shared.counters.add(&self.shared.counters.rescued, rescued);
            tracing::error!(
                app = %self.app.name,
                rescued,
                "{rescued} jobs were in the table and not in memory"
            );
        }
        self.go_on(ctx);
    }
}

fn range_of(page: &PageRequest) -> ListRange {
    let limit = u32::try_from(page.limit).unwrap_or(u32::MAX);
    ListRange { shard: page.shard, priority: page.priority, after: page.after, limit }
}
