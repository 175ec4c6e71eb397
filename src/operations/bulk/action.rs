//! What a bulk action does to each job or dead letter.

use jiff::tz::TimeZone;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use crate::model::letter::{ErrorKind, Refusal};
use crate::model::time::ScheduledTime;
use crate::operations::{Error, JobName, JobOperation, JobPatch, Result};

/// What a bulk action does to each job or dead letter.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum BulkAction {
    /// No further attempt at it starts.
    Cancel,
    /// It is due at this time.
    Reschedule(ScheduledTime),
    /// It is due so many milliseconds later; a negative number is earlier.
    Shift(i64),
    /// It is due now.
    Run,
    /// Fields of it get other values.
    Edit(Box<JobPatch>),
    /// Of a dead letter: its request is admitted again, or its correction.
    Replay,
    /// Of a dead letter: it is marked as needing no further action.
    Discard,
}

/// The particulars as they are kept.
#[derive(Default, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", default)]
struct Args {
    #[serde(skip_serializing_if = "Option::is_none")]
    scheduled_time: Option<ScheduledTime>,
    #[serde(skip_serializing_if = "Option::is_none")]
    shift_ms: Option<i64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    set: Option<Box<RawValue>>,
}

impl BulkAction {
    /// `cancel`, `reschedule`, `run`, `edit`, `replay` or `discard`.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Cancel => "cancel",
            Self::Reschedule(_) | Self::Shift(_) => "reschedule",
            Self::Run => "run",
            Self::Edit(_) => "edit",
            Self::Replay => "replay",
            Self::Discard => "discard",
        }
    }

    /// Whether it treats dead letters rather than jobs.
    pub(super) fn is_of_letters(&self) -> bool {
        matches!(self, Self::Replay | Self::Discard)
    }

    pub(super) fn check(&self) -> Result<()> {
        let refused = |why: &str| Err(Refusal::new(ErrorKind::MissingField, why).into());
        match self {
            Self::Edit(patch) if patch.is_empty() => {
                refused("set changes nothing: name at least one field")
            }
            Self::Shift(0) => refused("shiftMs is 0, which moves nothing: give milliseconds"),
            _ => Ok(()),
        }
    }

    /// It with the instant that its time means, which depends on the zone of who is asked.
    pub(super) fn resolved(self, zone: &TimeZone) -> Result<Self> {
        let Self::Reschedule(time) = self else { return Ok(self) };
        let resolved = time.resolve_ms(zone).and_then(ScheduledTime::from_epoch_ms);
        resolved.map(Self::Reschedule).ok_or_else(|| {
            let why = format!("scheduledTime {time} is outside the years 0 to 9999 in UTC");
            Refusal::new(ErrorKind::InvalidField, why).into()
        })
    }

    /// The particulars as a JSON object.
    pub(super) fn args(&self) -> Result<String> {
        let unwritable = |error| Error::Invalid(format!("the action cannot be written: {error}"));
        let args = match self {
            Self::Cancel | Self::Run | Self::Replay | Self::Discard => Args::default(),
            Self::Reschedule(time) => Args { scheduled_time: Some(*time), ..Args::default() },
            Self::Shift(ms) => Args { shift_ms: Some(*ms), ..Args::default() },
            Self::Edit(patch) => {
                let set = patch.to_json().and_then(RawValue::from_string).map_err(unwritable)?;
                Args { set: Some(set), ..Args::default() }
            }
        };
        serde_json::to_string(&args).map_err(unwritable)
    }

    /// The action of that name and particulars; `None` if it is one of a newer version.
    pub(super) fn read(name: &str, args: &str) -> Option<Self> {
        let args: Args = serde_json::from_str(args).ok()?;
        match (name, args) {
            ("cancel", _) => Some(Self::Cancel),
            ("run", _) => Some(Self::Run),
            ("replay", _) => Some(Self::Replay),
            ("discard", _) => Some(Self::Discard),
            ("reschedule", Args { scheduled_time: Some(time), .. }) => Some(Self::Reschedule(time)),
            ("reschedule", Args { shift_ms: Some(ms), .. }) => Some(Self::Shift(ms)),
            ("edit", Args { set: Some(set), .. }) => {
                Some(Self::Edit(Box::new(JobPatch::from_json(set.get()).ok()?)))
            }
            _ => None,
        }
    }

    /// It as an operation on one job; `None` if it is one of dead letters.
    pub(super) fn on(&self, job: impl Into<JobName>) -> Option<JobOperation> {
        Some(match self {
            Self::Cancel => JobOperation::cancel(job),
            Self::Reschedule(time) => JobOperation::reschedule(job, *time),
            Self::Shift(ms) => JobOperation::shift(job, *ms),
            Self::Run => JobOperation::run(job),
            Self::Edit(patch) => JobOperation::edit(job, JobPatch::clone(patch)),
            Self::Replay | Self::Discard => return None,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_action_is_read_as_it_was_written() {
        let set = r#"{"priority":"low","expiresTime":null,"jobData":{"a":1.0}}"#;
        let time = ScheduledTime::from_epoch_ms(1_900_000_000_000).unwrap();
        for action in [
            BulkAction::Cancel,
            BulkAction::Run,
            BulkAction::Replay,
            BulkAction::Discard,
            BulkAction::Reschedule(time),
            BulkAction::Shift(-5),
            BulkAction::Edit(Box::new(JobPatch::from_json(set).unwrap())),
        ] {
            let args = action.args().unwrap();
            assert_eq!(BulkAction::read(action.name(), &args), Some(action), "{args}");
        }
        assert_eq!(BulkAction::read("undo", "{}"), None);
    }
}
