//! The settings of an HTTP target, and what can be checked of them without reading a file.

use std::collections::BTreeMap;
use std::fmt;
use std::net::{IpAddr, Ipv6Addr};
use std::path::PathBuf;

use reqwest::Url;
use reqwest::header::HeaderName;
use secrecy::{ExposeSecret, SecretString};

/// Headers that are set here or by the client, besides those with [`OWN_PREFIXES`].
const OWN_HEADERS: [&str; 9] = [
    "connection",
    "content-length",
    "content-type",
    "host",
    "idempotency-key",
    "te",
    "traceparent",
    "tracestate",
    "transfer-encoding",
];
const OWN_PREFIXES: [&str; 2] = ["x-scheduler-", "webhook-"];

/// An HTTP endpoint for fired jobs. Its `Debug` output shows the host only.
#[derive(Clone)]
pub struct HttpTarget {
    pub(crate) url: SecretString,
    pub(crate) secrets: Vec<SecretSource>,
    pub(crate) headers: BTreeMap<String, SecretSource>,
    /// A PEM file of the only roots that are trusted.
    pub(crate) ca: Option<PathBuf>,
    /// PEM files of the certificate with its chain, and of its PKCS #8 key.
    pub(crate) client: Option<(PathBuf, PathBuf)>,
    pub(crate) proxy: Option<SecretString>,
    pub(crate) allow_link_local: bool,
}

/// Where a secret value comes from.
#[derive(Clone, Debug)]
pub(crate) enum SecretSource {
    /// The value itself.
    Value(SecretString),
    /// A variable of the environment.
    Env(String),
    /// A file, without the white space around its text.
    File(PathBuf),
}

impl SecretSource {
    /// The value as it is now.
    ///
    /// # Errors
    /// What cannot be read, continuing a sentence after the key.
    pub(super) fn read(&self) -> Result<SecretString, String> {
        match self {
            Self::Value(value) => Ok(value.clone()),
            Self::Env(name) => std::env::var(name).map(SecretString::from).map_err(|_| {
                format!("names the variable {name}, which is not set or not text: set it")
            }),
            Self::File(path) => match std::fs::read_to_string(path) {
                Ok(text) => Ok(SecretString::from(text.trim())),
                Err(error) => {
                    Err(format!("names {}, which cannot be read: {error}", path.display()))
                }
            },
        }
    }
}

impl SecretSource {
    /// The file that it is read from.
    pub(super) fn file(&self) -> Option<&PathBuf> {
        match self {
            Self::File(file) => Some(file),
            Self::Value(_) | Self::Env(_) => None,
        }
    }
}

impl fmt::Debug for HttpTarget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let host = self.parse().map_or_else(|_| "invalid".into(), |url| host_of(&url));
        f.debug_tuple("HttpTarget").field(&host).finish()
    }
}

impl HttpTarget {
    /// The endpoint at `url`, without a signature and further headers.
    pub(crate) fn at(url: impl Into<String>) -> Self {
        Self {
            url: SecretString::from(url.into()),
            secrets: Vec::new(),
            headers: BTreeMap::new(),
            ca: None,
            client: None,
            proxy: None,
            allow_link_local: false,
        }
    }

    /// Checks what needs no file and no network.
    ///
    /// # Errors
    /// The key of the app that is wrong, and what is wrong with it, without any secret.
    pub(crate) fn check(&self) -> Result<(), (&'static str, String)> {
        let url = self.parse().map_err(|problem| ("url", problem.to_owned()))?;
        if !self.allow_link_local
            && url.host_str().and_then(literal_address).is_some_and(is_link_local)
        {
            return Err(("url", format!("names {}, {LINK_LOCAL}", host_of(&url))));
        }
        if let Some(proxy) = &self.proxy
            && !Url::parse(proxy.expose_secret()).is_ok_and(|proxy| {
                matches!(proxy.scheme(), "http" | "https") && proxy.host_str().is_some()
            })
        {
            return Err(("proxy", "cannot be read: write it like http://host:3128".to_owned()));
        }
        self.headers.keys().try_for_each(|name| check_name(name).map_err(|why| ("headers", why)))
    }

