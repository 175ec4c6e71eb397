//! Parses text and environment to the configuration, and turns serde's errors into sentences for
//! people.

use std::path::{Path, PathBuf};

use toml::{Table, Value};

use super::env::Overlay;
use super::raw::RawConfig;
use super::{Config, ConfigError, DEFAULT_FILE, flaws, future_keys};
use crate::kafka::is_secret;
use crate::model::suggest::nearest;

/// Reads the text of a file in `folder`, with values overridden by `env`.
pub(super) fn read(
    text: &str,
    env: impl IntoIterator<Item = (String, String)>,
    folder: &Path,
) -> Result<Config, ConfigError> {
    let mut table = parse(text)?;
    let overlay = Overlay::new(env);
    overlay.apply(&mut table);
    future_keys::refuse(&table)?;
    let by_variable = |error| by_variable(error, &overlay);
    flaws::refuse(&table).map_err(by_variable)?;
    loop {
        let value = Value::Table(table.clone());
        let error = match serde_path_to_error::deserialize::<_, RawConfig>(value) {
            Ok(raw) => {
                let raw = RawConfig { folder: folder.to_owned(), ..raw };
                return Config::try_from(raw).map_err(by_variable);
            }
            Err(error) => error,
        };
        let key = error.path().to_string();
        // Only the key's type decides whether 123 in a variable is a number or a name, and here
        // it expects another type than the one that the value looks like.
        if !overlay.apply_as_text(&mut table, &key) {
            return Err(explain(&key, error.inner().message(), overlay.variable(&key)));
        }
    }
}

/// The parser's own `Display` would show the line, which may contain a password.
fn parse(text: &str) -> Result<Table, ConfigError> {
    text.parse::<Table>().map_err(|error| {
        let start = error.span().map_or(0, |span| span.start);
        let line = 1 + text.bytes().take(start).filter(|byte| *byte == b'\n').count();
        let problem = error.message().replace('\n', ", ");
        ConfigError::Syntax { file: PathBuf::from(DEFAULT_FILE), line, problem }
    })
}

/// `error` with the name of the variable that set the illegal value.
fn by_variable(error: ConfigError, overlay: &Overlay) -> ConfigError {
    match error {
        ConfigError::Invalid { key, problem } => {
            ConfigError::invalid(named(&key, overlay.variable(&key)), problem)
        }
        other => other,
    }
}

/// A key, with the variable that set it.
fn named(key: &str, variable: Option<&str>) -> String {
    match variable {
        Some(variable) => format!("{key} (by {variable})"),
        None => key.to_owned(),
    }
}

/// Turns serde's `message` about the value at `key` into a sentence.
fn explain(key: &str, message: &str, variable: Option<&str>) -> ConfigError {
    let named = named(key, variable);
    if message.starts_with("unknown field") {
        return unknown_key(key, named, message);
    }
    let problem = if let Some(rest) = message.strip_prefix("unknown variant ") {
        unknown_variant(rest)
    } else if message.starts_with("duplicate field") {
        // TOML refuses a repeated key, so the field was set by two names, and only this one has
        // two.
        "names its topics twice, as topic and as topics: leave one out".to_owned()
    } else if let Some((found, wanted)) = mismatch(message) {
        let hide = matches!(key, "database.url" | "idempotency.redis_url")
            || key.starts_with("http.tokens")
            || (key.starts_with("apps.")
                && [".url", ".proxy"].iter().any(|end| key.ends_with(end)))
            || is_secret(key);
        let found = if hide { "something else".to_owned() } else { readable_found(found) };
        format!("is {found}, but must be {}", readable_wanted(wanted))
    } else {
        format!("cannot be used: {message}")
    };
    ConfigError::Invalid { key: named, problem }
}

fn unknown_key(key: &str, named: String, message: &str) -> ConfigError {
    let names = quoted(message);
    let Some((unknown, known)) = names.split_first() else {
        return ConfigError::invalid(named, "is not a known key: leave it out");
    };
    let parent = key.strip_suffix(unknown).unwrap_or_default();
    match nearest(unknown, known.iter().copied()) {
        Some(name) => ConfigError::UnknownKey { key: named, nearest: format!("{parent}{name}") },
        None => ConfigError::invalid(named, "is not a known key: leave it out"),
    }
}

fn unknown_variant(rest: &str) -> String {
    let names = quoted(rest);
    let Some((found, known)) = names.split_first() else {
        return format!("cannot be {rest}");
    };
    let guess = nearest(found, known.iter().copied()).unwrap_or_default();
    let known: Vec<_> = known.iter().map(|name| format!("{name:?}")).collect();
    format!("is {found:?}, but must be one of {}: did you mean {guess:?}?", known.join(", "))
}

/// The parts of serde's message between backticks.
fn quoted(message: &str) -> Vec<&str> {
    message.split('`').skip(1).step_by(2).collect()
}

/// The found and the expected type, from serde's message.
fn mismatch(message: &str) -> Option<(&str, &str)> {
    let rest = message
        .strip_prefix("invalid type: ")
        .or_else(|| message.strip_prefix("invalid value: "))?;
    rest.rsplit_once(", expected ")
}

fn readable_found(found: &str) -> String {
    match found {
        "map" => "a table".into(),
        "sequence" => "a list".into(),
        _ => match (found.strip_prefix("string "), quoted(found).first()) {
            (Some(text), _) => text.into(),
            (None, Some(value)) => (*value).into(),
            (None, None) => found.into(),
        },
    }
}

fn readable_wanted(wanted: &str) -> &str {
    match wanted {
        "a nonzero u32" => "a whole number from 1 to 4294967295",
        "u32" => "a whole number from 0 to 4294967295",
        "a nonzero usize" => "a whole number of at least 1",
        "a nonzero u64" => "a whole number of at least 1",
        "u64" | "usize" => "a whole number of at least 0",
        "f64" => "a number",
        "a boolean" => "true or false",
        "a sequence" => "a list",
        "a map" => "a table",
        "string or map" => "one of its known names",
        other if other.starts_with("struct ") => "a table",
        other => other,
    }
}
