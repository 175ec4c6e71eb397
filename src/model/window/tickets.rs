//! Admissions: what they bring reaches the window whether or not a page has passed its place.

use super::Window;
use super::carriers::{CarrierId, Kind};
use super::places::Place;
use crate::model::ids::{JobId, ShardId};
use crate::model::job::Job;

/// Taken before an admission's BEGIN, given back after its COMMIT.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[must_use]
pub struct TicketId(CarrierId);

impl Window {
    /// A ticket for one admission. It must be given back, by [`Self::return_ticket`] or
    /// [`Self::drop_ticket`]: tombstones are kept until it is.
    pub fn take_ticket(&mut self) -> TicketId {
        TicketId(self.carriers.issue(Kind::Ticket))
    }

    /// The admission was committed and inserted these rows; none, if it was rolled back.
    ///
    /// Jobs at or before their list's mark go into memory, later ones stay in the table, and
    /// those of shards that are not ours are ignored. The ticket of a predecessor says
    /// nothing here about what has happened since: its rows are looked up.
    pub fn return_ticket(&mut self, ticket: TicketId, jobs: Vec<Job>) {
        let TicketId(carrier) = ticket;
        if self.carriers.is_out(carrier, Kind::Ticket) {
            for job in jobs {
                self.arrive(carrier, job);
            }
            self.carriers.close(carrier);
            self.shrink();
        } else {
            for job in jobs {
                self.look_up(job.id);
            }
        }
    }

    /// Nobody knows what the admission inserted: these shards are read again from the start.
    ///
    /// Only when its transaction has surely ended, or what it inserts later is missed.
    pub fn drop_ticket(&mut self, ticket: TicketId, shards: &[ShardId]) {
        for shard in shards {
            self.forget(*shard);
        }
        self.carriers.close(ticket.0);
    }

    /// Takes a row that a carrier brings.
    pub(super) fn arrive(&mut self, carrier: CarrierId, job: Job) {
        let id = job.id;
        let Some(shard) = self.shards.get(&job.shard) else { return };
        if carrier < shard.since {
            // Between the carrier and now the shard was somebody else's, who may have fired it.
            self.look_up(id);
            return;
        }
        match self.places.get_mut(&id) {
            Some(Place::Listed { .. }) => {}
            Some(Place::InFlight(flight)) => flight.seen_again = true,
            // What was taken and settled since is either this row, or the one before it: a
            // request may come back under its id as soon as its job's delete is committed.
            None if self.carriers.is_outdated(id, carrier) => self.look_up(id),
            None => self.place(job),
        }
    }

    /// Reads the row of `id` unless it is in memory: it may be in the table without a ticket,
    /// put there by somebody else.
    pub fn look_up(&mut self, id: JobId) {
        match self.places.get_mut(&id) {
            Some(Place::Listed { .. }) => {}
            Some(Place::InFlight(flight)) => flight.seen_again = true,
            None => self.doubtful.push(id),
        }
    }
}
