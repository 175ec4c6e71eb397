//! Connects to the database.

use std::sync::{Arc, RwLock};
use std::time::Duration;

use futures::future::BoxFuture;
use sea_orm::{
    ConnectOptions, Database, DatabaseConnection, SqlxMySqlConnector, SqlxPostgresConnector,
};
use sqlx::Connection;
use sqlx::mysql::{MySqlConnectOptions, MySqlPoolOptions};
use sqlx::postgres::{PgConnectOptions, PgPoolOptions};
use tokio::sync::Mutex;

use super::session::{Rules, Session};
use super::sessions::Sessions;
use super::sqlite::{self, Sqlite};
use super::{Driver, Error, Inner, Result, Store, pooler, settings};

/// The options of a connection.
#[derive(Clone, Debug)]
pub struct StoreOptions {
    /// `sqlite://`, `postgres://` or `mysql://`. It may contain a password, so it is never printed.
    pub url: secrecy::SecretString,
    /// The size of the pool, without the connection for heartbeats.
    pub max_connections: u32,
    /// The lease of an instance. It limits how long the session of a frozen process may hold locks.
    pub lease: Duration,
}

impl Store {
    /// Opens the pools: `max_connections`, and one more for heartbeats.
    ///
    /// # Errors
    /// [`Error::Unusable`] for a URL of an unsupported database; [`Error::Unavailable`] if the server
    /// does not answer.
    pub async fn connect(options: &StoreOptions) -> Result<Self> {
        use secrecy::ExposeSecret;
        let url = options.url.expose_secret();
        let scheme = url.split(':').next().unwrap_or_default();
        let inner = match scheme {
            "sqlite" => connect_sqlite(url, options).await,
            "postgres" | "postgresql" => connect_postgres(url, options).await,
            "mysql" | "mariadb" => connect_mysql(url, options).await,
            other => Err(Error::Unusable(format!(
                "database.url begins with \"{other}\": use sqlite://, postgres:// or mysql://"
            ))),
        }?;
        Ok(Self { inner: Arc::new(inner) })
    }

    /// Opens a new session to find out why the database does not answer. `None` if it does, or if
    /// that is not known after `max_wait`.
    pub async fn trouble(&self, max_wait: Duration) -> Option<Error> {
        let tried = tokio::time::timeout(max_wait, (self.inner.open_session)()).await;
        tried.ok()?.err()
    }

    /// Opens and closes a session outside of the pools. Does nothing on SQLite, which has no
    /// sessions.
    ///
    /// # Errors
    /// [`Error::Unavailable`] or [`Error::Unusable`] if no session can be opened.
    pub async fn knock(&self) -> Result<()> {
        if self.is_embedded() {
            return Ok(());
        }
        let answer = (self.inner.open_session)().await;
        if !matches!(answer, Err(Error::Unusable(_))) {
            // The reason for the last refusal no longer applies.
            self.inner.sessions.forget_refusal();
        }
        answer
    }

    /// Replaces an error by the reason why the last new session was refused, if one was.
    pub fn explain(&self, error: Error) -> Error {
        match (&error, self.inner.sessions.refused()) {
            (Error::Unavailable(_), Some(why)) => Error::Unusable(why),
            _ => error,
        }
    }

    /// Abandons all sessions and opens new ones as they are needed.
    pub fn leave_sessions(&self) {
        self.inner.sessions.retire();
        self.reconnect_heartbeat();
    }
}

/// Opens and closes a session outside of the pools.
pub(super) type OpenSession = Box<dyn Fn() -> BoxFuture<'static, Result<()>> + Send + Sync>;

/// The URL without its secrets, to be shown.
///
/// Hides too much rather than too little: everything from the first colon after the scheme to the
/// last `@`, because a password may contain any character unescaped, and every parameter that may
/// be a secret.
pub fn redact(url: &str) -> String {
    let Some((scheme, rest)) = url.split_once("://") else {
        return "***".into();
    };
    let rest = match rest.rsplit_once('@') {
        // It is ambiguous whether the `?` is part of the password or begins the parameters.
        Some((login, _)) if login.contains('?') => "***".to_owned(),
        Some((login, place)) => {
            let user = login.split_once(':').map_or(login, |(user, _)| user);
            let hidden = if login.contains(':') { ":***" } else { "" };
            format!("{user}{hidden}@{place}")
        }
        None => rest.to_owned(),
    };
    let Some((place, parameters)) = rest.split_once('?') else {
        return format!("{scheme}://{rest}");
    };
    let shown: Vec<_> = parameters.split('&').map(shown_parameter).collect();
    format!("{scheme}://{place}?{}", shown.join("&"))
}

