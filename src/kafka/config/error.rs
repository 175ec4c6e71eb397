//! What is wrong with Kafka settings.

/// Invalid Kafka settings. The text begins with the field's name.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum KafkaConfigError {
    /// Commits by librdkafka would lose records.
    #[error(
        "enable_auto_commit = true is refused, because offsets are kept in the database with the \
         jobs and follow it: leave it out"
    )]
    AutoCommit,
    /// A field's value is invalid.
    #[error("{field} {problem}")]
    Field {
        /// The field.
        field: &'static str,
        /// Its value, what is wrong with it, and the way out.
        problem: String,
    },
    /// The value of a property contains a character that can only be a mistake.
    #[error("properties.\"{property}\" {problem}")]
    PropertyValue {
        /// The property.
        property: String,
        /// What its value contains, and the way out; never the value itself.
        problem: String,
    },
    /// A property that this system sets itself.
    #[error("properties.\"{property}\" is refused, because {reason}")]
    OwnedProperty {
        /// The property.
        property: String,
        /// Why this system sets it, and the way out.
        reason: &'static str,
    },
    /// A property that contradicts another setting.
    #[error("properties.\"{property}\" = {problem}")]
    Unfit {
        /// The property.
        property: String,
        /// Its value, what it contradicts, and the way out.
        problem: String,
    },
    /// A property that librdkafka refuses.
    #[error(
        "properties.\"{property}\" is refused by librdkafka ({problem}): correct it or leave it out"
    )]
    Property {
        /// The property.
        property: String,
        /// librdkafka's error.
        problem: String,
    },
}
