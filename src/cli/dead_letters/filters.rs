//! The options that select letters.

use clap::builder::NonEmptyStringValueParser;
use jiff::tz::TimeZone;

use crate::cli::submit::delay;
use crate::cli::{CannotStart, cannot_start};
use crate::config::Config;
use crate::model::clock::{Clock, SystemClock};
use crate::model::time::ScheduledTime;
use crate::operations::{LetterFilter, LetterState};

/// What the selected letters have in common.
#[derive(Clone, Debug, Default, clap::Args)]
#[command(next_help_heading = "Which letters")]
pub(super) struct Filters {
    /// Letters of this app
    #[arg(long, value_name = "NAME", value_parser = NonEmptyStringValueParser::new())]
    app: Option<String>,
    /// Letters of this kind, such as invalid-json or attempts-exhausted
    #[arg(long, value_name = "KIND", value_parser = NonEmptyStringValueParser::new())]
    kind: Option<String>,
    /// Letters that died at this time or later: 2030-01-01T08:00:00Z, a local time, epoch milliseconds, or
    /// how long ago, as in 2h
    #[arg(long, value_name = "TIME")]
    from: Option<String>,
    /// Letters that died before this time
    #[arg(long, value_name = "TIME")]
    to: Option<String>,
    /// Letters with this text in the message; upper and lower case are the same
    #[arg(long, value_name = "TEXT", value_parser = NonEmptyStringValueParser::new())]
    contains: Option<String>,
}

impl Filters {
    pub(super) fn is_empty(&self) -> bool {
        let Self { app, kind, from, to, contains } = self;
        [app, kind, from, to, contains].into_iter().all(Option::is_none)
    }

    /// The filter, for letters in one of `states`.
    pub(super) fn read(
        &self,
        config: &Config,
        states: Vec<LetterState>,
    ) -> Result<LetterFilter, CannotStart> {
        let (now_ms, zone) = (SystemClock.now_ms(), &config.default_time_zone);
        let moment = |name: &str, text: &Option<String>| {
            let read = text.as_deref().map(|text| moment_at(text, now_ms, zone));
            read.transpose().map_err(|why| cannot_start(format!("--{name}: {why}")))
        };
        Ok(LetterFilter {
            states,
            app: self.app.clone(),
            kind: self.kind.clone(),
            from_ms: moment("from", &self.from)?,
            to_ms: moment("to", &self.to)?,
            contains: self.contains.clone(),
        })
    }
}

/// A time in any form that a request may have, or how long ago it was.
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

    #[test]
    fn no_flag_is_no_filter() {
        assert!(Filters::default().is_empty());
        assert!(!Filters { to: Some("2h".into()), ..Filters::default() }.is_empty());
    }
}
