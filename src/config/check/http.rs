//! Checks the settings of the HTTP server.

use std::net::SocketAddr;
use std::path::Path;

use secrecy::ExposeSecret;

use crate::config::raw::{RawHttp, RawToken};
use crate::config::{ConfigError, HttpConfig, TokenConfig, TokenSource};

/// Relative paths start from `folder`.
pub(super) fn http(raw: RawHttp, folder: &Path) -> Result<HttpConfig, ConfigError> {
    let mut tokens = Vec::with_capacity(raw.tokens.len());
    for (number, written) in raw.tokens.into_iter().enumerate() {
        tokens.push(token(number, written, folder)?);
    }
    let listen = listen(&raw.listen)?;
    if !listen.ip().is_loopback() && tokens.is_empty() {
        let problem = format!(
            "is \"{listen}\", but another address than loopback needs http.tokens: add one, \
             as in tokens = [{{ name = \"ops\", role = \"admin\", file = \"ops.token\" }}], or \
             listen on 127.0.0.1"
        );
        return Err(ConfigError::invalid("http.listen", problem));
    }
    Ok(HttpConfig { listen, tokens })
}

fn token(number: usize, raw: RawToken, folder: &Path) -> Result<TokenConfig, ConfigError> {
    let RawToken { name, role, value, file } = raw;
    let invalid =
        |problem: &str| Err(ConfigError::invalid(format!("http.tokens[{number}]"), problem));
    if name.trim().is_empty() {
        return invalid("has an empty name: it is what logs and the audit show");
    }
    let source = match (value, file) {
        (Some(value), None) if value.expose_secret().is_empty() => {
            return invalid("has an empty value: everybody has that");
        }
        (Some(value), None) => TokenSource::Value(value),
        (None, Some(file)) => TokenSource::File(folder.join(file)),
        (Some(_), Some(_)) => return invalid("has a value and a file: leave one out"),
        (None, None) => return invalid("has neither value nor file: add one"),
    };
    Ok(TokenConfig { name, role, source })
}

fn listen(address: &str) -> Result<SocketAddr, ConfigError> {
    let numeric = match address.strip_prefix("localhost:") {
        Some(port) => format!("127.0.0.1:{port}"),
        None => address.to_owned(),
    };
    numeric.parse::<SocketAddr>().map_err(|_| {
        let problem =
            format!("is {address:?}, but must be an address and a port: \"127.0.0.1:7070\"");
        ConfigError::invalid("http.listen", problem)
    })
}
