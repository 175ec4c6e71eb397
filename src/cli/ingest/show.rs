//! The list of partitions.

use std::process::ExitCode;

use serde::Serialize;

use super::pause::since;
use crate::cli::exit::Exit;
use crate::cli::output::{ListOptions, on_one_line, report, say, table};
use crate::cli::session::Session;
use crate::operations::{PartitionPosition, Paused, Positions, Totals};

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

/// The members of the document besides its list.
#[derive(Serialize)]
struct Fields<'a> {
    group: &'a str,
    pause: Option<&'a Paused>,
    missing: Option<&'a str>,
}

pub(super) async fn run(session: &Session, form: ListOptions) -> anyhow::Result<ExitCode> {
    let positions = session.operations.ingest().positions().await?;
    let Positions { group, partitions, pause, missing, .. } = &positions;
    match form.printer() {
        Some(mut printer) => {
            partitions.iter().try_for_each(|partition| printer.item(partition))?;
            let (pause, missing) = (pause.as_ref(), missing.as_deref());
            printer.end_with(None, &Fields { group, pause, missing })?;
        }
        None => say(text(&positions)),
    }
    if let Some(pause) = pause {
        let since = since(pause);
        report(on_one_line(&format!("the ingest of group {group} is paused {since}")));
    }
    if let Some(missing) = missing {
        report(missing);
        return Ok(Exit::Incomplete.into());
    }
    Ok(ExitCode::SUCCESS)
}

fn text(positions: &Positions) -> String {
    let rows: Vec<Vec<String>> = positions.partitions.iter().map(cells).collect();
    let mut text = table(&COLUMNS, &rows);
    for warning in positions.partitions.iter().filter_map(PartitionPosition::warning) {
        text.push_str(&warning);
        text.push('\n');
    }
    text.trim_end().to_owned()
}

fn cells(one: &PartitionPosition) -> Vec<String> {
    let known = |number: Option<i64>| number.map_or_else(|| "-".into(), |n| n.to_string());
    let owner = one.owner.clone().unwrap_or_else(|| "nobody".into());
    let mut cells = vec![one.topic.clone(), one.partition.to_string(), owner];
    let [next, end] = [one.next_offset, one.end_offset].map(|offset| offset.map(|offset| offset.0));
    cells.extend([next, end, one.lag].map(known));
    let Totals { records, jobs, duplicates, operations, dead_letters, parked } = one.totals;
    let counts = [records, jobs, duplicates, operations, dead_letters, parked];
    cells.extend(counts.map(|count| count.to_string()));
    cells
}
