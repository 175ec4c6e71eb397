//! Three simulated microservices that request jobs.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tokio::task::JoinHandle;

use crate::kafka::{Outgoing, Producer};
use crate::model::clock::SystemClock;
use crate::model::job::Priority;
use crate::model::request::ScheduleJobRequest;

/// The pause between two requests of one microservice.
const PACE: Duration = Duration::from_millis(40);
/// How long after their request jobs are due.
const DUE_MS: std::ops::Range<u64> = 300..2500;
/// How long after its request the first job is due.
const FIRST_DUE: Duration = Duration::from_secs(6);
/// Nothing is sent for this long before the end, so that the last jobs can fire.
const QUIET: Duration = Duration::from_secs(3);
/// One in this many requests is sent twice, as by a producer that received no answer.
const REPEATED: u64 = 12;
/// The number of the one record of each microservice that is not a valid request.
const BAD: u64 = 20;

/// The microservices, which send until they are stopped or their time is over.
pub(super) struct Microservices {
    services: Vec<Microservice>,
    tasks: Vec<JoinHandle<()>>,
    sent: Arc<AtomicU64>,
}

impl Microservices {
    /// Microservices that will send to `topic` with `producer`.
    pub(super) fn new(producer: &Producer, topic: &str) -> Self {
        let sent = Arc::new(AtomicU64::new(0));
        let service = |(app, data)| Microservice {
            app,
            data,
            topic: topic.to_owned(),
            producer: producer.clone(),
            sent: sent.clone(),
        };
        let services: [(&str, DataOf); 3] =
            [("sms", sms), ("sipcall", sipcall), ("payment_gateway", payment)];
        let services = services.into_iter().map(service).collect();
        Self { services, tasks: Vec::new(), sent }
    }

    /// Sends one request whose job is due after it will have been read.
    pub(super) async fn send_first(&self) {
        if let Some(service) = self.services.first() {
            service.send(0, service.request(0, FIRST_DUE)).await;
        }
    }

    pub(super) fn start(mut self, time: Duration) -> Self {
        let until = Instant::now() + time.saturating_sub(QUIET);
        let services = self.services.drain(..);
        self.tasks = services.map(|service| tokio::spawn(service.run(until))).collect();
        self
    }

    /// The number of records that the broker acknowledged.
    pub(super) fn sent(&self) -> u64 {
        self.sent.load(Ordering::Relaxed)
    }

    pub(super) fn are_sending(&self) -> bool {
        self.tasks.iter().any(|task| !task.is_finished())
    }

    pub(super) async fn stop(&mut self) {
        for task in self.tasks.drain(..) {
            task.abort();
            task.await.ok();
        }
    }
}

type DataOf = fn(u64) -> Value;

struct Microservice {
    app: &'static str,
    data: DataOf,
    topic: String,
    producer: Producer,
    sent: Arc<AtomicU64>,
}

impl Microservice {
    async fn run(self, until: Instant) {
        let mut pace = tokio::time::interval(PACE);
        let mut count = 0;
        while Instant::now() < until {
            pace.tick().await;
            count += 1;
            let due = Duration::from_millis(fastrand::u64(DUE_MS));
            let value = if count == BAD { self.bad() } else { self.request(count, due) };
            self.send(count, value.clone()).await;
            if count % REPEATED == 0 {
                self.send(count, value).await;
            }
        }
    }

    async fn send(&self, count: u64, value: String) {
        let outgoing = Outgoing {
            topic: self.topic.clone(),
            key: Some(format!("{}-{count}", self.app).into_bytes()),
            value: Some(value.into_bytes()),
            headers: Vec::new(),
        };
        match self.producer.send(outgoing).await {
            Ok(()) => {
                self.sent.fetch_add(1, Ordering::Relaxed);
            }
            Err(error) => tracing::warn!(app = self.app, "a record was not sent: {error}"),
        }
    }

    fn request(&self, count: u64, due: Duration) -> String {
        let priority = match count % 5 {
            0 => Priority::High,
            1 => Priority::Low,
            _ => Priority::Normal,
        };
        ScheduleJobRequest::builder(self.app)
            .after(due, &SystemClock)
            .job_data(&(self.data)(count))
            .priority(priority)
            .idempotency_key(format!("{}-{count}", self.app))
            .build()
            .map_or_else(|refusal| refusal.to_string(), |request| request.to_json())
    }

    /// A record of a faulty producer.
    fn bad(&self) -> String {
        match self.app {
            "sms" => "this is not JSON".into(),
            app => json!({"appName": app, "scheduledTime": 0, "jobData": {}}).to_string(),
        }
    }
}

fn sms(count: u64) -> Value {
    json!({"phoneNumber": format!("+49151{count:07}"), "message": format!("your code is {}", 1000 + count)})
}

fn sipcall(count: u64) -> Value {
    json!({"callTo": format!("sip:{count}@example.com"), "callFrom": "sip:office@example.com", "duration": 30})
}

fn payment(count: u64) -> Value {
    json!({"accountId": format!("acc-{count}"), "amount": count as f64 / 4.0, "currency": "EUR"})
}

#[cfg(test)]
mod tests {
    use super::super::APPS;
    use super::*;
    use crate::model::request::check_required_fields;

    #[test]
    fn they_send_what_the_apps_require() {
        let data: [DataOf; 3] = [sms, sipcall, payment];
        for ((app, fields), data) in APPS.into_iter().zip(data) {
            let request = ScheduleJobRequest::builder(app).at("2030-01-01T00:00:00Z");
            let request = request.job_data(&data(1)).build().unwrap();
            let required: Vec<String> = fields.iter().map(|&field| field.to_owned()).collect();
            assert_eq!(check_required_fields(&request.job_data, &required), Ok(()), "{app}");
        }
    }
}
