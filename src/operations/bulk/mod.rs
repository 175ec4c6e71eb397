//! Actions on every job or dead letter that a filter selects: begun, watched and stopped. `run`
//! carries them out, on one of the instances that are alive.

mod action;
mod batches;
mod run;

use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;
use serde_json::{Value, json};
use utoipa::ToSchema;

use super::context::Context;
use super::page::{self, PageRequest};
use super::pauses::as_rfc3339;
use super::{AuditAction, BulkState, Error, JobCount, JobFilter, LetterSummary, ListedJob, Result};
use crate::model::audit::AuditEntry;
use crate::model::cursor::CursorScope;
use crate::model::ids::InstanceId;
use crate::model::letter::{ErrorKind, Refusal};
use crate::store::{BulkCursor, BulkRow, InstanceState, NewBulk};

pub use self::action::BulkAction;

/// For how long an idempotency key stands for the bulk action that it began.
const KEY_WINDOW: Duration = Duration::from_secs(24 * 3600);
/// Jobs or letters that a preview shows.
const SAMPLES: usize = 10;
/// Numbers are below this, which every JSON reader keeps exactly.
const MAX_ID: i64 = 1 << 53;

/// Actions on every job or dead letter that a filter selects.
#[derive(Clone, Copy, Debug)]
pub struct Bulk<'a> {
    context: &'a Arc<Context>,
}

/// An action on every job or dead letter that a filter selects.
#[derive(Clone, Debug)]
#[must_use = "nothing is changed before it is started"]
pub struct BulkRequest {
    action: BulkAction,
    filter: JobFilter,
    all: bool,
    rate: Option<NonZeroU32>,
    idempotency_key: Option<String>,
}

impl BulkRequest {
    /// `action` on every job that `filter` selects, as fast as it can be done: of replay and
    /// discard on every dead letter, by app, error kind, partition and the time of death. An empty
    /// filter is refused, unless [`all`](Self::all) says that this is meant.
    pub fn new(action: BulkAction, filter: JobFilter) -> Self {
        Self { action, filter, all: false, rate: None, idempotency_key: None }
    }

    /// An empty filter is meant.
    pub fn all(mut self, all: bool) -> Self {
        self.all = all;
        self
    }

    /// At most so many jobs are changed per second, over all instances.
    pub fn rate(mut self, jobs_per_second: Option<NonZeroU32>) -> Self {
        self.rate = jobs_per_second;
        self
    }

    /// The same key within a day stands for the bulk action that it began first.
    pub fn idempotency_key(mut self, key: Option<String>) -> Self {
        self.idempotency_key = key;
        self
    }

    fn check(&self) -> Result<()> {
        if self.filter.is_empty() && !self.all {
            let what = if self.action.is_of_letters() { "dead letter" } else { "job" };
            let why = format!(
                "filter selects every {what}: say which ones, or that all are meant by all"
            );
            return Err(Refusal::new(ErrorKind::MissingField, why).into());
        }
        let checked = match self.action.is_of_letters() {
            true => self.filter.check_letters(),
            false => self.filter.check_live(),
        };
        checked.map_err(|error| Error::Invalid(error.to_string()))?;
        self.action.check()
    }
}

/// How far a bulk action is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[non_exhaustive]
pub struct BulkItem {
    /// Its number.
    pub id: i64,
    /// `cancel`, `reschedule`, `run`, `edit`, `replay` or `discard`.
    pub action: String,
    /// The new time, the shift or the fields of it.
    #[schema(value_type = Object)]
    pub args: Value,
    /// Which jobs or letters.
    #[schema(value_type = Object)]
    pub filter: Value,
    /// `counting`, `running`, `stopping`, `stopped` or `finished`.
    #[serde(serialize_with = "as_name")]
    #[schema(value_type = String)]
    pub state: BulkState,
    /// How many matched when they were counted, up to 10,000; null before that.
    pub expected: Option<u64>,
    /// Whether there were more than `expected`.
    pub has_more: bool,
    /// Jobs or letters that were found so far; exact at the end.
    pub matched: u64,
    /// Those of them that are as was asked.
    pub done: u64,
    /// Those of them that could not be changed, as a job that runs cannot be moved and a request
    /// that is refused cannot be replayed.
    pub failed: u64,
    /// Those of the replayed ones whose jobs became dead letters again. It goes on counting at the
    /// end.
    pub failed_again: u64,
    /// Those of them that had fired, or that another operation had changed, before it was their
    /// turn; exact at the end.
    pub skipped: u64,
    /// Jobs or letters per second at most.
    pub rate_per_second: Option<u32>,
    /// Who asked for it.
    pub who: String,
    /// In which way: `handle`, `cli` or `http`.
    pub source: String,
    /// Why.
    pub reason: Option<String>,
    /// When it was asked for, epoch milliseconds: what came later does not match.
    #[serde(rename = "created", serialize_with = "as_rfc3339")]
    #[schema(value_type = String)]
    pub created_ms: i64,
    /// When it last made progress, epoch milliseconds.
    #[serde(rename = "changed", serialize_with = "as_rfc3339")]
    #[schema(value_type = String)]
    pub changed_ms: i64,
    /// The id of the instance that carries it out, as a text.
    pub instance: Option<String>,
}

