//! Sets a new session to what `settings` requires, reads that back, and refuses a session that
//! differs.

use std::time::Duration;

use futures::TryStreamExt;
use futures::future::BoxFuture;
use sqlx::mysql::MySqlConnection;
use sqlx::postgres::PgConnection;
use sqlx::{AssertSqlSafe, Connection, Either, Row};

use super::settings::{Setting, Shown, names_of_mysql, of_mysql, of_postgres};

/// The rules that a session is set up by.
#[derive(Clone, Debug)]
pub(super) struct Rules {
    pub(super) lease: Duration,
    /// The settings in the URL, on PostgreSQL.
    pub(super) given: Vec<(String, String)>,
}

/// Why a session was refused, and what to do about it.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(super) struct Refusal(String);

/// A session that can be set up.
pub(super) trait Session: Connection {
    /// Applies the rules and reads the settings back.
    ///
    /// # Errors
    /// A [`Refusal`] within [`sqlx::Error::Configuration`], or the error that ended the session.
    fn set_up<'c>(&'c mut self, rules: &'c Rules) -> BoxFuture<'c, sqlx::Result<()>>;
}

impl Session for PgConnection {
    fn set_up<'c>(&'c mut self, rules: &'c Rules) -> BoxFuture<'c, sqlx::Result<()>> {
        Box::pin(set_up_postgres(self, rules))
    }
}

impl Session for MySqlConnection {
    fn set_up<'c>(&'c mut self, rules: &'c Rules) -> BoxFuture<'c, sqlx::Result<()>> {
        Box::pin(set_up_mysql(self, rules))
    }
}

/// Why the session was refused, if it was.
pub(super) fn refusal(error: &sqlx::Error) -> Option<&Refusal> {
    match error {
        sqlx::Error::Configuration(why) => why.downcast_ref(),
        _ => None,
    }
}

fn refuse(why: String) -> sqlx::Error {
    sqlx::Error::Configuration(Box::new(Refusal(why)))
}

/// Takes one round trip, since every new session waits for it.
async fn set_up_postgres(connection: &mut PgConnection, rules: &Rules) -> sqlx::Result<()> {
    let path = rules.given.iter().find(|(name, _)| name == "search_path");
    let settings = of_postgres(rules.lease, path.map(|(_, value)| value.as_str()));
    let ours = |name: &str| settings.iter().any(|setting| setting.name == name);
    let given = rules.given.iter().filter(|(name, _)| !ours(name));
    // First of all, so that a short limit does not cancel the following statements.
    let mut sql = String::from("set statement_timeout = 0;");
    sql.extend(given.map(|(name, value)| {
        format!("select set_config({}, {}, false);", quoted(name), quoted(value))
    }));
    let rows: Vec<String> = settings
        .iter()
        .map(|setting| {
            let allowed: Vec<String> = setting.allowed().map(quoted).collect();
            format!("({}, array[{}])", quoted(setting.name), allowed.join(","))
        })
        .collect();
    let names: Vec<String> = settings.iter().map(|setting| quoted(setting.name)).collect();
    let read = format!("select name, setting from pg_settings where name in ({})", names.join(","));
    // Only settings that differ are set, because some require permissions.
    sql += &format!(
        "select set_config(w.name, w.allowed[1], false) from (values {}) as w(name, allowed) \
         join pg_settings as s on s.name = w.name where s.setting <> all (w.allowed); {read}",
        rows.join(",")
    );
    match read_postgres(connection, &sql).await {
        Ok(shown) => check(&settings, &shown, None),
        Err(sqlx::Error::Database(error)) => {
            let shown = read_postgres(connection, &read).await?;
            let message = error.message().to_owned();
            // The message names the setting that was refused: it is reported rather than others.
            let (named, others): (Vec<_>, Vec<_>) =
                settings.into_iter().partition(|setting| message.contains(setting.name));
            let in_order: Vec<Setting> = named.into_iter().chain(others).collect();
            check(&in_order, &shown, Some(&message))?;
            Err(sqlx::Error::Database(error))
        }
        Err(error) => Err(error),
    }
}

async fn read_postgres(connection: &mut PgConnection, sql: &str) -> sqlx::Result<Shown> {
    let mut shown = Shown::new();
    let mut results = sqlx::raw_sql(AssertSqlSafe(sql.to_owned())).fetch_many(connection);
    while let Some(result) = results.try_next().await? {
        // The rows of `set_config` have one column.
        if let Either::Right(row) = result
            && row.len() == 2
        {
            shown.insert(row.try_get(0)?, row.try_get(1)?);
        }
    }
    Ok(shown)
}

