//! How much of the memory for records is for prefetching, and how that is divided among
//! partitions.
//!
//! librdkafka prefetches for each partition independently, and its limits are per partition and
//! fixed when the client is created. They are therefore derived from the number of all partitions
//! of the topics: a member of the group never has more.

/// The shares of the memory for prefetched records, and for records that are being admitted, with
/// their copies. The rest is for librdkafka's overhead per record.
const AHEAD: usize = 4;
pub(super) const BATCHES: usize = 2;
/// librdkafka's approximate overhead per record, which its limits do not count.
const OVERHEAD: usize = 512;
/// Bounds of the prefetch of one partition.
const QUEUE: (usize, usize) = (16 << 10, 8 << 20);
/// Bounds of one fetch response per partition, in bytes on the wire. A larger record is sent
/// nevertheless, alone.
const PART: (usize, usize) = (16 << 10, 1 << 20);
/// If the prefetch of a partition is as small as this, fetches must not wait long for data:
/// librdkafka has one fetch per broker under way, and a partition would wait for others that are
/// empty.
const SHORT: usize = 1 << 20;
const SHORT_WAIT_MS: &str = "50";

/// The properties of a consumer that divide the prefetch share of `memory` bytes among this many
/// partitions.
pub(super) fn fetched_ahead(memory: usize, partitions: usize) -> Vec<(&'static str, String)> {
    let share = memory / AHEAD / partitions.max(1);
    // A queue can be one byte short of full when the next response arrives.
    let part = (share / 2).clamp(PART.0, PART.1);
    let queue = share.saturating_sub(part).clamp(QUEUE.0, QUEUE.1);
    // librdkafka derives fetch.max.bytes, the bound of one response, from the first of these.
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
