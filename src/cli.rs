//! The command line: what each command is asked, and how the process ends.
//!
//! A command parses, calls an operation and renders its answer. Exit codes: 0, done. 1, it failed.
//! 2, it cannot succeed as it was asked (a mistake in the command line or the configuration, a
//! database of a newer version). 3, the answer is no. 128 + n, ended by signal n.

mod serve;

mod demo;

mod migrate;

mod submit;
mod requests;

mod ingest;

mod dead_letters;

mod apps;

mod instances;

mod audit;

mod bench;

mod session;
mod author;
mod moment;
mod output;
mod signals;
mod timing;

use std::fmt::Display;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Context;
use clap::{Args, Parser, Subcommand};

use crate::config::{Config, environment};

/// Schedules jobs that microservices ask for through Kafka, and fires each at its moment.
#[derive(Debug, Parser)]
#[command(name = "infinite-scheduler", version)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Serve(serve::Arguments),
    Demo(demo::Arguments),
    Migrate(migrate::Arguments),
    Submit(Box<submit::Arguments>),
    Requests(requests::Arguments),
    Ingest(ingest::Arguments),
    DeadLetters(dead_letters::Arguments),
    Apps(apps::Arguments),
    Instances(instances::Arguments),
    Audit(audit::Arguments),
    Bench(bench::Arguments),
}

/// The option that most commands have.
#[derive(Debug, Args)]
struct ConfigFile {
    /// The configuration; without it infinite-scheduler.toml of the working directory, if there
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
}

/// What was asked for cannot succeed, however often it is tried.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
struct CannotStart(String);

/// Does what the command line says.
pub fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let done = tokio::runtime::Runtime::new().context("no runtime").and_then(|runtime| {
        let done = runtime.block_on(run(arguments.command));
        // Nothing is waited for that blocks a thread, such as a read from a terminal.
        runtime.shutdown_background();
        done
    });
    if let Some(why) = output::unwritten() {
        output::report(format_args!(
            "infinite-scheduler: standard output cannot be written: {why}"
        ));
        return ExitCode::FAILURE;
    }
    done.unwrap_or_else(|error| {
        output::report(format_args!("infinite-scheduler: {error:#}"));
        ExitCode::from(match &error {
            error if error.is::<CannotStart>() => 2,
            error if error.is::<Refused>() => 3,
            _ => 1,
        })
    })
}

async fn run(command: Command) -> anyhow::Result<ExitCode> {
    match command {
        Command::Serve(arguments) => serve::run(arguments).await,
        Command::Demo(arguments) => demo::run(arguments).await,
        Command::Migrate(arguments) => migrate::run(arguments).await,
        Command::Submit(arguments) => submit::run(*arguments).await,
        Command::Requests(arguments) => requests::run(arguments).await,
        Command::Ingest(arguments) => ingest::run(arguments).await,
        Command::DeadLetters(arguments) => dead_letters::run(arguments).await,
        Command::Apps(arguments) => apps::run(arguments).await,
        Command::Instances(arguments) => instances::run(arguments).await,
        Command::Audit(arguments) => audit::run(arguments).await,
        Command::Bench(arguments) => bench::run(arguments).await,
    }
}

/// The answer of an operation is no: what it is about does not exist, or does not allow it.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
struct Refused(String);

fn load(file: Option<&Path>) -> Result<Config, CannotStart> {
    Config::load(file, environment()).map_err(cannot_start)
}

fn cannot_start(error: impl Display) -> CannotStart {
    CannotStart(error.to_string())
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn every_command_shows_an_example_in_its_help() {
        let mut all = Arguments::command();
        all.build();
        let mut waiting: Vec<_> =
            all.get_subcommands().filter(|c| c.get_name() != "help").collect();
        while let Some(command) = waiting.pop() {
            let help = command.get_after_help().map(ToString::to_string).unwrap_or_default();
            assert!(help.contains("Example"), "{}: {help}", command.get_name());
            waiting.extend(command.get_subcommands().filter(|c| c.get_name() != "help"));
        }
    }

    #[test]
    fn the_arguments_do_not_contradict_each_other() {
        Arguments::command().debug_assert();
    }
}
