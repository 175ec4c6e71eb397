//! Figures of a measurement, for people and for programs.

use std::time::Duration;

use serde::Serialize;
use serde_json::{Value, json};

use super::super::output::{grouped, table};

/// What a measurement gave on one database.
pub(super) trait Figures: Serialize {
    /// Names and values in the order of the table's columns.
    fn cells(&self) -> Vec<(&'static str, String)>;

    /// What people must know to read them.
    fn note(&self) -> Option<String> {
        None
    }
}

/// How many jobs were fired, beside what the database can do at most.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Throughput {
    jobs: usize,
    jobs_per_second: f64,
    /// The same rows read by pages and deleted, on one connection.
    raw_rows_per_second: f64,
    ratio: f64,
}

impl Throughput {
    /// Of `jobs` the scheduler fired `counted` in the `time` after the first ones; the plain
    /// statements took `raw_time` for all.
    pub(super) fn of(jobs: usize, (counted, time): (usize, Duration), raw_time: Duration) -> Self {
        let (ours, raw) = (per_second(counted, time), per_second(jobs, raw_time));
        Self { jobs, jobs_per_second: ours, raw_rows_per_second: raw, ratio: ours / raw }
    }
}

impl Figures for Throughput {
    fn cells(&self) -> Vec<(&'static str, String)> {
        vec![
            ("jobs", grouped(self.jobs as f64)),
            ("jobs/s", grouped(self.jobs_per_second)),
            ("raw rows/s", grouped(self.raw_rows_per_second)),
            ("of raw", format!("{:.0} %", self.ratio * 100.0)),
        ]
    }

    fn note(&self) -> Option<String> {
        Some(
            "raw: pages read and deleted one after the other on one connection, no handlers."
                .into(),
        )
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
pub(super) fn per_second(count: usize, time: Duration) -> f64 {
    count as f64 / time.as_secs_f64().max(f64::EPSILON)
}
