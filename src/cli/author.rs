//! Who makes a change by the command line, and why.

use std::env;

use clap::builder::NonEmptyStringValueParser;

use crate::operations::{AuditSource, By};

/// Who makes a change, and why: both are in the audit.
#[derive(Clone, Debug, Default, clap::Args)]
#[command(next_help_heading = "For the audit")]
pub(super) struct Author {
    /// Why
    #[arg(long, value_name = "TEXT", value_parser = NonEmptyStringValueParser::new())]
    reason: Option<String>,
    /// Who; without it the user of the operating system
    #[arg(long, value_name = "NAME", value_parser = NonEmptyStringValueParser::new())]
    by: Option<String>,
}

impl Author {
    pub(super) fn by(&self) -> By {
        let who = self.by.clone().unwrap_or_else(user);
        let by = By::new(who).through(AuditSource::Cli);
        match &self.reason {
            Some(reason) => by.because(reason),
            None => by,
        }
    }
}

/// The name of the operating system's user, else its number.
fn user() -> String {
    let named = ["LOGNAME", "USER"].into_iter().filter_map(|variable| env::var(variable).ok());
    let named = named.into_iter().find(|name| !name.is_empty());
    named.unwrap_or_else(|| format!("uid {}", rustix::process::getuid().as_raw()))
}
