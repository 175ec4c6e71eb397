//! How the database is reached, and what every session of ours is told.

use std::sync::{Arc, RwLock};
use std::time::Duration;

use futures::future::BoxFuture;
use sea_orm::{
    ConnectOptions, Database, DatabaseConnection, SqlxMySqlConnector, SqlxPostgresConnector,
};
use sqlx::Connection;
use sqlx::mysql::{MySqlConnectOptions, MySqlPoolOptions};
use sqlx::postgres::{PgConnectOptions, PgPoolOptions};

use super::session::{Rules, Session};
use super::sessions::Sessions;
use super::sqlite::{self, Sqlite};
use super::{Error, Hot, Inner, Result, Store, pooler, settings};

/// Where the database is and how it is used.
#[derive(Clone, Debug)]
pub struct StoreOptions {
    /// `sqlite://`, `postgres://` or `mysql://`; may hold a password, so it is never printed.
    pub url: secrecy::SecretString,
    /// Connections beside the heartbeat's own.
    pub max_connections: u32,
    /// The lease of an instance: what bounds how long a frozen session may hold locks.
    pub lease: Duration,
}

impl Store {
    /// Opens the pools. The heartbeat's connection is one more than `max_connections`.
    ///
    /// # Errors
    /// [`Error::Unusable`] for a URL that names no database that we know;
    /// [`Error::Unavailable`] when the server does not answer.
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

    /// Why a database does not answer, if a session of its own finds out within `patience`.
    pub async fn trouble(&self, patience: Duration) -> Option<Error> {
        let tried = tokio::time::timeout(patience, (self.inner.try_anew)()).await;
        tried.ok()?.err()
    }

    /// Asks for a session of its own, outside of the pools; on a file, where there are no
    /// sessions, it asks nothing.
    ///
    /// # Errors
    /// [`Error::Unavailable`] or [`Error::Unusable`] if there is none to be had.
    pub async fn knock(&self) -> Result<()> {
        if self.is_embedded() {
            return Ok(());
        }
        let answer = (self.inner.try_anew)().await;
        if !matches!(answer, Err(Error::Unusable(_))) {
            // Whatever is wrong now, it is not that any more.
            self.inner.sessions.forget_refusal();
        }
        answer
    }

    /// The same error, with the reason why no new session could be used, if that is why.
    pub fn explain(&self, error: Error) -> Error {
        match (&error, self.inner.sessions.refused()) {
            (Error::Unavailable(_), Some(why)) => Error::Unusable(why),
            _ => error,
        }
    }

    /// Leaves every session that there is to its fate, and goes on with new ones.
    pub fn leave_sessions(&self) {
        self.inner.sessions.leave();
        self.reconnect_heartbeat();
    }
}

/// Makes a session that belongs to no pool.
pub(super) type TryAnew = Box<dyn Fn() -> BoxFuture<'static, Result<()>> + Send + Sync>;

