//! A cache of recent idempotency keys that are in the database. It is an optimization only.
//!
//! Each instance has one in memory (`memory`) and, if configured, shares one in Redis with the
//! others (`shared_cache`). The actor also deletes expired keys from the database, a few at a time.
//!
//! After a hit, the keys of a batch are looked up in the database before the batch is written;
//! otherwise the write would fail on their unique index and be repeated. Only that index decides
//! what is a duplicate.

mod connection;
mod memory;
mod shared_cache;

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use actix::Response;
use actix::prelude::*;

use self::memory::Memory;
use self::shared_cache::SharedCache;
use super::child::Child;
use super::instance::Instance;
use super::messages::*;
use super::registry::Routes;
use crate::store::KeyCursor;

/// The pause between two steps of the clean-up, which leaves the database free for other work.
const BETWEEN_STEPS: Duration = Duration::from_millis(100);
/// The pause between two clean-ups of all keys.
const BETWEEN_ROUNDS: Duration = Duration::from_secs(600);

/// Caches recent keys and deletes expired ones.
pub(super) struct Dedup {
    instance: Arc<Instance>,
    memory: Memory,
    /// The cache in Redis, if one is configured.
    shared_cache: Option<SharedCache>,
    /// How many keys batches asked for, since the start of this actor.
    queried: u64,
    /// How many of them were in memory.
    found: u64,
    /// How many expired keys were deleted from the database.
    deleted: u64,
}

impl Dedup {
    pub(super) fn new(instance: Arc<Instance>) -> Self {
        let memory = Memory::default();
        Self { instance, memory, shared_cache: None, queried: 0, found: 0, deleted: 0 }
    }

    fn start_shared_cache(&mut self) {
        let settings = &self.instance.settings;
        let Some(url) = &settings.idempotency_redis else { return };
        match SharedCache::start(url, settings.admission.idempotency_window) {
            Ok(cache) => self.shared_cache = Some(cache),
            // Unexpected: the URL was checked at the start.
            Err(error) => tracing::error!(%error, "no redis is used: {error}"),
        }
    }

    /// Runs one step of the clean-up, and schedules the next one.
    fn clean_up(&mut self, from: KeyCursor, ctx: &mut Context<Self>) {
        let (store, now_ms) = (self.instance.store.clone(), self.instance.clock.now_ms());
        let step = tokio::spawn(async move { store.forget_keys(from, now_ms).await });
        ctx.spawn(step.into_actor(self).map(move |step, actor, ctx| {
            let step = step.unwrap_or_else(|error| panic!("forgetting keys: {error}"));
            let (pause, next) = match step {
                Ok((deleted, next)) => {
                    actor.deleted += deleted;
                    next.map_or((BETWEEN_ROUNDS, KeyCursor::default()), |next| {
                        (BETWEEN_STEPS, next)
                    })
                }
                Err(error) => {
                    tracing::debug!(%error, "keys could not be cleaned up");
                    (BETWEEN_ROUNDS, from)
                }
            };
            let instance = actor.instance.clone();
            let waited = async move { instance.database.recovery().wait(pause).await };
            ctx.spawn(
                waited.into_actor(actor).map(move |(), actor, ctx| actor.clean_up(next, ctx)),
            );
        }));
    }
}

impl Actor for Dedup {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Context<Self>) {
        // The cache of a replaced actor is lost.
        self.instance.counters.idempotency_cache.store(0, Ordering::Relaxed);
        self.start_shared_cache();
        ctx.run_later(BETWEEN_ROUNDS, |actor, ctx| actor.clean_up(KeyCursor::default(), ctx));
    }
}

impl Child for Dedup {
    const KIND: &'static str = "dedup";

    fn routes(routes: Routes<Self>) -> Routes<Self> {
        routes.handles::<FindKeys>().handles::<RememberKeys>()
    }
}

impl Handler<FindKeys> for Dedup {
    type Result = Response<bool>;

    /// Queries Redis only if no key is in memory, and in a future of its own, so that the actor
    /// goes on to handle messages.
    fn handle(&mut self, query: FindKeys, _: &mut Context<Self>) -> Response<bool> {
        let known = query.keys.iter().filter(|key| self.memory.knows(key)).count();
        self.queried += query.keys.len() as u64;
        self.found += known as u64;
        let counters = &self.instance.counters;
        counters.add(&counters.idempotency_hits, known);
        let cache = match &self.shared_cache {
            Some(cache) if known == 0 && !query.keys.is_empty() => cache,
            _ => return Response::reply(known > 0),
        };
        let (instance, counting) = (self.instance.clone(), cache.count_known(query.keys));
        Response::fut(async move {
            let known = counting.await;
            instance.counters.idempotency_hits.fetch_add(known, Ordering::Relaxed);
            known > 0
        })
    }
}

impl Handler<RememberKeys> for Dedup {
    type Result = ();

    fn handle(&mut self, remember: RememberKeys, _: &mut Context<Self>) {
        if let Some(cache) = &self.shared_cache {
            cache.write_later(&remember.keys);
        }
        for key in remember.keys {
            self.memory.remember(key);
        }
        let size = self.memory.len() as u64;
        self.instance.counters.idempotency_cache.store(size, Ordering::Relaxed);
    }
}

impl Handler<Report> for Dedup {
    type Result = ();

    fn handle(&mut self, _: Report, _: &mut Context<Self>) {
        let remembered = self.memory.len();
        let cache = self.shared_cache.as_ref();
        tracing::info!(
            actor = "dedup",
            remembered,
            asked = self.queried,
            recognised = self.found,
            forgotten = self.deleted,
            redis = cache.map(SharedCache::status),
            recognised_by_redis = cache.map(SharedCache::found),
            not_noted_in_redis = cache.map(SharedCache::dropped),
            "{remembered} idempotency keys remembered",
        );
    }
}
