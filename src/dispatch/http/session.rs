//! A client with everything that it read from files: replaced as a whole.

use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use reqwest::header::{HeaderMap, HeaderName, HeaderValue};
use reqwest::tls::{Certificate, Identity};
use reqwest::{Client, Proxy, Url, redirect, retry};
use secrecy::ExposeSecret;

use super::resolver::Resolver;
use super::settings::{HttpTarget, SecretSource, host_of};
use super::signature::Keys;

/// An idle connection is closed after this time: shorter than what servers use, so that it is
/// rarely the server that closes it just when it is used again.
const KEEP_IDLE: Duration = Duration::from_secs(3);

/// A client for one target, the app's headers and its keys.
#[derive(Clone, Debug)]
pub(super) struct Session {
    pub(super) client: Client,
    pub(super) url: Url,
    pub(super) headers: HeaderMap,
    pub(super) keys: Keys,
}

impl Session {
    /// Reads the files and variables of `target`.
    ///
    /// # Errors
    /// The key of the app and what is wrong with it, without any secret.
    pub(super) fn open(target: &HttpTarget) -> Result<Self, String> {
        target.check().map_err(|(key, problem)| format!("{key} {problem}"))?;
        let url = target.parse().map_err(|problem| format!("url {problem}"))?;
        let secrets = target.secrets.iter().map(|secret| secret.read());
        let keys = secrets.collect::<Result<Vec<_>, _>>().and_then(|read| Keys::parse(&read));
        let keys = keys.map_err(|problem| format!("secrets {problem}"))?;
        Ok(Self { client: client(target)?, url, headers: headers(target)?, keys })
    }

    /// What is in force, for the log.
    pub(super) fn describe(&self, target: &HttpTarget) -> String {
        let roots = match &target.ca {
            Some(file) => format!("the roots of {}", file.display()),
            None => "the system's roots".to_owned(),
        };
        let proxy =
            proxy_of(target).map_or("no proxy".to_owned(), |proxy| format!("proxy {proxy}"));
        let certificate = if target.client.is_some() { "a" } else { "no" };
        let link_local = if target.allow_link_local { "allowed" } else { "refused" };
        format!(
            "{} to {} with {proxy}, {roots}, {certificate} client certificate, {} signing \
             secrets and {} headers of its own; link-local addresses are {link_local}",
            self.url.scheme(),
            host_of(&self.url),
            self.keys.len(),
            self.headers.len(),
        )
    }
}

/// Host and port of the proxy of `target`.
pub(super) fn proxy_of(target: &HttpTarget) -> Option<String> {
    let proxy = Url::parse(target.proxy.as_ref()?.expose_secret()).ok()?;
    Some(host_of(&proxy))
}

/// Which versions of a target's files are there, to notice a change without reading them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct FileVersions(Vec<Option<(SystemTime, u64)>>);

impl FileVersions {
    /// The files of `target` as they are now. Symbolic links are followed.
    pub(super) fn of(target: &HttpTarget) -> Self {
        let client = target.client.iter().flat_map(|(certificate, key)| [certificate, key]);
        let secrets = target.secrets.iter().chain(target.headers.values());
        let files = target.ca.iter().chain(client).chain(secrets.filter_map(SecretSource::file));
        let version = |file: &PathBuf| {
            let data = std::fs::metadata(file).ok()?;
            Some((data.modified().ok()?, data.len()))
        };
        Self(files.map(version).collect())
    }