    /// The URL.
    pub(super) fn parse(&self) -> Result<Url, &'static str> {
        const LIKE: &str = "cannot be read: write it like https://host/path";
        let url = Url::parse(self.url.expose_secret()).map_err(|_| LIKE)?;
        if !matches!(url.scheme(), "http" | "https") || url.host_str().is_none() {
            return Err(LIKE);
        }
        if !url.username().is_empty() || url.password().is_some() {
            return Err("has a user or a password, which logs on the way could show: leave them \
                        out, and send them by headers, as in headers = { Authorization = { env = \
                        \"NAME\" } }");
        }
        Ok(url)
    }
}

/// Continues a sentence after an address.
pub(super) const LINK_LOCAL: &str = "which is a link-local address, as those that hand out a \
    machine's credentials: name another, or set allow_link_local = true";

/// Host and port of `url`, which is all that messages show of it.
pub(super) fn host_of(url: &Url) -> String {
    let host = url.host_str().unwrap_or_default();
    url.port().map_or_else(|| host.to_owned(), |port| format!("{host}:{port}"))
}

fn literal_address(host: &str) -> Option<IpAddr> {
    host.trim_matches(['[', ']']).parse().ok()
}

/// Also in the form of an IPv4 address within IPv6.
pub(super) fn is_link_local(address: IpAddr) -> bool {
    match address.to_canonical() {
        IpAddr::V4(address) => address.is_link_local(),
        IpAddr::V6(address) => Ipv6Addr::is_unicast_link_local(&address),
    }
}

fn check_name(name: &str) -> Result<(), String> {
    let lower = name.to_ascii_lowercase();
    if HeaderName::from_bytes(lower.as_bytes()).is_err() {
        return Err(format!("has {name:?}, which is no name of a header: correct it"));
    }
    let is_own = OWN_HEADERS.contains(&lower.as_str())
        || OWN_PREFIXES.iter().any(|prefix| lower.starts_with(prefix));
    if is_own {
        return Err(format!("has {name}, which every request has already: leave it out"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn link_local_addresses_are_known_in_each_form() {
        for local in ["169.254.169.254", "fe80::1", "::ffff:169.254.1.1"] {
            assert!(is_link_local(local.parse().unwrap()), "{local}");
        }
        for other in ["127.0.0.1", "10.0.0.1", "::1", "fd00::1"] {
            assert!(!is_link_local(other.parse().unwrap()), "{other}");
        }
        for url in ["http://169.254.169.254/x", "http://[fe80::1]/", "http://2852039166/"] {
            let (key, problem) = HttpTarget::at(url).check().unwrap_err();
            assert_eq!(key, "url");
            assert!(problem.contains("set allow_link_local = true"), "{problem}");
            assert_eq!(
                HttpTarget { allow_link_local: true, ..HttpTarget::at(url) }.check(),
                Ok(())
            );
        }
    }

    #[test]
    fn nothing_that_may_be_secret_is_shown() {
        let hush = HttpTarget::at("https://u:hush@host:8443/hush?token=hush");
        assert_eq!(format!("{hush:?}"), "HttpTarget(\"invalid\")");
        let (_, problem) = hush.check().unwrap_err();
        assert!(problem.starts_with("has a user or a password") && !problem.contains("hush"));
        let shown = format!("{:?}", HttpTarget::at("https://host:8443/hush?token=hush"));
        assert_eq!(shown, "HttpTarget(\"host:8443\")");
    }

    #[test]
    fn headers_that_every_request_has_are_not_the_apps() {
        for (name, good) in [
            ("Authorization", true),
            ("X-Key", true),
            ("Host", false),
            ("x-scheduler-job-id", false),
            ("Webhook-Id", false),
            ("a b", false),
        ] {
            assert_eq!(check_name(name).is_ok(), good, "{name}");
        }
    }
}