/// A bulk action that was asked for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[non_exhaustive]
pub struct BulkStarted {
    /// How far it is.
    #[serde(flatten)]
    pub bulk: BulkItem,
    /// It waits, since no instance is alive.
    pub waits_for_instance: bool,
}

impl BulkStarted {
    /// One that does not wait.
    pub(crate) fn of(bulk: BulkItem) -> Self {
        Self { bulk, waits_for_instance: false }
    }
}

/// What a bulk action would treat just now.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[non_exhaustive]
pub struct BulkPreview {
    /// How many jobs or letters match, counted up to 10,000.
    pub matched: u64,
    /// Whether there may be more.
    pub has_more: bool,
    /// Ten of them: jobs by due time, letters newest first.
    #[schema(value_type = Vec<Object>)]
    pub samples: BulkSamples,
}

/// Some of what a bulk action would treat.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(untagged)]
#[non_exhaustive]
pub enum BulkSamples {
    /// Of jobs.
    Jobs(Vec<ListedJob>),
    /// Of dead letters.
    Letters(Vec<LetterSummary>),
}

/// Some bulk actions, newest first.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct BulkList {
    /// The bulk actions.
    pub items: Vec<BulkItem>,
    /// The cursor of the next page; none at the end.
    pub next: Option<String>,
}

fn place_of(bytes: &[u8]) -> Option<BulkCursor> {
    let (created_ms, id) = page::place_of(bytes)?;
    Some(BulkCursor { created_ms, id: i64::from_be_bytes(id) })
}

fn as_name<S: serde::Serializer>(state: &BulkState, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(state.as_str())
}

impl<'a> Bulk<'a> {
    pub(super) fn new(context: &'a Arc<Context>) -> Self {
        Self { context }
    }

    /// Begins a bulk action. An instance takes it within about a heartbeat; without one it waits,
    /// unless [`carry_out`](Self::carry_out) is called. What comes or is moved later does not
    /// match, and each of the others is treated once.
    ///
    /// # Errors
    /// [`Error::Refused`] for an empty filter without [`BulkRequest::all`] and for an action that
    /// changes nothing; [`Error::Invalid`] for a filter that can select none, or whose app was never
    /// registered; [`Error::Unavailable`] when the database does not answer: with an idempotency
    /// key the same can be asked again.
    pub async fn start(&self, request: BulkRequest) -> Result<BulkStarted> {
        self.context.run(|context| async move { context.start_bulk(request).await }).await
    }

    /// What [`start`](Self::start) would find, and some of them. Nothing is changed.
    ///
    /// # Errors
    /// As [`start`](Self::start).
    pub async fn preview(&self, request: &BulkRequest) -> Result<BulkPreview> {
        request.check()?;
        let (filter, is_of_letters) = (request.filter.clone(), request.action.is_of_letters());
        self.context
            .run(move |context| async move {
                let (count, samples) = if is_of_letters {
                    let now_ms = context.now_ms();
                    let found = context.dead_letters_of(&filter, now_ms, SAMPLES).await?;
                    (found.0, BulkSamples::Letters(found.1))
                } else {
                    let found = context.live_jobs(filter, SAMPLES).await?;
                    (found.0, BulkSamples::Jobs(found.1))
                };
                let JobCount { jobs: matched, has_more } = count;
                Ok(BulkPreview { matched, has_more, samples })
            })
            .await
    }

    /// Carries a bulk action out in this program, for a database on which no instance is alive. It
    /// returns when the action has ended, or an instance has taken it over.
    ///
    /// # Errors
    /// As [`show`](Self::show).
    pub async fn carry_out(&self, id: i64) -> Result<BulkItem> {
        self.context
            .run(move |context| async move {
                // No instance has a negative id.
                let me = InstanceId(-fastrand::i64(1..MAX_ID));
                run::carry_out(context.clone(), me, id).await;
                context.bulk(id).await
            })
            .await
    }

    /// How far a bulk action is.
    ///
    /// # Errors
    /// [`Error::NotFound`] if there is none of that number, or not any more;
    /// [`Error::Unavailable`] when the database does not answer.
    pub async fn show(&self, id: i64) -> Result<BulkItem> {
        self.context.run(move |context| async move { context.bulk(id).await }).await
    }

