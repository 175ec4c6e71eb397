//! The effect of a seek on one partition and its records.

use serde::Serialize;
use utoipa::ToSchema;

use crate::kafka::LogRange;
use crate::model::ids::{Offset, Partition};

/// The effect of a seek on one partition.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[non_exhaustive]
pub struct PartitionMove {
    /// The topic.
    pub topic: String,
    /// The partition.
    pub partition: Partition,
    /// The offset that would have been read next without the seek.
    pub from: Offset,
    /// The offset that is to be read next.
    pub to: Offset,
    /// The largest number of records that are read again; compaction and transactions leave gaps.
    pub read_again: i64,
    /// The largest number of records that are never read.
    pub skipped: i64,
    /// Whether the offset was changed.
    pub moved: bool,
}

/// The position to seek to in one partition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Place {
    Offset(Offset),
    /// The first record at or after some time, if there is one.
    Moment(Option<Offset>),
    Beginning,
    End,
}

impl Place {
    /// The offset of this position in `log`; `None` if it is outside the log.
    pub(super) fn in_log(self, log: LogRange) -> Option<Offset> {
        match self {
            Self::Offset(offset) => (log.begin..=log.end).contains(&offset).then_some(offset),
            Self::Moment(found) => Some(found.unwrap_or(log.stable).clamp(log.begin, log.stable)),
            Self::Beginning => Some(log.begin),
            // Not beyond an open transaction, whose records would be skipped.
            Self::End => Some(log.stable),
        }
    }
}

impl PartitionMove {
    pub(super) fn of(
        topic: &str,
        partition: Partition,
        from: Offset,
        to: Offset,
        log: LogRange,
    ) -> Self {
        Self {
            topic: topic.to_owned(),
            partition,
            from,
            to,
            // Offsets outside the log do not count as records.
            read_again: (from.min(log.end) - to).max(0),
            skipped: (to - from.max(log.begin)).max(0),
            moved: false,
        }
    }

    /// Whether the partition is already at that offset.
    pub fn is_noop(&self) -> bool {
        self.from == self.to
    }

    /// The offset to move to if the row has meanwhile changed to `from`. A forward seek does not
    /// move a reader back that has passed its target, and a backward seek does not undo one that
    /// went further back.
    pub(super) fn to_from(&self, from: Offset) -> Offset {
        if self.from < self.to { self.to.max(from) } else { self.to.min(from) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOG: LogRange = LogRange { begin: Offset(10), end: Offset(30), stable: Offset(30) };

    fn planned(from: i64, to: i64) -> PartitionMove {
        PartitionMove::of("t", Partition(0), Offset(from), Offset(to), LOG)
    }

    #[test]
    fn a_place_is_in_the_log_or_refused() {
        for (place, offset) in [
            (Place::Beginning, Some(10)),
            (Place::End, Some(30)),
            (Place::Offset(Offset(9)), None),
            (Place::Offset(Offset(10)), Some(10)),
            (Place::Offset(Offset(30)), Some(30)),
            (Place::Offset(Offset(31)), None),
            (Place::Moment(Some(Offset(12))), Some(12)),
            // Part of an open transaction, so that consumers do not see it yet.
            (Place::Moment(Some(Offset(31))), Some(30)),
            (Place::Moment(None), Some(30)),
        ] {
            assert_eq!(place.in_log(LOG), offset.map(Offset), "{place:?}");
        }
    }

    #[test]
    fn records_are_counted_that_the_log_has() {
        for (from, to, read_again, skipped) in [
            (20, 20, 0, 0),
            (20, 12, 8, 0),
            (20, 30, 0, 10),
            // Retention has removed the records before 10.
            (0, 10, 0, 0),
            (0, 30, 0, 20),
            // The topic was recreated.
            (90, 10, 20, 0),
            (90, 30, 0, 0),
        ] {
            let one = planned(from, to);
            assert_eq!((one.read_again, one.skipped), (read_again, skipped), "{from} to {to}");
        }
    }

    #[test]
    fn what_others_did_meanwhile_turns_no_move_round() {
        let back = planned(25, 15);
        assert_eq!([30, 25, 20, 12].map(|from| back.to_from(Offset(from)).0), [15, 15, 15, 12]);
        let forward = planned(15, 25);
        assert_eq!([12, 15, 20, 28].map(|from| forward.to_from(Offset(from)).0), [25, 25, 25, 28]);
    }
}
