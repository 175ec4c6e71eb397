//! Figures of a measurement, for people and for programs.

use serde::Serialize;
use serde_json::{Value, json};

use super::super::output::table;

/// What a measurement gave on one database.
pub(super) trait Figures: Serialize {
    /// Names and values in the order of the table's columns.
    fn cells(&self) -> Vec<(&'static str, String)>;

    /// What people must know to read them.
    fn note(&self) -> Option<String> {
        None
    }
}

pub(super) fn text<F: Figures>(measured: &[(String, F)]) -> String {
    let mut names = vec!["database"];
    let mut rows = Vec::new();
    let mut notes: Vec<String> = Vec::new();
    for (database, figures) in measured {
        let cells = figures.cells();
        names.truncate(1);
        names.extend(cells.iter().map(|(name, _)| *name));
        let values = cells.into_iter().map(|(_, value)| value);
        rows.push([database.clone()].into_iter().chain(values).collect());
        notes.extend(figures.note().filter(|note| !notes.contains(note)));
    }
    let mut text = table(&names, &rows);
    for note in notes {
        text.push('\n');
        text.push_str(&note);
    }
    text.trim_end().to_owned()
}

pub(super) fn json<F: Figures>(measured: &[(String, F)]) -> serde_json::Result<String> {
    let one = |(database, figures): &(String, F)| {
        let mut value = serde_json::to_value(figures)?;
        if let Value::Object(fields) = &mut value {
            fields.insert("database".into(), json!(database));
        }
        Ok(value)
    };
    let all: serde_json::Result<Vec<Value>> = measured.iter().map(one).collect();
    serde_json::to_string_pretty(&all?)
}

/// So many in that time.
pub(super) fn per_second(count: usize, time: std::time::Duration) -> f64 {
    count as f64 / time.as_secs_f64().max(f64::EPSILON)
}
