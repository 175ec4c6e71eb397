//! Resolves the names of targets, and refuses link-local addresses.

use std::net::SocketAddr;

use reqwest::dns::{Addrs, Name, Resolve, Resolving};

use super::settings::{LINK_LOCAL, is_link_local};

/// Resolves as the system does. Its errors are the step "resolving".
pub(super) struct Resolver {
    pub(super) allow_link_local: bool,
}

/// Why a name has no address for a target.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(super) struct NotResolved(String);

impl Resolve for Resolver {
    fn resolve(&self, name: Name) -> Resolving {
        let allow_link_local = self.allow_link_local;
        Box::pin(async move {
            let found = tokio::net::lookup_host((name.as_str(), 0)).await;
            let found = found.map_err(|error| NotResolved(error.to_string()))?;
            let allowed: Vec<SocketAddr> =
                found.filter(|a| allow_link_local || !is_link_local(a.ip())).collect();
            if allowed.is_empty() {
                return Err(NotResolved(format!("it has no address but one {LINK_LOCAL}")).into());
            }
            Ok(Box::new(allowed.into_iter()) as Addrs)
        })
    }
}
