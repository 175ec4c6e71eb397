//! Checks the dispatch target of an app.

use std::path::Path;

use secrecy::{ExposeSecret, SecretString};

use super::{REDIS_FORM, redis_url_flaw};
use crate::config::raw::{RawApp, RawRedisCommand, RawSecret, RawSecretTable};
use crate::config::{ConfigError, Dispatch};
use crate::dispatch::{HttpTarget, KafkaTarget, RedisCommand, RedisTarget, SecretSource};
use crate::kafka::KafkaIngestConfig;
use crate::model::target::TargetKind;

/// The target of app `name`. Relative paths start from `folder`.
pub(super) fn dispatch(
    name: &str,
    raw: &RawApp,
    kafka: Option<&KafkaIngestConfig>,
    folder: &Path,
) -> Result<Dispatch, ConfigError> {
    refuse_keys_of_others(name, raw)?;
    match raw.dispatch {
        TargetKind::Log => Ok(Dispatch::Log),
        TargetKind::Discard => Ok(Dispatch::Discard),
        TargetKind::Kafka => self::kafka(name, raw, kafka).map(Dispatch::Kafka),
        TargetKind::Http => http(name, raw, folder).map(Dispatch::Http),
        TargetKind::Redis => redis(name, raw).map(Dispatch::Redis),
    }
}

/// A key that has no effect would be taken for one that has.
fn refuse_keys_of_others(name: &str, raw: &RawApp) -> Result<(), ConfigError> {
    use TargetKind::{Http, Kafka, Redis};
    // The key that both have is named with the kind that is set, if it is one of them.
    let of_url = if raw.dispatch == Redis { Redis } else { Http };
    let keys = [
        ("topic", raw.topic.is_some(), Kafka),
        ("kafka", raw.kafka.is_some(), Kafka),
        ("url", raw.url.is_some(), of_url),
        ("secrets", !raw.secrets.is_empty(), Http),
        ("headers", !raw.headers.is_empty(), Http),
        ("ca", raw.ca.is_some(), Http),
        ("client_cert", raw.client_cert.is_some(), Http),
        ("client_key", raw.client_key.is_some(), Http),
        ("proxy", raw.proxy.is_some(), Http),
        ("allow_link_local", raw.allow_link_local.is_some(), Http),
        ("key", raw.key.is_some(), Redis),
        ("command", raw.command.is_some(), Redis),
        ("max_length", raw.max_length.is_some(), Redis),
    ];
    let misplaced = keys.into_iter().find(|(_, is_set, of)| *is_set && *of != raw.dispatch);
    let Some((key, _, of)) = misplaced else { return Ok(()) };
    // The only one of them that cannot be secret.
    let value = match (key, &raw.topic) {
        ("topic", Some(topic)) => format!("= {topic:?} "),
        _ => String::new(),
    };
    let problem = format!(
        "{value}has a meaning only with apps.{name}.dispatch = {:?}: set that, or leave the {key} \
         out",
        of.as_str()
    );
    Err(ConfigError::invalid(format!("apps.{name}.{key}"), problem))
}

fn needed<T: Clone>(
    name: &str,
    raw: &RawApp,
    key: &str,
    advice: &str,
    value: &Option<T>,
) -> Result<T, ConfigError> {
    value.clone().ok_or_else(|| {
        let kind = raw.dispatch.as_str();
        let problem = format!("= {kind:?} needs apps.{name}.{key}: {advice}");
        ConfigError::invalid(format!("apps.{name}.dispatch"), problem)
    })
}

fn kafka(
    name: &str,
    raw: &RawApp,
    ingest: Option<&KafkaIngestConfig>,
) -> Result<KafkaTarget, ConfigError> {
    let topic = needed(name, raw, "topic", "name the topic for its jobs", &raw.topic)?;
    let target = KafkaTarget { topic, cluster: raw.kafka.clone() };
    if let Some(cluster) = &target.cluster {
        cluster.validate().map_err(|error| {
            let sentence = error.to_string();
            let (field, problem) = sentence.split_once(' ').unwrap_or_default();
            ConfigError::invalid(format!("apps.{name}.kafka.{field}"), problem)
        })?;
    } else if ingest.is_none() {
        let problem = "= \"kafka\" needs a [kafka] table, which is not there: add one (it may be \
                       empty), name its own brokers as apps.NAME.kafka, or choose another dispatch"
            .replace("NAME", name);
        return Err(ConfigError::invalid(format!("apps.{name}.dispatch"), problem));
    }
    let of_topic = |problem| ConfigError::invalid(format!("apps.{name}.topic"), problem);
    target.check_topic(ingest).map_err(of_topic)?;
    Ok(target)
}

