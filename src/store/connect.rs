//! How the database is reached, and what every session of ours is told.

use std::sync::{Arc, RwLock};
use std::time::Duration;

use futures::future::BoxFuture;
use sea_orm::{
    ConnectOptions, Database, DatabaseConnection, SqlxMySqlConnector, SqlxPostgresConnector,
};
use sqlx::mysql::{MySqlConnectOptions, MySqlPoolOptions};
use sqlx::postgres::{PgConnectOptions, PgPoolOptions};
use sqlx::{AssertSqlSafe, Connection, Executor};

use super::sessions::Sessions;
use super::sqlite::{self, Sqlite};
use super::{Error, Hot, Inner, Result, Store};

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
    pub async fn trouble(&self, patience: Duration) -> Option<String> {
        let tried = tokio::time::timeout(patience, (self.inner.try_anew)()).await;
        tried.ok()?.err().map(Error::into_reason)
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
    let limit = options.lease.as_millis() / 2;
    let lease = options.lease.as_millis();
    // A process that is frozen in mid-transaction must not hold its locks for hours, and
    // nobody waits for a lock longer than a lease.
    let settings = [
        ("idle_in_transaction_session_timeout", limit.to_string()),
        ("lock_timeout", lease.to_string()),
        ("tcp_user_timeout", lease.to_string()),
        ("default_transaction_isolation", "read committed".to_owned()),
        // A queue's table is empty when it is analysed and full when it is read: by such
        // statistics reading all of it, or sorting what an index has in order, looks cheap.
        // What is never right is not to be chosen; a statement that has no index reads the
        // table all the same.
        ("enable_seqscan", "off".to_owned()),
        ("enable_bitmapscan", "off".to_owned()),
        // It is decided by the same estimates, and takes longer than any statement here.
        ("jit", "off".to_owned()),
    ];
    let connect: PgConnectOptions = url.parse().map_err(|error| unusable(url, &error))?;
    let connect = connect.options(settings).application_name("infinite-scheduler");
    check_encoding(&connect).await?;
    let sessions = Sessions::new(patience(options.lease));
    let pool_of = |size| PgPoolOptions::new().max_connections(size).acquire_timeout(ACQUIRE);
    let hot = sessions.watch(pool_of(options.max_connections)).connect_lazy_with(connect.clone());
    let anew = connect.clone();
    // The heartbeat is its own test of its connection.
    let connect_heartbeat = move || {
        let pool = pool_of(1).test_before_acquire(false).connect_lazy_with(connect.clone());
        SqlxPostgresConnector::from_sqlx_postgres_pool(pool)
    };
    Ok(Inner {
        sessions,
        try_anew: Box::new(move || Box::pin(try_anew::<sqlx::PgConnection>(anew.clone()))),
        pool: SqlxPostgresConnector::from_sqlx_postgres_pool(hot.clone()),
        heartbeat: RwLock::new(connect_heartbeat()),
        connect_heartbeat: Box::new(connect_heartbeat),
        hot: Hot::Postgres(hot),
    })
}

async fn connect_mysql(url: &str, options: &StoreOptions) -> Result<Inner> {
    let url = url.replacen("mariadb:", "mysql:", 1);
    let connect: MySqlConnectOptions = url.parse().map_err(|error| unusable(&url, &error))?;
    check_reachable::<sqlx::MySqlConnection>(&connect).await?;
    let session = session_of_mysql(&connect, options.lease).await?;
    let sessions = Sessions::new(patience(options.lease));
    let pool_of = move |size| {
        let session = session.clone();
        MySqlPoolOptions::new().max_connections(size).acquire_timeout(ACQUIRE).after_connect(
            move |connection, _| {
                let session = session.clone();
                Box::pin(async move {
                    connection.execute(sqlx::raw_sql(AssertSqlSafe(session))).await?;
                    Ok(())
                })
            },
        )
    };
    let hot = sessions.watch(pool_of(options.max_connections)).connect_lazy_with(connect.clone());
    let anew = connect.clone();
    // The heartbeat is its own test of its connection.
    let connect_heartbeat = move || {
        let pool = pool_of(1).test_before_acquire(false).connect_lazy_with(connect.clone());
        SqlxMySqlConnector::from_sqlx_mysql_pool(pool)
    };
    Ok(Inner {
        sessions,
        try_anew: Box::new(move || Box::pin(try_anew::<sqlx::MySqlConnection>(anew.clone()))),
        pool: SqlxMySqlConnector::from_sqlx_mysql_pool(hot.clone()),
        heartbeat: RwLock::new(connect_heartbeat()),
        connect_heartbeat: Box::new(connect_heartbeat),
        hot: Hot::MySql(hot),
    })
}

/// MariaDB ends an idle transaction by itself; MySQL has only the idle session's limit.
async fn session_of_mysql(connect: &MySqlConnectOptions, lease: Duration) -> Result<String> {
    use sqlx::{ConnectOptions, Row};
    let mut connection = connect.connect().await?;
    let version: String =
        sqlx::query("select version()").fetch_one(&mut connection).await?.try_get(0)?;
    connection.close().await?;
    let half = lease.as_secs().div_ceil(2).max(1);
    let idle =
        if version.contains("MariaDB") { "idle_transaction_timeout" } else { "wait_timeout" };
    Ok(format!(
        "set session transaction isolation level read committed; \
         set session {idle} = {half}, innodb_lock_wait_timeout = {}",
        lease.as_secs().max(1)
    ))
}

async fn connect_sqlite(url: &str, options: &StoreOptions) -> Result<Inner> {
    let file = Arc::new(sqlite::File::parse(url)?);
    let sessions = Sessions::new(patience(options.lease));
    let hot = Sqlite::open(&file)?;
    let mut options = ConnectOptions::new(url.to_owned());
    options
        .max_connections(4)
        .sqlx_logging(false)
        .map_sqlx_sqlite_opts(|options| options.busy_timeout(sqlite::BUSY).foreign_keys(false));
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

/// Pools connect lazily; a wrong password should be said at once, by name.
async fn check_reachable<C>(options: &<C as Connection>::Options) -> Result<()>
where
    C: Connection,
{
    let connection = C::connect_with(options).await?;
    Ok(connection.close().await?)
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

async fn try_anew<C>(options: <C as Connection>::Options) -> Result<()>
where
    C: Connection,
{
    check_reachable::<C>(&options).await
}

fn unusable(url: &str, error: &sqlx::Error) -> Error {
    Error::Unusable(format!("database.url {} cannot be read: {error}", redact(url)))
}
