//! Values that are secret, and characters that no value may contain.

use super::*;

#[test]
fn a_redis_comes_from_the_file_or_the_environment_and_is_never_shown() {
    assert!(load("", &[]).unwrap().idempotency.redis_url.is_none());
    let file = "[idempotency]\nredis_url = 'redis://:hush@file:6379/1'";
    for (env, meant) in [
        (None, "redis://:hush@file:6379/1"),
        (Some("redis://env"), "redis://env"),
        (
            Some("redis://u:hu%2Fsh@[::1]:7/0?protocol=resp3"),
            "redis://u:hu%2Fsh@[::1]:7/0?protocol=resp3",
        ),
    ] {
        let env: Vec<_> = env.map(|url| ("IDEMPOTENCY__REDIS_URL", url)).into_iter().collect();
        let config = load(file, &env).unwrap();
        assert_eq!(config.idempotency.redis_url.as_ref().unwrap().expose_secret(), meant);
        let shown = format!("{config:?}");
        assert!(!shown.contains("hush") && !shown.contains("hu%2Fsh"), "{shown}");
    }
}

#[test]
fn a_redis_url_that_cannot_be_is_refused_without_its_text() {
    let form = "idempotency.redis_url cannot be read: write it like redis://:password@host:6379/0";
    for url in [
        "",
        "hush",
        "hush:6379",
        "http://hush@h",
        "redis:hush",
        "redis://",
        "redis://:hush@",
        "redis://:hush@h:port",
        "redis://:hush@h/hush",
        "redis://h/0?protocol=hush",
        "unix:///hush",
        "redis+unix:///hush",
        "redis://:hush@0.0.0.0",
    ] {
        assert_eq!(load(&format!("idempotency.redis_url = '{url}'"), &[]).expect_err(url), form);
    }
    let escape = "idempotency.redis_url cannot be read: in a password, write %2F for /, %3F for ? \
                  and %23 for #";
    for url in ["redis://u:12/hush@h", "redis://u:12?hush@h", "redis://u:12#hush@h", "redis://h#x"]
    {
        assert_eq!(load(&format!("idempotency.redis_url = '{url}'"), &[]).expect_err(url), escape);
    }
    check_refusals(&[(
        "idempotency.redis_url = 'rediss://:hush@h'",
        "idempotency.redis_url begins with rediss://, but TLS to Redis is not available in this \
         version: write it like redis://:password@host:6379/0",
    )]);
    for (text, env) in [("idempotency.redis_url = ['hush']", None), ("", Some("[['hush']]"))] {
        let env: Vec<_> = env.map(|url| ("IDEMPOTENCY__REDIS_URL", url)).into_iter().collect();
        let sentence = load(text, &env).unwrap_err();
        assert!(sentence.starts_with("idempotency.redis_url"), "{sentence}");
        assert!(!sentence.contains("hush") && !sentence.contains('\n'), "{sentence}");
    }
}

#[test]
fn a_token_has_a_name_a_role_and_one_place_for_its_value() {
    let tokens = r#"[{ name = "a", role = "admin", value = "hush" }, { name = "b", role = "read", file = "b.token" }]"#;
    for config in [
        load(&format!("http = {{ listen = '0.0.0.0:7070', tokens = {tokens} }}"), &[]).unwrap(),
        load("http.listen = '0.0.0.0:7070'", &[("HTTP__TOKENS", tokens)]).unwrap(),
    ] {
        let [value, file] = &config.http.tokens[..] else { panic!("two tokens") };
        assert_eq!((&*value.name, value.role), ("a", Role::Admin));
        assert!(
            matches!(&value.source, TokenSource::Value(value) if value.expose_secret() == "hush")
        );
        assert!(matches!(&file.source, TokenSource::File(path) if path.ends_with("b.token")));
        assert!(!format!("{config:?}").contains("hush"));
    }
    for (token, said) in [
        ("name = 'a', role = 'admin'", "has neither value nor file: add one"),
        (
            "name = 'a', role = 'admin', value = 'v', file = 'f'",
            "has a value and a file: leave one out",
        ),
        ("name = ' a', role = 'admin', value = 'v'", "http.tokens"),
        ("name = '', role = 'admin', value = 'v'", "has an empty name"),
        ("name = 'a', role = 'admin', value = ''", "has an empty value"),
        ("name = 'a', role = 'admn', value = 'v'", "did you mean \"admin\"?"),
        ("name = 'a', role = 'admin', valu = 'v'", "value"),
        ("name = 'a', role = 'admin', value = 4711", "something else"),
    ] {
        let error = load(&format!("http.tokens = [{{ {token} }}]"), &[]).unwrap_err().to_string();
        assert!(error.starts_with("http.tokens") && error.contains(said), "{token}: {error}");
        assert!(!error.contains("4711"), "{error}");
    }
}

