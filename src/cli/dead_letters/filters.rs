//! The options that select letters.

use clap::builder::NonEmptyStringValueParser;

use crate::cli::{CannotStart, moment};
use crate::config::Config;
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
        let zone = &config.default_time_zone;
        Ok(LetterFilter {
            states,
            app: self.app.clone(),
            kind: self.kind.clone(),
            from_ms: moment::read("from", self.from.as_deref(), zone)?,
            to_ms: moment::read("to", self.to.as_deref(), zone)?,
            contains: self.contains.clone(),
            partition: None,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_flag_is_no_filter() {
        assert!(Filters::default().is_empty());
        assert!(!Filters { to: Some("2h".into()), ..Filters::default() }.is_empty());
    }
}
