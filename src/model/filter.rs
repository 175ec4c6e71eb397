//! The filter of a list of jobs: what the listed jobs have in common.
//!
//! A filter is read strictly. What is unknown, repeated, empty or malformed is refused with the
//! nearest known name, since a condition that is ignored selects everything. How jobs are found by
//! it is decided elsewhere.

mod data;
mod object;
mod values;

use jiff::tz::TimeZone;

use super::ids::Partition;
use super::job::{Job, Priority};
use super::letter::ErrorKind;
use super::suggest::nearest;
use values::{app, data_conditions, error_kind, instant_ms, key, partition, priority, state};

pub use data::DataCondition;

/// What the jobs of a list have in common; the default is every job.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct JobFilter {
    /// Jobs of this app.
    pub app: Option<String>,
    /// Jobs in this state.
    pub state: Option<ListState>,
    /// Jobs that are due, or have ended, at this time or later, epoch milliseconds.
    pub from_ms: Option<i64>,
    /// Jobs that are due, or have ended, before this time, epoch milliseconds.
    pub to_ms: Option<i64>,
    /// Jobs of this priority.
    pub priority: Option<Priority>,
    /// The job that this idempotency key refers to.
    pub key: Option<String>,
    /// Jobs whose record is in this partition.
    pub partition: Option<TopicPartition>,
    /// Jobs that failed for good with an error of this kind.
    pub error_kind: Option<ErrorKind>,
    /// Jobs whose data fulfils all of these conditions.
    pub data: Vec<DataCondition>,
}

/// The state of the jobs that a list shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ListState {
    /// The next attempt is due later.
    Scheduled,
    /// The next attempt is due and does not run.
    Due,
    /// An attempt runs, for a second or more.
    Running,
    /// They are done.
    Succeeded,
    /// They failed for good.
    Dead,
    /// They were cancelled.
    Cancelled,
}

impl ListState {
    pub(super) const ALL: [Self; 6] =
        [Self::Scheduled, Self::Due, Self::Running, Self::Succeeded, Self::Dead, Self::Cancelled];
    /// Those of jobs that have ended.
    const ENDED: [Self; 3] = [Self::Succeeded, Self::Dead, Self::Cancelled];

    /// Its name on the wire.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Scheduled => "scheduled",
            Self::Due => "due",
            Self::Running => "running",
            Self::Succeeded => "succeeded",
            Self::Dead => "dead",
            Self::Cancelled => "cancelled",
        }
    }
}

/// How far the clocks of instances may be apart.
const CLOCKS_APART_MS: i64 = 60_000;

/// One partition of a topic.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TopicPartition {
    /// The topic.
    pub topic: String,
    /// The partition.
    pub partition: Partition,
}

/// Why a filter was refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{field} {problem}")]
pub struct InvalidFilter {
    /// The name of the value that is wrong, as it was given.
    pub field: String,
    /// What is wrong with it, and the way out.
    pub problem: String,
}

impl InvalidFilter {
    fn new(field: &str, problem: impl Into<String>) -> Self {
        let shown = field.chars().take(100).collect::<String>();
        Self { field: shown.escape_debug().to_string(), problem: problem.into() }
    }
}

impl JobFilter {
    /// The names of its values.
    pub const NAMES: [&str; 9] =
        ["app", "state", "from", "to", "priority", "key", "partition", "errorKind", "data"];

