//! The memory of records that were taken from their queues and are not admitted yet.

use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// What a permit stands for.
const UNIT: usize = 1024;
/// Copies of a record while it is admitted: as it was judged, as it stands in the batch, and
/// as the database is sent it.
const COPIES: usize = 3;
/// What a record takes beside its own bytes.
const OVERHEAD: usize = 512;
/// Whoever takes a record has room for one of this size at first: nobody knows how large it
/// is before it is taken.
const FIRST: usize = 1 << 20;

/// What the readers of all partitions share. They wait here, first come first served.
#[derive(Debug)]
pub(super) struct RecordMemory {
    units: Arc<Semaphore>,
    all: usize,
}

/// The room that one batch has. It is free again when the value is dropped.
#[derive(Debug)]
pub(super) struct Place {
    units: Arc<Semaphore>,
    permit: OwnedSemaphorePermit,
    bytes: usize,
}

impl RecordMemory {
    /// Room for `bytes`, with all copies.
    pub(super) fn new(bytes: usize) -> Self {
        let all = (bytes / UNIT).clamp(1, Semaphore::MAX_PERMITS);
        Self { units: Arc::new(Semaphore::new(all)), all }
    }

    /// Waits for room for a first record; `None` cannot come, since this is never closed.
    pub(super) async fn enter(&self) -> Option<Place> {
        let permit = self.units.clone().acquire_many_owned(self.first()).await.ok()?;
        Some(Place { units: self.units.clone(), permit, bytes: 0 })
    }

    /// The same, if there is room now.
    pub(super) fn try_enter(&self) -> Option<Place> {
        let permit = self.units.clone().try_acquire_many_owned(self.first()).ok()?;
        Some(Place { units: self.units.clone(), permit, bytes: 0 })
    }

    fn first(&self) -> u32 {
        u32::try_from(units_of(FIRST * COPIES).min(self.all)).unwrap_or(u32::MAX)
    }
}

impl Place {
    /// Takes in a record of this size; false if another one would perhaps not fit.
    pub(super) fn add(&mut self, size: usize) -> bool {
        self.bytes += size.saturating_mul(COPIES) + OVERHEAD;
        let (needed, had) = (units_of(self.bytes), self.permit.num_permits());
        if needed < had {
            return true;
        }
        // Twice as much, so that this is not asked for each record.
        let more = u32::try_from(needed.saturating_mul(2) - had).unwrap_or(u32::MAX);
        match self.units.clone().try_acquire_many_owned(more) {
            Ok(permit) => {
                self.permit.merge(permit);
                true
            }
            Err(_) => false,
        }
    }

    /// Keeps no more room than it needs.
    pub(super) fn trim(&mut self) {
        let surplus = self.permit.num_permits().saturating_sub(units_of(self.bytes));
        drop(self.permit.split(surplus));
    }
}

fn units_of(bytes: usize) -> usize {
    bytes / UNIT + 1
}

#[cfg(test)]
mod tests {
    use futures::FutureExt;

    use super::*;

    #[tokio::test]
    async fn batches_share_the_room_and_none_is_too_large_to_be_read() {
        let memory = RecordMemory::new(8 << 20);
        let mut first = memory.enter().await.unwrap();
        assert!(first.add(100), "there is room for another one");
        first.trim();
        assert_eq!(memory.units.available_permits(), (8 << 20) / UNIT - 1);
        assert!(!first.add(64 << 20), "it was taken, and nothing fits beside it");
        let mut second = memory.enter().await.unwrap();
        assert!(second.add(1 << 20));
        assert!(!second.add(1 << 20));
        second.trim();
        assert!(memory.enter().now_or_never().is_none(), "it is full");
        drop(second);
        assert!(memory.enter().now_or_never().is_some());
    }
}