    /// Whether the target has no files.
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

fn headers(target: &HttpTarget) -> Result<HeaderMap, String> {
    let mut headers = HeaderMap::new();
    for (name, source) in &target.headers {
        let value = source.read().map_err(|problem| format!("headers.{name} {problem}"))?;
        let mut value = HeaderValue::from_str(value.expose_secret()).map_err(|_| {
            format!("headers.{name} has characters that a header must not have: correct its value")
        })?;
        value.set_sensitive(true);
        let key = HeaderName::from_bytes(name.as_bytes());
        headers.insert(key.map_err(|_| format!("headers.{name} is no header"))?, value);
    }
    Ok(headers)
}

fn client(target: &HttpTarget) -> Result<Client, String> {
    // Reading a proxy from the environment, following redirects and repeating requests are all
    // things that a client does unasked.
    let mut builder = Client::builder()
        .user_agent(concat!("infinite-scheduler/", env!("CARGO_PKG_VERSION")))
        .redirect(redirect::Policy::none())
        .retry(retry::never())
        .referer(false)
        .no_proxy()
        .pool_idle_timeout(KEEP_IDLE)
        .dns_resolver(Resolver { allow_link_local: target.allow_link_local });
    if let Some(proxy) = &target.proxy {
        let invalid = |_| "proxy cannot be read: write it like http://host:3128".to_owned();
        builder = builder.proxy(Proxy::all(proxy.expose_secret()).map_err(invalid)?);
    }
    if let Some(file) = &target.ca {
        let roots = Certificate::from_pem_bundle(&read("ca", file)?).ok();
        let roots = roots.filter(|roots| !roots.is_empty()).ok_or_else(|| {
            format!("ca names {}, which has no certificate in PEM form", file.display())
        })?;
        builder = builder.tls_certs_only(roots);
    }
    if let Some((certificate, key)) = &target.client {
        let identity =
            Identity::from_pkcs8_pem(&read("client_cert", certificate)?, &read("client_key", key)?);
        builder = builder.identity(identity.map_err(|_| {
            format!(
                "client_cert {} and client_key {} are not a certificate and its PKCS #8 key in PEM \
                 form: convert the key by `openssl pkcs8 -topk8 -nodes`",
                certificate.display(),
                key.display()
            )
        })?);
    }
    builder.build().map_err(|error| format!("url has no client: {}", error.without_url()))
}

fn read(key: &str, file: &std::path::Path) -> Result<Vec<u8>, String> {
    std::fs::read(file)
        .map_err(|error| format!("{key} names {}, which cannot be read: {error}", file.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_be_read_is_named_by_its_key() {
        let plain = || HttpTarget::at("https://host/x");
        let file = || "/nowhere/x".into();
        for (broken, says) in [
            (HttpTarget { ca: Some(file()), ..plain() }, "ca names /nowhere/x, which cannot"),
            (HttpTarget { client: Some((file(), file())), ..plain() }, "client_cert names"),
            (
                HttpTarget { secrets: vec![SecretSource::File(file())], ..plain() },
                "secrets names /nowhere/x, which cannot be read",
            ),
            (
                HttpTarget {
                    headers: [("A".into(), SecretSource::Env("NOT_SET_X".into()))].into(),
                    ..plain()
                },
                "headers.A names the variable NOT_SET_X, which is not set or not text: set it",
            ),
            (
                HttpTarget {
                    headers: [("A".into(), SecretSource::Value("hush\n".into()))].into(),
                    ..plain()
                },
                "headers.A has characters that a header must not have",
            ),
        ] {
            let why = Session::open(&broken).unwrap_err();
            assert!(why.starts_with(says) && !why.contains("hush"), "{why}");
        }
    }

    #[test]
    fn what_is_in_force_is_told_without_secrets() {
        let target = HttpTarget {
            proxy: Some("http://u:hush@proxy:3128".into()),
            headers: [("A".into(), SecretSource::Value("hush".into()))].into(),
            ..HttpTarget::at("https://host:8443/hush?hush")
        };
        let session = Session::open(&target).unwrap();
        assert_eq!(
            session.describe(&target),
            "https to host:8443 with proxy proxy:3128, the system's roots, no client certificate, \
             0 signing secrets and 1 headers of its own; link-local addresses are refused"
        );
        assert!(!format!("{session:?}").contains("hush:"));
    }
}
