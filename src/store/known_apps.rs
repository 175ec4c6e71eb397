//! The list of apps: each with its rules, its shards and the instances that fire its jobs.

use std::collections::{BTreeMap, HashMap, HashSet};

use infinite_scheduler_entity::{app, shard};
use sea_orm::{ColumnTrait, EntityTrait, QueryFilter};

use super::apps::pause_of;
use super::overrides::overrides_of;
use super::{AppOverrides, AppRules, Result, Store};
use crate::model::ids::AppId;
use crate::model::lateness::Pace;
use crate::model::pause::AppPause;

/// An app that was ever registered.
#[derive(Clone, Debug, PartialEq)]
pub struct KnownApp {
    /// The app.
    pub id: AppId,
    /// Its name.
    pub name: String,
    /// The rules for its requests, and its policy.
    pub rules: AppRules,
    /// When it was first registered, epoch milliseconds.
    pub created_ms: i64,
    /// The number of its shards.
    pub shards: u32,
    /// The number of its shards that are owned by a live instance.
    pub owned_shards: u32,
    /// The names of the live instances that fire its jobs, in order.
    pub instances: Vec<String>,
    /// What its live instances have published of its attempts, together.
    pub pace: Pace,
    /// What wins over its configured limits, if anything does.
    pub overrides: Option<AppOverrides>,
    /// Its pause, if it is paused.
    pub pause: Option<AppPause>,
}

impl Store {
    /// Every app that was ever registered and is not retired, by name.
    ///
    /// # Errors
    /// [`super::Error::Unavailable`] if the database does not answer, or an app's rules cannot be read.
    pub async fn known_apps(&self) -> Result<Vec<KnownApp>> {
        let kept = app::Entity::find().filter(app::Column::DeletedMs.is_null());
        let mut apps = kept.all(&self.inner.pool).await?;
        // Not sorted by the database, whose order depends on its collation.
        apps.sort_unstable_by(|a, b| a.name.cmp(&b.name));
        let living = self.living_instances().await?;
        let alive: HashSet<i64> = living.iter().map(|instance| instance.id).collect();
        let mut shards: HashMap<i32, (u32, u32)> = HashMap::new();
        for row in shard::Entity::find().all(&self.inner.pool).await? {
            let (all, owned) = shards.entry(row.app).or_default();
            *all += 1;
            *owned += u32::from(row.owner.is_some_and(|owner| alive.contains(&owner)));
        }
        let mut instances: HashMap<i32, Vec<String>> = HashMap::new();
        let mut paces: BTreeMap<AppId, Pace> = BTreeMap::new();
        for instance in living {
            let published = instance.pace.as_deref().map(serde_json::from_str);
            let published: BTreeMap<AppId, Pace> =
                published.and_then(|pace| pace.ok()).unwrap_or_default();
            for (app, pace) in published {
                let all = paces.entry(app).or_default();
                all.per_second += pace.per_second;
                all.started += pace.started;
                all.met += pace.met;
            }
            let fired: Vec<i32> = serde_json::from_str(&instance.apps).unwrap_or_default();
            for app in fired {
                instances.entry(app).or_default().push(instance.name.clone());
            }
        }
        let known = |row: app::Model| {
            let (pause, overrides) = (pause_of(&row), overrides_of(&row));
            let name = row.name;
            let rules = AppRules::read(&name, &row.rules, row.overrides.as_deref())?;
            let (shards, owned_shards) = shards.get(&row.id).copied().unwrap_or_default();
            let mut instances = instances.remove(&row.id).unwrap_or_default();
            instances.sort_unstable();
            let pace = paces.get(&AppId(row.id)).copied().unwrap_or_default();
            let created_ms = row.created_ms;
            Ok(KnownApp {
                id: AppId(row.id),
                name,
                rules,
                created_ms,
                shards,
                owned_shards,
                instances,
                pace,
                pause,
                overrides,
            })
        };
        apps.into_iter().map(known).collect()
    }
}