    /// Reads it from names and values, as a query string has them. `zone` is that of times without
    /// an offset; without one these are refused. `data` is a JSON array of objects with `pointer`
    /// and `equals`.
    ///
    /// # Errors
    /// [`InvalidFilter`] for a name that is not one of [`NAMES`](Self::NAMES), one that is given
    /// twice, an empty value, and a value that is not of its form. Whether the values fit each
    /// other is for [`check`](Self::check).
    pub fn from_pairs<N, V>(
        pairs: impl IntoIterator<Item = (N, V)>,
        zone: Option<&TimeZone>,
    ) -> Result<Self, InvalidFilter>
    where
        N: AsRef<str>,
        V: AsRef<str>,
    {
        let mut filter = Self::default();
        let mut given: Vec<&str> = Vec::new();
        for (name, value) in pairs {
            let (name, value) = (name.as_ref(), value.as_ref());
            let known = Self::NAMES.into_iter().find(|known| *known == name);
            let Some(known) = known else { return Err(unknown(name)) };
            if given.contains(&known) {
                return Err(InvalidFilter::new(known, "is given twice: give it once"));
            }
            if value.is_empty() {
                return Err(InvalidFilter::new(known, "is empty: leave it out"));
            }
            given.push(known);
            let read = filter.read(known, value, zone);
            read.map_err(|problem| InvalidFilter::new(known, problem))?;
        }
        Ok(filter)
    }

    /// Checks that its values fit each other.
    ///
    /// # Errors
    /// If no time is at or after `from` and before `to`, or jobs of its state have no error kind.
    pub fn check(&self) -> Result<(), InvalidFilter> {
        if let (Some(kind), Some(state)) = (self.error_kind, self.state)
            && state != ListState::Dead
        {
            let state = state.as_str();
            let problem = format!("is {kind}, which no job that is {state} has: leave out one");
            return Err(InvalidFilter::new("errorKind", problem));
        }
        match (self.from_ms, self.to_ms) {
            (Some(from_ms), Some(to_ms)) if from_ms >= to_ms => {
                let [from, to] = [from_ms, to_ms].map(values::shown);
                Err(InvalidFilter::new("from", format!("({from}) must be before to ({to})")))
            }
            _ => Ok(()),
        }
    }

    fn read(&mut self, name: &str, value: &str, zone: Option<&TimeZone>) -> Result<(), String> {
        match name {
            "app" => self.app = Some(app(value)?),
            "state" => self.state = Some(state(value)?),
            "from" => self.from_ms = Some(instant_ms(value, zone)?),
            "to" => self.to_ms = Some(instant_ms(value, zone)?),
            "priority" => self.priority = Some(priority(value)?),
            "key" => self.key = Some(key(value)?),
            "partition" => self.partition = Some(partition(value)?),
            "errorKind" => self.error_kind = Some(error_kind(value)?),
            _ => self.data = data_conditions(value)?,
        }
        Ok(())
    }

    /// Checks that it is one of jobs that have not ended.
    ///
    /// # Errors
    /// As [`check`](Self::check), and if it selects jobs that have ended.
    pub(crate) fn check_live(&self) -> Result<(), InvalidFilter> {
        self.check()?;
        let problem = |what: &str, problem: &str| {
            let rest = "and what has ended cannot be changed: leave it out";
            Err(InvalidFilter::new(what, format!("{problem}, {rest}")))
        };
        match (self.state, self.error_kind) {
            (Some(state), _) if ListState::ENDED.contains(&state) => {
                problem("state", &format!("is {}", state.as_str()))
            }
            (_, Some(kind)) => problem("errorKind", &format!("is {kind}")),
            _ => Ok(()),
        }
    }

    /// Checks that it is one of dead letters: by app, error kind, partition and the time of death.
    ///
    /// # Errors
    /// As [`check`](Self::check), and for what dead letters do not have.
    pub(crate) fn check_letters(&self) -> Result<(), InvalidFilter> {
        self.check()?;
        let others = [
            ("state", self.state.is_some()),
            ("priority", self.priority.is_some()),
            ("key", self.key.is_some()),
            ("data", !self.data.is_empty()),
        ];
        match others.into_iter().find(|(_, is_given)| *is_given) {
            Some((name, _)) => {
                Err(InvalidFilter::new(name, "is not one of dead letters: leave it out"))
            }
            None => Ok(()),
        }
    }

    /// Whether it can select jobs that have not ended.
    pub(crate) fn selects_live(&self) -> bool {
        let is_live = |state| !ListState::ENDED.contains(&state);
        self.error_kind.is_none() && self.state.is_none_or(is_live)
    }

