//! The instances: who is alive, what they own, and draining one.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::Serialize;
use serde_json::json;
use utoipa::ToSchema;

use super::context::Context;
use super::pauses::as_rfc3339;
use super::{Error, Result};
use crate::model::audit::{AuditAction, AuditEntry};
use crate::model::ids::InstanceId;
use crate::store::{InstanceState as State, KnownInstance};

/// The instances on the database.
#[derive(Clone, Copy, Debug)]
pub struct Instances<'a> {
    context: &'a Arc<Context>,
}

/// One start of an instance.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[non_exhaustive]
pub struct InstanceItem {
    /// Its id: a number, written as a text since it has more digits than some readers of JSON keep.
    pub id: String,
    /// Its name, which several may have.
    pub name: String,
    /// Whether it is alive.
    pub state: InstanceState,
    /// The version of its program.
    pub version: String,
    /// The version of the IANA time zone database that it reads local times by.
    pub time_zones: String,
    /// When it started by its own clock, epoch milliseconds.
    #[serde(rename = "startedTime", serialize_with = "as_rfc3339")]
    #[schema(value_type = String)]
    pub started_ms: i64,
    /// The end of its lease by the database's clock, epoch milliseconds.
    #[serde(rename = "leaseUntil", serialize_with = "as_rfc3339")]
    #[schema(value_type = String)]
    pub lease_until_ms: i64,
    /// The apps that it fires, by name.
    pub apps: Vec<String>,
    /// How many shards it owns.
    pub owned_shards: usize,
    /// Which ones: their numbers, by app.
    pub shards: BTreeMap<String, Vec<i32>>,
}

/// Whether an instance is alive.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum InstanceState {
    /// It has a lease.
    Alive,
    /// It has a lease, gives up its shards and partitions, and takes none until it is restarted.
    Draining,
    /// Its lease is over; its row is shown for a day.
    Dead,
}

/// What came of a drain.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[non_exhaustive]
pub struct DrainAnswer {
    /// Whether it was asked now.
    pub result: DrainResult,
    /// The instance.
    pub instance: InstanceItem,
}

/// Whether an instance was asked to drain.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum DrainResult {
    /// It was asked, and begins with its next heartbeat.
    Draining,
    /// It was asked before.
    Unchanged,
}

impl InstanceState {
    /// Its name.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Alive => "alive",
            Self::Draining => "draining",
            Self::Dead => "dead",
        }
    }
}

impl<'a> Instances<'a> {
    pub(super) fn new(context: &'a Arc<Context>) -> Self {
        Self { context }
    }

    /// All instances that are alive or died less than a day ago, the youngest first.
    ///
    /// # Errors
    /// [`Error::Unavailable`] when the database does not answer.
    pub async fn list(&self) -> Result<Vec<InstanceItem>> {
        self.context.run(|context| async move { list(&context).await }).await
    }

    /// Drains an instance: from its next heartbeat on it gives up its shards and partitions, and it
    /// takes none until it is restarted. It goes on to answer calls.
    ///
    /// # Errors
    /// [`Error::Invalid`] if `id` is no number; [`Error::NotFound`] if there is no such instance;
    /// [`Error::Conflict`] if it is dead; [`Error::Unavailable`] when the database does not answer.
    pub async fn drain(&self, id: impl Into<String>) -> Result<DrainAnswer> {
        let id = id.into();
        self.context.run(move |context| async move { drain(&context, &id).await }).await
    }
}

async fn list(context: &Context) -> Result<Vec<InstanceItem>> {
    let known = context.store().known_instances().await;
    let known = known.map_err(|error| context.database_error(error))?;
    Ok(known.into_iter().map(InstanceItem::from).collect())
}

async fn drain(context: &Context, id: &str) -> Result<DrainAnswer> {
    let Ok(number) = id.parse() else {
        return Err(Error::Invalid(format!(
            "{id:?} is not the id of an instance: it is a number, which `instances list` shows"
        )));
    };
    let instance = find(context, id).await?;
    match instance.state {
        InstanceState::Dead => return Err(is_dead(&instance)),
        InstanceState::Draining => {
            return Ok(DrainAnswer { result: DrainResult::Unchanged, instance });
        }
        InstanceState::Alive => {}
    }
    let entry = AuditEntry {
        details: json!({ "name": instance.name, "ownedShards": instance.owned_shards }),
        ..context.entry(AuditAction::DrainInstance, id)
    };
    let told = context.store().drain_instance(InstanceId(number), &entry).await;
    let told = told.map_err(|error| context.database_error(error))?;
    let instance = find(context, id).await?;
    match (told, instance.state) {
        (true, _) => Ok(DrainAnswer { result: DrainResult::Draining, instance }),
        (false, InstanceState::Dead) => Err(is_dead(&instance)),
        // Another caller has asked it at the same moment.
        (false, _) => Ok(DrainAnswer { result: DrainResult::Unchanged, instance }),
    }
}

async fn find(context: &Context, id: &str) -> Result<InstanceItem> {
    let found = list(context).await?.into_iter().find(|instance| instance.id == id);
    found.ok_or_else(|| Error::NotFound(format!("there is no instance {id}")))
}

fn is_dead(instance: &InstanceItem) -> Error {
    let InstanceItem { id, name, .. } = instance;
    Error::Conflict(format!("instance {id} ({name}) is dead: there is nothing to drain"))
}

impl From<KnownInstance> for InstanceItem {
    fn from(known: KnownInstance) -> Self {
        Self {
            id: known.id.to_string(),
            name: known.name,
            state: match known.state {
                State::Alive => InstanceState::Alive,
                State::Draining => InstanceState::Draining,
                State::Dead => InstanceState::Dead,
            },
            version: known.version,
            time_zones: known.time_zones,
            started_ms: known.started_ms,
            lease_until_ms: known.lease_until_ms,
            apps: known.apps,
            owned_shards: known.shards.values().map(Vec::len).sum(),
            shards: known.shards,
        }
    }
}
