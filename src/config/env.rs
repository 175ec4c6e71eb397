//! Keys from environment variables: `INFINITE_SCHEDULER__KAFKA__TOPIC` is `kafka.topic`, in any
//! letter case.
//!
//! A value is read as TOML where it is a number, a boolean, a list or an inline table, else as
//! text. If a key requires text, as in `group_id = 123`, the value is read as text.
//!
//! Two kinds of keys contain names. An app's name is converted to lower case
//! (`..__APPS__SMS__TOPIC`), and an app with `__` in its name cannot be set. After
//! `..__KAFKA__PROPERTIES__` the rest is one property, with a dot for each underscore, single or
//! double: `..__SASL__PASSWORD` and `..__SASL_PASSWORD` are `sasl.password`; its value is always
//! text.

use std::collections::BTreeMap;

use toml::{Table, Value};

const PREFIX: &str = "INFINITE_SCHEDULER__";

/// Values that override a file's, by their path; a table's before those of its keys.
#[derive(Default)]
pub(super) struct Overlay(BTreeMap<Vec<String>, Variable>);

struct Variable {
    name: String,
    text: String,
}

impl Overlay {
    /// Selects the variables with this program's prefix.
    pub(super) fn new(env: impl IntoIterator<Item = (String, String)>) -> Self {
        let ours = env.into_iter().filter_map(|(name, text)| {
            let head = name.get(..PREFIX.len())?;
            let is_ours = head.eq_ignore_ascii_case(PREFIX);
            is_ours.then(|| (key_path(&name[PREFIX.len()..]), Variable { name, text }))
        });
        Self(ours.collect())
    }

    /// Sets every value in `table`.
    pub(super) fn apply(&self, table: &mut Table) {
        for (path, variable) in &self.0 {
            let value = if is_property(path) {
                Value::String(variable.text.clone())
            } else {
                read_value(&variable.text)
            };
            set(table, path, value);
        }
    }

    /// Sets the value at `key` as text; false if it came from no variable or is text already.
    pub(super) fn apply_as_text(&self, table: &mut Table, key: &str) -> bool {
        let Some((path, variable)) = self.find(key) else { return false };
        let text = Value::String(variable.text.clone());
        set(table, path, text.clone()).is_some_and(|before| before != text)
    }

    /// The name of the variable that set `key`.
    pub(super) fn variable(&self, key: &str) -> Option<&str> {
        self.find(key).map(|(_, variable)| variable.name.as_str())
    }

    fn find(&self, key: &str) -> Option<(&Vec<String>, &Variable)> {
        self.0.iter().find(|(path, _)| path.join(".") == key)
    }
}

fn key_path(name: &str) -> Vec<String> {
    let name = name.to_ascii_lowercase();
    if let Some(property) = name.strip_prefix("kafka__properties__") {
        let property = property.replace("__", "_").replace('_', ".");
        return vec!["kafka".into(), "properties".into(), property];
    }
    name.split("__").map(str::to_owned).collect()
}

fn is_property(path: &[String]) -> bool {
    matches!(path, [kafka, properties, _] if kafka == "kafka" && properties == "properties")
}

/// A date is read as text, since no key has a date as its value.
fn read_value(text: &str) -> Value {
    match text.parse::<Value>() {
        Ok(Value::Datetime(_)) | Err(_) => Value::String(text.to_owned()),
        Ok(value) => value,
    }
}

/// Sets the value at `path`, creates tables on the way, and returns the previous value.
fn set(table: &mut Table, path: &[String], value: Value) -> Option<Value> {
    match path {
        [] => None,
        [last] => table.insert(last.clone(), value),
        [first, rest @ ..] => {
            let inner = table.entry(first.clone()).or_insert_with(|| Value::Table(Table::new()));
            if !inner.is_table() {
                *inner = Value::Table(Table::new());
            }
            inner.as_table_mut().and_then(|inner| set(inner, rest, value))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(variables: &[(&str, &str)], file: &str, meant: &str) {
        let env = variables.iter().map(|(name, text)| (name.to_string(), text.to_string()));
        let mut table: Table = file.parse().unwrap();
        Overlay::new(env).apply(&mut table);
        assert_eq!(table, meant.parse::<Table>().unwrap(), "{variables:?}");
    }

    #[test]
    fn a_name_is_a_path_and_a_value_is_toml_where_it_can_be() {
        for (name, text, meant) in [
            ("INFINITE_SCHEDULER__KAFKA__TOPIC", "t", "kafka.topic = 't'"),
            ("infinite_scheduler__Kafka__Topic", "t", "kafka.topic = 't'"),
            ("INFINITE_SCHEDULER__APPS__SMS__TOPIC", "t", "apps.sms.topic = 't'"),
            ("INFINITE_SCHEDULER__KAFKA__MAX_RETRIES", "5", "kafka.max_retries = 5"),
            ("INFINITE_SCHEDULER__KAFKA__ENABLED", "false", "kafka.enabled = false"),
            ("INFINITE_SCHEDULER__KAFKA__TOPICS", "['a', 'b']", "kafka.topics = ['a', 'b']"),
            ("INFINITE_SCHEDULER__X", "2025-01-01", "x = '2025-01-01'"),
            ("INFINITE_SCHEDULER__X", "a\nb = 1", "x = \"a\\nb = 1\""),
            ("INFINITE_SCHEDULER__X", "", "x = ''"),
            ("INFINITE_SCHEDULER_CONFIG", "x", ""),
            ("PATH", "/bin", ""),
        ] {
            check(&[(name, text)], "", meant);
        }
    }

    #[test]
    fn the_environment_wins_key_by_key() {
        let file = "kafka = { topic = 'file', group_id = 'file' }";
        let meant = "kafka = { topic = 'env', group_id = 'file' }";
        check(&[("INFINITE_SCHEDULER__KAFKA__TOPIC", "env")], file, meant);
    }

    #[test]
    fn properties_are_dotted_text() {
        for (name, property) in [
            ("INFINITE_SCHEDULER__KAFKA__PROPERTIES__SASL__PASSWORD", "sasl.password"),
            ("INFINITE_SCHEDULER__KAFKA__PROPERTIES__SASL_PASSWORD", "sasl.password"),
            ("INFINITE_SCHEDULER__KAFKA__PROPERTIES__SSL__CA_LOCATION", "ssl.ca.location"),
        ] {
            check(&[(name, "1_000")], "", &format!("kafka.properties.'{property}' = '1_000'"));
        }
    }
}
