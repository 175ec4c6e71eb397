//! The tokens that requests bring, and what each allows. Files are read again while the server
//! runs, by their content, so that it does not matter how they are replaced.

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::{PoisonError, RwLock};
use std::time::Duration;

use chrono::{DateTime, SecondsFormat, Utc};
use secrecy::ExposeSecret;
use sha2::{Digest, Sha256};
use subtle::{Choice, ConditionallySelectable, ConstantTimeEq};

use crate::config::{Role, TokenConfig, TokenSource};
use crate::health::{Problem, ProblemKind};
use crate::model::clock::{Clock, SystemClock};

/// How often files are read: a new value is used well within the documented 10 s.
pub(super) const READ_EVERY: Duration = Duration::from_secs(3);

/// The maximum size of a token's file, in bytes.
const MAX_BYTES: u64 = 4096;

/// Only the hash of a token is kept. All hashes have one length, so that a comparison takes the
/// same time for each.
type Fingerprint = [u8; 32];

/// All tokens. Without any, everything is allowed to everybody.
#[derive(Debug, Default)]
pub(super) struct Tokens(Vec<Entry>);

/// The sender of a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Caller {
    /// The name of the token; none without tokens.
    pub(super) name: Option<String>,
    pub(super) role: Role,
}

#[derive(Debug)]
struct Entry {
    name: String,
    role: Role,
    /// The file of its value, if the configuration does not contain the value.
    file: Option<PathBuf>,
    now: RwLock<Now>,
}

#[derive(Debug)]
struct Now {
    fingerprint: Fingerprint,
    /// Why the value in its file is not used, and since when.
    trouble: Option<(String, DateTime<Utc>)>,
}

impl Tokens {
    /// Reads every token.
    ///
    /// # Errors
    /// The name of the token and what is wrong with its value or file, as a sentence.
    pub(super) fn read(configured: &[TokenConfig]) -> Result<Self, String> {
        configured.iter().map(Entry::read).collect::<Result<_, _>>().map(Self)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whose token `presented` is. Every token is compared, in a time that does not depend on
    /// any; of two with one value the one that allows more counts.
    pub(super) fn find(&self, presented: &[u8]) -> Option<Caller> {
        let presented = fingerprint(presented);
        let mut found = 0_u32;
        let mut entries: Vec<&Entry> = self.0.iter().collect();
        entries.sort_by_key(|entry| entry.role);
        for (number, entry) in (1_u32..).zip(&entries) {
            let now = entry.now.read().unwrap_or_else(PoisonError::into_inner);
            let is_it: Choice = now.fingerprint.ct_eq(&presented);
            found = u32::conditional_select(&found, &number, is_it);
        }
        let entry = entries.get((found as usize).checked_sub(1)?)?;
        Some(Caller { name: Some(entry.name.clone()), role: entry.role })
    }

    /// Reads the files again. A token whose file cannot be used keeps its last valid value.
    pub(super) fn read_again(&self) {
        self.0.iter().for_each(Entry::read_again);
    }

    /// The files that cannot be used at the moment, as problems of the instance.
    pub(super) fn problems(&self) -> Vec<Problem> {
        self.0.iter().filter_map(Entry::problem).collect()
    }
}

impl Entry {
    fn read(token: &TokenConfig) -> Result<Self, String> {
        let TokenConfig { name, role, source } = token;
        let (file, fingerprint) = match source {
            TokenSource::Value(value) if value.expose_secret().is_empty() => {
                return Err(format!("token {name} is empty: give it a value"));
            }
            TokenSource::Value(value) => (None, fingerprint(value.expose_secret().as_bytes())),
            TokenSource::File(file) => {
                let read = value_in(file).map_err(|why| format!("token {name}: {why}"))?;
                (Some(file.clone()), read)
            }
        };
        let now = RwLock::new(Now { fingerprint, trouble: None });
        Ok(Self { name: name.clone(), role: *role, file, now })
    }

