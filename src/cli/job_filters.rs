//! Which jobs are meant by the filters of a command, and how their number and times are read and
//! written.

use super::output::{grouped, report};
use super::{CannotStart, cannot_start};
use crate::config::Config;
use crate::model::time::ScheduledTime;
use crate::operations::{DataCondition, InvalidFilter, JobCount, JobFilter, rfc3339_ms};

/// What the jobs have in common.
#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Which jobs")]
pub(super) struct Filters {
    /// Jobs of this app
    #[arg(long, value_name = "NAME")]
    pub(super) app: Option<String>,
    /// The job that this idempotency key refers to
    #[arg(long, value_name = "KEY")]
    pub(super) key: Option<String>,
    #[command(flatten)]
    pub(super) others: OtherFilters,
}

/// What jobs may have in common besides what also names one.
#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Which jobs")]
pub(super) struct OtherFilters {
    /// Jobs in this state: scheduled, due, running, succeeded, dead or cancelled
    #[arg(long, value_name = "STATE")]
    state: Option<String>,
    /// Jobs that are due or have ended at this time or later: 2030-01-01T08:00:00Z, or a local time
    #[arg(long, value_name = "TIME")]
    from: Option<String>,
    /// Jobs that are due or have ended before this time
    #[arg(long, value_name = "TIME")]
    to: Option<String>,
    /// Jobs of this priority: high, normal or low
    #[arg(long, value_name = "PRIORITY")]
    priority: Option<String>,
    /// Jobs whose record is in this partition, as in scheduler.jobs.ingest/3
    #[arg(long, value_name = "TOPIC/N")]
    partition: Option<String>,
    /// Jobs that failed for good with an error of this kind, such as attempts-exhausted
    #[arg(long, value_name = "KIND")]
    error_kind: Option<String>,
    /// Jobs whose data has this value at this JSON pointer, as in '/country="BD"' or '/order/id=7';
    /// may be given several times
    #[arg(long, value_name = "POINTER=JSON")]
    data: Vec<String>,
}

impl OtherFilters {
    /// Whether one of them is given.
    pub(super) fn is_given(&self) -> bool {
        let Self { state, from, to, priority, partition, error_kind, data } = self;
        let texts = [state, from, to, priority, partition, error_kind];
        !data.is_empty() || texts.into_iter().any(Option::is_some)
    }
}

impl Filters {
    pub(super) fn read(&self, config: &Config) -> Result<JobFilter, CannotStart> {
        let Self { app, key, others } = self;
        let OtherFilters { state, from, to, priority, partition, error_kind, data } = others;
        let values = [app, state, from, to, priority, key, partition, error_kind];
        let pairs = JobFilter::NAMES.into_iter().zip(values);
        let pairs = pairs.filter_map(|(name, value)| Some((name, value.as_deref()?)));
        let read = JobFilter::from_pairs(pairs, Some(&config.default_time_zone));
        let option =
            |error: InvalidFilter| format!("--{error}").replace("--errorKind", "--error-kind");
        let mut filter = read.map_err(|error| cannot_start(option(error)))?;
        for condition in data {
            let (pointer, equals) = condition.split_once('=').ok_or_else(|| {
                cannot_start(format!(
                    "--data is {condition:?}: give POINTER=JSON, as in /order/id=7"
                ))
            })?;
            let read = DataCondition::new(pointer, equals);
            filter.data.push(read.map_err(|error| cannot_start(format!("--{error}")))?);
        }
        Ok(filter)
    }

    /// Says which instants were meant by times without an offset.
    pub(super) fn report_local_times(&self, config: &Config, filter: &JobFilter) {
        let OtherFilters { from, to, .. } = &self.others;
        let times = [("from", from, filter.from_ms), ("to", to, filter.to_ms)];
        for (name, text, ms) in times {
            let (Some(text), Some(ms)) = (text, ms) else { continue };
            if let Ok(ScheduledTime::Local(local)) = text.parse() {
                let zone = config.default_time_zone.iana_name().unwrap_or("default_time_zone");
                report(format_args!("--{name} {local:?}, read in {zone}, is {}", rfc3339_ms(ms)));
            }
        }
    }
}

/// `more than 10,000 jobs`
pub(super) fn counted(JobCount { jobs, has_more }: JobCount) -> String {
    let number = grouped(jobs as f64);
    match (has_more, jobs) {
        (true, _) => format!("more than {number} jobs"),
        (false, 1) => "1 job".into(),
        (false, _) => format!("{number} jobs"),
    }
}

/// A time of an option, in any form of a request.
pub(super) fn time(text: &str) -> Result<ScheduledTime, String> {
    let is_json = text.parse::<i64>().is_ok() || text.starts_with(['{', '[']);
    let time = if is_json { ScheduledTime::from_json(text) } else { text.parse() };
    time.map_err(|error| error.to_string())
}
