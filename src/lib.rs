//! A job scheduler fed by Kafka, kept in SQL.
//!
//! Microservices publish "run this job at that time" to a Kafka topic. A group of instances
//! ingests the topic exactly once, keeps the jobs in SQLite, MariaDB, MySQL or PostgreSQL,
//! and fires each at its moment, never early: to a Kafka topic, a log line, or a
//! [`JobHandler`] in the program that embeds this library.
//!
//! ```no_run
//! use infinite_scheduler::{AppConfig, JobContext, ScheduleJobRequest, Scheduler, handler_fn};
//!
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! let scheduler = Scheduler::builder()
//!     .database_url("sqlite://jobs.db?mode=rwc")
//!     .register_app(
//!         AppConfig::new("sms"),
//!         handler_fn(|context: JobContext, data: serde_json::Value| async move {
//!             println!("{} says {data}", context.job().request_id);
//!             Ok(())
//!         }),
//!     )
//!     .start()
//!     .await?;
//! let request = ScheduleJobRequest::builder("sms").at("2030-01-01T08:00:00Z").build()?;
//! scheduler.schedule(request).await?;
//! scheduler.shutdown(std::time::Duration::from_secs(30)).await;
//! # Ok(())
//! # }
//! ```
//!
//! The modules, in the order in which a job passes them; ARCHITECTURE.md describes the rest.

pub mod model;

mod health;
mod recovery;

pub mod store;

pub mod kafka;

mod admission;

mod actors;

mod dispatch;

pub mod config;
pub mod operations;
pub mod service;
pub mod telemetry;

pub mod http;

pub mod cli;

pub use config::Config;
pub use dispatch::{
    Discard, HttpTarget, JobContext, JobError, JobHandler, KafkaTarget, LogDispatch, RedisTarget,
    Rejection, Typed, TypedHandler, handler_fn,
};
pub use health::{HealthReport, Problem, ProblemKind};
pub use kafka::{EmbeddedBroker, KafkaCluster, KafkaIngestConfig, OnOffsetLost};
pub use model::app::{AppConfig, AppName, Delivery, InvalidAppName};
pub use model::job::{Job, JobData, Priority};
pub use model::letter::{ErrorKind, Refusal};
pub use model::rate::{InvalidRate, Rate};
pub use model::request::{Operation, ScheduleJobRequest};
pub use model::schema::{InvalidSchema, JobSchema};
pub use model::time::ScheduledTime;
pub use operations::{
    Error as OperationError, Operations, OperationsOptions, Replayed, RequestStatus, Submitted,
};
pub use service::{
    AppMetrics, IngestMetrics, Scheduler, SchedulerBuilder, StartError, StartProgress,
};
