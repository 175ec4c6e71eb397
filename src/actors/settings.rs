//! What the actors of an instance go by.

use std::time::Duration;

use secrecy::SecretString;

use crate::admission::AdmissionRules;

/// What the actors go by.
#[derive(Clone, Debug)]
pub(crate) struct Settings {
    /// The instance's name for people.
    pub instance: String,
    /// After this the shards of a silent instance are reassigned.
    pub lease: Duration,
    /// Past this difference to the database's clock the instance is not ready.
    pub max_clock_skew: Duration,
    /// What requests are judged and admitted by.
    pub admission: AdmissionRules,
    /// The version of the IANA database that local times are read by.
    pub time_zones: String,
    /// The Redis in which all instances remember keys, if any.
    pub idempotency_redis: Option<SecretString>,
    /// The largest batch, in bytes.
    pub max_batch_bytes: usize,
    /// What the jobs of all apps may take in memory, in bytes.
    pub job_memory: usize,
    /// A dead letter goes this long after it came or was last changed.
    pub keep_dead_letters: Duration,
    /// An entry of the audit is deleted this long after it was written.
    pub keep_audit: Duration,
    /// How often the actors' figures are logged.
    pub metrics_interval: Duration,
}
