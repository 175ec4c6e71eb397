//! An app whose topic is on brokers of its own, while nothing is read from Kafka.

use infinite_scheduler::config::Config;
use infinite_scheduler::{ScheduleJobRequest, SchedulerBuilder};

use super::*;

#[tokio::test(flavor = "multi_thread")]
async fn an_app_fires_to_brokers_of_its_own_as_soon_as_they_allow_it() {
    let here = Here::new().await;
    let (url, servers, topic) = (here.database.url(), here.broker.address(), &here.fired);
    let properties = here.properties();
    let properties: Vec<_> =
        properties.iter().map(|(name, value)| format!("\"{name}\" = \"{value}\"")).collect();
    let text = format!(
        r#"
        [database]
        url = "{url}"
        [apps.sms]
        dispatch = "kafka"
        topic = "{topic}"
        kafka = {{ bootstrap_servers = "{servers}", properties = {{ {} }} }}
        "#,
        properties.join(", "),
    );
    let config = Config::from_toml(&text, []).expect("a configuration");
    let shown = format!("{config:?}");
    assert!(!shown.contains(here.broker.password()), "{shown}");
    let scheduler = SchedulerBuilder::from_config(&config).start().await.expect("a start");
    let request = ScheduleJobRequest::builder("sms").request_id("r-1").at("2025-01-01T00:00:00Z");
    let request = request.job_data(&json!({})).build().expect("a request");
    scheduler.schedule(request).await.expect("a job");
    let said = complaint(&scheduler, &["topic", topic, servers, "allow WRITE"]).await;
    assert!(!said.contains(here.broker.password()), "{said}");
    assert_eq!(scheduler.ingest_metrics().apps["sms"].failed, 0, "no attempt was counted");

    here.allow("Write", topic).await;
    wait_until(DEADLINE, "the job fired", async || {
        scheduler.ingest_metrics().apps["sms"].succeeded == 1
    })
    .await;
    assert_eq!(here.fired().await, ["r-1"]);
    is_well(&scheduler).await;
    scheduler.shutdown(DRAIN).await;
}
