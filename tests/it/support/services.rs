//! The addresses of the services, and a database for each test on each of the backends.

use std::env;
use std::time::Duration;

use sea_orm::{ConnectOptions, ConnectionTrait, Database as SeaOrm, DatabaseConnection, Statement};
use tempfile::TempDir;
use uuid::Uuid;

/// How long a dropped database may take before it is abandoned; the run's folder is deleted in
/// any case.
const DROP_DEADLINE: Duration = Duration::from_secs(5);

/// The broker, as `host:port`.
pub(crate) fn kafka() -> String {
    service("INFINITE_SCHEDULER_TEST_KAFKA")
}

/// The PostgreSQL server, as the URL of a database from which others can be created.
pub(crate) fn postgres_url() -> String {
    service("INFINITE_SCHEDULER_TEST_POSTGRES_URL")
}

/// The MariaDB server, as a URL without a database.
pub(crate) fn mariadb_url() -> String {
    service("INFINITE_SCHEDULER_TEST_MYSQL_URL")
}

/// The MySQL server, as a URL without a database.
pub(crate) fn mysql_url() -> String {
    service("INFINITE_SCHEDULER_TEST_MYSQL9_URL")
}

/// The Redis, as a URL.
pub(crate) fn redis_url() -> String {
    service("INFINITE_SCHEDULER_TEST_REDIS")
}

fn service(variable: &str) -> String {
    env::var(variable).unwrap_or_else(|_| {
        panic!(
            "{variable} is not set: run the tests by `tests/run`, or keep the services up beside \
             them by `tests/run services` and export what it prints"
        )
    })
}

/// A folder that is deleted when dropped, next to the test binary: the system's folder for
/// temporary files may be in memory, where durability costs nothing.
pub(crate) fn temporary_folder() -> TempDir {
    tempfile::Builder::new()
        .prefix("it.")
        .tempdir_in(env!("CARGO_TARGET_TMPDIR"))
        .expect("a temporary folder")
}

/// A backend. Cases that must hold on each go through [`Database::all`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Database {
    Sqlite,
    MariaDb,
    MySql,
    Postgres,
}

impl Database {
    /// Those that more than one process can use.
    pub(crate) const SERVERS: [Self; 3] = [Self::MariaDb, Self::MySql, Self::Postgres];

    pub(crate) fn all() -> [Self; 4] {
        [Self::Sqlite, Self::MariaDb, Self::MySql, Self::Postgres]
    }

    /// A new, empty database of this test's own, under a name that no other test has.
    pub(crate) async fn fresh(&self) -> TestDatabase {
        match self {
            Self::Sqlite => {
                let name = unique_name();
                let folder = temporary_folder();
                let file = folder.path().join(format!("{name}.db"));
                let url = format!("sqlite://{}?mode=rwc", file.display());
                TestDatabase {
                    backend: *self,
                    name,
                    url,
                    server_url: String::new(),
                    has_login: false,
                    _folder: Some(folder),
                }
            }
            Self::MariaDb | Self::MySql | Self::Postgres => self.fresh_on(self.server_url()).await,
        }
    }

    /// The same on a server of the test's own.
    pub(crate) async fn fresh_on(&self, server_url: String) -> TestDatabase {
        let name = unique_name();
        execute(&server_url, &format!("CREATE DATABASE {name}")).await;
        let url = with_database(&server_url, &name);
        TestDatabase { backend: *self, name, url, server_url, has_login: false, _folder: None }
    }

    fn server_url(self) -> String {
        match self {
            Self::Sqlite => unreachable!("SQLite has no server"),
            Self::MariaDb => mariadb_url(),
            Self::MySql => mysql_url(),
            Self::Postgres => postgres_url(),
        }
    }
}

/// A database that is deleted when dropped, even if clients are still connected to it.
#[derive(Debug)]
pub(crate) struct TestDatabase {
    backend: Database,
    name: String,
    url: String,
    server_url: String,
    has_login: bool,
    _folder: Option<TempDir>,
}

impl TestDatabase {
    pub(crate) fn backend(&self) -> Database {
        self.backend
    }

    pub(crate) fn url(&self) -> &str {
        &self.url
    }