#[test]
fn a_mask_is_of_json_pointers() {
    let config = load("apps.x.mask = ['/phoneNumber', '/a~1b']", &[]).unwrap();
    let app = config.apps.values().next().unwrap();
    assert_eq!(app.mask[1].names(), ["a/b"]);
    let error = load("apps.x.mask = ['phoneNumber']", &[]).unwrap_err().to_string();
    assert!(error.starts_with("apps.x.mask is \"phoneNumber\", which is no"), "{error}");
}

#[test]
fn no_error_shows_a_secret() {
    for text in [
        "[database]\nurl = 'postgres://u:hush@h/db",
        "database.url = 'oracle://u:hush@h/db'",
        "database.url = ['postgres://u:hush@h/db']",
        "kafka.properties = { 'sasl.password' = ['hush'] }",
        "kafka.properties = { 'sasl.pasword' = 'hush', 'x.password' = 'hush' }",
        "apps.x = { dispatch = 'kafka', topic = 't', kafka = { bootstrap_servers = 'h:1', \
         properties = { 'sasl.password' = ['hush'] } } }",
        "apps.x = { dispatch = 'kafka', topic = 't', kafka = { bootstrap_servers = 'h:1', \
         properties = { 'ssl.key.password' = \"hush\\n\" } } }",
    ] {
        let sentence = load(text, &[]).unwrap_err();
        assert!(!sentence.contains("hush") && !sentence.contains('\n'), "{sentence}");
    }
}

#[test]
fn control_characters_and_white_space_around_a_value_are_refused_by_key_and_place() {
    let end = "ends with a line feed (U+000A), which is never meant there: remove it";
    for (text, key) in [
        (r#"kafka.group_id = "hush\n""#, "kafka.group_id"),
        (r#"kafka.bootstrap_servers = "hush:9092\n""#, "kafka.bootstrap_servers"),
        (r#"kafka.topic = "hush\n""#, "kafka.topic"),
        (r#"kafka.topics = ["a", "hush\n"]"#, "kafka.topics"),
        (r#"kafka.dlq_topic = "hush\n""#, "kafka.dlq_topic"),
        (r#"kafka.events_topic = "hush\n""#, "kafka.events_topic"),
        (r#"kafka.properties."sasl.username" = "hush\n""#, "kafka.properties.sasl.username"),
        (r#"kafka.properties.sasl.password = "hush\n""#, "kafka.properties.sasl.password"),
        (r#"database.url = "postgres://u:hush@h/db\n""#, "database.url"),
        (r#"idempotency.redis_url = "redis://:hush@h\n""#, "idempotency.redis_url"),
        (r#"instance.id = "hush\n""#, "instance.id"),
        (r#"default_time_zone = "UTC\n""#, "default_time_zone"),
        (r#"http.listen = "127.0.0.1:7070\n""#, "http.listen"),
        (r#"apps.x.topic = "hush\n""#, "apps.x.topic"),
        (r#"apps.x.schema = "hush\n""#, "apps.x.schema"),
        (r#"apps.x.required_fields = ["hush\n"]"#, "apps.x.required_fields"),
    ] {
        assert_eq!(load(text, &[]).expect_err(text), format!("{key} {end}"), "{text}");
    }
    check_refusals(&[
        (
            r#"apps."x\n".shards = 1"#,
            "apps has a key that ends with a line feed (U+000A), which is never meant there: \
             remove it",
        ),
        (
            r#"kafka.group_id = " a""#,
            "kafka.group_id begins with a space (U+0020), which is never meant there: remove it",
        ),
        (
            r#"kafka.bootstrap_servers = "a:1,\tb:2""#,
            "kafka.bootstrap_servers contains a tab (U+0009), which is never meant there: remove it",
        ),
    ]);
    for (variable, value, key) in [
        ("KAFKA__GROUP_ID", "hush\n", "kafka.group_id"),
        ("KAFKA__PROPERTIES__SASL__PASSWORD", "hush\n", "kafka.properties.sasl.password"),
        ("DATABASE__URL", "mysql://u:hush@h/db\n", "database.url"),
    ] {
        let sentence = format!("{key} (by INFINITE_SCHEDULER__{variable}) {end}");
        assert_eq!(load("", &[(variable, value)]).unwrap_err(), sentence);
    }
}

#[test]
fn keys_in_pem_have_lines_and_a_password_may_begin_and_end_with_spaces() {
    let config = load(
        r#"[kafka.properties]
        "sasl.password" = " two words "
        "ssl.ca.pem" = """
-----BEGIN CERTIFICATE-----
-----END CERTIFICATE-----
""""#,
        &[("KAFKA__BOOTSTRAP_SERVERS", "a:1, b:2")],
    )
    .unwrap();
    let kafka = config.kafka.unwrap();
    assert_eq!(kafka.properties["sasl.password"], " two words ");
    assert!(kafka.properties["ssl.ca.pem"].ends_with("-----\n"));
    assert_eq!(kafka.bootstrap_servers, "a:1, b:2");
}
