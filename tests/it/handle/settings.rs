//! The settings of a scheduler, and what is refused at once.

use std::time::Duration;

use infinite_scheduler::store::{Membership, Store, StoreOptions};
use infinite_scheduler::{AppConfig, KafkaIngestConfig, Scheduler, StartError};
use sea_orm::{ConnectOptions, ConnectionTrait, Database as SeaOrm};

use super::{DEADLINE, DRAIN, accept, await_firings, builder, ms, of, recorder, request};
use crate::support::kafka::{RawRecord, create_topic, delete_topic, produce, unique_topic};
use crate::support::services::{Database, kafka};
use crate::support::wait_until;
use crate::support::world::{LEASE, World};

#[tokio::test(flavor = "multi_thread")]
async fn kafka_is_named_in_full_in_short_or_not_at_all() {
    let world = World::new(Database::Sqlite, 2).await;
    let record = |id: &str| {
        let request = format!(r#"{{"requestId":"{id}","appName":"mail","scheduledTime":0}}"#);
        RawRecord::new(1, request)
    };
    let (handler, firings) = recorder(|_| async { Ok(()) });
    let full = world.builder_without_apps().register_app(AppConfig::new("mail"), handler);
    let scheduler = full.start().await.expect("a start");
    produce(&world.topic, &[record("in-full")]).await;
    await_firings(&firings, 1).await;
    scheduler.shutdown(DRAIN).await;

    // Its group and DLQ topic are the default ones: only the ingest topic is this test's own.
    let (database, topic) = (Database::Sqlite.fresh().await, unique_topic("short"));
    create_topic(&topic, 2, &[]).await;
    let (handler, firings) = recorder(|_| async { Ok(()) });
    let short = builder(&database).with_kafka_ingest_at(kafka(), topic.as_str());
    let short = short.register_app(AppConfig::new("mail"), handler);
    let scheduler = short.start().await.expect("a start");
    produce(&topic, &[record("in-short")]).await;
    await_firings(&firings, 1).await;
    assert_eq!(of(&firings, "in-short").len(), 1);
    let ledger = "select count(*) from scheduler_ingest_offset where consumer_group = 'infinite-scheduler-ingest'";
    wait_until(DEADLINE, "both partitions read", async || database.count(ledger).await == 2).await;
    scheduler.shutdown(DRAIN).await;
    delete_topic(&topic).await;

    let default = format!("{:?}", Scheduler::builder().with_default_kafka_ingest());
    let meant = KafkaIngestConfig::default();
    assert!(default.contains(&format!("{meant:?}")), "{default}");
    assert_eq!(meant.bootstrap_servers, "localhost:9092");
    assert_eq!(
        (&*meant.topics, &*meant.dlq_topic),
        (&["scheduler.jobs.ingest".to_owned()][..], "scheduler.jobs.dlq")
    );
    let none = format!("{:?}", Scheduler::builder());
    assert!(none.contains("kafka: None"), "{none}");
}

#[tokio::test(flavor = "multi_thread")]
async fn settings_that_can_never_work_are_refused_at_once() {
    let database = Database::Sqlite.fresh().await;
    let sms = || AppConfig::new("sms");
    let commit = KafkaIngestConfig { enable_auto_commit: true, ..KafkaIngestConfig::default() };
    for (builder, said) in [
        (
            builder(&database).register_app_on_topic(sms(), "t"),
            &["sms", "topic t", "with_kafka_ingest"][..],
        ),
        (builder(&database).with_kafka_ingest(commit), &["enable_auto_commit", "leave it out"]),
        (
            builder(&database).register_app(AppConfig::new("SMS"), infinite_scheduler::Discard),
            &["\"SMS\"", "a-z"],
        ),
        (
            builder(&database)
                .with_kafka_ingest_at("127.0.0.1:1", "requests")
                .register_app_on_topic(sms(), "requests"),
            &["sms", "\"requests\"", "name another topic"],
        ),
        (
            builder(&database).register_app(many_shards(), infinite_scheduler::Discard),
            &["sms", "shards is 1025", "at most 1024"],
        ),
        (builder(&database).lease(ms(10)), &["lease", "1 s"]),
        (
            builder(&database).default_time_zone("Asia/Daka"),
            &["default_time_zone", "\"Asia/Daka\"", "\"Asia/Dhaka\""],
        ),
        (
            builder(&database).with_kafka_ingest(KafkaIngestConfig {
                group_id: "hush\n".into(),
                ..KafkaIngestConfig::default()
            }),
            &["group_id ends with a line feed", "remove it"],
        ),
        (
            builder(&database).database_url("mysql://u:hush@h/d\n"),
            &["database_url ends with a line feed"],
        ),
        (builder(&database).mysql_host("hush "), &["mysql_host ends with a space"]),
        (builder(&database).mysql_password("hush\n"), &["mysql_password ends with a line feed"]),
        (
            builder(&database).idempotency_redis("redis://:hush@h\r\n"),
            &["idempotency_redis ends with a line feed"],
        ),
        (builder(&database).instance_id("\thush"), &["instance_id begins with a tab"]),
        (builder(&database).database_url("oracle://u:hush@h/d"), &["oracle", "sqlite://"]),
        (builder(&database).database_url("postgres://u:hush@h:port/d"), &["database.url", "***"]),
    ] {
        let error = builder.start().await.expect_err("a refusal").to_string();
        for said in said {
            assert!(error.contains(said), "{said} must be in {error}");
        }
        assert!(!error.contains("hush"), "{error}");
    }
}

/// Whatever a password is made of, it is the user's and not the URL's.
#[tokio::test(flavor = "multi_thread")]
async fn a_mysql_database_is_named_by_its_parts_whatever_the_password() {
    for database in [Database::MariaDb, Database::MySql] {
        is_named_by_its_parts(database).await;
    }
}

/// MySQL takes this password over TLS only, which is what a connection tries first.
async fn is_named_by_its_parts(database: Database) {
    const PASSWORD: &str = "p@ss:w/ö?r#d%20&\"x' =+";
    let database = database.fresh().await;
    let (name, server) = (database.name(), database.server_url());
    let address = server.rsplit('@').next().expect("an address");
    let address = address.split(['/', '?']).next().expect("an address");
    let (host, port) = address.split_once(':').expect("a port");
    let port: u16 = port.parse().expect("a number");
    let user = format!("u@{}", &name[name.len() - 12..]);
    let root = SeaOrm::connect(ConnectOptions::new(server)).await.expect("the server");
    let quoted = PASSWORD.replace('\'', "''");
    for at in ["%", "localhost"] {
        let create = format!("create user '{user}'@'{at}' identified by '{quoted}'");
        root.execute_unprepared(&create).await.expect("a user");
        let grant = format!("grant all on {name}.* to '{user}'@'{at}'");
        root.execute_unprepared(&grant).await.expect("a right");
    }

    let by_parts = Scheduler::builder()
        .mysql_host(host)
        .mysql_port(port)
        .mysql_database(name)
        .mysql_username(&user)
        .mysql_password(PASSWORD);
    let in_short = Scheduler::mysql(host, port, name, &user, PASSWORD);
    for (n, builder) in [by_parts, in_short].into_iter().enumerate() {
        assert!(!format!("{builder:?}").contains("p@ss"), "{builder:?}");
        let (handler, firings) = recorder(|_| async { Ok(()) });
        let scheduler = builder
            .lease(LEASE)
            .register_app(AppConfig::new("sms"), handler)
            .start()
            .await
            .expect("a start");
        accept(&scheduler, request("sms", &format!("r-{n}"))).await;
        await_firings(&firings, 1).await;
        scheduler.shutdown(DRAIN).await;
    }
    let wrong = Scheduler::mysql(host, port, name, &user, "wr@ng").start().await;
    match wrong {
        Err(StartError::Database(why)) => {
            assert!(why.contains(&user) && !why.contains("wr@ng"), "{why}");
        }
        other => panic!("{other:?}"),
    }
    for at in ["%", "localhost"] {
        root.execute_unprepared(&format!("drop user '{user}'@'{at}'")).await.expect("no user");
    }
    root.close().await.expect("a connection that closes");
}

fn many_shards() -> AppConfig {
    let mut app = AppConfig::new("sms");
    app.shards = std::num::NonZeroU32::new(1025).expect("not zero");
    app
}

/// One local time would become two instants.
#[tokio::test(flavor = "multi_thread")]
async fn instances_that_go_by_different_time_zone_rules_say_so() {
    for backend in Database::all() {
        let database = backend.fresh().await;
        let (handler, _) = recorder(|_| async { Ok(()) });
        let builder = builder(&database).register_app(AppConfig::new("sms"), handler);
        let scheduler = builder.start().await.expect("a start");
        let told = || {
            let sentences = scheduler.health().sentences();
            sentences.into_iter().find(|sentence| sentence.starts_with("time zones: "))
        };
        assert_eq!(told(), None, "{backend:?}");

        let options = StoreOptions { url: database.url().into(), max_connections: 2, lease: LEASE };
        let store = Store::connect(&options).await.expect("a store");
        let other = Membership {
            name: "other".into(),
            apps: Vec::new(),
            time_zones: "2001a".into(),
            lease: Duration::from_secs(600),
            process: None,
            is_drained: false,
        };
        let other = store.join(&other, 0).await.expect("joined");
        wait_until(DEADLINE, "the difference is told", async || told().is_some()).await;
        let sentence = told().expect("a sentence");
        assert!(sentence.contains("others by 2001a: bring"), "{backend:?}: {sentence}");
        assert!(scheduler.health().ready, "{backend:?}");
        store.leave(other).await.expect("gone");
        wait_until(DEADLINE, "it is the same again", async || told().is_none()).await;
        store.close().await;
        scheduler.shutdown(DRAIN).await;
    }
}