fn shown_parameter(parameter: &str) -> String {
    let name = parameter.split('=').next().unwrap_or_default();
    let is_secret = ["password", "secret", "key"].iter().any(|part| name.contains(part));
    if is_secret { format!("{name}=***") } else { parameter.to_owned() }
}

async fn connect_postgres(url: &str, options: &StoreOptions) -> Result<Inner> {
    let session_options: PgConnectOptions = url.parse().map_err(|error| unusable(url, &error))?;
    // A pooler may reject the startup parameter `extra_float_digits`, and it is not needed.
    let session_options =
        session_options.application_name("infinite-scheduler").extra_float_digits(None);
    let given = session_options.get_options().map(given_settings).unwrap_or_default();
    let rules = Rules { lease: options.lease, given };
    pooler::refuse_transaction_pooling(&session_options, &rules).await?;
    check_encoding(&session_options).await?;
    let sessions = Sessions::new(ping_max_wait(options.lease), rules.clone());
    let pool_of = |size| PgPoolOptions::new().max_connections(size).acquire_timeout(ACQUIRE);
    let pool = sessions
        .with_checks(pool_of(options.max_connections))
        .connect_lazy_with(session_options.clone());
    let (options_of_probe, rules) = (session_options.clone(), Arc::new(rules));
    // A heartbeat tests its connection itself.
    let heartbeat_sessions = sessions.clone();
    let connect_heartbeat = move || {
        let pool =
            heartbeat_sessions.with_set_up(pool_of(1)).connect_lazy_with(session_options.clone());
        SqlxPostgresConnector::from_sqlx_postgres_pool(pool)
    };
    Ok(Inner {
        sessions,
        open_session: Box::new(move || {
            let (options, rules) = (options_of_probe.clone(), rules.clone());
            Box::pin(async move { try_session::<sqlx::PgConnection>(&options, &rules).await })
        }),
        pool: SqlxPostgresConnector::from_sqlx_postgres_pool(pool.clone()),
        heartbeat: RwLock::new(connect_heartbeat()),
        connect_heartbeat: Box::new(connect_heartbeat),
        batch_turns: Mutex::default(),
        driver: Driver::Postgres(pool),
    })
}

async fn connect_mysql(url: &str, options: &StoreOptions) -> Result<Inner> {
    let url = url.replacen("mariadb:", "mysql:", 1);
    let session_options: MySqlConnectOptions =
        url.parse().map_err(|error| unusable(&url, &error))?;
    // All of these are among our settings, which are set in one statement.
    let session_options = session_options
        .pipes_as_concat(false)
        .no_engine_substitution(false)
        .timezone(None)
        .set_names(false);
    let rules = Rules { lease: options.lease, given: Vec::new() };
    try_session::<sqlx::MySqlConnection>(&session_options, &rules).await?;
    let sessions = Sessions::new(ping_max_wait(options.lease), rules.clone());
    let pool_of = |size| MySqlPoolOptions::new().max_connections(size).acquire_timeout(ACQUIRE);
    // Shorter than the limit after which MySQL closes an idle session.
    let idle = settings::idle_limit_of_mysql(options.lease) / 2;
    let pool = sessions
        .with_checks(pool_of(options.max_connections).idle_timeout(idle))
        .connect_lazy_with(session_options.clone());
    let (options_of_probe, rules) = (session_options.clone(), Arc::new(rules));
    // A heartbeat tests its connection itself.
    let heartbeat_sessions = sessions.clone();
    let connect_heartbeat = move || {
        let pool =
            heartbeat_sessions.with_set_up(pool_of(1)).connect_lazy_with(session_options.clone());
        SqlxMySqlConnector::from_sqlx_mysql_pool(pool)
    };
    Ok(Inner {
        sessions,
        open_session: Box::new(move || {
            let (options, rules) = (options_of_probe.clone(), rules.clone());
            Box::pin(async move { try_session::<sqlx::MySqlConnection>(&options, &rules).await })
        }),
        pool: SqlxMySqlConnector::from_sqlx_mysql_pool(pool.clone()),
        heartbeat: RwLock::new(connect_heartbeat()),
        connect_heartbeat: Box::new(connect_heartbeat),
        batch_turns: Mutex::default(),
        driver: Driver::MySql(pool),
    })
}

