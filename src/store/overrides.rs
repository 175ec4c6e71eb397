//! Limits of an app that people have set, which win over its configuration.

use infinite_scheduler_entity::app;

use super::apps::read_overrides;
use super::steps::{Step, Value};
use super::{Error, Result, Store, audit};
use crate::model::audit::AuditEntry;
use crate::model::ids::AppId;
use crate::model::limits::LimitValues;

/// Limits that win over the configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AppOverrides {
    /// The limits.
    pub values: LimitValues,
    /// When they were last changed, epoch milliseconds.
    pub since_ms: i64,
    /// By whom.
    pub by: String,
}

impl Store {
    /// Sets the overrides of an app to these and no others. False if they are not as they were
    /// `seen`.
    ///
    /// # Errors
    /// [`Error::Unavailable`]: unknown whether it was done; ask what is there.
    pub async fn set_app_overrides(
        &self,
        app: AppId,
        seen: Option<&AppOverrides>,
        to: Option<&AppOverrides>,
        entry: &AuditEntry,
    ) -> Result<bool> {
        let json = match to {
            Some(to) => Some(serde_json::to_string(&to.values).map_err(|error| {
                Error::Unavailable(format!("the limits cannot be written as JSON: {error}"))
            })?),
            None => None,
        };
        let (as_seen, seen_ms): (_, Option<Value>) = match seen {
            Some(seen) => ("overridden_ms = ?", Some(seen.since_ms.into())),
            None => ("overridden_ms is null", None),
        };
        let update = format!(
            "update scheduler_app set overrides = ?, overridden_ms = ?, overridden_by = ? \
             where id = ? and deleted_ms is null and {as_seen}"
        );
        let since_ms = to.map(|to| to.since_ms);
        let by = to.map(|to| to.by.clone());
        let mut values = vec![json.into(), since_ms.into(), by.into(), app.0.into()];
        values.extend(seen_ms);
        self.transact(vec![Step::one(update, values), audit::step(entry)]).await
    }
}

pub(super) fn overrides_of(row: &app::Model) -> Option<AppOverrides> {
    Some(AppOverrides {
        values: read_overrides(row.overrides.as_deref()?),
        since_ms: row.overridden_ms?,
        by: row.overridden_by.clone().unwrap_or_default(),
    })
}
