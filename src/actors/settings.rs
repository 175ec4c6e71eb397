//! The settings of an instance's actors.

use std::time::Duration;

use secrecy::SecretString;

use crate::admission::AdmissionRules;

/// The settings of an instance's actors.
#[derive(Clone, Debug)]
pub(crate) struct Settings {
    /// The instance's name, for logs and reports.
    pub instance: String,
    /// After this time without a heartbeat, an instance's shards are reassigned.
    pub lease: Duration,
    /// The tolerated difference between this machine's clock and the database's; beyond it the
    /// instance is not ready.
    pub max_clock_skew: Duration,
    /// The rules for requests.
    pub admission: AdmissionRules,
    /// The version of the IANA time zone database.
    pub time_zones: String,
    /// The Redis that caches idempotency keys for all instances, if any.
    pub idempotency_redis: Option<SecretString>,
    /// The largest batch of records, in bytes.
    pub max_batch_bytes: usize,
    /// The memory for the jobs of all apps, in bytes.
    pub job_memory: usize,
    /// How often the outbox is scanned, also for what a topic refused before.
    pub outbox_scan: Duration,
    /// How long a dead letter is kept after its last change.
    pub keep_dead_letters: Duration,
    /// An entry of the audit is deleted this long after it was written.
    pub keep_audit: Duration,
    /// How often the actors' counters are logged.
    pub metrics_interval: Duration,
}
