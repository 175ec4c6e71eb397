//! What the clones of a producer share: their clients, which are replaced after a fatal error, and
//! the probes that show when a failure is over.

use std::collections::HashSet;
use std::sync::{Arc, Mutex, OnceLock, PoisonError, RwLock, Weak};
use std::thread;
use std::time::Duration;

use rdkafka::config::ClientConfig;
use rdkafka::producer::Producer as _;
use tracing::{debug, warn};

use super::Outgoing;
use super::budget::SendBudget;
use super::delivery::{Client, Deliveries};
use crate::kafka::Error;
use crate::kafka::connectivity::Connectivity;
use crate::kafka::error::is_denial;
use crate::kafka::reason::reason;

/// The wait before the broker is probed after a failure; it doubles each time, up to the maximum.
const FIRST_PROBE_WAIT: Duration = Duration::from_secs(1);
const MAX_PROBE_WAIT: Duration = Duration::from_secs(15);
/// The longest wait for an answer to a probe.
const ANSWER_PATIENCE: Duration = Duration::from_secs(5);
/// A new client needs this long to learn that it may not send anything.
const FIRST_ANSWER: Duration = Duration::from_secs(5);

pub(super) struct Shared {
    pub(super) config: ClientConfig,
    /// Bounds the bytes of records under way that [`Producer::send_within_budget`] sends.
    pub(super) budget: SendBudget,
    /// Topics that accept no record without a key, such as compacted ones.
    keyed: Mutex<HashSet<String>>,
    /// What is known of the broker; kept when the client is replaced.
    pub(super) connectivity: Arc<Connectivity>,
    /// Replaced after a fatal error, which idempotent producers can have.
    client: RwLock<Arc<Client>>,
    /// Sends each record in a batch of its own; created when it is first needed.
    unbatched: OnceLock<Arc<Client>>,
}

impl Shared {
    pub(super) fn start(
        config: ClientConfig,
        connectivity: Connectivity,
    ) -> Result<Arc<Self>, Error> {
        let connectivity = Arc::new(connectivity);
        let client = RwLock::new(Arc::new(connect(&config, &connectivity)?));
        let (budget, keyed, unbatched) = (SendBudget::new(), Mutex::default(), OnceLock::new());
        Ok(Arc::new(Self { config, budget, keyed, connectivity, client, unbatched }))
    }

    /// Whether this record needs a batch of its own, because others would be refused with it.
    pub(super) fn needs_own_batch(&self, outgoing: &Outgoing) -> bool {
        outgoing.key.is_none() && self.keyed().contains(&outgoing.topic)
    }

    pub(super) fn set_requires_keys(&self, topic: &str, wants: bool) {
        let mut keyed = self.keyed();
        if !wants {
            keyed.remove(topic);
        } else if !keyed.contains(topic) {
            keyed.insert(topic.to_owned());
        }
    }

    fn keyed(&self) -> std::sync::MutexGuard<'_, HashSet<String>> {
        self.keyed.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The client that sends each record in a batch of its own.
    pub(super) fn unbatched(&self) -> Result<Arc<Client>, Error> {
        if let Some(client) = self.unbatched.get() {
            return Ok(client.clone());
        }
        let mut config = self.config.clone();
        // Without idempotence it has no fatal errors and need not be replaced; with one request
        // at a time the order is kept.
        config.set("batch.num.messages", "1").set("enable.idempotence", "false");
        config.set("max.in.flight.requests.per.connection", "1");
        let made = Arc::new(connect(&config, &self.connectivity)?);
        Ok(self.unbatched.get_or_init(|| made).clone())
    }

    pub(super) fn client(&self) -> Arc<Client> {
        self.client.read().unwrap_or_else(|poisoned| poisoned.into_inner()).clone()
    }

    /// Replaces the client `broken`, unless another sender has done so, and returns its fatal
    /// error.
    pub(super) fn replace(&self, broken: &Arc<Client>) -> Error {
        let cause = match broken.client().fatal_error() {
            Some((code, message)) if is_denial(code) => Error::Denied(reason(&message)),
            Some((_, message)) => Error::Unavailable(reason(&message)),
            None => Error::Unavailable("a fatal error".to_owned()),
        };
        let mut current = self.client.write().unwrap_or_else(|poisoned| poisoned.into_inner());
        if !Arc::ptr_eq(&current, broken) {
            return cause;
        }
        match connect(&self.config, &self.connectivity) {
            Ok(client) => *current = Arc::new(client),
            Err(error) => warn!("the kafka producer could not be replaced: {error}"),
        }
        // A missing permission has been reported already, and ends each client until it is
        // granted.
        match &cause {
            Error::Denied(_) => debug!("the kafka producer is replaced: {cause}"),
            _ => warn!("the kafka producer met a fatal error and is replaced: {cause}"),
        }
        cause
    }
}

/// Probes the broker while the last result was an error. Replaces a client that a fatal error has
/// ended.
pub(super) fn watch(shared: &Weak<Shared>) {
    let mut wait = FIRST_PROBE_WAIT;
    loop {
        thread::sleep(wait);
        let Some(shared) = shared.upgrade() else { return };
        wait = match still_in_trouble(&shared) {
            true => (wait * 2).min(MAX_PROBE_WAIT),
            false => FIRST_PROBE_WAIT,
        };
    }
}

fn still_in_trouble(shared: &Shared) -> bool {
    if !shared.connectivity.is_in_trouble() {
        return false;
    }
    let client = shared.client();
    if client.client().fatal_error().is_some() {
        shared.replace(&client);
        return true;
    }
    if client.context().age() < FIRST_ANSWER {
        return true;
    }
    // All topics are listed: a query for one by its name may create it.
    if client.client().fetch_metadata(None, ANSWER_PATIENCE).is_err() {
        shared.connectivity.unanswered();
        return true;
    }
    shared.connectivity.served();
    false
}

fn connect(config: &ClientConfig, connectivity: &Arc<Connectivity>) -> Result<Client, Error> {
    Ok(Client::new(config.create_with_context(Deliveries::new(connectivity.clone()))?))
}
