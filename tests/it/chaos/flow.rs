//! Records that are produced continuously, whether or not an instance reads: requests, repetitions
//! of requests in other partitions, and invalid records.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use rdkafka::producer::future_producer::{DeliveryFuture, FutureProducer, FutureRecord};
use serde_json::{Value, json};
use tokio::task::JoinHandle;

use super::topics::{Cluster, INGEST};
use super::{PARTITIONS, troubles};

/// Records are produced in lumps, this often.
const LUMP: Duration = Duration::from_millis(50);
/// Records of a lump: 160 a second.
const OF_LUMP: usize = 8;
/// How far back a request may lie that is repeated.
const BACK: usize = 800;
/// When jobs are due, from the moment of their request.
const DUE_MS: std::ops::Range<i64> = -1_000..5_000;

/// A record that the broker has acknowledged.
#[derive(Clone, Debug)]
pub(super) struct Acknowledged {
    pub(super) partition: i32,
    pub(super) offset: i64,
    pub(super) value: String,
}

/// What was produced.
#[derive(Debug, Default)]
pub(super) struct Produced {
    pub(super) acknowledged: Vec<Acknowledged>,
    /// Of these the broker may have none, one or two.
    pub(super) unanswered: usize,
}

/// What a record is, by its value alone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Poison,
    Request {
        id: String,
        /// Requests of one group have one idempotency key.
        group: String,
        has_key: bool,
        due_ms: i64,
    },
}

impl Kind {
    pub(super) fn of(value: &[u8]) -> Self {
        let text = std::str::from_utf8(value).expect("text");
        if text.contains("poison") {
            return Self::Poison;
        }
        let request: Value = serde_json::from_str(text).expect("JSON");
        let text = |value: &Value| value.as_str().expect("text").to_owned();
        Self::Request {
            id: text(&request["requestId"]),
            group: text(&request["jobData"]["group"]),
            has_key: request.get("idempotencyKey").is_some(),
            due_ms: request["scheduledTime"].as_i64().expect("a moment"),
        }
    }
}

/// Records on their way.
#[derive(Debug)]
pub(super) struct Flow {
    over: Arc<AtomicBool>,
    produced: JoinHandle<Produced>,
}

impl Flow {
    pub(super) fn begin(cluster: &Cluster, rng: fastrand::Rng) -> Self {
        // As careless as a microservice may be: what is not acknowledged soon is given up, and
        // what is tried again may be there twice.
        let producer = cluster
            .client()
            .set("acks", "all")
            .set("enable.idempotence", "false")
            .set("message.timeout.ms", "15000")
            .set("linger.ms", "5")
            .create()
            .expect("a producer");
        let over = Arc::new(AtomicBool::new(false));
        let produced = tokio::spawn(produce(producer, rng, over.clone()));
        Self { over, produced }
    }

    /// Ends it and waits until it is known what each record became, as far as possible.
    pub(super) async fn end(self) -> Produced {
        self.over.store(true, Ordering::Release);
        self.produced.await.expect("records are produced")
    }
}

async fn produce(producer: FutureProducer, rng: fastrand::Rng, over: Arc<AtomicBool>) -> Produced {
    let mut writer = Writer { rng, requests: Vec::new(), n: 0 };
    let mut under_way: Vec<(String, DeliveryFuture)> = Vec::new();
    let mut produced = Produced::default();
    let mut lumps = tokio::time::interval(LUMP);
    while !over.load(Ordering::Acquire) {
        lumps.tick().await;
        for _ in 0..OF_LUMP {
            let (partition, value) = writer.next();
            let record: FutureRecord<'_, [u8], String> =
                FutureRecord::to(INGEST).partition(partition).payload(&value);
            match producer.send_result(record) {
                Ok(delivery) => under_way.push((value, delivery)),
                // It never left.
                Err((error, _)) => eprintln!("not sent: {error}"),
            }
        }
    }
    for (value, delivery) in under_way {
        match delivery.await.expect("the producer lives") {
            Ok(at) => {
                let (partition, offset) = (at.partition, at.offset);
                produced.acknowledged.push(Acknowledged { partition, offset, value });
            }
            Err(_) => produced.unanswered += 1,
        }
    }
    produced
}

/// Makes records up.
struct Writer {
    rng: fastrand::Rng,
    /// Requests with an idempotency key, and where they went.
    requests: Vec<(i32, Value)>,
    n: usize,
}

impl Writer {
    fn next(&mut self) -> (i32, String) {
        self.n += 1;
        match self.rng.u32(0..100) {
            0..10 => self.poison(),
            10..30 if !self.requests.is_empty() => self.repetition(),
            _ => self.request(),
        }
    }

    fn request(&mut self) -> (i32, String) {
        let (n, partition) = (self.n, self.partition());
        let mut request = json!({
            "requestId": format!("r-{n}"),
            "appName": "sms",
            "scheduledTime": self.due_ms(),
            "priority": (["high", "normal", "low"][self.rng.usize(0..3)]),
            "jobData": { "group": format!("g-{n}") },
        });
        if self.rng.u32(0..4) > 0 {
            request["idempotencyKey"] = json!(format!("k-{n}"));
            self.requests.push((partition, request.clone()));
        }
        (partition, request.to_string())
    }

    /// The same again, or the same key under another name and with another time.
    fn repetition(&mut self) -> (i32, String) {
        let oldest = self.requests.len().saturating_sub(BACK);
        let (first, mut request) =
            self.requests[self.rng.usize(oldest..self.requests.len())].clone();
        if self.rng.bool() {
            request["requestId"] = json!(format!("r-{}", self.n));
            request["scheduledTime"] = json!(self.due_ms());
        }
        ((first + self.rng.i32(1..PARTITIONS)) % PARTITIONS, request.to_string())
    }

    fn poison(&mut self) -> (i32, String) {
        let n = self.n;
        let value = match self.rng.u32(0..4) {
            0 => format!("poison {n}, not JSON"),
            1 => format!(r#"{{"appName":"sms","poison":{n}}}"#),
            2 => format!(r#"{{"appName":"sms","scheduledTime":"poison {n}"}}"#),
            _ => format!(r#"{{"appName":"nobody","scheduledTime":0,"poison":{n}}}"#),
        };
        (self.partition(), value)
    }

    fn partition(&mut self) -> i32 {
        self.rng.i32(0..PARTITIONS)
    }

    fn due_ms(&mut self) -> i64 {
        troubles::now_ms() + self.rng.i64(DUE_MS)
    }
}
