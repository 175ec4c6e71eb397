//! A broker that requires TLS, SASL/SCRAM and permissions, as a child of `tests/run services`, which
//! runs Kafka's tools by lines on its standard input.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use rdkafka::ClientConfig;
use tempfile::TempDir;

use crate::support::servers::Server;
use crate::support::services::temporary_folder;

/// What its variables begin with.
const VARIABLE: &str = "INFINITE_SCHEDULER_TEST_KAFKA_SECURED";

/// The tests that run at the same time share one; the last of them ends it.
static RUNNING: Mutex<Weak<Broker>> = Mutex::new(Weak::new());

/// A secured broker, which ends with this value.
#[derive(Debug)]
pub(super) struct Broker {
    server: Mutex<Server>,
    /// What it said about itself, by the names of variables.
    said: HashMap<String, String>,
    _logs: TempDir,
}

impl Broker {
    /// The one that runs, or else a new one.
    pub(super) async fn shared() -> Arc<Self> {
        let shared = tokio::task::spawn_blocking(|| {
            let mut running = RUNNING.lock().unwrap_or_else(PoisonError::into_inner);
            running.upgrade().unwrap_or_else(|| {
                let broker = Arc::new(Self::start());
                *running = Arc::downgrade(&broker);
                broker
            })
        });
        shared.await.expect("a secured broker")
    }

    fn start() -> Self {
        let logs = temporary_folder();
        let server = Server::start("kafka-secured", logs.path());
        let said = server.said().clone();
        Self { server: Mutex::new(server), said, _logs: logs }
    }

    /// `host:port`.
    pub(super) fn address(&self) -> &str {
        self.said("")
    }

    /// The file with its certificate.
    pub(super) fn ca(&self) -> &str {
        self.said("_CA")
    }

    /// A user who may do what was allowed to it.
    pub(super) fn user(&self) -> &str {
        self.said("_USER")
    }

    pub(super) fn password(&self) -> &str {
        self.said("_PASSWORD")
    }

    /// A client of the user who may do everything.
    pub(super) fn admin(&self) -> ClientConfig {
        let mut config = ClientConfig::new();
        config
            .set("bootstrap.servers", self.address())
            .set("security.protocol", "SASL_SSL")
            .set("ssl.ca.location", self.ca())
            .set("sasl.mechanism", "SCRAM-SHA-512")
            .set("sasl.username", self.said("_ADMIN"))
            .set("sasl.password", self.said("_ADMIN_PASSWORD"));
        config
    }

    /// Gives or takes rights, by the words of Kafka's own tool, and waits until that is done.
    pub(super) async fn acl(self: &Arc<Self>, words: &str) {
        self.tool(&format!("org.apache.kafka.tools.AclCommand --force {words}")).await;
    }

    /// Makes a user, or gives it another password.
    pub(super) async fn set_password(self: &Arc<Self>, user: &str, password: &str) {
        self.tool(&format!(
            "kafka.admin.ConfigCommand --alter --entity-type users --entity-name {user} \
             --add-config SCRAM-SHA-512=[iterations=4096,password={password}]"
        ))
        .await;
    }

    async fn tool(self: &Arc<Self>, words: &str) {
        let (broker, words) = (self.clone(), words.to_owned());
        let answered = tokio::task::spawn_blocking(move || {
            broker.server.lock().unwrap_or_else(PoisonError::into_inner).tool(&words);
        });
        answered.await.expect("an order that is obeyed");
    }

    fn said(&self, what: &str) -> &str {
        let name = format!("{VARIABLE}{what}");
        self.said.get(&name).unwrap_or_else(|| panic!("`tests/run services` does not say {name}"))
    }
}