    /// No other database has this name.
    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// The URL of another database on its server, with the right to do everything.
    pub(crate) fn server_url(&self) -> &str {
        &self.server_url
    }

    /// Runs statements that return no rows, as the administrator.
    pub(crate) async fn execute_on_server(&self, sql: &str) {
        execute(&self.server_url, sql).await;
    }

    /// The URL for a login of its own, which may do everything in the database and nothing
    /// else, and have this many connections at a time.
    pub(crate) async fn login(&mut self, connections: u32) -> String {
        let Self { name, backend, .. } = &*self;
        let statements = match backend {
            Database::Sqlite => unreachable!("SQLite has no logins"),
            Database::MariaDb | Database::MySql => [
                format!("CREATE USER {name}@'%' WITH MAX_USER_CONNECTIONS {connections}"),
                format!("GRANT ALL ON {name}.* TO {name}@'%'"),
            ],
            Database::Postgres => [
                format!("CREATE ROLE {name} LOGIN CONNECTION LIMIT {connections}"),
                format!("ALTER DATABASE {name} OWNER TO {name}"),
            ],
        };
        for sql in statements {
            self.execute_on_server(&sql).await;
        }
        if self.backend == Database::Postgres {
            self.execute(&format!("GRANT ALL ON SCHEMA public TO {name}")).await;
        }
        self.has_login = true;
        let scheme_end = self.url.find("://").expect("a URL") + "://".len();
        let server = self.url[scheme_end..].find('@').map_or(scheme_end, |at| scheme_end + at + 1);
        format!("{}{}@{}", &self.url[..scheme_end], self.name, &self.url[server..])
    }

    /// How many connections that login may have from now on.
    pub(crate) async fn limit_login(&self, connections: u32) {
        let name = &self.name;
        self.execute_on_server(&match self.backend {
            Database::MariaDb | Database::MySql => {
                format!("ALTER USER {name}@'%' WITH MAX_USER_CONNECTIONS {connections}")
            }
            _ => format!("ALTER ROLE {name} CONNECTION LIMIT {connections}"),
        })
        .await;
    }

    /// A small pool of the test's own, separate from the product's.
    pub(crate) async fn connect(&self) -> DatabaseConnection {
        connect(&self.url, 4).await
    }

    /// The result of `SELECT COUNT(*) ...`, or any query for one integer; the null of a `SUM` over
    /// no rows is 0.
    pub(crate) async fn count(&self, sql: &str) -> i64 {
        let connection = connect(&self.url, 1).await;
        let row = connection
            .query_one_raw(Statement::from_string(connection.get_database_backend(), sql))
            .await
            .unwrap_or_else(|error| panic!("{sql}: {error}"))
            .unwrap_or_else(|| panic!("{sql}: no row"));
        let count: Option<i64> =
            row.try_get_by_index(0).unwrap_or_else(|error| panic!("{sql}: {error}"));
        connection.close().await.expect("a connection that closes");
        count.unwrap_or(0)
    }

    /// Runs statements that return no rows.
    pub(crate) async fn execute(&self, sql: &str) {
        execute(&self.url, sql).await;
    }
}

impl Drop for TestDatabase {
    /// Best effort: a database that remains does no harm, but a panic while panicking does.
    fn drop(&mut self) {
        let name = &self.name;
        let (database, login) = match self.backend {
            Database::Sqlite => return,
            Database::MariaDb | Database::MySql => (
                // Else an open transaction of another client could delay this for a day.
                format!("SET lock_wait_timeout = 2; DROP DATABASE IF EXISTS {name}"),
                format!("DROP USER IF EXISTS {name}@'%'"),
            ),
            Database::Postgres => (
                format!("DROP DATABASE IF EXISTS {name} WITH (FORCE)"),
                format!("DROP ROLE IF EXISTS {name}"),
            ),
        };
        let statements: Vec<String> =
            [Some(database), self.has_login.then_some(login)].into_iter().flatten().collect();
        let server_url = self.server_url.clone();
        // `drop` cannot await, and a runtime cannot be entered from within another: hence the thread.
        let dropping = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            runtime.block_on(async {
                for sql in statements {
                    tokio::time::timeout(DROP_DEADLINE, try_execute(&server_url, &sql)).await??;
                }
                Ok::<(), Box<dyn std::error::Error + Send + Sync>>(())
            })
        });
        match dropping.join() {
            Ok(Ok(())) => {}
            Ok(Err(error)) => eprintln!("database {} is left behind: {error}", self.name),
            Err(_) => eprintln!("database {} is left behind", self.name),
        }
    }
}

