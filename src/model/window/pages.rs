//! Fills the lists: which pages to read, and what to do with their rows.

use super::Window;
use super::list::{List, OutstandingPage, Size, after_all};
use super::outstanding::{ReadId, ReadKind};
use crate::model::ids::{JobId, ShardId};
use crate::model::job::{Job, Priority};

/// The number of rows of a first page: small, since rows may be large and their size is unknown.
const FIRST_PAGE: usize = 8;

/// A page to read: the first `limit` rows of this shard and priority whose (due, id) is
/// greater than `after`, in that order.
///
/// Must be passed to [`Window::apply_page`] or [`Window::page_failed`]: until then its list
/// requests no other page. A caller that reads fewer rows, for example to bound their bytes, must
/// lower `limit` to the number that it read: fewer rows than `limit` mean the end of the list.
#[derive(Debug, PartialEq, Eq)]
#[must_use]
pub struct PageRequest {
    /// The shard to read.
    pub shard: ShardId,
    /// The priority to read.
    pub priority: Priority,
    /// The key after which the page begins: due, epoch milliseconds, and id.
    pub after: (i64, JobId),
    /// The maximum number of rows.
    pub limit: usize,
    read: ReadId,
}

impl Window {
    /// The pages to read now, in one statement if possible. They must be read after this call,
    /// and are outstanding from now on.
    ///
    /// A page is read if it would at least double its list, so for an empty list at once: after
    /// this call every list has jobs, or an outstanding page, or no further rows. Jobs that wait for
    /// their concurrency key do not count.
    pub fn wanted_pages(&mut self) -> Vec<PageRequest> {
        let open = self.lists().filter(|list| list.is_open()).count();
        if open == 0 {
            return Vec::new();
        }
        let share = self.free().divided(open);
        let guaranteed = self.guaranteed();
        // Rows of other lists are the best estimate for a list that was never read.
        let row_bytes = self.lists().filter_map(List::row_bytes).max();
        let mut pages = Vec::new();
        for (&shard, of_shard) in &mut self.shards {
            for list in of_shard.lists.iter_mut().filter(|list| list.is_open()) {
                let allowed = share.max(guaranteed - list.size());
                let Some(expected) =
                    worthwhile_page(list, row_bytes, allowed, self.limits.page_size)
                else {
                    continue;
                };
                let read = self.outstanding.issue(ReadKind::Page);
                list.open_page(OutstandingPage { read, expected });
                pages.push(PageRequest {
                    shard,
                    priority: list.priority,
                    after: list.mark(),
                    limit: expected.jobs,
                    read,
                });
            }
        }
        pages
    }

    /// Applies the rows of a page.
    ///
    /// They are ignored if the list no longer waits for this page, or if its mark has changed.
    pub fn apply_page(&mut self, page: PageRequest, rows: Vec<Job>) {
        let reached = if rows.len() < page.limit {
            after_all()
        } else {
            rows.iter().map(Job::key).max().unwrap_or(page.after)
        };
        let Some(list) = self.list_of(&page) else { return };
        list.note_rows(&rows);
        if list.mark() == page.after {
            self.end_page(&page, Some(reached));
            for row in rows {
                // The mark does not pass jobs that were evicted while they waited for the page;
                // rows beyond the mark are not added.
                self.apply_row(page.read, row);
            }
            self.shrink();
        } else {
            // Jobs were evicted meanwhile: rows between the mark and the page would be skipped
            // for ever.
            self.end_page(&page, None);
        }
        self.outstanding.close(page.read);
    }

    /// The page could not be read. The list requests it again at once; the caller decides when to
    /// retry.
    pub fn page_failed(&mut self, page: PageRequest) {
        if self.list_of(&page).is_some() {
            self.end_page(&page, None);
            self.outstanding.close(page.read);
        }
    }

    /// The list, if it still waits for this page.
    fn list_of(&mut self, page: &PageRequest) -> Option<&mut List> {
        let list = self.list_mut(page.shard, page.priority)?;
        list.page().is_some_and(|out| out.read == page.read).then_some(list)
    }

    fn end_page(&mut self, page: &PageRequest, reached: Option<(i64, JobId)>) {
        let Some(list) = self.list_mut(page.shard, page.priority) else { return };
        for job in list.close_page(reached).into_values() {
            self.places.remove(&job.id);
        }
    }

    /// The free capacity of the window, without the expected size of outstanding pages.
    fn free(&self) -> Size {
        let limits = Size { jobs: self.limits.max_jobs, bytes: self.limits.max_bytes };
        let expected = self.lists().filter_map(List::page).map(|page| page.expected);
        expected.fold(limits - self.used(), |free, expected| free - expected)
    }
}

/// The largest page within `allowed`, if it would at least double the list.
fn worthwhile_page(
    list: &List,
    of_others: Option<usize>,
    allowed: Size,
    page_size: usize,
) -> Option<Size> {
    let held = list.unblocked();
    let (row_bytes, at_most) = match list.row_bytes().or(of_others) {
        Some(row_bytes) => (row_bytes.max(1), page_size),
        None => (size_of::<Job>(), page_size.min(FIRST_PAGE)),
    };
    let limit = allowed.jobs.min(allowed.bytes / row_bytes).min(at_most);
    let jobs = if held == 0 { limit.max(1) } else { limit };
    (jobs >= held).then_some(Size { jobs, bytes: jobs * row_bytes })
}
