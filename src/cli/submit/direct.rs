//! Requests straight into the database, beside the instances that fire them.

use std::sync::Arc;

use crate::admission::{Admission, AdmissionRules};
use crate::cli::migrate;
use crate::config::Config;
use crate::model::clock::SystemClock;
use crate::model::request::ScheduleJobRequest;
use crate::service::{SubmitError, Submitted};

/// The way into the database of somebody who is no instance: it owns no shard and fires
/// nothing. Each job comes with a command to the shard's owner to look at it, so that it may
/// be a heartbeat late, no more.
pub(super) struct Door {
    admission: Admission,
}

impl Door {
    pub(super) async fn open(config: &Config) -> anyhow::Result<Self> {
        let store = migrate::open(config).await?;
        store.migrate().await.map_err(|error| migrate::told(config, error))?;
        let clock = Arc::new(SystemClock);
        let rules = AdmissionRules::from(config);
        Ok(Self { admission: Admission::stand_alone(store, clock, rules, config.instance.lease) })
    }

    pub(super) async fn submit(
        &self,
        request: ScheduleJobRequest,
    ) -> Result<Submitted, SubmitError> {
        self.admission.submit(request).await
    }

    pub(super) async fn close(&self) {
        self.admission.database().store().close().await;
    }
}
