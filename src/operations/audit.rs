//! The audit: who changed what, when and why.

use std::sync::Arc;

use serde::{Serialize, Serializer};
use serde_json::{Value, json};
use utoipa::ToSchema;

use super::context::Context;
use super::page::{self, PageRequest};
use super::{AuditFilter, Error, Result, rfc3339_ms, rfc3339_s};
use crate::model::audit::{AuditAction, AuditSource};
use crate::model::cursor::CursorScope;
use crate::store::{AuditCursor, AuditRow};

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
    /// The cursor of the next page; none at the end.
    pub next: Option<String>,
}

fn as_rfc3339<S: Serializer>(epoch_ms: &i64, serializer: S) -> Result<S::Ok, S::Error> {
    rfc3339_ms(*epoch_ms).serialize(serializer)
}

impl<'a> Audit<'a> {
    pub(super) fn new(context: &'a Arc<Context>) -> Self {
        Self { context }
    }

    /// A page of the changes that `filter` describes, newest first. One that is made meanwhile
    /// moves none to another page.
    ///
    /// # Errors
    /// [`Error::Invalid`] for a filter that can describe none and a limit that is not 1 to 1000,
    /// [`Error::InvalidCursor`] for one of another list or filter; [`Error::Unavailable`] when the
    /// database does not answer.
    pub async fn list(&self, filter: &AuditFilter, page: &PageRequest) -> Result<AuditList> {
        if let (Some(from), Some(to)) = (filter.from_ms, filter.to_ms)
            && from >= to
        {
            let (from, to) = (rfc3339_s(from), rfc3339_s(to));
            return Err(Error::Invalid(format!("from ({from}) must be before to ({to})")));
        }
        let scope = CursorScope::new("audit", canonical(filter));
        let (limit, after) = page.read(&scope, place_of)?;
        let filter = filter.clone();
        self.context
            .run(move |context| async move {
                let found = context.store().audit(&filter, after, limit as u64).await;
                let found = found.map_err(|error| context.database_error(error))?;
                let items = found.entries.into_iter().map(AuditItem::from).collect();
                let next = found
                    .next
                    .map(|next| scope.write(&page::bytes_of(next.at_ms, next.id.to_be_bytes())));
                Ok(AuditList { items, next })
            })
            .await
    }
}

/// A text that is the same for the same filter.
fn canonical(filter: &AuditFilter) -> String {
    let AuditFilter { who, source, action, app, subject, from_ms, to_ms } = filter;
    let (source, action) = (source.map(AuditSource::as_str), action.map(AuditAction::as_str));
    json!([who, source, action, app, subject, from_ms, to_ms]).to_string()
}

fn place_of(bytes: &[u8]) -> Option<AuditCursor> {
    let (at_ms, id) = page::place_of(bytes)?;
    Some(AuditCursor { at_ms, id: i64::from_be_bytes(id) })
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
