//! Where log events go: standard error, as lines for people or as JSON for programs.

use std::io::{self, IsTerminal};

use serde::Deserialize;
use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::{LevelFilter, ParseError};
use tracing_subscriber::fmt;

/// Crates that say at `info` what only their own authors need to know. `RUST_LOG` can still
/// turn each of them up by its name. And what is no log of ours: a job that fires into the log
/// is there whatever the level, unless somebody names its target. Statements that are slow are
/// logged with their whole text, thousands of rows of it.
const ALWAYS: &str = "sqlx=warn,sqlx::query=error,sea_orm=warn,sea_orm_migration=warn,actix_server=warn,rdkafka=warn,\
    infinite_scheduler::fired=info";

/// How a log event is written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// One line for people.
    #[default]
    Text,
    /// One JSON object per line.
    Json,
}

/// `RUST_LOG` is not what it should be.
#[derive(Debug, thiserror::Error)]
#[error("RUST_LOG = {filter:?} is no filter ({source}): write it like \"info,sqlx=debug\"")]
pub struct InvalidFilter {
    filter: String,
    source: ParseError,
}

/// Begins to write log events of `default_level` and above, or what `RUST_LOG` asks for.
///
/// A program that embeds the scheduler and has its own subscriber keeps it: then, and when
/// called again, this changes nothing.
///
/// # Errors
/// [`InvalidFilter`] if `RUST_LOG` cannot be understood.
pub fn init(format: LogFormat, default_level: LevelFilter) -> Result<(), InvalidFilter> {
    let asked = std::env::var(EnvFilter::DEFAULT_ENV).ok();
    let filter = filter(asked.as_deref(), default_level)?;
    let events = fmt().with_env_filter(filter).with_writer(io::stderr);
    // The only failure is that somebody else's subscriber is there already.
    let _kept = match format {
        LogFormat::Text => events.with_ansi(wants_colours()).try_init(),
        LogFormat::Json => events.json().flatten_event(true).try_init(),
    };
    Ok(())
}

fn wants_colours() -> bool {
    io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|set| set.is_empty())
}

/// What was `asked` for, else `default_level`, laid over [`ALWAYS`].
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
            (None, vec!["info", "sqlx=warn", "sea_orm=warn"]),
            (Some(" "), vec!["info", "sqlx=warn"]),
            (Some("debug"), vec!["debug", "sqlx=warn"]),
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
