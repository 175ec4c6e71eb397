//! What the window needs from the database: pages of its lists, rows by id, and audits, which
//! compare one list at a time with its table.

use actix::prelude::*;

use super::super::instance::Instance;
use super::{AUDIT, AppScheduler, RETRY_READ};
use crate::health::ProblemKind;
use crate::model::ids::{JobId, ShardId};
use crate::model::job::{Job, Priority};
use crate::model::window::{Audit, LookUp, PageRequest};
use crate::store::{Error as StoreError, ListRange, Pages, Result as StoreResult};

/// About how many bytes of rows one statement returns.
const READ_BYTES: usize = 8 << 20;
/// How many ids one look-up has, and how many look-ups run at a time.
const LOOK_UP: usize = 500;
const LOOK_UPS: usize = 2;
/// How many rows one audit compares at most.
const AUDIT_ROWS: u32 = 1000;

impl AppScheduler {
    /// Reads the pages and rows that the window needs: one statement for pages at a time, and up to
    /// [`LOOK_UPS`] for rows.
    pub(super) fn read(&mut self, ctx: &mut Context<Self>) {
        if self.reads_paused {
            return;
        }
        let pages = self.window.wanted_pages();
        if !pages.is_empty() {
            let ranges: Vec<ListRange> = pages.iter().map(range_of).collect();
            let instance = self.instance.clone();
            let read = tokio::spawn(async move {
                instance.bounded(instance.store.pages(&ranges, READ_BYTES)).await
            });
            let done = read.into_actor(self).map(move |rows, actor, ctx| {
                let rows = rows.unwrap_or_else(|error| panic!("reading pages: {error}"));
                actor.pages_read(pages, rows, ctx);
            });
            ctx.spawn(done);
        }
        while self.look_ups_out < LOOK_UPS
            && let Some(look_up) = self.window.wanted_look_up(LOOK_UP)
        {
            self.look_ups_out += 1;
            let (instance, ids) = (self.instance.clone(), look_up.ids.clone());
            let read = tokio::spawn(async move {
                instance.bounded(instance.store.jobs_by_id(&ids, READ_BYTES)).await
            });
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
        pages: StoreResult<Pages>,
        ctx: &mut Context<Self>,
    ) {
        match pages {
            Ok(Pages { pages, complete }) => {
                self.is_readable();
                for (place, (mut request, rows)) in requests.into_iter().zip(pages).enumerate() {
                    if place < complete {
                        self.window.apply_page(request, rows);
                    } else if rows.is_empty() {
                        self.window.page_failed(request);
                    } else {
                        // The byte limit ended this page early, so there are more rows.
                        request.limit = rows.len();
                        self.window.apply_page(request, rows);
                    }
                }
                self.advance(ctx);
            }
            Err(error) => {
                tracing::debug!(app = %self.app.name, %error, "pages could not be read");
                self.report_unreadable(&error);
                for request in requests {
                    self.window.page_failed(request);
                }
                self.read_later(ctx);
            }
        }
    }

    fn looked_up(
        &mut self,
        mut look_up: LookUp,
        rows: StoreResult<(Vec<Job>, usize)>,
        ctx: &mut Context<Self>,
    ) {
        self.look_ups_out -= 1;
        match rows {
            Ok((rows, looked_for)) => {
                self.is_readable();
                let rest = look_up.ids.split_off(looked_for);
                self.window.apply_look_up(look_up, rows);
                rest.into_iter().for_each(|id| self.window.look_up(id));
                self.advance(ctx);
            }
            Err(error) => {
                tracing::debug!(app = %self.app.name, %error, "jobs could not be looked up");
                self.report_unreadable(&error);
                self.window.look_up_failed(look_up);
                self.read_later(ctx);
            }
        }
    }

    /// Reports errors that an operator has to resolve, since they may concern this table alone.
    /// Outages are reported by the heartbeat.
    fn report_unreadable(&mut self, error: &StoreError) {
        let kind = Instance::problem(error, ProblemKind::DatabaseUnavailable);
        if kind != ProblemKind::DatabaseUnavailable {
            self.unreadable = true;
            self.instance.health.report(&self.about(), kind, format!("cannot be read: {error}"));
        }
    }

    fn is_readable(&mut self) {
        if std::mem::take(&mut self.unreadable) {
            self.instance.health.clear(&self.about());
        }
    }

    fn about(&self) -> String {
        format!("jobs of {}", self.app.name)
    }

    fn read_later(&mut self, ctx: &mut Context<Self>) {
        if std::mem::replace(&mut self.reads_paused, true) {
            return;
        }
        let instance = self.instance.clone();
        let waited = async move { instance.database.recovery().wait(RETRY_READ).await };
        ctx.spawn(waited.into_actor(self).map(|(), actor, ctx| {
            actor.reads_paused = false;
            actor.advance(ctx);
        }));
    }

    /// Compares one list with its table; each call takes the next list.
    pub(super) fn audit_next(&mut self, ctx: &mut Context<Self>) {
        ctx.run_later(AUDIT, Self::audit_next);
        if !self.instance.has_lease() {
            return;
        }
        let lists: Vec<(ShardId, Priority)> = self
            .window
            .shards()
            .flat_map(|(shard, _)| Priority::ALL.map(|priority| (shard, priority)))
            .collect();
        self.audited += 1;
        let Some((shard, priority)) = lists.get(self.audited % lists.len().max(1)) else { return };
        let Some(audit) = self.window.audit(*shard, *priority) else { return };
        let after = (i64::MIN, JobId::from_bytes([0; 16]));
        let range = ListRange { shard: *shard, priority: *priority, after, limit: AUDIT_ROWS };
        let store = self.instance.store.clone();
        let read = tokio::spawn(async move { store.pages(&[range], READ_BYTES).await });
        let done = read.into_actor(self).map(move |rows, actor, ctx| {
            actor.audited(
                audit,
                rows.ok().and_then(StoreResult::ok).and_then(|mut read| read.pages.pop()),
                ctx,
            );
        });
        ctx.spawn(done);
    }

    fn audited(&mut self, audit: Audit, rows: Option<Vec<Job>>, ctx: &mut Context<Self>) {
        // Without a lease the shard may have another owner, whose rows are not expected in memory.
        let rows = rows.filter(|_| self.instance.has_lease());
        let rescued = self.window.apply_audit(audit, rows.unwrap_or_default());
        if rescued > 0 {
            self.instance.counters.add(&self.instance.counters.rescued, rescued);
            tracing::error!(
                app = %self.app.name,
                rescued,
                "{rescued} jobs were in the table and not in memory"
            );
        }
        self.advance(ctx);
    }
}

fn range_of(page: &PageRequest) -> ListRange {
    let limit = u32::try_from(page.limit).unwrap_or(u32::MAX);
    ListRange { shard: page.shard, priority: page.priority, after: page.after, limit }
}
