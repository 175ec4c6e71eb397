//! The bytes that records on their way may take at once.

use tokio::sync::{Semaphore, SemaphorePermit};

/// What records on their way may take, with librdkafka's copy of each.
const BYTES: usize = 32 << 20;
/// What a permit stands for.
const UNIT: usize = 1024;
/// The record is kept until it is answered, and librdkafka has a copy.
const COPIES: usize = 2;

/// Senders wait here, first come first served, until their record fits. One that is larger
/// than the whole room has all of it to itself.
#[derive(Debug)]
pub(super) struct Room {
    units: Semaphore,
}

impl Room {
    pub(super) fn new() -> Self {
        Self { units: Semaphore::new(BYTES / UNIT) }
    }

    /// Waits until a record of `bytes` fits; its place is free again when the value is dropped.
    /// `None` cannot come: the room is never closed.
    pub(super) async fn enter(&self, bytes: usize) -> Option<SemaphorePermit<'_>> {
        let units = (bytes.saturating_mul(COPIES) / UNIT + 1).min(BYTES / UNIT);
        self.units.acquire_many(u32::try_from(units).unwrap_or(u32::MAX)).await.ok()
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt;

    use super::*;

    #[tokio::test]
    async fn one_that_is_too_large_has_the_room_to_itself_and_none_waits_for_ever() {
        let room = Room::new();
        let small = room.enter(1).await;
        assert!(room.enter(usize::MAX).now_or_never().is_none(), "somebody is in it");
        drop(small);
        let large = room.enter(usize::MAX).await;
        assert!(room.enter(1).now_or_never().is_none(), "it is full");
        drop(large);
        assert!(room.enter(BYTES / COPIES - UNIT).now_or_never().is_some());
    }
}
