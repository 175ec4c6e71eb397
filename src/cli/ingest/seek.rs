//! `ingest seek`: moves where reading goes on.
//!
//! Each partition is moved by one compare-and-set of its ledger row, which takes it from its
//! reader as well: a batch in hand writes nothing, and the reader begins again at the row.

use std::collections::{BTreeMap, HashMap};
use std::process::ExitCode;

use anyhow::{Context, bail};
use serde_json::json;

use super::Scene;
use super::plan::{Move, Place};
use crate::cli::output::{complain, say, table};
use crate::cli::{CannotStart, ConfigFile, cannot_start};
use crate::kafka::{ClusterInspector, LogRange, Offsets, TopicPartition};
use crate::model::ids::ReaderToken;
use crate::model::time::ScheduledTime;
use crate::store::{LedgerKey, LedgerRow};

/// How often a row is moved that its reader moves at the same time.
const TRIES: usize = 10;

/// What a person must know before records are read again.
const READ_AGAIN: &str = "what is read again is a duplicate only while its job lives or its \
    idempotency key stands: a request without a key whose job has ended becomes a job again";
/// And before records are skipped.
const SKIPPED: &str = "what is skipped becomes nothing: no job, no dead letter, no verdict";

/// Moves where reading goes on, beside running instances or without any
///
/// Backward, records are read again. A repeat is recognised, and counted as a duplicate, while
/// the job of its request lives or its idempotency key stands in its window. A request WITHOUT a
/// key whose job has ended becomes a job again, and fires again. A dead letter keeps its row.
///
/// Forward, records are skipped for good: they become nothing at all.
///
/// The counts are of offsets: a log with gaps, by compaction or transactions, has fewer records.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  infinite-scheduler ingest seek --to-time 2030-01-01T08:00:00Z --dry-run
  infinite-scheduler ingest seek --to-beginning --topic scheduler.jobs.ingest --yes
  infinite-scheduler ingest seek --to-offset 4711 --partition 3 --yes

Exit codes: 0 moved, or shown by --dry-run; 1 not all was moved (an offset outside of the log, --yes
was missing, or it failed: what was moved is shown); 2 it cannot work as it was asked.")]
pub(super) struct Arguments {
    #[command(flatten)]
    pub(super) config: ConfigFile,
    #[command(flatten)]
    target: Target,
    /// Only this topic; without it all topics of the configuration
    #[arg(long)]
    topic: Option<String>,
    /// Only this partition; may be given several times
    #[arg(long, value_name = "NUMBER")]
    partition: Vec<i32>,
    /// Show what would be read again or skipped, and move nothing
    #[arg(long, conflicts_with = "yes")]
    dry_run: bool,
    /// Yes, move; without it nothing is moved
    #[arg(long)]
    yes: bool,
    /// Print JSON
    #[arg(long)]
    pub(super) json: bool,
}

#[derive(Debug, clap::Args)]
#[group(required = true, multiple = false)]
struct Target {
    /// Go on with this record
    #[arg(long, value_name = "OFFSET")]
    to_offset: Option<i64>,
    /// Go on with the first record that is not older: 2030-01-01T08:00:00Z, or epoch milliseconds
    #[arg(long, value_name = "TIME", value_parser = time)]
    to_time: Option<ScheduledTime>,
    /// Go on with the first record that the log still has
    #[arg(long)]
    to_beginning: bool,
    /// Go on behind the last record that is there now
    #[arg(long)]
    to_end: bool,
}

/// A partition that is to be moved.
struct Part {
    key: LedgerKey,
    /// Its row, if it was ever read.
    row: Option<LedgerRow>,
    log: LogRange,
    planned: Move,
}

pub(super) async fn run(scene: &Scene, arguments: &Arguments) -> anyhow::Result<ExitCode> {
    let survey = ClusterInspector::start(&scene.kafka).map_err(cannot_start)?;
    let partitions = chosen(&survey, scene, arguments).await?;
    let mut parts = plan(&survey, scene, partitions, arguments).await?;
    let is_asked = parts.iter().any(|part| !part.planned.is_none());
    let done = match arguments.yes {
        true => carry_out_all(scene, &mut parts).await,
        false => Ok(()),
    };
    // Also of those before one that failed: they have been moved.
    tell(scene, &parts)?;
    done?;
    if !is_asked {
        complain("every partition stands there already: nothing to move");
        return Ok(ExitCode::SUCCESS);
    }
    if arguments.yes {
        return Ok(ExitCode::SUCCESS);
    }
    warn(&parts);
    if arguments.dry_run {
        complain("nothing was moved: this was a dry run");
        return Ok(ExitCode::SUCCESS);
    }
    complain("nothing was moved: add --yes if that is what you want");
    Ok(ExitCode::FAILURE)
}

