//! The database's URL, whose password is never shown.

use std::fmt;
use std::num::NonZeroU32;

use secrecy::{ExposeSecret, SecretString};

use super::ConfigError;
use crate::store::redact;

/// The database.
#[derive(Clone)]
#[non_exhaustive]
pub struct DatabaseConfig {
    /// `sqlite://`, `postgres://` (or `postgresql://`) or `mysql://`; `mariadb://` is converted
    /// to `mysql://`. Default `sqlite://infinite-scheduler.db?mode=rwc`.
    pub url: SecretString,
    /// The maximum number of connections. Default 10.
    pub max_connections: NonZeroU32,
}

impl DatabaseConfig {
    /// Accepts a URL of one of the three kinds of database.
    pub(super) fn new(url: &str, max_connections: NonZeroU32) -> Result<Self, ConfigError> {
        const KINDS: &str = "sqlite://, postgres:// or mysql://";
        let key = "database.url";
        let Some((scheme, rest)) = url.split_once(':') else {
            return Err(ConfigError::invalid(key, format!("must begin with {KINDS}")));
        };
        let scheme = match scheme {
            "sqlite" | "postgres" | "postgresql" | "mysql" => scheme,
            // sea-orm has one scheme for MariaDB and MySQL.
            "mariadb" => "mysql",
            other => {
                // In a malformed URL the text before the colon may be a user or a password.
                let shown = if rest.starts_with("//") {
                    format!("begins with {other}://, but ")
                } else {
                    String::new()
                };
                return Err(ConfigError::invalid(key, format!("{shown}must begin with {KINDS}")));
            }
        };
        if scheme != "sqlite" && !rest.starts_with("//") {
            let problem = format!(
                "must continue with // after {scheme}: as in {scheme}://user:password@host/database"
            );
            return Err(ConfigError::invalid(key, problem));
        }
        Ok(Self { url: format!("{scheme}:{rest}").into(), max_connections })
    }

    /// The URL for logs: passwords are `***`.
    pub fn shown_url(&self) -> String {
        redact(self.url.expose_secret())
    }
}

impl fmt::Debug for DatabaseConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DatabaseConfig")
            .field("url", &self.shown_url())
            .field("max_connections", &self.max_connections)
            .finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn passwords_are_hidden_however_they_are_written() {
        for (url, meant) in [
            ("postgres://u:pw@h:5432/db", "postgres://u:***@h:5432/db"),
            ("mysql://u:p@w/x?y:z@h/db", "mysql://***"),
            ("postgres://u:pw@h/db?password=ab@cd", "postgres://***"),
            (
                "postgres://u@h/db?password=pw&sslmode=off",
                "postgres://u@h/db?password=***&sslmode=off",
            ),
            ("postgres://h/db", "postgres://h/db"),
            ("sqlite://jobs.db?mode=rwc", "sqlite://jobs.db?mode=rwc"),
            ("sqlite::memory:", "***"),
        ] {
            assert_eq!(redact(url), meant);
        }
    }

    #[test]
    fn other_databases_are_refused_by_naming_the_three() {
        for url in ["oracle://u:pw@h/db", "u:pw@h/db", "jobs.db", "", "mysql:u:pw@h"] {
            let sentence = DatabaseConfig::new(url, NonZeroU32::MIN).unwrap_err().to_string();
            assert!(sentence.starts_with("database.url "), "{sentence}");
            assert!(sentence.contains("mysql://") && !sentence.contains("pw"), "{sentence}");
        }
    }

    #[test]
    fn mariadb_is_an_alias() {
        let database = DatabaseConfig::new("mariadb://u:pw@h/db", NonZeroU32::MIN).unwrap();
        assert_eq!(database.url.expose_secret(), "mysql://u:pw@h/db");
        assert_eq!(
            format!("{database:?}"),
            r#"DatabaseConfig { url: "mysql://u:***@h/db", max_connections: 1 }"#
        );
    }
}
