//! The producer, and the topics that it sends to, against an embedded broker.

use super::*;

#[tokio::test(flavor = "multi_thread")]
async fn a_record_that_is_too_large_is_refused_and_an_outage_is_not_its_fault() {
    let (broker, mut config) = broker(1);
    config.properties.insert("message.max.bytes".into(), "2000".into());
    config.properties.insert("message.timeout.ms".into(), "1500".into());
    let producer = Producer::start(&config).unwrap();
    let large = outgoing("k", &"x".repeat(5000));
    let refused = producer.send(large).await;
    assert!(matches!(refused, Err(Error::Refused { .. })), "{refused:?}");
    let nameless = Outgoing { topic: "a\0b".into(), ..outgoing("k", "v") };
    let refused = producer.send(nameless).await;
    assert!(matches!(refused, Err(Error::Refused { .. })), "{refused:?}");
    broker.set_reachable(false);
    let unsent = producer.send(outgoing("k", "v")).await;
    assert!(matches!(unsent, Err(Error::Unavailable(_))), "{unsent:?}");
    broker.set_reachable(true);
    eventually("the broker is back", || {
        producer.state().reachable || {
            let producer = producer.clone();
            tokio::spawn(async move { producer.send(outgoing("k", "v")).await });
            false
        }
    })
    .await;
}

/// There may be nothing to send for hours; an instance must not stay not ready for that long.
#[tokio::test(flavor = "multi_thread")]
async fn a_producer_that_sends_nothing_sees_the_end_of_an_outage() {
    let (broker, config) = broker(1);
    let producer = Producer::start(&config).unwrap();
    producer.send(outgoing("k", "v")).await.unwrap();
    broker.set_reachable(false);
    eventually("the outage shows", || producer.state().trouble.is_some()).await;
    broker.set_reachable(true);
    eventually("the outage ends", || producer.state().trouble.is_none()).await;
    assert!(producer.state().reachable);
}

#[tokio::test(flavor = "multi_thread")]
async fn topics_that_exist_are_left_alone() {
    // The embedded broker cannot make topics by request: asking it to would fail.
    let (_broker, config) = broker(1);
    ensure_topics(&config, &[TOPIC], 6).await.unwrap();
}
