//! What is paused on request: an app, or the ingest of a consumer group.

/// Since when something is paused, by whom and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pause {
    /// Since when, epoch milliseconds.
    pub since_ms: i64,
    /// Who paused it.
    pub by: String,
    /// Why.
    pub reason: Option<String>,
}

/// The pause of an app: none of its jobs is started.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AppPause {
    /// Since when, by whom and why.
    pub pause: Pause,
    /// Whether its requests are refused meanwhile.
    pub refuses_requests: bool,
}
