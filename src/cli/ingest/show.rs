//! The listing of partitions.

use std::collections::BTreeMap;
use std::process::ExitCode;

use chrono::{DateTime, SecondsFormat};
use serde::Serialize;

use super::Scene;
use crate::cli::cannot_start;
use crate::cli::output::{complain, say, table};
use crate::kafka::{ClusterInspector, Error as KafkaError, LogRange, TopicPartition};
use crate::store::PartitionRow;

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

/// What Kafka says.
struct Cluster {
    id: String,
    logs: BTreeMap<TopicPartition, LogRange>,
    /// When the transactions began that hold partitions back, epoch milliseconds.
    held_since: BTreeMap<TopicPartition, i64>,
}

impl Cluster {
    /// Says so if one of these topics does not exist.
    fn lacks(&self, topics: &[String]) -> Option<String> {
        let is_there = |topic: &&String| self.logs.keys().any(|one| *one.topic == ***topic);
        let absent = topics.iter().find(|topic| !is_there(topic))?;
        Some(format!("topic {absent} does not exist"))
    }
}

/// Everything there is to show.
#[derive(Debug, Serialize)]
struct Listing<'a> {
    group: &'a str,
    partitions: Vec<Line>,
    /// What could not be found out, as a sentence.
    missing: Option<String>,
}

/// One partition; what is not known is absent.
#[derive(Clone, Debug, Default, Serialize)]
#[serde(rename_all = "camelCase")]
struct Line {
    cluster: String,
    topic: String,
    partition: i32,
    owner: Option<String>,
    next_offset: Option<i64>,
    begin_offset: Option<i64>,
    end_offset: Option<i64>,
    /// The first offset that a transaction which has not ended holds back.
    held_back_from: Option<i64>,
    /// When that transaction began, RFC 3339.
    held_back_since: Option<String>,
    lag: Option<i64>,
    records: i64,
    jobs: i64,
    duplicates: i64,
    operations: i64,
    dead_letters: i64,
    parked: i64,
}

pub(super) async fn run(scene: &Scene) -> anyhow::Result<ExitCode> {
    let survey = ClusterInspector::start(&scene.kafka).map_err(cannot_start)?;
    let id = survey.cluster_id().await;
    let group = &scene.kafka.group_id;
    // Without its id, the rows of whichever cluster.
    let wanted = id.as_deref().ok();
    let read = scene.store.partitions(group, wanted).await;
    let rows = read.map_err(|error| scene.told(error))?;
    let cluster = match id {
        Ok(id) => ask(&survey, id, scene, &rows).await,
        Err(error) => Err(error),
    };
    let missing = match &cluster {
        Ok(cluster) => cluster.lacks(&scene.kafka.topics),
        Err(error) => Some(format!("{error}: END and LAG are missing")),
    };
    let listing = Listing { group, partitions: lines(rows, cluster.ok()), missing };
    if scene.json {
        say(serde_json::to_string_pretty(&listing)?);
    } else {
        say(text(&listing));
    }
    if let Some(missing) = &listing.missing {
        complain(missing);
        return Ok(ExitCode::FAILURE);
    }
    Ok(ExitCode::SUCCESS)
}

/// Of the topics that are read, and of those that once were.
async fn ask(
    survey: &ClusterInspector,
    id: String,
    scene: &Scene,
    rows: &[PartitionRow],
) -> Result<Cluster, KafkaError> {
    let mut topics = scene.kafka.topics.clone();
    topics.extend(rows.iter().map(|row| row.key.topic.clone()));
    let partitions = survey.partitions(topics).await?;
    let logs = survey.logs(partitions).await?;
    let mut held_since = BTreeMap::new();
    for (partition, log) in logs.iter().filter(|(_, log)| log.stable < log.end) {
        if let Some(since_ms) = survey.time_at(partition, log.stable).await? {
            held_since.insert(partition.clone(), since_ms);
        }
    }
    Ok(Cluster { id, logs, held_since })
}

/// A line for each row and for each partition that was never read.
fn lines(rows: Vec<PartitionRow>, cluster: Option<Cluster>) -> Vec<Line> {
    let (id, mut logs, held_since) =
        cluster.map_or_else(Default::default, |one| (one.id, one.logs, one.held_since));
    let mut lines: Vec<Line> = rows
        .into_iter()
        .map(|row| {
            let partition = TopicPartition::new(row.key.topic.as_str(), row.key.partition);
            line(row, logs.remove(&partition))
        })
        .collect();
    lines.extend(logs.into_iter().map(|(partition, log)| Line {
        cluster: id.clone(),
        topic: partition.topic.to_string(),
        partition: partition.partition,
        begin_offset: Some(log.begin),
        end_offset: Some(log.end),
        held_back_from: held_back_from(log),
        ..Line::default()
    }));
    for line in &mut lines {
        let partition = TopicPartition::new(line.topic.as_str(), line.partition);
        let since_ms = held_since.get(&partition).filter(|_| line.held_back_from.is_some());
        let since = since_ms.and_then(|ms| DateTime::from_timestamp_millis(*ms));
        line.held_back_since = since.map(|at| at.to_rfc3339_opts(SecondsFormat::Secs, true));
    }
    lines.sort_by(|a, b| (&a.topic, a.partition).cmp(&(&b.topic, b.partition)));
    lines
}

