//! Instants as text.

use chrono::{DateTime, SecondsFormat};

/// Epoch milliseconds as RFC 3339 in UTC with seconds, for messages.
pub(crate) fn rfc3339_s(epoch_ms: i64) -> String {
    rfc3339(epoch_ms, SecondsFormat::Secs)
}

/// Epoch milliseconds as RFC 3339 in UTC with milliseconds, for JSON.
pub(crate) fn rfc3339_ms(epoch_ms: i64) -> String {
    rfc3339(epoch_ms, SecondsFormat::Millis)
}

fn rfc3339(epoch_ms: i64, precision: SecondsFormat) -> String {
    match DateTime::from_timestamp_millis(epoch_ms) {
        Some(time) => time.to_rfc3339_opts(precision, true),
        None => format!("{epoch_ms} ms"),
    }
}
