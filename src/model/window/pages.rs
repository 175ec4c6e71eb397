//! Filling the lists: which pages to read, and what a page that was read brings.

use super::Window;
use super::carriers::{CarrierId, Kind};
use super::list::{List, PageOut, Size, after_all};
use crate::model::ids::{JobId, ShardId};
use crate::model::job::{Job, Priority};

/// The rows of a first page, while nobody knows how large rows are: they may be large.
const FIRST_PAGE: usize = 8;

/// A page to read: the first `limit` rows of this shard and priority whose (due, id) is
/// greater than `after`, in that order.
///
/// It must come back, by [`Window::apply_page`] or [`Window::page_failed`]: until then its
/// list asks for no other. A caller that reads fewer rows than it could, such as to bound
/// their bytes, lowers `limit` to the number that it read: with fewer rows than `limit` the
/// list is taken to end there.
#[derive(Debug, PartialEq, Eq)]
#[must_use]
pub struct PageRequest {
    /// The shard to read.
    pub shard: ShardId,
    /// The class to read.
    pub priority: Priority,
    /// The place after which the page begins: due, epoch milliseconds, and id.
    pub after: (i64, JobId),
    /// The rows that it may have.
    pub limit: usize,
    carrier: CarrierId,
}

impl Window {
    /// The pages worth reading now, all in one statement if the caller can. They must be
    /// read after this call, and count as out from now on.
    ///
    /// A list is asked for when its page would at least double it, and so an empty one at
    /// once: after this call every list has jobs, or a page out, or nothing left to read.
    pub fn wanted_pages(&mut self) -> Vec<PageRequest> {
        let open = self.lists().filter(|list| list.is_open()).count();
        if open == 0 {
            return Vec::new();
        }
        let share = self.room().divided(open);
        let guaranteed = self.guaranteed();
        // Rows of other lists are the best guess for one that was never read.
        let row_bytes = self.lists().filter_map(List::row_bytes).max();
        let mut pages = Vec::new();
        for (&shard, of_shard) in &mut self.shards {
            for list in of_shard.lists.iter_mut().filter(|list| list.is_open()) {
                let allowed = share.max(guaranteed - list.size());
                let Some(promised) =
                    worthwhile_page(list, row_bytes, allowed, self.limits.page_size)
                else {
                    continue;
                };
                let carrier = self.carriers.issue(Kind::Page);
                list.open_page(PageOut { carrier, promised });
                pages.push(PageRequest {
                    shard,
                    priority: list.priority,
                    after: list.mark(),
                    limit: promised.jobs,
                    carrier,
                });
            }
        }
        pages
    }

    /// Takes the rows of a page.
    ///
    /// They are ignored if the page is no longer its list's, or if the mark is no longer
    /// where the page began.
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
                // What waited for the page and fell out has kept the mark from passing it:
                // rows beyond that are left out here, too.
                self.arrive(page.carrier, row);
            }
            self.shrink();
        } else {
            // Evicted meanwhile: rows between the mark and the page would be skipped for good.
            self.end_page(&page, None);
        }
        self.carriers.close(page.carrier);
    }

    /// The page could not be read. Its list asks again at once; how soon to try is up to
    /// the caller.
    pub fn page_failed(&mut self, page: PageRequest) {
        if self.list_of(&page).is_some() {
            self.end_page(&page, None);
            self.carriers.close(page.carrier);
        }
    }

    /// The list that waits for this very page.
    fn list_of(&mut self, page: &PageRequest) -> Option<&mut List> {
        let list = self.list_mut(page.shard, page.priority)?;
        list.page().is_some_and(|out| out.carrier == page.carrier).then_some(list)
    }

    fn end_page(&mut self, page: &PageRequest, reached: Option<(i64, JobId)>) {
        let Some(list) = self.list_mut(page.shard, page.priority) else { return };
        for job in list.close_page(reached).into_values() {
            self.places.remove(&job.id);
        }
    }

    /// What the window could take, with all that was promised to it.
    fn room(&self) -> Size {
        let limits = Size { jobs: self.limits.max_jobs, bytes: self.limits.max_bytes };
        let promised = self.lists().filter_map(List::page).map(|page| page.promised);
        promised.fold(limits - self.used(), |room, promised| room - promised)
    }
}

/// The largest page within `allowed`, if it would at least double the list.
fn worthwhile_page(
    list: &List,
    of_others: Option<usize>,
    allowed: Size,
    page_size: usize,
) -> Option<Size> {
    let held = list.size().jobs;
    let (row_bytes, at_most) = match list.row_bytes().or(of_others) {
        Some(row_bytes) => (row_bytes.max(1), page_size),
        None => (size_of::<Job>(), page_size.min(FIRST_PAGE)),
    };
    let limit = allowed.jobs.min(allowed.bytes / row_bytes).min(at_most);
    let jobs = if held == 0 { limit.max(1) } else { limit };
    (jobs >= held).then_some(Size { jobs, bytes: jobs * row_bytes })
}