fn held_back_from(log: LogRange) -> Option<i64> {
    (log.stable < log.end).then_some(log.stable)
}

fn line(row: PartitionRow, log: Option<LogRange>) -> Line {
    let PartitionRow { key, row, owner, totals } = row;
    // What retention took is not to be read any more.
    let lag = log.map(|log| (log.end - row.next_offset.max(log.begin)).max(0));
    Line {
        cluster: key.cluster,
        topic: key.topic,
        partition: key.partition,
        owner,
        next_offset: Some(row.next_offset),
        begin_offset: log.map(|log| log.begin),
        end_offset: log.map(|log| log.end),
        held_back_from: log.and_then(held_back_from),
        held_back_since: None,
        lag,
        records: totals.records,
        jobs: totals.jobs,
        duplicates: totals.duplicates,
        operations: totals.operations,
        dead_letters: totals.dead_letters,
        parked: totals.parked,
    }
}

fn text(listing: &Listing<'_>) -> String {
    let rows: Vec<Vec<String>> = listing.partitions.iter().map(cells).collect();
    let mut text = table(&COLUMNS, &rows);
    for remark in listing.partitions.iter().filter_map(remark) {
        text.push_str(&remark);
        text.push('\n');
    }
    text.trim_end().to_owned()
}

fn cells(line: &Line) -> Vec<String> {
    let known = |number: Option<i64>| number.map_or_else(|| "-".into(), |n| n.to_string());
    let owner = line.owner.clone().unwrap_or_else(|| "nobody".into());
    let fates =
        [line.records, line.jobs, line.duplicates, line.operations, line.dead_letters, line.parked];
    let mut cells = vec![line.topic.clone(), line.partition.to_string(), owner];
    cells.extend([known(line.next_offset), known(line.end_offset), known(line.lag)]);
    cells.extend(fates.map(|count| count.to_string()));
    cells
}

/// What its reader will find, if the log is not the one that the row knows.
fn remark(line: &Line) -> Option<String> {
    let (next, begin, end) = (line.next_offset?, line.begin_offset?, line.end_offset?);
    let Line { topic, partition, .. } = line;
    if next > end {
        return Some(format!(
            "{topic}/{partition} ends at {end}, and it was read up to {next}: it was made again"
        ));
    }
    if next < begin {
        let lost = format!("records {next} to {} are gone, and were not read", begin - 1);
        return Some(format!("{topic}/{partition} begins at {begin}: {lost}"));
    }
    let from = line.held_back_from?;
    let since = line.held_back_since.as_deref().unwrap_or("an unknown time");
    Some(format!(
        "{topic}/{partition} is held back at {from} by a transaction open since {since}: end it, \
         or its producer"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read_to(next: i64) -> Line {
        let row = PartitionRow {
            key: crate::store::LedgerKey {
                cluster: "c".into(),
                group: "g".into(),
                topic: "t".into(),
                partition: 0,
            },
            row: crate::store::LedgerRow {
                id: crate::model::ids::LedgerId(1),
                reader: crate::model::ids::ReaderToken(1),
                next_offset: next,
                last: None,
            },
            owner: None,
            totals: crate::store::Totals::default(),
        };
        line(row, Some(LogRange { begin: 10, end: 30, stable: 30 }))
    }

    #[test]
    fn what_is_gone_does_not_count_as_lag() {
        for (next, lag) in [(0, 20), (10, 20), (12, 18), (30, 0), (99, 0)] {
            assert_eq!(read_to(next).lag, Some(lag), "{next}");
        }
    }

    #[test]
    fn a_log_that_is_not_the_one_we_know_is_remarked_on() {
        for (next, said) in [
            (4, Some("t/0 begins at 10: records 4 to 9 are gone, and were not read")),
            (10, None),
            (30, None),
            (31, Some("t/0 ends at 30, and it was read up to 31: it was made again")),
        ] {
            assert_eq!(remark(&read_to(next)).as_deref(), said, "{next}");
        }
    }
}
