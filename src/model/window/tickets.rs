//! Tickets: through them the rows of an admission reach the window, whether or not a page has
//! been read past them.

use super::Window;
use super::outstanding::{ReadId, ReadKind};
use super::places::Place;
use crate::model::ids::{JobId, ShardId};
use crate::model::job::Job;

/// Issued before an admission's BEGIN, returned after its COMMIT.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[must_use]
pub struct TicketId(ReadId);

impl Window {
    /// A ticket for one admission. It must be passed to [`Self::return_ticket`] or
    /// [`Self::drop_ticket`]: tombstones are kept until then.
    pub fn take_ticket(&mut self) -> TicketId {
        TicketId(self.outstanding.issue(ReadKind::Ticket))
    }

    /// The admission was committed and inserted these rows; none if it was rolled back.
    ///
    /// Jobs at or before their list's mark go into memory, later ones are read by a page, and
    /// those of other shards are ignored. Rows of a ticket that an earlier window issued are
    /// looked up, since they may have changed meanwhile.
    pub fn return_ticket(&mut self, ticket: TicketId, jobs: Vec<Job>) {
        let TicketId(read) = ticket;
        if self.outstanding.is_outstanding(read, ReadKind::Ticket) {
            for job in jobs {
                self.apply_row(read, job);
            }
            self.outstanding.close(read);
            self.shrink();
        } else {
            for job in jobs {
                self.look_up(job.id);
            }
        }
    }

    /// It is unknown what the admission inserted: these shards are read again from the start.
    ///
    /// To be called only when its transaction has certainly ended, or rows that it inserts later
    /// are missed.
    pub fn drop_ticket(&mut self, ticket: TicketId, shards: &[ShardId]) {
        for shard in shards {
            self.forget(*shard);
        }
        self.outstanding.close(ticket.0);
    }

    /// Adds a row that a read returned.
    pub(super) fn apply_row(&mut self, read: ReadId, job: Job) {
        let id = job.id;
        let Some(shard) = self.shards.get(&job.shard) else { return };
        if read < shard.since {
            // Since the read began another instance may have owned the shard and fired the job.
            self.look_up(id);
            return;
        }
        match self.places.get_mut(&id) {
            Some(Place::Listed { .. }) => {}
            Some(Place::InFlight(flight)) => flight.seen_again = true,
            // The job whose row changed is either this one, or an earlier one with the same id: a
            // request may be admitted again as soon as its job's delete is committed.
            None if self.outstanding.is_outdated(id, read) => self.look_up(id),
            None => self.place(job),
        }
    }

    /// Reads the row of `id` unless it is in memory: it may be in the table without a ticket,
    /// inserted by another process.
    pub fn look_up(&mut self, id: JobId) {
        match self.places.get_mut(&id) {
            Some(Place::Listed { .. }) => {}
            Some(Place::InFlight(flight)) => flight.seen_again = true,
            None => self.to_look_up.push(id),
        }
    }
}