    fn read_again(&self) {
        let Some(file) = &self.file else { return };
        let read = value_in(file);
        let mut now = self.now.write().unwrap_or_else(PoisonError::into_inner);
        let name = &self.name;
        match read {
            Ok(fingerprint) => {
                if fingerprint != now.fingerprint {
                    tracing::info!(token = %name, "http token {name} has a new value");
                } else if now.trouble.is_some() {
                    tracing::info!(token = %name, "the file of http token {name} is read again");
                }
                *now = Now { fingerprint, trouble: None };
            }
            Err(why) => {
                let since = now.trouble.as_ref().map(|(_, since)| *since);
                if since.is_none() {
                    tracing::warn!(token = %name, "http token {name}: {why}; its last value holds");
                }
                now.trouble = Some((why, since.unwrap_or_else(|| SystemClock.now())));
            }
        }
    }

    fn problem(&self) -> Option<Problem> {
        let now = self.now.read().unwrap_or_else(PoisonError::into_inner);
        let (why, since) = now.trouble.as_ref()?;
        Some(Problem {
            kind: ProblemKind::Setting,
            subject: format!("http token {}", self.name),
            message: format!("{why}; its last value holds"),
            since: since.to_rfc3339_opts(SecondsFormat::Millis, true),
        })
    }
}

/// The value in `file`, without the line end behind it. Opening follows symbolic links.
fn value_in(file: &Path) -> Result<Fingerprint, String> {
    let shown = file.display();
    let mut bytes = Vec::new();
    File::open(file)
        .and_then(|opened| opened.take(MAX_BYTES + 1).read_to_end(&mut bytes))
        .map_err(|error| format!("its file {shown} cannot be read: {error}"))?;
    if bytes.len() as u64 > MAX_BYTES {
        return Err(format!(
            "its file {shown} is longer than {MAX_BYTES} bytes, which is no token"
        ));
    }
    while bytes.last().is_some_and(|byte| matches!(byte, b'\n' | b'\r')) {
        bytes.pop();
    }
    if bytes.is_empty() {
        return Err(format!("its file {shown} is empty"));
    }
    Ok(fingerprint(&bytes))
}

fn fingerprint(token: &[u8]) -> Fingerprint {
    Sha256::digest(token).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_that_cannot_be_used_leaves_the_last_value_and_says_so() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("ops");
        let write = |text: &str| std::fs::write(&file, text).unwrap();
        assert!(Tokens::read(&[TokenConfig::of_file("ops", Role::Operate, &file)]).is_err());
        write("one\r\n");
        let tokens = Tokens::read(&[
            TokenConfig::of_file("ops", Role::Operate, &file),
            TokenConfig::new("ops", Role::Operate, "old"),
        ])
        .unwrap();
        let knows = |token: &str| tokens.find(token.as_bytes()).is_some();
        assert!(knows("one") && knows("old") && !knows("one\r\n") && !knows(""));
        write("two\n");
        tokens.read_again();
        assert!(knows("two") && !knows("one") && tokens.problems().is_empty());
        write("\n");
        tokens.read_again();
        assert!(knows("two") && !knows(""));
        let problems = tokens.problems();
        assert!(problems[0].message.contains("is empty; its last value holds"), "{problems:?}");
        assert_eq!(problems[0].subject, "http token ops");
        std::fs::remove_file(&file).unwrap();
        tokens.read_again();
        assert!(knows("two"));
        assert_eq!(tokens.problems()[0].since, problems[0].since);
        write("three");
        tokens.read_again();
        assert!(knows("three") && tokens.problems().is_empty());
    }

    #[test]
    fn of_two_tokens_with_one_value_the_one_that_allows_more_counts() {
        let token = |role| TokenConfig::new(role, Role::Read, "x");
        let tokens =
            Tokens::read(&[TokenConfig::new("admin", Role::Admin, "x"), token("reader")]).unwrap();
        assert_eq!(tokens.find(b"x").map(|caller| caller.role), Some(Role::Admin));
    }
}
