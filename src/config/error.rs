//! Errors of a configuration, each in one sentence.

use std::io;
use std::path::{Path, PathBuf};

use crate::kafka::KafkaConfigError;

/// Why the configuration is invalid. No variant contains a secret.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("{} cannot be read: {source}", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The file is not TOML.
    #[error("{} is not TOML at line {line}: {problem}", file.display())]
    Syntax {
        /// The file.
        file: PathBuf,
        /// The line, from 1.
        line: usize,
        /// The parser's error.
        problem: String,
    },
    /// An unknown key.
    #[error("{key} is not a known key: did you mean {nearest}?")]
    UnknownKey {
        /// The full key, and the variable that set it.
        key: String,
        /// The most similar known key.
        nearest: String,
    },
    /// A key or value that a later version will have.
    #[error("{what} is not available in this version: leave it out")]
    NotAvailable {
        /// The key, with its value if only that is not available.
        what: String,
    },
    /// An illegal value, by itself or in combination with another.
    #[error("{key} {problem}")]
    Invalid {
        /// The full key, and the variable that set it.
        key: String,
        /// The value, what is wrong with it, and the way out.
        problem: String,
    },
    /// An invalid setting of Kafka.
    #[error("kafka.{0}")]
    Kafka(KafkaConfigError),
}

impl ConfigError {
    /// An illegal value of `key`; `problem` continues the sentence after it.
    pub(super) fn invalid(key: impl Into<String>, problem: impl Into<String>) -> Self {
        Self::Invalid { key: key.into(), problem: problem.into() }
    }

    /// Adds the name of the file, if the sentence needs it.
    pub(super) fn in_file(mut self, path: &Path) -> Self {
        if let Self::Syntax { file, .. } = &mut self {
            path.clone_into(file);
        }
        self
    }
}
