//! How much of the memory for records is fetched ahead, and how that is divided.
//!
//! librdkafka fetches ahead for each partition by itself, and its limits are those of one
//! partition, fixed when the client is created. So they are chosen by the number of partitions
//! that the topics have: a member of the group never has more.

/// The part of the memory that may be fetched ahead. The rest is for records that were taken,
/// and for what librdkafka adds to each record that it holds.
const AHEAD: usize = 4;
/// What librdkafka holds beside a record's own bytes, about: its limit does not count that.
const OVERHEAD: usize = 512;
/// Bounds of what is fetched ahead of one partition.
const QUEUE: (usize, usize) = (16 << 10, 8 << 20);
/// Bounds of what one answer of the broker has of one partition; compressed it counts as it
/// is sent. A record that is larger is sent all the same, alone.
const PART: (usize, usize) = (16 << 10, 1 << 20);
/// With queues that are as short as this, a partition that waits for its turn must not wait
/// for an answer about others, which have nothing: librdkafka asks for one at a time.
const SHORT: usize = 1 << 20;
const SHORT_WAIT_MS: &str = "50";

/// Properties of a consumer that divide the part of `memory` bytes that may be fetched ahead
/// among so many partitions.
pub(super) fn fetched_ahead(memory: usize, partitions: usize) -> Vec<(&'static str, String)> {
    let share = memory / AHEAD / partitions.max(1);
    // A queue may be full but for a byte when the next part comes.
    let part = (share / 2).clamp(PART.0, PART.1);
    let queue = share.saturating_sub(part).clamp(QUEUE.0, QUEUE.1);
    // librdkafka derives the bound of one answer, fetch.max.bytes, from the first of these.
    let mut properties = vec![
        ("queued.max.messages.kbytes", (queue / 1000).to_string()),
        ("queued.min.messages", (queue / OVERHEAD).to_string()),
        ("fetch.message.max.bytes", part.to_string()),
    ];
    if queue < SHORT {
        properties.push(("fetch.wait.max.ms", SHORT_WAIT_MS.to_owned()));
    }
    properties
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(memory_mb: usize, partitions: usize, name: &str) -> usize {
        let all = fetched_ahead(memory_mb << 20, partitions);
        let (_, value) = all.iter().find(|(property, _)| *property == name).unwrap();
        value.parse().unwrap()
    }

    #[test]
    fn what_is_fetched_ahead_stays_within_its_part_however_many_partitions_there_are() {
        for (memory_mb, partitions) in [(128, 1), (128, 6), (128, 200), (128, 900), (512, 3000)] {
            let queue = of(memory_mb, partitions, "queued.max.messages.kbytes") * 1000;
            let part = of(memory_mb, partitions, "fetch.message.max.bytes");
            let all = partitions * (queue + part);
            assert!(all <= (memory_mb << 20) / AHEAD, "{partitions}: {all}");
        }
    }

    #[test]
    fn a_few_partitions_are_fetched_far_ahead() {
        assert!(of(128, 6, "queued.max.messages.kbytes") > 4000);
        assert!(of(128, 6, "queued.min.messages") >= 5000);
        assert_eq!(of(128, 6, "fetch.message.max.bytes"), 1 << 20);
    }
}