    /// A page of the bulk actions, newest first.
    ///
    /// # Errors
    /// [`Error::Invalid`] for a limit that is not 1 to 1000, [`Error::InvalidCursor`] for a cursor
    /// of another list; [`Error::Unavailable`] when the database does not answer.
    pub async fn list(&self, page: &PageRequest) -> Result<BulkList> {
        let scope = CursorScope::new("bulk", String::new());
        let (limit, after) = page.read(&scope, place_of)?;
        self.context
            .run(move |context| async move {
                let found = context.store().bulks(after, limit as u64).await;
                let (rows, next) = found.map_err(|error| context.database_error(error))?;
                let next = next.map(|next| {
                    scope.write(&page::bytes_of(next.created_ms, next.id.to_be_bytes()))
                });
                Ok(BulkList { items: rows.into_iter().map(BulkItem::from).collect(), next })
            })
            .await
    }

    /// Stops a bulk action: within two heartbeats nothing more is changed by it. One that has ended
    /// stays as it is.
    ///
    /// # Errors
    /// As [`show`](Self::show).
    pub async fn stop(&self, id: i64) -> Result<BulkItem> {
        self.context
            .run(move |context| async move {
                context.bulk(id).await?;
                let entry = context.entry(AuditAction::StopBulk, id);
                let stopped = context.store().stop_bulk(id, &entry).await;
                stopped.map_err(|error| context.database_error(error))?;
                context.bulk(id).await
            })
            .await
    }
}

impl Context {
    async fn start_bulk(&self, request: BulkRequest) -> Result<BulkStarted> {
        request.check()?;
        let of_store = |error| self.database_error(error);
        if !request.action.is_of_letters() {
            self.check_selection(request.filter.clone()).await?;
        }
        let BulkRequest { action, filter, rate, idempotency_key, .. } = request;
        let action = action.resolved(self.admission.default_time_zone())?;
        let id = fastrand::i64(1..MAX_ID);
        let new = NewBulk {
            id,
            action: action.name(),
            args: action.args()?,
            filter: filter.to_json(),
            rate: rate.map(|rate| rate.get().min(i32::MAX.unsigned_abs())),
            idempotency_key,
        };
        let details = json!({ "action": new.action, "filter": value(&new.filter) });
        let entry = self.entry(AuditAction::StartBulk, id);
        let entry = AuditEntry { app: filter.app, details, ..entry };
        let window_ms = i64::try_from(KEY_WINDOW.as_millis()).unwrap_or(i64::MAX);
        let keys_since_ms = entry.at_ms.saturating_sub(window_ms);
        let store = self.store();
        let is_new = store.insert_bulk(&new, &entry, keys_since_ms).await.map_err(of_store)?;
        let bulk = match new.idempotency_key.filter(|_| !is_new) {
            Some(key) => match store.bulk_of_key(&key).await.map_err(of_store)? {
                Some(row) => row.into(),
                None => return Err(Error::Unavailable("bulk: ask the same again".into())),
            },
            None => self.bulk(id).await?,
        };
        let instances = store.known_instances().await.map_err(of_store)?;
        let waits_for_instance =
            !instances.iter().any(|one| matches!(one.state, InstanceState::Alive));
        Ok(BulkStarted { bulk, waits_for_instance })
    }

    async fn bulk(&self, id: i64) -> Result<BulkItem> {
        let row = self.store().bulk(id).await.map_err(|error| self.database_error(error))?;
        row.map(BulkItem::from).ok_or_else(|| {
            Error::NotFound(format!("bulk {id}: there is none, or it was forgotten"))
        })
    }
}

impl From<BulkRow> for BulkItem {
    fn from(row: BulkRow) -> Self {
        Self {
            id: row.id,
            action: row.action,
            args: value(&row.args),
            filter: value(&row.filter),
            state: row.state,
            expected: row.expected.map(|expected| expected.min(JobCount::LIMIT)),
            has_more: row.expected.is_some_and(|expected| expected > JobCount::LIMIT),
            matched: row.matched,
            done: row.done,
            failed: row.failed,
            failed_again: row.failed_again,
            // What is being changed may be among `done` already.
            skipped: row.treated.saturating_sub(row.done + row.failed),
            rate_per_second: row.rate,
            who: row.who,
            source: row.source,
            reason: row.reason,
            created_ms: row.created_ms,
            changed_ms: row.changed_ms,
            instance: row.runner.filter(|runner| runner.0 > 0).map(|runner| runner.to_string()),
        }
    }
}

/// What is no JSON is shown as it is.
fn value(json: &str) -> Value {
    serde_json::from_str(json).unwrap_or_else(|_| Value::from(json))
}