fn http(name: &str, raw: &RawApp, folder: &Path) -> Result<HttpTarget, ConfigError> {
    let advice = "name the address for its jobs, like https://host/path";
    let url = needed(name, raw, "url", advice, &raw.url)?;
    let invalid = |key: &str, problem: &str| {
        ConfigError::invalid(format!("apps.{name}.{key}"), problem.to_owned())
    };
    let source = |key: String, written: &RawSecret| {
        secret(written, folder).map_err(|problem| invalid(&key, problem))
    };
    let secrets = raw.secrets.iter().enumerate();
    let secrets = secrets.map(|(n, written)| source(format!("secrets[{n}]"), written));
    let headers = raw.headers.iter().map(|(header, written)| {
        Ok((header.clone(), source(format!("headers.{header}"), written)?))
    });
    let path = |file: &std::path::PathBuf| folder.join(file);
    let client = match (&raw.client_cert, &raw.client_key) {
        (Some(certificate), Some(key)) => Some((path(certificate), path(key))),
        (None, None) => None,
        (Some(_), None) => {
            return Err(invalid("client_cert", "needs client_key, the key of that certificate"));
        }
        (None, Some(_)) => {
            return Err(invalid("client_key", "needs client_cert, the certificate of that key"));
        }
    };
    let target = HttpTarget {
        url,
        secrets: secrets.collect::<Result<_, _>>()?,
        headers: headers.collect::<Result<_, ConfigError>>()?,
        ca: raw.ca.as_ref().map(path),
        client,
        proxy: raw.proxy.clone(),
        allow_link_local: raw.allow_link_local.unwrap_or(false),
    };
    target.check().map_err(|(key, problem)| invalid(key, &problem))?;
    Ok(target)
}

fn redis(name: &str, raw: &RawApp) -> Result<RedisTarget, ConfigError> {
    let url = needed(name, raw, "url", &format!("write it like {REDIS_FORM}"), &raw.url)?;
    let key = needed(name, raw, "key", "name the key or channel for its jobs", &raw.key)?;
    let advice = "set it to \"xadd\", \"lpush\" or \"publish\"";
    let command = needed(name, raw, "command", advice, &raw.command)?;
    if let Err(problem) = redis_url_flaw(&url) {
        return Err(ConfigError::invalid(format!("apps.{name}.url"), problem));
    }
    let command = match (command, raw.max_length) {
        (RawRedisCommand::Xadd, max_length) => RedisCommand::Xadd { max_length },
        (RawRedisCommand::Lpush, None) => RedisCommand::Lpush,
        (RawRedisCommand::Publish, None) => RedisCommand::Publish,
        (RawRedisCommand::Lpush | RawRedisCommand::Publish, Some(_)) => {
            let problem = "has a meaning only with command = \"xadd\": set that, or leave the \
                           max_length out";
            return Err(ConfigError::invalid(format!("apps.{name}.max_length"), problem));
        }
    };
    Ok(RedisTarget { url, key, command })
}

fn secret(written: &RawSecret, folder: &Path) -> Result<SecretSource, &'static str> {
    let given = |value: &SecretString| match value.expose_secret().is_empty() {
        true => Err("is empty: give it a value, or leave it out"),
        false => Ok(SecretSource::Value(value.clone())),
    };
    match written {
        RawSecret::Text(value) => given(value),
        RawSecret::Table(RawSecretTable { value, env, file }) => match (value, env, file) {
            (Some(value), None, None) => given(value),
            (None, Some(name), None) => Ok(SecretSource::Env(name.clone())),
            (None, None, Some(file)) => Ok(SecretSource::File(folder.join(file))),
            _ => Err("must have one of value, env and file"),
        },
    }
}
