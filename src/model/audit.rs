//! Who asks for a change and why, and what the audit says of it.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use serde_json::Value;

/// Who asks for a change, in which way and why.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct By {
    who: String,
    source: AuditSource,
    reason: Option<String>,
}

/// The way in which a change was asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum AuditSource {
    /// By a program that embeds the library.
    Handle,
    /// By the command line.
    Cli,
    /// Over HTTP.
    Http,
    /// By a record.
    Kafka,
}

/// What was done.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum AuditAction {
    /// A dead letter was replayed.
    ReplayDeadLetter,
    /// A dead letter got a correction, or lost it.
    EditDeadLetter,
    /// A dead letter was discarded.
    DiscardDeadLetter,
    /// A partition's position was moved.
    SeekIngest,
    /// A consumer group's ingest was paused.
    PauseIngest,
    /// A consumer group's ingest was resumed.
    ResumeIngest,
    /// A job was cancelled.
    CancelJob,
    /// A job got another time.
    RescheduleJob,
    /// A job was started before its time.
    RunJob,
    /// Fields of a job got other values.
    EditJob,
    /// A schedule with a higher version took a job's place.
    ReplaceJob,
    /// An app was paused.
    PauseApp,
    /// An app was resumed.
    ResumeApp,
    /// Limits of an app were changed.
    ChangeLimits,
    /// The limits of an app are as configured again.
    ResetLimits,
    /// An app was deleted.
    DeleteApp,
    /// An instance was asked to give everything up.
    DrainInstance,
    /// An action on every job that a filter selects was begun.
    StartBulk,
    /// Such an action was stopped.
    StopBulk,
}

/// One change, as it is written with it.
#[derive(Clone, Debug, PartialEq)]
pub struct AuditEntry {
    /// When, epoch milliseconds.
    pub at_ms: i64,
    /// Who asked for it and why.
    pub by: By,
    /// What was done.
    pub action: AuditAction,
    /// The app that it concerns, if it is one.
    pub app: Option<String>,
    /// What it was done to: the id of a job or letter, an app, an instance, a partition.
    pub subject: String,
    /// The particulars: old and new values where they are short.
    pub details: Value,
    /// How many rows it changed.
    pub count: u64,
}

impl By {
    /// The program that embeds the library, under no particular name.
    pub fn program() -> Self {
        Self::new("program")
    }

    /// A person on whose behalf the embedding program asks.
    pub fn new(who: impl Into<String>) -> Self {
        Self { who: who.into(), source: AuditSource::Handle, reason: None }
    }

    /// Says why.
    #[must_use]
    pub fn because(mut self, reason: impl Into<String>) -> Self {
        self.reason = Some(reason.into());
        self
    }

    /// Says in which way it was asked; [`AuditSource::Handle`] otherwise.
    #[must_use]
    pub fn through(mut self, source: AuditSource) -> Self {
        self.source = source;
        self
    }

    /// Who asks.
    pub fn who(&self) -> &str {
        &self.who
    }

    /// In which way.
    pub fn source(&self) -> AuditSource {
        self.source
    }

    /// Why, if that was said.
    pub fn reason(&self) -> Option<&str> {
        self.reason.as_deref()
    }
}

impl AuditSource {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Handle, Self::Cli, Self::Http, Self::Kafka];

    /// Its name.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Handle => "handle",
            Self::Cli => "cli",
            Self::Http => "http",
            Self::Kafka => "kafka",
        }
    }
}

impl AuditAction {
    /// All of them.
    pub const ALL: [Self; 19] = [
        Self::ReplayDeadLetter,
        Self::EditDeadLetter,
        Self::DiscardDeadLetter,
        Self::SeekIngest,
        Self::PauseIngest,
        Self::ResumeIngest,
        Self::CancelJob,
        Self::RescheduleJob,
        Self::RunJob,
        Self::EditJob,
        Self::ReplaceJob,
        Self::PauseApp,
        Self::ResumeApp,
        Self::ChangeLimits,
        Self::ResetLimits,
        Self::DeleteApp,
        Self::DrainInstance,
        Self::StartBulk,
        Self::StopBulk,
    ];

    /// Its name.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::ReplayDeadLetter => "dead-letter.replay",
            Self::EditDeadLetter => "dead-letter.edit",
            Self::DiscardDeadLetter => "dead-letter.discard",
            Self::SeekIngest => "ingest.seek",
            Self::PauseIngest => "ingest.pause",
            Self::ResumeIngest => "ingest.resume",
            Self::CancelJob => "job.cancel",
            Self::RescheduleJob => "job.reschedule",
            Self::RunJob => "job.run",
            Self::EditJob => "job.edit",
            Self::ReplaceJob => "job.replace",
            Self::PauseApp => "app.pause",
            Self::ResumeApp => "app.resume",
            Self::ChangeLimits => "app.set",
            Self::ResetLimits => "app.reset",
            Self::DeleteApp => "app.delete",
            Self::DrainInstance => "instance.drain",
            Self::StartBulk => "bulk.start",
            Self::StopBulk => "bulk.stop",
        }
    }
}

/// A name that no action has.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{name:?} is no action; there are {}", AuditAction::ALL.map(AuditAction::as_str).join(", "))]
pub struct UnknownAction {
    name: String,
}

impl FromStr for AuditAction {
    type Err = UnknownAction;

    fn from_str(name: &str) -> Result<Self, UnknownAction> {
        let known = Self::ALL.into_iter().find(|action| action.as_str() == name);
        known.ok_or_else(|| UnknownAction { name: name.to_owned() })
    }
}

/// A name that no source has.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{name:?} is no source; there are {}", AuditSource::ALL.map(AuditSource::as_str).join(", "))]
pub struct UnknownSource {
    name: String,
}

impl FromStr for AuditSource {
    type Err = UnknownSource;

    fn from_str(name: &str) -> Result<Self, UnknownSource> {
        let known = Self::ALL.into_iter().find(|source| source.as_str() == name);
        known.ok_or_else(|| UnknownSource { name: name.to_owned() })
    }
}

impl fmt::Display for AuditAction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

impl fmt::Display for AuditSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_action_is_known_by_its_name() {
        for action in AuditAction::ALL {
            assert_eq!(action.as_str().parse(), Ok(action));
            assert!(action.as_str().len() <= 40, "{action} does not fit its column");
        }
        let unknown = "app.stop".parse::<AuditAction>().unwrap_err().to_string();
        assert!(unknown.starts_with("\"app.stop\" is no action; there are "), "{unknown}");
    }

    #[test]
    fn every_source_is_known_by_its_name() {
        for source in AuditSource::ALL {
            assert_eq!(source.as_str().parse(), Ok(source));
        }
        assert!("page".parse::<AuditSource>().is_err());
    }
}
