//! The lines that librdkafka logs: at which level they are shown, and what they tell.

use rdkafka::config::RDKafkaLogLevel;
use tracing::{debug, error, warn};

use super::connectivity::Connectivity;

/// Logs a line of librdkafka at a level that suits this program.
///
/// Errors also go to the error callback, and the connectivity state reports them once per change:
/// here they would be repeated every few seconds of an outage. The same holds for broken
/// connections and for commits that fail because of them.
pub(super) fn log(
    connectivity: &Connectivity,
    level: RDKafkaLogLevel,
    facility: &str,
    message: &str,
) {
    if facility == "FAIL" {
        connectivity.disconnected(message);
    }
    match level {
        _ if matches!(facility, "COMMITFAIL" | "FAIL" | "FATAL" | "GETPID") => {
            debug!(target: "librdkafka", "{facility}: {message}");
        }
        RDKafkaLogLevel::Emerg | RDKafkaLogLevel::Alert | RDKafkaLogLevel::Critical => {
            error!(target: "librdkafka", "{facility}: {message}");
        }
        RDKafkaLogLevel::Warning => warn!(target: "librdkafka", "{facility}: {message}"),
        _ => debug!(target: "librdkafka", "{facility}: {message}"),
    }
}

/// The topic of a line such as `[thrd:main]: Topic orders changed id from Zm9v.. to YmFy..`.
///
/// librdkafka 2.12 goes on at the same offset when a topic is deleted and recreated, and mentions
/// the new id only in its debug log, before it fetches from the new topic.
pub(super) fn recreated_topic(message: &str) -> Option<&str> {
    let (before, ids) = message.split_once(" changed id from ")?;
    let (from, _) = ids.split_once(" to ")?;
    let was_known = from.bytes().any(|byte| !matches!(byte, b'A' | b'='));
    before.rsplit(' ').next().filter(|_| was_known)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_recreated_topic_is_read_from_the_text_of_the_log() {
        let line = "[thrd:main]: Topic a.b-c_1 changed id from 4n3SJO9DSFKtYtEz0c8bVg to ZTVmNA";
        assert_eq!(recreated_topic(line), Some("a.b-c_1"));
        let first = "[thrd:main]: Topic a changed id from AAAAAAAAAAAAAAAAAAAAAA to ZTVmNA";
        for other in [first, "", "[thrd:main]: Topic a partition 0 Leader 1"] {
            assert_eq!(recreated_topic(other), None, "{other}");
        }
    }
}
