//! What is under way to the window (tickets, pages, look-ups, audits), and the tombstones
//! of ids whose older versions it may still bring.

use std::collections::{BTreeMap, VecDeque};
use std::sync::atomic::{AtomicU64, Ordering};

use super::id_map::IdMap;
use crate::model::ids::JobId;

/// Unique in the process, so that what a predecessor issued never passes for ours.
static NEXT: AtomicU64 = AtomicU64::new(1);

/// Names one thing that may bring rows; later ones are greater.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct CarrierId(u64);

impl CarrierId {
    fn fresh() -> Self {
        Self(NEXT.fetch_add(1, Ordering::Relaxed))
    }
}

/// What a carrier brings.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// The rows of an admission.
    Ticket,
    /// Rows of one list, beyond its mark.
    Page,
    /// Rows by id.
    LookUp,
    /// Rows of one list, up to its mark.
    Audit,
}

/// The carriers that are out, and the ids that changed while they were.
#[derive(Debug)]
pub(super) struct Carriers {
    last: CarrierId,
    out: BTreeMap<CarrierId, Kind>,
    /// The last carrier that was issued before the id's row changed.
    tombstones: IdMap<CarrierId>,
    /// The same in the order in which they were made, which is the order in which they go.
    order: VecDeque<(CarrierId, JobId)>,
}

impl Carriers {
    pub(super) fn new() -> Self {
        Self {
            last: CarrierId::fresh(),
            out: BTreeMap::new(),
            tombstones: IdMap::default(),
            order: VecDeque::new(),
        }
    }

    pub(super) fn issue(&mut self, kind: Kind) -> CarrierId {
        let carrier = self.advance();
        self.out.insert(carrier, kind);
        carrier
    }

    /// Divides what was issued before from what comes after.
    pub(super) fn advance(&mut self) -> CarrierId {
        self.last = CarrierId::fresh();
        self.last
    }

    /// The last one issued.
    pub(super) fn last(&self) -> CarrierId {
        self.last
    }

    pub(super) fn is_out(&self, carrier: CarrierId, kind: Kind) -> bool {
        self.out.get(&carrier) == Some(&kind)
    }

    /// Whether an admission or a look-up is out: it may bring any row.
    pub(super) fn may_bring_any(&self) -> bool {
        self.out.values().any(|kind| matches!(kind, Kind::Ticket | Kind::LookUp))
    }

    /// The carrier has been dealt with: what it brought was compared with the tombstones
    /// before this, for those that only it needed go now.
    pub(super) fn close(&mut self, carrier: CarrierId) {
        self.out.remove(&carrier);
        let oldest = self.out.first_key_value().map(|(oldest, _)| *oldest);
        while let Some(&(stamp, id)) = self.order.front() {
            if oldest.is_some_and(|oldest| oldest <= stamp) {
                break;
            }
            self.order.pop_front();
            if self.tombstones.get(&id) == Some(&stamp) {
                self.tombstones.remove(&id);
            }
        }
    }

    /// The id's row has changed: what is out now may bring an older version of it.
    pub(super) fn bury(&mut self, id: JobId) {
        if !self.out.is_empty() && self.tombstones.insert(id, self.last) != Some(self.last) {
            self.order.push_back((self.last, id));
        }
    }

    /// Whether the id's row has changed since this carrier was issued.
    pub(super) fn is_outdated(&self, id: JobId, carrier: CarrierId) -> bool {
        self.tombstones.get(&id).is_some_and(|stamp| carrier <= *stamp)
    }

    pub(super) fn len(&self) -> usize {
        self.out.len()
    }

    pub(super) fn tombstones(&self) -> usize {
        self.tombstones.len()
    }
}
