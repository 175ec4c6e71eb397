//! The rules of requests and jobs, without I/O and without imports of other modules.
//!
//! Everything here can be tested in memory: decoding and validation of requests, forms of time,
//! retry policy, the window of jobs in memory, the clock.

pub(crate) mod app;
pub mod audit;
pub(crate) mod bulk;
pub mod change;
pub(crate) mod circuit;
pub mod clock;
pub(crate) mod cursor;
pub(crate) mod filter;
pub(crate) mod fence;
pub mod fingerprint;
pub(crate) mod flaw;
pub mod ids;
pub mod interruption;
pub mod job;
mod json;
pub mod lateness;
pub mod letter;
pub(crate) mod limits;
pub mod pause;
pub(crate) mod process;
pub mod rate;
pub mod record;
pub mod request;
pub mod retry;
pub(crate) mod schema;
pub(crate) mod suggest;
pub(crate) mod target;
#[cfg(test)]
pub(crate) mod tests;
pub mod time;
pub mod verdict;
pub mod versions;
pub mod window;
