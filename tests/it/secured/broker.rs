//! A broker that demands TLS, SASL/SCRAM and rights, as a child of `tests/run services`, which
//! runs Kafka's tools by lines on its standard input.

use std::collections::HashMap;
use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::thread;
use std::time::{Duration, Instant};

use rdkafka::ClientConfig;
use rustix::process::{Pid, Signal, kill_process};

/// What ending the server and removing its files may take.
const END: Duration = Duration::from_secs(30);
/// What its variables begin with.
const VARIABLE: &str = "INFINITE_SCHEDULER_TEST_KAFKA_SECURED";

/// The tests that run beside each other share one; the last of them ends it.
static RUNNING: Mutex<Weak<Broker>> = Mutex::new(Weak::new());

/// A secured broker, which ends with this value.
#[derive(Debug)]
pub(super) struct Broker {
    child: Child,
    /// What it said about itself, by the names of variables.
    said: HashMap<String, String>,
    talk: Mutex<Talk>,
}

#[derive(Debug)]
struct Talk {
    orders: Option<ChildStdin>,
    answers: BufReader<ChildStdout>,
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
        let mut child = Command::new(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/run"))
            .args(["services", "kafka-secured"])
            .env_remove(VARIABLE)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("tests/run starts");
        let orders = child.stdin.take();
        let answers = BufReader::new(child.stdout.take().expect("its standard output"));
        let talk = Mutex::new(Talk { orders, answers });
        let mut broker = Self { child, said: HashMap::new(), talk };
        loop {
            let line = broker.talk.get_mut().unwrap_or_else(PoisonError::into_inner).answer();
            match line.strip_prefix("export ").and_then(|export| export.split_once('=')) {
                Some((name, value)) => drop(broker.said.insert(name.to_owned(), value.to_owned())),
                None if line == "ready" => return broker,
                None => {}
            }
        }
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
        let (broker, order) = (self.clone(), format!("tool kafka-secured {words}\n"));
        let answered = tokio::task::spawn_blocking(move || {
            let mut talk = broker.talk.lock().unwrap_or_else(PoisonError::into_inner);
            let orders = talk.orders.as_mut().expect("its standard input");
            orders.write_all(order.as_bytes()).expect("an order");
            assert_eq!(talk.answer(), "ok", "{order}");
        });
        answered.await.expect("an order that is obeyed");
    }

    fn said(&self, what: &str) -> &str {
        let name = format!("{VARIABLE}{what}");
        self.said.get(&name).unwrap_or_else(|| panic!("`tests/run services` does not say {name}"))
    }
}

impl Talk {
    fn answer(&mut self) -> String {
        let mut line = String::new();
        let read = self.answers.read_line(&mut line).expect("a line");
        assert!(read > 0, "`tests/run services kafka-secured` has ended");
        line.trim_end().to_owned()
    }
}

impl Drop for Broker {
    /// Best effort: a panic while panicking would leave the rest running.
    fn drop(&mut self) {
        drop(self.talk.get_mut().unwrap_or_else(PoisonError::into_inner).orders.take());
        kill_process(Pid::from_child(&self.child), Signal::TERM).ok();
        let deadline = Instant::now() + END;
        while Instant::now() < deadline {
            if let Ok(Some(_)) = self.child.try_wait() {
                return;
            }
            thread::sleep(Duration::from_millis(20));
        }
        // The kernel then ends the server itself.
        eprintln!("`tests/run services kafka-secured` does not end and is killed");
        drop(self.child.kill());
        drop(self.child.wait());
    }
}
