//! What a seek does to one partition, and what that means for its records.

use serde::Serialize;
use utoipa::ToSchema;

use crate::kafka::LogRange;

/// One partition's part of a seek.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[non_exhaustive]
pub struct PartitionMove {
    /// The topic.
    pub topic: String,
    /// The partition.
    pub partition: i32,
    /// The offset that was to be read next, or at which reading would begin.
    pub from: i64,
    /// The offset that is to be read next.
    pub to: i64,
    /// Records that are read again, at most: compaction and transactions leave gaps.
    pub read_again: i64,
    /// Records that are never read, at most.
    pub skipped: i64,
    /// Whether it was moved.
    pub moved: bool,
}

/// Where one partition is to be read on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Place {
    Offset(i64),
    /// The first record that is not older than some moment, if there is one.
    Moment(Option<i64>),
    Beginning,
    End,
}

impl Place {
    /// The offset of this place in `log`; `None` if the log does not have it.
    pub(super) fn in_log(self, log: LogRange) -> Option<i64> {
        match self {
            Self::Offset(offset) => (log.begin..=log.end).contains(&offset).then_some(offset),
            Self::Moment(found) => Some(found.unwrap_or(log.stable).clamp(log.begin, log.stable)),
            Self::Beginning => Some(log.begin),
            // What an open transaction holds back is not passed over unseen.
            Self::End => Some(log.stable),
        }
    }
}

impl PartitionMove {
    pub(super) fn of(topic: &str, partition: i32, from: i64, to: i64, log: LogRange) -> Self {
        Self {
            topic: topic.to_owned(),
            partition,
            from,
            to,
            // What the log does not have any more, or never had, is not read either way.
            read_again: (from.min(log.end) - to).max(0),
            skipped: (to - from.max(log.begin)).max(0),
            moved: false,
        }
    }

    /// Whether there is nothing to move: it is read on there already.
    pub fn is_none(&self) -> bool {
        self.from == self.to
    }

    /// Where to go if `from` is to be read next by now. A reader that has passed the place leaves
    /// nothing to skip; and where another seek has moved back further, a move that was meant to read
    /// again skips nothing.
    pub(super) fn to_from(&self, from: i64) -> i64 {
        if self.from < self.to { self.to.max(from) } else { self.to.min(from) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOG: LogRange = LogRange { begin: 10, end: 30, stable: 30 };

    #[test]
    fn a_place_is_in_the_log_or_refused() {
        for (place, offset) in [
            (Place::Beginning, Some(10)),
            (Place::End, Some(30)),
            (Place::Offset(9), None),
            (Place::Offset(10), Some(10)),
            (Place::Offset(30), Some(30)),
            (Place::Offset(31), None),
            (Place::Moment(Some(12)), Some(12)),
            // Of an open transaction, so that readers may not see it yet.
            (Place::Moment(Some(31)), Some(30)),
            (Place::Moment(None), Some(30)),
        ] {
            assert_eq!(place.in_log(LOG), offset, "{place:?}");
        }
    }

    #[test]
    fn records_are_counted_that_the_log_has() {
        for (from, to, read_again, skipped) in [
            (20, 20, 0, 0),
            (20, 12, 8, 0),
            (20, 30, 0, 10),
            // Retention took what lies before 10.
            (0, 10, 0, 0),
            (0, 30, 0, 20),
            // The topic was recreated.
            (90, 10, 20, 0),
            (90, 30, 0, 0),
        ] {
            let one = PartitionMove::of("t", 0, from, to, LOG);
            assert_eq!((one.read_again, one.skipped), (read_again, skipped), "{from} to {to}");
        }
    }

    #[test]
    fn what_others_did_meanwhile_turns_no_move_round() {
        let back = PartitionMove::of("t", 0, 25, 15, LOG);
        assert_eq!([30, 25, 20, 12].map(|from| back.to_from(from)), [15, 15, 15, 12]);
        let forward = PartitionMove::of("t", 0, 15, 25, LOG);
        assert_eq!([12, 15, 20, 28].map(|from| forward.to_from(from)), [25, 25, 25, 28]);
    }
}
