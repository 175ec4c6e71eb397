//! Suggests the known name that was probably meant.

/// The one of `known` that is most like `word`, letter case aside.
pub(crate) fn nearest<'a>(word: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let word = word.to_lowercase();
    let likeness = |name: &str| strsim::jaro_winkler(&word, &name.to_lowercase());
    known.into_iter().max_by(|a, b| likeness(a).total_cmp(&likeness(b)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slips_of_the_finger_and_of_memory_are_understood() {
        let known = ["topic", "topics", "dlq_topic", "group_id", "bootstrap_servers", "enabled"];
        for (word, meant) in [
            ("topik", "topic"),
            ("groupid", "group_id"),
            ("GROUP_ID", "group_id"),
            ("bootstrap.servers", "bootstrap_servers"),
            ("dlq", "dlq_topic"),
        ] {
            assert_eq!(nearest(word, known), Some(meant), "{word}");
        }
        assert_eq!(nearest("x", []), None);
    }
}
