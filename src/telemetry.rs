//! Writes log events to standard error, as lines for people or as JSON for programs.

use std::io::{self, IsTerminal};

use serde::Deserialize;
use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::{LevelFilter, ParseError};
use tracing_subscriber::fmt;

/// Directives that always apply, unless `RUST_LOG` names the same target. They reduce crates that
/// log too much at `info`. Jobs fired by `dispatch = "log"` are written whatever the level is.
/// sqlx would log slow statements with their full text, which may have thousands of rows, and warn
/// at each wait for a connection and each broken one: what an operator has to know of those is
/// reported once, by `health`.
const ALWAYS: &str = "sqlx=error,sqlx_core=error,sea_orm=warn,sea_orm_migration=warn,\
    actix_server=warn,rdkafka=warn,infinite_scheduler::fired=info";

/// The format of a log event.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// One line for people.
    #[default]
    Text,
    /// One JSON object per line.
    Json,
}

/// `RUST_LOG` is invalid.
#[derive(Debug, thiserror::Error)]
#[error("RUST_LOG = {filter:?} is no filter ({source}): write it like \"info,sqlx=debug\"")]
pub struct InvalidFilter {
    filter: String,
    source: ParseError,
}

/// Installs a subscriber that writes log events of `default_level` and above, or those that
/// `RUST_LOG` selects.
///
/// A program that embeds the scheduler and has its own subscriber keeps it: then, and when
/// called again, this changes nothing.
///
/// # Errors
/// [`InvalidFilter`] if `RUST_LOG` cannot be parsed.
pub fn init(format: LogFormat, default_level: LevelFilter) -> Result<(), InvalidFilter> {
    let asked = std::env::var(EnvFilter::DEFAULT_ENV).ok();
    let filter = filter(asked.as_deref(), default_level)?;
    let events = fmt().with_env_filter(filter).with_writer(io::stderr);
    // The only possible error is that a subscriber is installed already.
    let _kept = match format {
        LogFormat::Text => events.with_ansi(wants_colours()).try_init(),
        LogFormat::Json => events.json().flatten_event(true).try_init(),
    };
    Ok(())
}

fn wants_colours() -> bool {
    io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|set| set.is_empty())
}

/// [`ALWAYS`], then the directives of `asked`, else `default_level`.
fn filter(asked: Option<&str>, default_level: LevelFilter) -> Result<EnvFilter, InvalidFilter> {
    let asked = match asked {
        Some(filter) if !filter.trim().is_empty() => filter.to_owned(),
        _ => default_level.to_string(),
    };
    EnvFilter::try_new(format!("{ALWAYS},{asked}"))
        .map_err(|source| InvalidFilter { filter: asked, source })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn noisy_crates_are_quiet_until_somebody_names_them() {
        for (asked, meant) in [
            (None, vec!["info", "sqlx=error", "sea_orm=warn"]),
            (Some(" "), vec!["info", "sqlx=error"]),
            (Some("debug"), vec!["debug", "sqlx=error"]),
            (Some("error"), vec!["error", "infinite_scheduler::fired=info"]),
            (Some("warn,sqlx=trace"), vec!["warn", "sqlx=trace", "sea_orm=warn"]),
        ] {
            let filter = filter(asked, LevelFilter::INFO).unwrap().to_string();
            let directives: Vec<_> = filter.split(',').collect();
            for directive in meant {
                assert!(directives.contains(&directive), "{asked:?}: {filter}");
            }
        }
    }

    #[test]
    fn a_filter_that_is_none_is_refused_by_its_text() {
        let error = filter(Some("sqlx=loud"), LevelFilter::INFO).unwrap_err().to_string();
        assert!(error.starts_with("RUST_LOG = \"sqlx=loud\" is no filter"), "{error}");
    }

    #[test]
    fn a_second_start_changes_nothing() {
        init(LogFormat::Json, LevelFilter::INFO).unwrap();
        init(LogFormat::Text, LevelFilter::INFO).unwrap();
    }
}
