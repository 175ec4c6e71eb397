//! Keys that a later version will have. They are refused, since ignoring them would hide that
//! they have no effect.

use toml::{Table, Value};

use super::ConfigError;

/// The paths of such keys; `*` matches any name.
const LATER: &[&[&str]] = &[&["http", "tls"]];

/// Refuses the first such key in `table`.
pub(super) fn refuse(table: &Table) -> Result<(), ConfigError> {
    match LATER.iter().find_map(|path| find(table, path)) {
        Some(key) => Err(ConfigError::NotAvailable { what: key }),
        None => Ok(()),
    }
}

fn find(table: &Table, path: &[&str]) -> Option<String> {
    let (first, rest) = path.split_first()?;
    let mut named = table.iter().filter(|(key, _)| *first == "*" || first == key);
    if rest.is_empty() {
        return named.next().map(|(key, _)| key.clone());
    }
    named.find_map(|(key, value)| match value {
        Value::Table(inner) => find(inner, rest).map(|found| format!("{key}.{found}")),
        _ => None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_of_later_versions_are_refused_by_their_whole_names() {
        for (text, key) in [("http.tls.cert = 'x'", "http.tls"), ("http.tls = true", "http.tls")] {
            let sentence = refuse(&text.parse().unwrap()).unwrap_err().to_string();
            let meant = format!("{key} is not available in this version: leave it out");
            assert_eq!(sentence, meant);
        }
        assert!(refuse(&"http.listen = 'x'\napps.tls.topic = 'x'".parse().unwrap()).is_ok());
    }
}
