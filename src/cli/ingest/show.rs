//! The listing of partitions.

use std::process::ExitCode;

use super::pause::since;
use crate::cli::output::{on_one_line, report, say, table};
use crate::cli::session::{Session, failed};
use crate::operations::{PartitionPosition, Positions, Totals};

const COLUMNS: [&str; 12] = [
    "topic",
    "partition",
    "owner",
    "next",
    "end",
    "lag",
    "records",
    "jobs",
    "duplicates",
    "operations",
    "dead letters",
    "parked",
];

pub(super) async fn run(session: &Session, json: bool) -> anyhow::Result<ExitCode> {
    let positions = session.operations.ingest().positions().await.map_err(failed)?;
    match json {
        true => say(serde_json::to_string_pretty(&positions)?),
        false => say(text(&positions)),
    }
    if let Some(pause) = positions.pause.as_ref().filter(|_| !json) {
        let since = since(pause);
        report(on_one_line(&format!("the ingest of group {} is paused {since}", positions.group)));
    }
    if let Some(missing) = &positions.missing {
        report(missing);
        return Ok(ExitCode::FAILURE);
    }
    Ok(ExitCode::SUCCESS)
}

fn text(positions: &Positions) -> String {
    let rows: Vec<Vec<String>> = positions.partitions.iter().map(cells).collect();
    let mut text = table(&COLUMNS, &rows);
    for remark in positions.partitions.iter().filter_map(PartitionPosition::remark) {
        text.push_str(&remark);
        text.push('\n');
    }
    text.trim_end().to_owned()
}

fn cells(one: &PartitionPosition) -> Vec<String> {
    let known = |number: Option<i64>| number.map_or_else(|| "-".into(), |n| n.to_string());
    let owner = one.owner.clone().unwrap_or_else(|| "nobody".into());
    let mut cells = vec![one.topic.clone(), one.partition.to_string(), owner];
    cells.extend([one.next_offset, one.end_offset, one.lag].map(known));
    let Totals { records, jobs, duplicates, operations, dead_letters, parked } = one.totals;
    let counts = [records, jobs, duplicates, operations, dead_letters, parked];
    cells.extend(counts.map(|count| count.to_string()));
    cells
}
