//! The kinds of dispatch targets that this version knows.

use serde::{Deserialize, Serialize};

/// The kind of an app's dispatch target, by its name in the configuration and in the app's row.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum TargetKind {
    #[default]
    Log,
    Kafka,
    Discard,
    Http,
    Redis,
}

impl TargetKind {
    /// Every kind.
    pub(crate) const ALL: [Self; 5] =
        [Self::Log, Self::Kafka, Self::Discard, Self::Http, Self::Redis];

    /// As it is written.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Log => "log",
            Self::Kafka => "kafka",
            Self::Discard => "discard",
            Self::Http => "http",
            Self::Redis => "redis",
        }
    }
}
