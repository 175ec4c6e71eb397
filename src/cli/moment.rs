//! A moment that a filter names.

use jiff::tz::TimeZone;

use super::submit::delay;
use super::{CannotStart, cannot_start};
use crate::model::clock::{Clock, SystemClock};
use crate::model::time::ScheduledTime;

/// The moment of the option `--name`, epoch milliseconds: a time in any form that a request may
/// have, in `zone` if it names none, or how long ago it was.
pub(super) fn read(
    name: &str,
    text: Option<&str>,
    zone: &TimeZone,
) -> Result<Option<i64>, CannotStart> {
    let read = text.map(|text| moment_at(text, SystemClock.now_ms(), zone));
    read.transpose().map_err(|why| cannot_start(format!("--{name}: {why}")))
}

fn moment_at(text: &str, now_ms: i64, zone: &TimeZone) -> Result<i64, String> {
    if let Ok(ago) = delay(text) {
        let ago_ms = i64::try_from(ago.as_millis()).unwrap_or(i64::MAX);
        return Ok(now_ms.saturating_sub(ago_ms));
    }
    let is_json = text.parse::<i64>().is_ok() || text.starts_with(['{', '[']);
    let time = if is_json { ScheduledTime::from_json(text) } else { text.parse() };
    let time = time.map_err(|why| format!("{why}; or say how long ago, as in 2h"))?;
    time.resolve_ms(zone).ok_or_else(|| format!("{text} is outside the years 0 to 9999"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::tests::zones;

    #[test]
    fn a_moment_is_a_time_or_how_long_ago() {
        let now_ms = 1_893_484_800_000;
        let berlin = zones::bundled("Europe/Berlin");
        for (text, meant) in [
            ("2h", now_ms - 7_200_000),
            ("0s", now_ms),
            ("1893484800000", now_ms),
            ("2030-01-01T08:00:00Z", now_ms),
            ("2030-01-01T14:00:00+06:00", now_ms),
            ("2030-01-01T09:00:00", now_ms),
            ("[2030,1,1,9,0]", now_ms),
        ] {
            assert_eq!(moment_at(text, now_ms, &berlin), Ok(meant), "{text}");
        }
        for text in ["", "yesterday", "2h ago", "-5"] {
            let said = moment_at(text, now_ms, &TimeZone::UTC);
            if text == "-5" {
                assert_eq!(said, Ok(-5));
            } else {
                assert!(said.is_err_and(|why| why.contains("as in 2h")), "{text}");
            }
        }
    }
}