async fn connect_sqlite(url: &str, options: &StoreOptions) -> Result<Inner> {
    let file = Arc::new(sqlite::File::parse(url)?);
    let rules = Rules { lease: options.lease, given: Vec::new() };
    let sessions = Sessions::new(ping_max_wait(options.lease), rules);
    let driver = Driver::Sqlite(Sqlite::open(&file)?);
    let mut options = ConnectOptions::new(url.to_owned());
    options.max_connections(4).sqlx_logging(false).map_sqlx_sqlite_opts(|options| {
        // The journal mode is stored in the file: it has a write-ahead log already.
        options.busy_timeout(sqlite::BUSY).foreign_keys(false).pragma("synchronous", "full")
    });
    let pool = connect_pool(options).await?;
    let shared = pool.clone();
    let connect_heartbeat = Box::new(move || shared.clone());
    let heartbeat = RwLock::new(pool.clone());
    let open_session: OpenSession = Box::new(move || Box::pin(sqlite::open_session(file.clone())));
    let batch_turns = Mutex::default();
    Ok(Inner { pool, heartbeat, connect_heartbeat, sessions, open_session, batch_turns, driver })
}

async fn connect_pool(options: ConnectOptions) -> Result<DatabaseConnection> {
    Ok(Database::connect(options).await?)
}

/// The longest wait for a connection of the pool.
const ACQUIRE: Duration = Duration::from_secs(10);

/// The longest wait for the answer of a session that is tested: shorter than a heartbeat may take.
fn ping_max_wait(lease: Duration) -> Duration {
    (lease / 3).min(Duration::from_secs(2))
}

/// Opens and closes a session. Pools connect lazily; this reports a wrong password or an impossible
/// setting at once.
async fn try_session<C>(options: &<C as Connection>::Options, rules: &Rules) -> Result<()>
where
    C: Session,
{
    let mut connection = C::connect_with(options).await?;
    connection.set_up(rules).await?;
    Ok(connection.close().await?)
}

/// Parses settings such as `-c search_path=mine -c geqo=off`, where a backslash escapes a blank
/// within a value. They are set again in each session, because a pooler may ignore them.
fn given_settings(options: &str) -> Vec<(String, String)> {
    let mut words = vec![String::new()];
    let mut chars = options.chars();
    while let Some(char) = chars.next() {
        match (char, words.last_mut()) {
            ('\\', Some(word)) => word.extend(chars.next()),
            (char, _) if char.is_whitespace() => words.push(String::new()),
            (char, Some(word)) => word.push(char),
            (_, None) => {}
        }
    }
    let setting = |word: &String| {
        let word = word.strip_prefix("--").or_else(|| word.strip_prefix("-c")).unwrap_or(word);
        let (name, value) = word.split_once('=')?;
        Some((name.to_owned(), value.to_owned()))
    };
    words.iter().filter_map(setting).collect()
}

/// Requests contain any text. A database that cannot store some of it would also refuse the dead
/// letter of such a request.
async fn check_encoding(connect: &PgConnectOptions) -> Result<()> {
    use sqlx::{ConnectOptions, Row};
    let mut connection = connect.connect().await?;
    let encoding: String =
        sqlx::query("show server_encoding").fetch_one(&mut connection).await?.try_get(0)?;
    connection.close().await?;
    if encoding == "UTF8" {
        return Ok(());
    }
    Err(Error::Unusable(format!(
        "its encoding is {encoding}, which cannot store every text: create it with \
         create database .. encoding 'UTF8' template template0"
    )))
}

fn unusable(url: &str, error: &sqlx::Error) -> Error {
    Error::Unusable(format!("database.url {} cannot be read: {error}", redact(url)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_that_a_url_gives_are_found() {
        let given = given_settings(r"-c search_path=mine,\ yours --geqo=off -cwork_mem=8MB -x");
        let wanted = [("search_path", "mine, yours"), ("geqo", "off"), ("work_mem", "8MB")];
        assert_eq!(given, wanted.map(|(name, value)| (name.to_owned(), value.to_owned())));
        let connect: PgConnectOptions =
            "postgres://h/d?options[search_path]=mine&options=-c%20geqo%3Doff".parse().unwrap();
        let given = given_settings(connect.get_options().unwrap());
        assert_eq!(given.len(), 2, "{given:?}");
    }
}