/// The partitions that the arguments name.
async fn chosen(
    survey: &ClusterInspector,
    scene: &Scene,
    arguments: &Arguments,
) -> anyhow::Result<Vec<TopicPartition>> {
    let configured = &scene.kafka.topics;
    let topics = match &arguments.topic {
        None => configured.clone(),
        Some(topic) if configured.contains(topic) => vec![topic.clone()],
        Some(topic) => {
            let known = configured.join(", ");
            bail!(CannotStart(format!("--topic {topic} is not read: kafka.topics has {known}")));
        }
    };
    if topics.len() > 1 && !arguments.partition.is_empty() {
        let known = configured.join(", ");
        bail!(CannotStart(format!("--partition needs --topic, one of {known}")));
    }
    let mut partitions = survey.partitions(topics.clone()).await?;
    for topic in &topics {
        let of_topic = partitions.iter().filter(|one| *one.topic == **topic);
        let numbers: Vec<i32> = of_topic.map(|one| one.partition).collect();
        if numbers.is_empty() {
            bail!(CannotStart(format!("topic {topic} does not exist")));
        }
        if let Some(number) = arguments.partition.iter().find(|number| !numbers.contains(number)) {
            let last = numbers.len() - 1;
            bail!(CannotStart(format!(
                "--partition {number} is not there: {topic} has partitions 0 to {last}"
            )));
        }
    }
    let is_chosen =
        |number: &i32| arguments.partition.is_empty() || arguments.partition.contains(number);
    partitions.retain(|one| is_chosen(&one.partition));
    Ok(partitions)
}

/// Every part is looked at before any is moved.
async fn plan(
    survey: &ClusterInspector,
    scene: &Scene,
    partitions: Vec<TopicPartition>,
    arguments: &Arguments,
) -> anyhow::Result<Vec<Part>> {
    let cluster = survey.cluster_id().await?;
    let logs = survey.logs(partitions.clone()).await?;
    let places = places(survey, scene, &partitions, &arguments.target).await?;
    let group = &scene.kafka.group_id;
    let read = scene.store.partitions(group, Some(&cluster)).await;
    let rows = read.map_err(|error| scene.told(error))?.into_iter();
    let rows: HashMap<LedgerKey, LedgerRow> = rows.map(|one| (one.key, one.row)).collect();
    let committed = survey.committed(partitions.clone()).await?;
    let mut parts = Vec::new();
    for partition in partitions {
        let (Some(log), Some(place)) = (logs.get(&partition), places.get(&partition)) else {
            bail!("Kafka said nothing of {partition}: try again");
        };
        let key = LedgerKey {
            cluster: cluster.clone(),
            group: group.clone(),
            topic: partition.topic.to_string(),
            partition: partition.partition,
        };
        let row = rows.get(&key).cloned();
        let start = committed.get(&partition).copied().unwrap_or(log.begin);
        let from = row.as_ref().map_or(start, |row| row.next_offset);
        let Some(to) = place.in_log(*log) else {
            let LogRange { begin, end, .. } = log;
            bail!(
                "{partition} does not have that offset: its log begins at {begin} and ends at {end}"
            );
        };
        let planned = Move::of(&key.topic, key.partition, from, to, *log);
        parts.push(Part { key, row, log: *log, planned });
    }
    Ok(parts)
}

/// Where each partition is to go on.
async fn places(
    survey: &ClusterInspector,
    scene: &Scene,
    partitions: &[TopicPartition],
    target: &Target,
) -> anyhow::Result<BTreeMap<TopicPartition, Place>> {
    let all = |place| partitions.iter().map(|one| (one.clone(), place)).collect();
    if let Some(offset) = target.to_offset {
        return Ok(all(Place::Offset(offset)));
    }
    let Some(time) = target.to_time else {
        return Ok(all(if target.to_beginning { Place::Beginning } else { Place::End }));
    };
    let Some(ms) = time.resolve_ms(&scene.config.default_time_zone) else {
        bail!(CannotStart(format!("--to-time {time} is outside the years 0 to 9999")));
    };
    let found: Offsets = survey.offsets_at(partitions.to_vec(), ms).await?;
    let place = |one: &TopicPartition| Place::Moment(found.get(one).copied());
    Ok(partitions.iter().map(|one| (one.clone(), place(one))).collect())
}

