//! Settings of the HTTP server: its address, its tokens with their roles, and the masks of
//! `jobData`.

use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::str::FromStr;

use secrecy::SecretString;
use serde::Deserialize;

/// The HTTP server.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct HttpConfig {
    /// The address it listens on; another one than loopback needs a token. Default
    /// `127.0.0.1:7070`.
    pub listen: SocketAddr,
    /// The tokens of which each request needs one. Default none: everything is allowed to
    /// everybody on this machine.
    pub tokens: Vec<TokenConfig>,
}

/// A token, and what it allows.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct TokenConfig {
    /// A name for logs and for the audit. Several tokens may share it while one is replaced.
    pub name: String,
    /// What it allows.
    pub role: Role,
    /// Where its value is.
    pub source: TokenSource,
}

/// Where a token's value is.
#[derive(Clone, Debug)]
pub enum TokenSource {
    /// In the configuration itself.
    Value(SecretString),
    /// In this file, which is read again while the server runs. A line end behind the value is
    /// no part of it.
    File(PathBuf),
}

/// What a token allows; each role allows what the ones before it do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// Looking at everything that is not masked.
    Read,
    /// Submitting, and operating on jobs and dead letters.
    Operate,
    /// Seeking as well.
    Admin,
}

/// A JSON pointer (RFC 6901) into `jobData`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JsonPointer(Vec<String>);

/// A text that is no JSON pointer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("is {0:?}, which is no JSON pointer into jobData: write it like \"/phoneNumber\"")]
pub struct InvalidPointer(String);

impl TokenConfig {
    /// The token `value`.
    pub fn new(name: impl Into<String>, role: Role, value: impl Into<String>) -> Self {
        let source = TokenSource::Value(SecretString::from(value.into()));
        Self { name: name.into(), role, source }
    }

    /// The token in the file at `path`.
    pub fn of_file(name: impl Into<String>, role: Role, path: impl Into<PathBuf>) -> Self {
        Self { name: name.into(), role, source: TokenSource::File(path.into()) }
    }
}

impl Role {
    /// Its name.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Read => "read",
            Self::Operate => "operate",
            Self::Admin => "admin",
        }
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl JsonPointer {
    /// The names on the way, from the outermost.
    pub fn names(&self) -> &[String] {
        &self.0
    }
}

impl FromStr for JsonPointer {
    type Err = InvalidPointer;

    fn from_str(text: &str) -> Result<Self, InvalidPointer> {
        let invalid = || InvalidPointer(text.to_owned());
        let rest = text.strip_prefix('/').ok_or_else(invalid)?;
        let name = |name: &str| {
            let tildes_mean_something =
                name.split('~').skip(1).all(|rest| rest.starts_with(['0', '1']));
            tildes_mean_something.then(|| name.replace("~1", "/").replace("~0", "~"))
        };
        rest.split('/').map(name).collect::<Option<_>>().map(Self).ok_or_else(invalid)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pointer_begins_with_a_slash_and_escapes_two_characters() {
        for (text, names) in [
            ("/phoneNumber", Some(&["phoneNumber"][..])),
            ("/a/0/b c", Some(&["a", "0", "b c"])),
            ("/a~1b/~0/~01", Some(&["a/b", "~", "~1"])),
            ("/", Some(&[""])),
            ("", None),
            ("phoneNumber", None),
            ("/a~2", None),
            ("/a~", None),
        ] {
            let read = text.parse::<JsonPointer>();
            assert_eq!(
                read.as_ref().ok().map(|read| read.names().join("|")),
                names.map(|names| names.join("|")),
                "{text}"
            );
        }
    }

    #[test]
    fn a_role_allows_what_those_before_it_do() {
        assert!(Role::Read < Role::Operate && Role::Operate < Role::Admin);
    }
}
