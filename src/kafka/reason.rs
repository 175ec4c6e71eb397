//! Rewrites librdkafka's text of a failure for people: without what changes from one attempt to
//! the next, so that the same failure has the same text, and with a way out.

/// A broker that closes a connection this soon after it was opened probably expects TLS or SASL.
const SOON_MS: u64 = 2000;

/// The failure that `text` reports, an error's reason or a log line.
pub(super) fn reason(text: &str) -> String {
    let (text, when) = without_time(without_thread(text));
    let text = without_node(text.trim_end_matches('.'));
    match way_out(&text, when) {
        Some(way_out) => format!("{text}: {way_out}"),
        None => text,
    }
}

/// Whether `text` reports a connection that a broker closed after it had been in use for a while.
pub(super) fn was_idle(text: &str) -> bool {
    let (text, when) = without_time(text);
    let in_use = when.and_then(|when| when.split_once("ms in state "));
    text.contains("Disconnected")
        && in_use.is_some_and(|(ms, state)| {
            state.starts_with("UP") && ms.parse::<u64>().is_ok_and(|ms| ms >= SOON_MS)
        })
}

/// Log lines begin with `[thrd:..]: `.
fn without_thread(line: &str) -> &str {
    match line.strip_prefix("[thrd:").and_then(|line| line.split_once("]: ")) {
        Some((_, text)) => text,
        None => line,
    }
}

/// Broken connections end in `(after 12ms in state UP, 3 identical error(s) suppressed)`.
fn without_time(text: &str) -> (&str, Option<&str>) {
    match text.rsplit_once(" (after ") {
        Some((text, when)) => (text, Some(when)),
        None => (text, None),
    }
}

/// A broker is `host:port/bootstrap` first and `host:port/1` later, a difference that matters
/// only to librdkafka.
fn without_node(text: &str) -> String {
    let Some((broker, rest)) = text.split_once(": ") else { return text.to_owned() };
    match broker.rsplit_once('/') {
        Some((address, node)) if is_node(node) => format!("{address}: {rest}"),
        _ => text.to_owned(),
    }
}

fn is_node(text: &str) -> bool {
    text == "bootstrap" || (!text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit()))
}

/// What to look at, where librdkafka does not say so itself.
fn way_out(text: &str, when: Option<&str>) -> Option<&'static str> {
    if text.contains("SASL authentication error") {
        return Some("check \"sasl.username\" and \"sasl.password\" in kafka.properties");
    }
    if text.contains("Unsupported SASL mechanism") {
        return Some("check \"sasl.mechanism\" in kafka.properties");
    }
    if text.contains("acquire idempotence PID") && text.contains("authorization failed") {
        return Some("allow WRITE on the topics that are written to");
    }
    if text.contains("Topic authorization failed") {
        return Some("allow READ and DESCRIBE on the topic");
    }
    if text.contains("Group authorization failed") {
        return Some("allow READ on the group");
    }
    if text.contains(".location failed") {
        return Some("check that the file exists, is readable and is PEM");
    }
    if text.contains("Disconnected") && when.is_some_and(is_unwelcome) {
        return Some("it may demand TLS or SASL: check \"security.protocol\" in kafka.properties");
    }
    None
}

/// Whether a connection ended as one does that the broker could not parse.
fn is_unwelcome(when: &str) -> bool {
    let Some((ms, state)) = when.split_once("ms in state ") else { return false };
    let soon = ms.parse::<u64>().is_ok_and(|ms| ms < SOON_MS);
    state.starts_with("APIVERSION_QUERY") || (soon && state.starts_with("UP"))
}

#[cfg(test)]
mod tests {
    use super::*;

    const TLS_OR_SASL: &str =
        "it may demand TLS or SASL: check \"security.protocol\" in kafka.properties";

    #[test]
    fn the_same_trouble_reads_the_same_and_says_the_way_out() {
        for (text, said) in [
            ("1/1 brokers are down", "1/1 brokers are down".to_owned()),
            (
                "127.0.0.1:1/bootstrap: Connect to ipv4#127.0.0.1:1 failed: Connection refused \
                 (after 0ms in state CONNECT, 1 identical error(s) suppressed)",
                "127.0.0.1:1: Connect to ipv4#127.0.0.1:1 failed: Connection refused".to_owned(),
            ),
            (
                "sasl_ssl://b:9/12: SASL authentication error: Authentication failed (after 9ms in \
                 state AUTH_REQ)",
                "sasl_ssl://b:9: SASL authentication error: Authentication failed: check \
                 \"sasl.username\" and \"sasl.password\" in kafka.properties"
                    .to_owned(),
            ),
            (
                "[thrd:b:9/bootstrap]: b:9/bootstrap: Disconnected: connection closed by peer \
                 (after 4ms in state APIVERSION_QUERY, 1 identical error(s) suppressed)",
                format!("b:9: Disconnected: connection closed by peer: {TLS_OR_SASL}"),
            ),
            (
                "[thrd:ssl://b:9/1]: ssl://b:9/1: Disconnected: SSL connection closed by peer \
                 (after 15ms in state UP)",
                format!("ssl://b:9: Disconnected: SSL connection closed by peer: {TLS_OR_SASL}"),
            ),
            (
                "b:9/1: Disconnected: connection closed by peer (after 600000ms in state UP)",
                "b:9: Disconnected: connection closed by peer".to_owned(),
            ),
            (
                "FindCoordinator response error: Group authorization failed.",
                "FindCoordinator response error: Group authorization failed: allow READ on the group"
                    .to_owned(),
            ),
            (
                "GroupCoordinator: b:9: Disconnected (after 600000ms in state UP)",
                "GroupCoordinator: b:9: Disconnected".to_owned(),
            ),
        ] {
            assert_eq!(reason(text), said);
        }
    }
}
