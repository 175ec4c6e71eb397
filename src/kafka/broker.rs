//! A Kafka broker inside this process, for demonstrations and for quick tests.

use std::sync::mpsc;
use std::thread::{self, JoinHandle};

use rdkafka::error::KafkaResult;
use rdkafka::mocking::MockCluster;
use rdkafka::producer::DefaultProducerContext;
use tracing::warn;

use super::Error;

/// One broker, with groups and offsets, on a free port of this machine.
///
/// It keeps nothing on disk and at most 5 MB per partition, and deletes the oldest records first:
/// it is for demonstrations and tests, not for production. Its topics are created when it starts.
/// Drop it after its clients, which would try to reconnect for ever.
#[derive(Debug)]
pub struct EmbeddedBroker {
    bootstrap_servers: String,
    orders: mpsc::Sender<Order>,
    owner: Option<JoinHandle<()>>,
}

/// What clients of the embedded broker must set: with librdkafka's defaults it answers fetches
/// late and detects dead members slowly.
const CLIENT_PROPERTIES: [(&str, &str); 3] =
    [("fetch.wait.max.ms", "15"), ("session.timeout.ms", "3000"), ("heartbeat.interval.ms", "300")];

enum Order {
    Reachable(bool),
    Stop,
}

type Cluster = MockCluster<'static, DefaultProducerContext>;

impl EmbeddedBroker {
    /// Starts a broker with these topics, each with its number of partitions.
    ///
    /// # Errors
    /// [`Error::Config`] if it cannot be started or a topic cannot be created.
    pub fn start(topics: &[(&str, i32)]) -> Result<Self, Error> {
        let topics: Vec<_> = topics.iter().map(|&(name, count)| (name.to_owned(), count)).collect();
        let (orders, received) = mpsc::channel();
        let (report, reported) = mpsc::channel();
        // The cluster is not `Send`: it stays on the thread that creates it.
        let owner = thread::Builder::new()
            .name("embedded-kafka".to_owned())
            .spawn(move || match make(&topics) {
                Ok(cluster) => {
                    report.send(Ok(cluster.bootstrap_servers())).ok();
                    serve(&cluster, &received);
                }
                Err(error) => {
                    report.send(Err(error)).ok();
                }
            })
            .map_err(|error| Error::Unavailable(format!("no thread for the broker: {error}")))?;
        let failed = |reason: String| Error::Config(format!("the embedded broker: {reason}"));
        match reported.recv() {
            Ok(Ok(bootstrap_servers)) => Ok(Self { bootstrap_servers, orders, owner: Some(owner) }),
            Ok(Err(error)) => Err(failed(error.to_string())),
            Err(_) => Err(failed("its thread ended".to_owned())),
        }
    }

    /// The address for its clients, as `host:port`.
    pub fn bootstrap_servers(&self) -> &str {
        &self.bootstrap_servers
    }

    /// The properties that its clients need, for
    /// [`KafkaIngestConfig::properties`](super::KafkaIngestConfig).
    pub fn client_properties() -> impl Iterator<Item = (String, String)> {
        CLIENT_PROPERTIES.into_iter().map(|(name, value)| (name.to_owned(), value.to_owned()))
    }

    /// Closes every connection and refuses new ones, or accepts them again.
    pub fn set_reachable(&self, reachable: bool) {
        if self.orders.send(Order::Reachable(reachable)).is_err() {
            warn!("the embedded broker has stopped");
        }
    }
}

impl Drop for EmbeddedBroker {
    fn drop(&mut self) {
        self.orders.send(Order::Stop).ok();
        if let Some(owner) = self.owner.take() {
            owner.join().ok();
        }
    }
}

fn make(topics: &[(String, i32)]) -> KafkaResult<Cluster> {
    let cluster = MockCluster::new(1)?;
    for (name, partitions) in topics {
        cluster.create_topic(name, *partitions, 1)?;
    }
    Ok(cluster)
}

fn serve(cluster: &Cluster, orders: &mpsc::Receiver<Order>) {
    const EVERY_BROKER: i32 = -1;
    for order in orders {
        let done = match order {
            Order::Reachable(true) => cluster.broker_up(EVERY_BROKER),
            Order::Reachable(false) => cluster.broker_down(EVERY_BROKER),
            Order::Stop => return,
        };
        if let Err(error) = done {
            warn!("the embedded broker: {error}");
        }
    }
}