async fn carry_out_all(scene: &Scene, parts: &mut [Part]) -> anyhow::Result<()> {
    for part in parts {
        let Move { topic, partition, .. } = part.planned.clone();
        let about = || format!("{topic}/{partition} may not have been moved: see `ingest`");
        carry_out(scene, part).await.with_context(about)?;
    }
    Ok(())
}

/// Moves one partition, and notes from where: that may be further than it was planned.
async fn carry_out(scene: &Scene, part: &mut Part) -> anyhow::Result<()> {
    let planned = part.planned.clone();
    if planned.is_none() {
        return Ok(());
    }
    let mut row = row_of(scene, part).await?;
    for _ in 0..TRIES {
        let from = row.next_offset;
        let to = planned.to_from(from);
        if from == to || move_row(scene, &row, to).await? {
            part.note(from, to);
            part.planned.moved = from != to;
            return Ok(());
        }
        row = take_from_reader(scene, &row).await?;
    }
    let (topic, number) = (&part.key.topic, part.key.partition);
    bail!("{topic}/{number} was claimed by its readers {TRIES} times meanwhile: try again")
}

/// The partition's row, made first if it was never read.
async fn row_of(scene: &Scene, part: &Part) -> anyhow::Result<LedgerRow> {
    if let Some(row) = part.row.clone() {
        return Ok(row);
    }
    let opened = scene.store.open_ledger(&part.key, part.planned.from).await;
    opened.map_err(|error| scene.told(error))?;
    let found = scene.store.find_ledger(&part.key).await.map_err(|error| scene.told(error))?;
    found.context("the ledger row is not there yet")
}

async fn move_row(scene: &Scene, row: &LedgerRow, to: i64) -> anyhow::Result<bool> {
    let moved = scene.store.seek_ledger(row, ReaderToken::random(), to).await;
    moved.map_err(|error| scene.told(error))
}

/// Batches move the row more quickly than anybody can look. Without its reader, which takes
/// a while to claim it again, it stands.
async fn take_from_reader(scene: &Scene, row: &LedgerRow) -> anyhow::Result<LedgerRow> {
    let taken = scene.store.reclaim_ledger(row.id, row.reader, ReaderToken::random()).await;
    let row = match taken.map_err(|error| scene.told(error))? {
        Some(row) => Ok(row),
        None => scene.store.read_ledger(row.id).await,
    };
    row.map_err(|error| scene.told(error))
}

impl Part {
    fn note(&mut self, from: i64, to: i64) {
        if from != self.planned.from {
            // It was read meanwhile, so the log goes on to there.
            self.log.end = self.log.end.max(from);
        }
        self.planned = Move::of(&self.key.topic, self.key.partition, from, to, self.log);
    }
}

fn tell(scene: &Scene, parts: &[Part]) -> anyhow::Result<()> {
    let moves: Vec<&Move> = parts.iter().map(|part| &part.planned).collect();
    if scene.json {
        let group = &scene.kafka.group_id;
        let left = moves.iter().filter(|one| !one.moved && !one.is_none()).count();
        let moved = left == 0 && moves.iter().any(|one| one.moved);
        let all = json!({ "group": group, "moved": moved, "partitions": moves });
        say(serde_json::to_string_pretty(&all)?);
        return Ok(());
    }
    let rows: Vec<Vec<String>> = moves
        .iter()
        .map(|one| {
            let numbers = [i64::from(one.partition), one.from, one.to, one.read_again, one.skipped];
            let numbers = numbers.into_iter().map(|number| number.to_string());
            let moved = if one.moved { "yes" } else { "no" };
            [one.topic.clone()].into_iter().chain(numbers).chain([moved.to_owned()]).collect()
        })
        .collect();
    let names = ["topic", "partition", "from", "to", "read again", "skipped", "moved"];
    say(table(&names, &rows).trim_end());
    Ok(())
}

/// What a move of these would mean.
fn warn(parts: &[Part]) {
    let read_again: i64 = parts.iter().map(|part| part.planned.read_again).sum();
    let skipped: i64 = parts.iter().map(|part| part.planned.skipped).sum();
    if read_again > 0 {
        complain(format_args!("{read_again} records would be read again: {READ_AGAIN}"));
    }
    if skipped > 0 {
        complain(format_args!("{skipped} records would be skipped for good: {SKIPPED}"));
    }
}

fn time(text: &str) -> Result<ScheduledTime, String> {
    match text.parse().ok().and_then(ScheduledTime::from_epoch_ms) {
        Some(instant) => Ok(instant),
        None => text.parse::<ScheduledTime>().map_err(|error| error.to_string()),
    }
}
