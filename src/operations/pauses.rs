//! Pauses as programs see them.

use serde::{Serialize, Serializer};
use utoipa::ToSchema;

use super::rfc3339_ms;
use crate::model::pause::{AppPause, Pause};

/// Since when something is paused, by whom and why.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[non_exhaustive]
pub struct Paused {
    /// Since when, epoch milliseconds.
    #[serde(rename = "since", serialize_with = "as_rfc3339")]
    #[schema(value_type = String)]
    pub since_ms: i64,
    /// Who paused it.
    pub by: String,
    /// Why.
    pub reason: Option<String>,
    /// Of an app: whether its requests are refused meanwhile.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub refuse_requests: Option<bool>,
}

pub(super) fn as_rfc3339<S: Serializer>(epoch_ms: &i64, serializer: S) -> Result<S::Ok, S::Error> {
    rfc3339_ms(*epoch_ms).serialize(serializer)
}

impl From<Pause> for Paused {
    fn from(pause: Pause) -> Self {
        let Pause { since_ms, by, reason } = pause;
        Self { since_ms, by, reason, refuse_requests: None }
    }
}

impl From<AppPause> for Paused {
    fn from(pause: AppPause) -> Self {
        let refuse_requests = Some(pause.refuses_requests);
        Self { refuse_requests, ..Self::from(pause.pause) }
    }
}
