//! What can be wrong with a configuration, each in one sentence.

use std::io;
use std::path::{Path, PathBuf};

use crate::kafka::KafkaConfigError;

/// Why there is no configuration. No variant ever holds a secret.
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
        /// What the parser says.
        problem: String,
    },
    /// A key that nobody knows.
    #[error("{key} is not a known key: did you mean {nearest}?")]
    UnknownKey {
        /// The whole key, and the variable that it came by.
        key: String,
        /// The known key that is most like it.
        nearest: String,
    },
    /// A key or value that a later version will have.
    #[error("{what} is not available in this version: leave it out")]
    NotAvailable {
        /// The key, with its value where that is what is missing.
        what: String,
    },
    /// A value that cannot be, by itself or beside another.
    #[error("{key} {problem}")]
    Invalid {
        /// The whole key, and the variable that it came by.
        key: String,
        /// The value, what is wrong with it, and the way out.
        problem: String,
    },
    /// A setting of Kafka's.
    #[error("kafka.{0}")]
    Kafka(KafkaConfigError),
}

impl ConfigError {
    /// The value of `key` cannot be; `problem` goes on with the sentence.
    pub(super) fn invalid(key: impl Into<String>, problem: impl Into<String>) -> Self {
        Self::Invalid { key: key.into(), problem: problem.into() }
    }

    /// Names the file that was read, where the sentence needs it.
    pub(super) fn in_file(mut self, path: &Path) -> Self {
        if let Self::Syntax { file, .. } = &mut self {
            path.clone_into(file);
        }
        self
    }
}