    /// The states of the ended jobs that it can select.
    pub(crate) fn ended_states(&self) -> Vec<ListState> {
        let has_kind = |state| self.error_kind.is_none() || state == ListState::Dead;
        let is_asked = |state| self.state.is_none_or(|asked| asked == state);
        let mut states = ListState::ENDED.to_vec();
        states.retain(|state| has_kind(*state) && is_asked(*state));
        states
    }

    /// Whether live jobs must be read to know whether they match, because no index has what it
    /// asks.
    pub(crate) fn reads_jobs(&self) -> bool {
        let runs = self.state == Some(ListState::Running);
        runs || self.partition.is_some() || !self.data.is_empty()
    }

    /// The same of jobs that have ended.
    pub(crate) fn reads_ended(&self) -> bool {
        self.reads_jobs() || self.priority.is_some() || self.error_kind.is_some()
    }

    /// The due times of what it selects at `now_ms`: from the first one to before the second,
    /// where they are bounded.
    pub(crate) fn due_range(&self, now_ms: i64) -> (Option<i64>, Option<i64>) {
        let later_ms = now_ms.saturating_add(1);
        match self.state {
            None | Some(ListState::Succeeded | ListState::Dead | ListState::Cancelled) => {
                (self.from_ms, self.to_ms)
            }
            Some(ListState::Scheduled) => {
                (Some(self.from_ms.map_or(later_ms, |from_ms| from_ms.max(later_ms))), self.to_ms)
            }
            Some(ListState::Due) => {
                (self.from_ms, Some(self.to_ms.map_or(later_ms, |to_ms| to_ms.min(later_ms))))
            }
            // By the clock of the instance that runs them.
            Some(ListState::Running) => {
                let later_ms = later_ms.saturating_add(CLOCKS_APART_MS);
                (self.from_ms, Some(self.to_ms.map_or(later_ms, |to_ms| to_ms.min(later_ms))))
            }
        }
    }

    /// Whether it selects `job`, which `is_running`, at `now_ms`, apart from app, key and
    /// partition, which the job does not say.
    pub(crate) fn matches(&self, job: &Job, now_ms: i64, is_running: bool) -> bool {
        let (from_ms, to_ms) = self.due_range(now_ms);
        if self.state.is_some_and(|state| is_running != (state == ListState::Running)) {
            return false;
        }
        from_ms.is_none_or(|from_ms| job.due_ms >= from_ms)
            && to_ms.is_none_or(|to_ms| job.due_ms < to_ms)
            && self.priority.is_none_or(|priority| job.priority == priority)
            && self.holds_for(job.data.as_str())
    }

    /// Whether all conditions hold for `data`, a JSON text.
    pub(crate) fn holds_for(&self, data: &str) -> bool {
        self.data.iter().all(|condition| condition.holds(data))
    }

    /// A text that is the same for the same filter, however it was written.
    pub(crate) fn canonical(&self) -> String {
        let Self { app, state, from_ms, to_ms, priority, key, partition, error_kind, data } = self;
        let error_kind = error_kind.map(ErrorKind::as_str);
        let partition =
            partition.as_ref().map(|TopicPartition { topic, partition }| (topic, partition.0));
        let state = state.map(ListState::as_str);
        let mut data: Vec<String> = data.iter().map(DataCondition::canonical).collect();
        data.sort_unstable();
        let values = (app, state, from_ms, to_ms, priority, key, partition, error_kind, data);
        serde_json::to_string(&values).unwrap_or_default()
    }
}

fn unknown(name: &str) -> InvalidFilter {
    let guess = nearest(name, JobFilter::NAMES).unwrap_or_default();
    let names = JobFilter::NAMES.join(", ");
    InvalidFilter::new(name, format!("is none of {names}: did you mean {guess}?"))
}

#[cfg(test)]
mod tests;
