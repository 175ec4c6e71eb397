//! Refuses control characters, and white space around a value, wherever the configuration has
//! text: none of its names, addresses and URLs is meant to have them.
//!
//! They come from files and secrets, and would silently name another group, topic or host. The
//! error names the key and the place in the value, but never shows the value.

use toml::{Table, Value};

use super::ConfigError;
use crate::kafka::property_flaw;
use crate::model::flaw;

/// Refuses the first text with such a flaw in `table`, by its full key.
pub(super) fn refuse(table: &Table) -> Result<(), ConfigError> {
    refuse_in(table, &mut Vec::new())
}

fn refuse_in<'a>(table: &'a Table, path: &mut Vec<&'a str>) -> Result<(), ConfigError> {
    for (key, value) in table {
        if let Some(flaw) = flaw::of_name(key) {
            let place = if path.is_empty() { "the configuration".into() } else { path.join(".") };
            return Err(ConfigError::invalid(place, format!("has a key that {flaw}")));
        }
        path.push(key);
        refuse_value(value, path)?;
        path.pop();
    }
    Ok(())
}

fn refuse_value<'a>(value: &'a Value, path: &mut Vec<&'a str>) -> Result<(), ConfigError> {
    match value {
        Value::String(text) => {
            let flaw = match path[..] {
                ["kafka", "properties", ref property @ ..] => {
                    property_flaw(&property.join("."), text)
                }
                _ => flaw::of_name(text),
            };
            let invalid = |flaw: flaw::Flaw| ConfigError::invalid(path.join("."), flaw.to_string());
            flaw.map_or(Ok(()), |flaw| Err(invalid(flaw)))
        }
        Value::Array(items) => items.iter().try_for_each(|item| refuse_value(item, path)),
        Value::Table(inner) => refuse_in(inner, path),
        _ => Ok(()),
    }
}
