//! What is reported of a broker, by what librdkafka said.

use super::*;

#[test]
fn a_wrong_password_is_told_although_all_brokers_seem_down() {
    let connectivity = Connectivity::new("consumer");
    connectivity.failed(Code::Authentication, "SASL authentication error: wrong password");
    connectivity.failed(Code::AllBrokersDown, "1/1 brokers are down");
    let state = connectivity.state();
    assert!(!state.reachable);
    assert!(state.trouble.is_some_and(|sentence| sentence.contains("wrong password")));
}

#[test]
fn an_outage_names_its_cause_and_ends_with_an_answer() {
    let connectivity = Connectivity::new("consumer");
    connectivity.failed(Code::BrokerTransportFailure, "127.0.0.1:1: Connection refused");
    connectivity.failed(Code::AllBrokersDown, "1/1 brokers are down");
    let sentence = connectivity.state().trouble.expect("there is trouble");
    assert!(sentence.contains("Connection refused"), "{sentence}");
    connectivity.answered();
    assert_eq!(connectivity.state(), BrokerState { reachable: true, trouble: None, kind: None });
}

#[test]
fn a_connection_that_idled_out_is_no_outage_unless_no_broker_answers() {
    const IDLE: &str =
        "b:9/1: Disconnected: connection closed by peer (after 600000ms in state UP)";
    let connectivity = Connectivity::new("producer");
    connectivity.failed(Code::BrokerTransportFailure, IDLE);
    connectivity.failed(Code::AllBrokersDown, "1/1 brokers are down");
    assert_eq!(connectivity.state().trouble, None);
    assert!(connectivity.should_probe() && connectivity.is_in_trouble(), "it is to be asked");
    connectivity.answered();
    assert!(!connectivity.should_probe() && !connectivity.is_in_trouble());
    connectivity.failed(Code::AllBrokersDown, "1/1 brokers are down");
    connectivity.unanswered();
    assert_eq!(connectivity.state().kind, Some(TroubleKind::Unreachable));
    connectivity.answered();
    connectivity.failed(Code::AllBrokersDown, "1/1 brokers are down");
    connectivity.failed(Code::BrokerTransportFailure, "b:9/1: Connect failed: Connection refused");
    let sentence = connectivity.state().trouble.expect("there is trouble");
    assert!(sentence.contains("Connection refused"), "{sentence}");
}

#[test]
fn members_of_another_kind_are_told_with_the_group_and_the_way_out() {
    let config = KafkaIngestConfig { group_id: "g-1".into(), ..KafkaIngestConfig::default() };
    let connectivity = Connectivity::of_group("consumer", &config);
    connectivity.failed(Code::InconsistentGroupProtocol, "JoinGroup failed: Broker: Inconsistent");
    let state = connectivity.state();
    assert_eq!(state.kind, Some(TroubleKind::Group));
    let sentence = state.trouble.expect("there is trouble");
    for said in ["g-1", "another kind", "kafka.group_id"] {
        assert!(sentence.contains(said), "{said} in {sentence}");
    }
}

#[test]
fn a_member_that_was_thrown_out_stays_in_trouble_until_the_next_one_has_lasted() {
    let mut config = KafkaIngestConfig::default();
    config.properties.insert("group.instance.id".into(), "one".into());
    let connectivity = Connectivity::of_group("consumer", &config);
    connectivity.served();
    connectivity.ended(Code::FencedInstanceId, "Fatal consumer error", Duration::from_secs(1));
    connectivity.served();
    let state = connectivity.state();
    assert!(state.reachable);
    let sentence = state.trouble.expect("there is trouble");
    assert!(sentence.contains("group.instance.id") && sentence.contains("\"one\""), "{sentence}");
    connectivity.recovered();
    assert_eq!(connectivity.state().trouble, None);
}

#[test]
fn a_broker_that_hangs_up_without_an_error_is_told_by_how_it_did_so() {
    let connectivity = Connectivity::new("consumer");
    connectivity.disconnected(
        "[thrd:b:9/bootstrap]: b:9/bootstrap: Disconnected: connection closed by peer \
         (after 4ms in state APIVERSION_QUERY)",
    );
    connectivity.failed(Code::AllBrokersDown, "0/1 brokers are down");
    let sentence = connectivity.state().trouble.expect("there is trouble");
    for said in ["no broker can be reached", "b:9: Disconnected", "security.protocol"] {
        assert!(sentence.contains(said), "{said} in {sentence}");
    }
}

#[test]
fn a_topic_that_is_denied_stays_so_until_partitions_come() {
    let connectivity = Connectivity::new("consumer");
    connectivity.failed(Code::TopicAuthorizationFailed, "Topic authorization failed");
    connectivity.answered();
    assert!(connectivity.state().reachable);
    assert!(connectivity.state().trouble.is_some());
    connectivity.served();
    assert_eq!(connectivity.state().trouble, None);
}