/// Quotes a text independently of `standard_conforming_strings`.
fn quoted(text: &str) -> String {
    format!("E'{}'", text.replace('\\', "\\\\").replace('\'', "''"))
}

/// Lifts the limits of reads, which would apply to reading the settings too.
const UNLIMITED_READS_OF_MYSQL: &str =
    "set session sql_big_selects = 1, sql_select_limit = 18446744073709551615";

async fn set_up_mysql(connection: &mut MySqlConnection, rules: &Rules) -> sqlx::Result<()> {
    let names: Vec<String> = names_of_mysql().iter().map(|name| format!("'{name}'")).collect();
    let read = format!("show session variables where variable_name in ({})", names.join(","));
    let shown = read_mysql(connection, &format!("{UNLIMITED_READS_OF_MYSQL}; {read}")).await?;
    let settings = of_mysql(rules.lease, &shown);
    let differ: Vec<&Setting> =
        settings.iter().filter(|setting| setting.is_to_set(&shown)).collect();
    if differ.is_empty() {
        return check(&settings, &shown, None);
    }
    let all: Vec<String> = differ.iter().map(|setting| assignment(setting)).collect();
    match read_mysql(connection, &format!("set session {}; {read}", all.join(", "))).await {
        Ok(shown) => check(&settings, &shown, None),
        Err(sqlx::Error::Database(error)) => {
            // The message does not name the setting that was refused.
            for setting in differ {
                let set = format!("set session {}", assignment(setting));
                if let Err(sqlx::Error::Database(error)) = read_mysql(connection, &set).await {
                    check(std::slice::from_ref(setting), &shown, Some(error.message()))?;
                }
            }
            Err(sqlx::Error::Database(error))
        }
        Err(error) => Err(error),
    }
}

async fn read_mysql(connection: &mut MySqlConnection, sql: &str) -> sqlx::Result<Shown> {
    let mut shown = Shown::new();
    let mut results = sqlx::raw_sql(AssertSqlSafe(sql.to_owned())).fetch_many(connection);
    while let Some(result) = results.try_next().await? {
        if let Either::Right(row) = result {
            shown.insert(row.try_get(0)?, row.try_get(1)?);
        }
    }
    Ok(shown)
}

fn assignment(setting: &Setting) -> String {
    let (name, value) = (setting.name, setting.value());
    let is_number = value.bytes().all(|b| b.is_ascii_digit() || b == b'.');
    if is_number { format!("{name} = {value}") } else { format!("{name} = '{value}'") }
}

/// Fails for a setting that is not as required. `refused` is the server's error on setting it.
fn check(settings: &[Setting], shown: &Shown, refused: Option<&str>) -> sqlx::Result<()> {
    let Some(violated) = settings.iter().find(|setting| setting.is_violated(shown)) else {
        return Ok(());
    };
    let Setting { name, why, .. } = violated;
    let allowed = violated.shown_allowed();
    let is = match shown.get(*name) {
        Some(value) => format!("is {value}"),
        None => "is unknown to it".to_owned(),
    };
    let remedy = match refused {
        Some(said) => format!(
            "this user may not set it ({said}): have an administrator set it for the server or \
             for this user"
        ),
        None => "it was set and does not keep its value: connect to the server itself, or through a pooler \
                 that gives each connection a session of its own"
            .to_owned(),
    };
    Err(refuse(format!(
        "its session setting {name} {is} and must be {allowed}, since {why}; {remedy}"
    )))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_names_the_setting_its_value_and_the_remedy() {
        let settings = of_postgres(Duration::from_secs(10), None);
        let shown = [("session_replication_role".to_owned(), "replica".to_owned())].into();
        let settings: Vec<Setting> =
            settings.into_iter().filter(|s| s.name == "session_replication_role").collect();
        let error = check(&settings, &shown, Some("permission denied")).unwrap_err();
        assert_eq!(
            refusal(&error).unwrap().to_string(),
            "its session setting session_replication_role is replica and must be origin, since \
             triggers and rules of the tables would not run; this user may not set it (permission \
             denied): have an administrator set it for the server or for this user"
        );
        let error = check(&settings, &shown, None).unwrap_err();
        assert!(refusal(&error).unwrap().to_string().contains("through a pooler"), "{error}");
    }

    #[test]
    fn values_are_quoted_whatever_the_session_takes_a_backslash_for() {
        assert_eq!(quoted(r"a'b\c"), r"E'a''b\\c'");
    }
}
