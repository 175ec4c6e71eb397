//! Where an app's jobs may be sent.

use super::*;

#[test]
fn a_dispatch_that_leads_nowhere_or_in_circles_is_refused() {
    check_refusals(&[
        (
            "apps.x = { dispatch = 'kafka', topic = 't' }",
            "apps.x.dispatch = \"kafka\" needs a [kafka] table, which is not there: add one (it \
             may be empty), name its own brokers as apps.x.kafka, or choose another \
             dispatch",
        ),
        (
            "[kafka]\n[apps.x]\ndispatch = 'kafka'",
            "apps.x.dispatch = \"kafka\" needs apps.x.topic: name the topic for its jobs",
        ),
        (
            "apps.x.topic = 't'",
            "apps.x.topic = \"t\" has a meaning only with apps.x.dispatch = \"kafka\": set that, \
             or leave the topic out",
        ),
        (
            "kafka.topic = 't'\napps.x = { dispatch = 'kafka', topic = 't' }",
            "apps.x.topic (\"t\") must not be among kafka.topics, or every fired job is \
             ingested again: name another topic",
        ),
        (
            "kafka.dlq_topic = 't'\napps.x = { dispatch = 'kafka', topic = 't' }",
            "apps.x.topic (\"t\") must not be kafka.dlq_topic, or jobs cannot be distinguished \
             from dead letters: name another topic",
        ),
    ]);
}
