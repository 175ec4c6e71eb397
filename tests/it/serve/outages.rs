//! A database or a broker that is unavailable, or that refuses the password.

use super::*;

/// MariaDB's or MySQL's user with that password, while a test needs it.
fn serve_user(database: &TestDatabase) -> String {
    format!("{}_p", &database.name()[..24])
}

/// The database behind `proxy`, by a user with a password.
async fn hushed_url(database: &TestDatabase, proxy: &Proxy) -> String {
    let direct = database.url();
    let (scheme, rest) = direct.split_once("://").expect("a URL");
    let (_, place) = rest.rsplit_once('@').expect("a user");
    let user = match database.backend() {
        Database::MariaDb | Database::MySql => {
            let (name, user) = (database.name(), serve_user(database));
            for at in ["%", "localhost"] {
                let create = format!("create user '{user}'@'{at}' identified by '{HUSH}'");
                database.execute(&create).await;
                database.execute(&format!("grant all on {name}.* to '{user}'@'{at}'")).await;
            }
            user
        }
        // This server trusts everybody, whatever the password.
        _ => "postgres".to_owned(),
    };
    let url = format!("{scheme}://{user}:{HUSH}@{place}");
    if database.backend() == Database::MySql {
        // The proxy reads along, so there is no TLS, and without it MySQL takes a password only if
        // it has seen it a moment ago.
        let seen = url.replace("ssl-mode=DISABLED", "ssl-mode=REQUIRED");
        let connection = SeaOrm::connect(ConnectOptions::new(seen)).await.expect("a login");
        connection.close().await.expect("a connection that closes");
    }
    proxy.url(&url)
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unavailable_database_is_waited_for_and_reported_on_postgres() {
    an_unavailable_database_is_waited_for_and_reported(Database::Postgres).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unavailable_database_is_waited_for_and_reported_on_mariadb() {
    an_unavailable_database_is_waited_for_and_reported(Database::MariaDb).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unavailable_database_is_waited_for_and_reported_on_mysql() {
    an_unavailable_database_is_waited_for_and_reported(Database::MySql).await;
}

async fn an_unavailable_database_is_waited_for_and_reported(backend: Database) {
    let world = World::new(backend, 1).await;
    let proxy = Proxy::start(world.database.url()).await;
    let url = hushed_url(&world.database, &proxy).await;
    proxy.set_unavailable(true);
    let mut instance = Instance::spawn(&world.config_on(&url));
    listening(&instance).await;
    wait_until(DEADLINE, "a word on standard error", async || {
        instance.stderr().contains("waiting for the database")
    })
    .await;
    assert_eq!(get(&instance, "/health/live").await, (200, json!({"alive": true})));
    let (status, readiness) = get(&instance, "/health/ready").await;
    assert_eq!((status, &readiness["ready"]), (503, &json!(false)));
    let why = readiness.to_string();
    assert!(why.contains("waiting for the database") && why.contains("***"), "{why}");
    assert!(!why.contains(HUSH), "{why}");
    let (status, problem) = get(&instance, "/api/metrics").await;
    assert_eq!(status, 503, "{problem}");
    assert_eq!(instance.exit_status(), None);
    assert!(!instance.stdout().contains("ready"));

    proxy.set_unavailable(false);
    instance.ready(DEADLINE).await;
    assert_eq!(get(&instance, "/health/ready").await.0, 200);
    produce(&world.topic, &[record(0, "r")]).await;
    wait_until(DEADLINE, "a job fired", async || {
        get(&instance, "/api/metrics").await.1["apps.sms.succeeded"] == 1
    })
    .await;

    // Unavailable again while it runs: not ready, and ready again afterwards.
    proxy.set_unavailable(true);
    wait_until(DEADLINE, "an instance that is not ready", async || {
        get(&instance, "/health/ready").await.0 == 503
    })
    .await;
    proxy.set_unavailable(false);
    wait_until(DEADLINE, "an instance that is ready again", async || {
        get(&instance, "/health/ready").await.0 == 200
    })
    .await;
    assert_eq!(instance.terminate(DEADLINE).await.code(), Some(0));
    check_hushed(&instance);
    if backend != Database::Postgres {
        let user = serve_user(&world.database);
        let drop = format!("drop user '{user}'@'%', '{user}'@'localhost'");
        world.database.execute(&drop).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_service_that_still_waits_for_its_database_ends_when_asked() {
    let database = Database::Postgres.fresh().await;
    let proxy = Proxy::start(database.url()).await;
    proxy.set_unavailable(true);
    let url = proxy.url(database.url());
    let mut instance = Instance::spawn(&format!("[database]\nurl = \"{url}\"\n[apps.sms]\n"));
    listening(&instance).await;
    assert_eq!(instance.terminate(DEADLINE).await.code(), Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broker_that_is_unavailable_leaves_the_service_ready_and_degraded() {
    let world = World::new(Database::Sqlite, 1).await;
    let config = world.config().replace(&kafka(), "127.0.0.1:1");
    let mut instance = Instance::spawn(&config);
    listening(&instance).await;
    let problem = wait_for(DEADLINE, "readiness, and a problem with Kafka", async || {
        let (status, readiness) = get(&instance, "/health/ready").await;
        let degraded = readiness["degraded"].as_array().expect("a list").iter();
        let mut of_kafka = degraded.filter(|problem| {
            problem["subject"] == "kafka" && problem["kind"] == "brokerUnreachable"
        });
        of_kafka.next().filter(|_| status == 200).cloned()
    })
    .await;
    assert!(problem["message"].to_string().contains("127.0.0.1:1"), "{problem}");
    assert!(problem["since"].as_str().is_some_and(|since| since.ends_with('Z')), "{problem}");
    let (_, metrics) = get(&instance, "/api/metrics").await;
    // Our consumer, and perhaps our producer by now.
    let count = metrics["degraded.brokerUnreachable"].as_u64();
    assert!(count.is_some_and(|count| (1..=2).contains(&count)), "{metrics}");
    let logged = instance.stderr().matches("subject=\"kafka\" kind=BrokerUnreachable").count();
    assert_eq!(logged, 1, "{}", instance.stderr());
    assert_eq!(get(&instance, "/health/live").await.0, 200);
    assert!(!instance.stdout().contains("ready"));
    assert_eq!(instance.terminate(DEADLINE).await.code(), Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_password_that_is_wrong_is_not_shown() {
    let database = Database::MariaDb.fresh().await;
    let place = database.url().rsplit('@').next().expect("a place").to_owned();
    assert!(mariadb_url().contains(place.split('/').next().expect("a server")));
    let config = format!("[database]\nurl = \"mysql://nobody:{HUSH}@{place}\"\n[apps.sms]\n");
    let mut instance = Instance::spawn(&config);
    assert_eq!(instance.exited(DEADLINE).await.code(), Some(2));
    assert!(instance.stderr().contains("nobody"), "{}", instance.stderr());
    check_hushed(&instance);
}
