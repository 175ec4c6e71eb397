//! The audit: who changed what, when and why.

use std::sync::Arc;

use serde::{Serialize, Serializer};
use serde_json::Value;
use utoipa::ToSchema;

use super::context::Context;
use super::{AuditCursor, AuditFilter, Error, Result, rfc3339_ms, rfc3339_s};
use crate::store::AuditRow;

/// Who changed what, when and why.
#[derive(Clone, Copy, Debug)]
pub struct Audit<'a> {
    context: &'a Arc<Context>,
}

/// One change that was made on request.
#[derive(Clone, Debug, PartialEq, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[non_exhaustive]
pub struct AuditItem {
    /// Its number; later ones are higher, as a rule.
    pub id: i64,
    /// When it was made, epoch milliseconds.
    #[serde(rename = "time", serialize_with = "as_rfc3339")]
    #[schema(value_type = String)]
    pub at_ms: i64,
    /// Who asked for it.
    pub who: String,
    /// In which way: `handle`, `cli`, `http` or `kafka`, or one of a newer version.
    pub source: String,
    /// What was done, as in `app.pause`.
    pub action: String,
    /// The app that it concerns, if it is one.
    pub app_name: Option<String>,
    /// What it was done to: the id of a job or letter, an app, an instance, a partition.
    pub subject: String,
    /// Why.
    pub reason: Option<String>,
    /// The particulars.
    #[schema(value_type = Object)]
    pub details: Value,
    /// How many rows it changed.
    pub count: i64,
}

/// Some entries, newest first.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct AuditList {
    /// The entries.
    pub items: Vec<AuditItem>,
    /// Where the next page begins; `None` at the end.
    pub next: Option<AuditCursor>,
}

fn as_rfc3339<S: Serializer>(epoch_ms: &i64, serializer: S) -> Result<S::Ok, S::Error> {
    rfc3339_ms(*epoch_ms).serialize(serializer)
}

impl<'a> Audit<'a> {
    pub(super) fn new(context: &'a Arc<Context>) -> Self {
        Self { context }
    }

    /// The changes that `filter` describes, newest first, at most `limit` of them, after the place
    /// where the page before ended. One that is made meanwhile moves none to another page.
    ///
    /// # Errors
    /// [`Error::Invalid`] for a filter that can describe none; [`Error::Unavailable`] when the
    /// database does not answer.
    pub async fn list(
        &self,
        filter: &AuditFilter,
        after: Option<AuditCursor>,
        limit: u64,
    ) -> Result<AuditList> {
        if let (Some(from), Some(to)) = (filter.from_ms, filter.to_ms)
            && from >= to
        {
            let (from, to) = (rfc3339_s(from), rfc3339_s(to));
            return Err(Error::Invalid(format!("from ({from}) must be before to ({to})")));
        }
        let filter = filter.clone();
        self.context
            .run(move |context| async move {
                let page = context.store().audit(&filter, after, limit).await;
                let page = page.map_err(|error| context.database_error(error))?;
                let items = page.entries.into_iter().map(AuditItem::from).collect();
                Ok(AuditList { items, next: page.next })
            })
            .await
    }
}

impl From<AuditRow> for AuditItem {
    fn from(row: AuditRow) -> Self {
        Self {
            id: row.id,
            at_ms: row.at_ms,
            who: row.who,
            source: row.source,
            action: row.action,
            app_name: row.app,
            subject: row.subject,
            reason: row.reason,
            // What is no JSON is shown as it is.
            details: serde_json::from_str(&row.details).unwrap_or(Value::String(row.details)),
            count: row.count,
        }
    }
}
