//! What a job is: the pure rules, with no I/O and none of our other rooms.
//!
//! Everything here can be tested in memory: decoding and validation of requests, the
//! forms in which time is written, retry policy, the window of jobs in memory, the clock.

pub mod app;
pub mod clock;
pub mod fence;
pub mod fingerprint;
pub(crate) mod flaw;
pub mod ids;
pub mod job;
mod json;
pub mod letter;
pub mod process;
pub mod record;
pub mod request;
pub mod retry;
pub mod schema;
#[cfg(test)]
pub(crate) mod tests;
pub mod time;
pub mod verdict;
pub mod window;