async fn connect(url: &str, max_connections: u32) -> DatabaseConnection {
    try_connect(url, max_connections).await.unwrap_or_else(|error| panic!("{url}: {error}"))
}

async fn try_connect(
    url: &str,
    max_connections: u32,
) -> Result<DatabaseConnection, sea_orm::DbErr> {
    let mut options = ConnectOptions::new(url);
    options.max_connections(max_connections).sqlx_logging(false);
    SeaOrm::connect(options).await
}

async fn execute(url: &str, sql: &str) {
    try_execute(url, sql).await.unwrap_or_else(|error| panic!("{sql}: {error}"));
}

async fn try_execute(url: &str, sql: &str) -> Result<(), sea_orm::DbErr> {
    let connection = try_connect(url, 1).await?;
    let outcome = connection.execute_unprepared(sql).await;
    connection.close().await?;
    outcome.map(|_| ())
}

fn unique_name() -> String {
    // A login may have the same name, and MySQL takes 32 characters for that.
    let unique = Uuid::new_v4().simple().to_string();
    format!("it_{}", &unique[..29])
}

/// The server's URL with another database in its path.
pub(crate) fn with_database(server_url: &str, name: &str) -> String {
    let (address, query) = match server_url.split_once('?') {
        Some((address, query)) => (address, format!("?{query}")),
        None => (server_url, String::new()),
    };
    let scheme_end = address.find("://").expect("a URL") + "://".len();
    let server = match address[scheme_end..].find('/') {
        Some(slash) => &address[..scheme_end + slash],
        None => address,
    };
    format!("{server}/{name}{query}")
}

mod tests {
    use super::*;

    #[test]
    fn a_database_takes_its_place_in_the_url() {
        let cases = [
            ("mysql://root:@127.0.0.1:1", "mysql://root:@127.0.0.1:1/mine"),
            ("mysql://root:@127.0.0.1:1/", "mysql://root:@127.0.0.1:1/mine"),
            ("mysql://root:@127.0.0.1:1?a=b", "mysql://root:@127.0.0.1:1/mine?a=b"),
            ("postgres://p@h:1/postgres?a=b", "postgres://p@h:1/mine?a=b"),
        ];
        for (server, expected) in cases {
            assert_eq!(with_database(server, "mine"), expected);
        }
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn each_backend_gives_an_empty_database_of_ones_own() {
        for backend in Database::all() {
            let (one, other) = (backend.fresh().await, backend.fresh().await);
            one.execute("CREATE TABLE thing (id INT PRIMARY KEY)").await;
            other.execute("CREATE TABLE thing (id INT PRIMARY KEY)").await;
            one.execute("INSERT INTO thing VALUES (1), (2)").await;
            assert_eq!(one.count("SELECT COUNT(*) FROM thing").await, 2, "{backend:?}");
            assert_eq!(other.count("SELECT COUNT(*) FROM thing").await, 0, "{backend:?}");
        }
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_database_is_dropped_although_a_client_is_connected() {
        for backend in Database::SERVERS {
            let database = backend.fresh().await;
            let (name, connection) = (database.name.clone(), database.connect().await);
            connection.ping().await.expect("a connection");
            drop(database);
            let left = "SELECT COUNT(*) FROM information_schema.schemata WHERE schema_name";
            let left = match backend {
                Database::Postgres => "SELECT COUNT(*) FROM pg_database WHERE datname",
                _ => left,
            };
            let server = connect(&backend.server_url(), 1).await;
            let sql = format!("{left} = '{name}'");
            let row = server
                .query_one_raw(Statement::from_string(server.get_database_backend(), sql))
                .await
                .expect("the server's list of databases")
                .expect("a row");
            assert_eq!(row.try_get_by_index::<i64>(0).expect("a count"), 0, "{backend:?}");
        }
    }
}