/// The URL for people, without what gets one in.
///
/// Hides too much rather than too little: from the first colon after the scheme to the last
/// `@`, since a password may hold any sign unescaped, and all parameters that may be secret.
pub fn redact(url: &str) -> String {
    let Some((scheme, rest)) = url.split_once("://") else {
        return "***".into();
    };
    let rest = match rest.rsplit_once('@') {
        // Nobody can tell the password's `?` from that of the parameters.
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
    let is_secret = ["password", "secret", "key"].iter().any(|sign| name.contains(sign));
    if is_secret { format!("{name}=***") } else { parameter.to_owned() }
}

async fn connect_postgres(url: &str, options: &StoreOptions) -> Result<Inner> {
    let connect: PgConnectOptions = url.parse().map_err(|error| unusable(url, &error))?;
    // A pooler knows no such parameter of a start, and we need none.
    let connect = connect.application_name("infinite-scheduler").extra_float_digits(None);
    let given = connect.get_options().map(given_settings).unwrap_or_default();
    let rules = Rules { lease: options.lease, given };
    pooler::check_session(&connect, &rules).await?;
    check_encoding(&connect).await?;
    let sessions = Sessions::new(patience(options.lease), rules.clone());
    let pool_of = |size| PgPoolOptions::new().max_connections(size).acquire_timeout(ACQUIRE);
    let hot = sessions.watch(pool_of(options.max_connections)).connect_lazy_with(connect.clone());
    let (anew, rules) = (connect.clone(), Arc::new(rules));
    // The heartbeat is its own test of its connection.
    let of_heartbeat = sessions.clone();
    let connect_heartbeat = move || {
        let pool = of_heartbeat.set_up(pool_of(1)).connect_lazy_with(connect.clone());
        SqlxPostgresConnector::from_sqlx_postgres_pool(pool)
    };
    Ok(Inner {
        sessions,
        try_anew: Box::new(move || {
            let (anew, rules) = (anew.clone(), rules.clone());
            Box::pin(async move { check_session::<sqlx::PgConnection>(&anew, &rules).await })
        }),
        pool: SqlxPostgresConnector::from_sqlx_postgres_pool(hot.clone()),
        heartbeat: RwLock::new(connect_heartbeat()),
        connect_heartbeat: Box::new(connect_heartbeat),
        hot: Hot::Postgres(hot),
    })
}

async fn connect_mysql(url: &str, options: &StoreOptions) -> Result<Inner> {
    let url = url.replacen("mariadb:", "mysql:", 1);
    let connect: MySqlConnectOptions = url.parse().map_err(|error| unusable(&url, &error))?;
    // All of that is among our settings, and asked for at once.
    let connect = connect
        .pipes_as_concat(false)
        .no_engine_substitution(false)
        .timezone(None)
        .set_names(false);
    let rules = Rules { lease: options.lease, given: Vec::new() };
    check_session::<sqlx::MySqlConnection>(&connect, &rules).await?;
    let sessions = Sessions::new(patience(options.lease), rules.clone());
    let pool_of = |size| MySqlPoolOptions::new().max_connections(size).acquire_timeout(ACQUIRE);
    // Before MySQL ends it.
    let idle = settings::idle_limit_of_mysql(options.lease) / 2;
    let hot = sessions
        .watch(pool_of(options.max_connections).idle_timeout(idle))
        .connect_lazy_with(connect.clone());
    let (anew, rules) = (connect.clone(), Arc::new(rules));
    // The heartbeat is its own test of its connection.
    let of_heartbeat = sessions.clone();
    let connect_heartbeat = move || {
        let pool = of_heartbeat.set_up(pool_of(1)).connect_lazy_with(connect.clone());
        SqlxMySqlConnector::from_sqlx_mysql_pool(pool)
    };
    Ok(Inner {
        sessions,
        try_anew: Box::new(move || {
            let (anew, rules) = (anew.clone(), rules.clone());
            Box::pin(async move { check_session::<sqlx::MySqlConnection>(&anew, &rules).await })
        }),
        pool: SqlxMySqlConnector::from_sqlx_mysql_pool(hot.clone()),
        heartbeat: RwLock::new(connect_heartbeat()),
        connect_heartbeat: Box::new(connect_heartbeat),
        hot: Hot::MySql(hot),
    })
}

async fn connect_sqlite(url: &str, options: &StoreOptions) -> Result<Inner> {
    let file = Arc::new(sqlite::File::parse(url)?);
    let rules = Rules { lease: options.lease, given: Vec::new() };
    let sessions = Sessions::new(patience(options.lease), rules);
    let hot = Sqlite::open(&file)?;
    let mut options = ConnectOptions::new(url.to_owned());
    options.max_connections(4).sqlx_logging(false).map_sqlx_sqlite_opts(|options| {
        // The file says by itself that it has a write-ahead log.
        options.busy_timeout(sqlite::BUSY).foreign_keys(false).pragma("synchronous", "full")
    });
    let pool = connect_pool(options).await?;
    let same = pool.clone();
    let connect_heartbeat = Box::new(move || same.clone());
    let heartbeat = RwLock::new(pool.clone());
    let try_anew: TryAnew = Box::new(move || Box::pin(sqlite::try_anew(file.clone())));
    let hot = Hot::Sqlite(hot);
    Ok(Inner { pool, heartbeat, connect_heartbeat, sessions, try_anew, hot })
}

async fn connect_pool(options: ConnectOptions) -> Result<DatabaseConnection> {
    Ok(Database::connect(options).await?)
}

/// How long a caller waits for a connection of the pool before it calls that an outage.
const ACQUIRE: Duration = Duration::from_secs(10);

/// How long a session may take to say that it is there: less than the heartbeat may.
fn patience(lease: Duration) -> Duration {
    (lease / 3).min(Duration::from_secs(2))
}

/// Pools connect lazily; a wrong password and a setting that cannot be are reported at once.
async fn check_session<C>(options: &<C as Connection>::Options, rules: &Rules) -> Result<()>
where
    C: Session,
{
    let mut connection = C::connect_with(options).await?;
    connection.set_up(rules).await?;
    Ok(connection.close().await?)
}

/// The settings of a text like `-c search_path=mine -c geqo=off`, in which a backslash stands
/// before a blank that belongs to a value. A pooler may have left them out.
fn given_settings(options: &str) -> Vec<(String, String)> {
    let mut words = vec![String::new()];
    let mut signs = options.chars();
    while let Some(sign) = signs.next() {
        match (sign, words.last_mut()) {
            ('\\', Some(word)) => word.extend(signs.next()),
            (sign, _) if sign.is_whitespace() => words.push(String::new()),
            (sign, Some(word)) => word.push(sign),
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

/// Requests are any text: a database that cannot keep some of it would refuse their letters, too.
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
        "its encoding is {encoding}, which cannot keep every text: make it with \
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
