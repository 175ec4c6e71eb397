//! The command line: the commands, and how the process ends.
//!
//! A command parses, calls an operation and renders its answer: the answer on standard output,
//! everything else on standard error (`output`). `exit` has the exit codes.

mod serve;

mod demo;

mod migrate;

mod submit;
mod requests;

mod job_filters;
mod jobs;
mod operations;

mod ingest;

mod dead_letters;

mod apps;

mod instances;

mod audit;

mod bench;
mod bulk;

mod session;
mod author;
mod moment;
mod exit;
mod output;
mod signals;
mod timing;

use std::fmt::Display;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Context;
use clap::{Args, Parser, Subcommand};

use self::exit::Exit;
use crate::config::{Config, environment};

/// Schedules the jobs that microservices request through Kafka, and fires each at its time
#[derive(Debug, Parser)]
#[command(name = "infinite-scheduler", version, after_help = exit::HELP)]
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
    Jobs(Box<jobs::Arguments>),
    Bulk(Box<bulk::Arguments>),
    Operations(operations::Arguments),
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
    /// The configuration file [default: infinite-scheduler.toml of the working directory, if it
    /// exists]
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
}

/// The command cannot succeed as it was given: trying it again does not help.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
struct CannotStart(String);

/// Runs the command that the process was started with.
pub fn main() -> ExitCode {
    let code = match Arguments::try_parse() {
        Ok(arguments) => execute(arguments.command),
        Err(error) if error.use_stderr() => error.exit(),
        Err(help) => {
            output::note(help.print());
            ExitCode::SUCCESS
        }
    };
    match output::unwritten() {
        None => code,
        Some(why) => {
            output::report(format_args!(
                "infinite-scheduler: standard output cannot be written: {why}"
            ));
            Exit::Incomplete.into()
        }
    }
}

fn execute(command: Command) -> ExitCode {
    let done = tokio::runtime::Runtime::new().context("no runtime").and_then(|runtime| {
        let done = runtime.block_on(run(command));
        // A thread that is blocked, as by reading from a terminal, is not waited for.
        runtime.shutdown_background();
        done
    });
    done.unwrap_or_else(|error| {
        output::report(format_args!("infinite-scheduler: {error:#}"));
        Exit::of(&error).into()
    })
}

async fn run(command: Command) -> anyhow::Result<ExitCode> {
    match command {
        Command::Serve(arguments) => serve::run(arguments).await,
        Command::Demo(arguments) => demo::run(arguments).await,
        Command::Migrate(arguments) => migrate::run(arguments).await,
        Command::Submit(arguments) => submit::run(*arguments).await,
        Command::Requests(arguments) => requests::run(arguments).await,
        Command::Jobs(arguments) => jobs::run(*arguments).await,
        Command::Bulk(arguments) => bulk::run(*arguments).await,
        Command::Operations(arguments) => operations::run(arguments).await,
        Command::Ingest(arguments) => ingest::run(arguments).await,
        Command::DeadLetters(arguments) => dead_letters::run(arguments).await,
        Command::Apps(arguments) => apps::run(arguments).await,
        Command::Instances(arguments) => instances::run(arguments).await,
        Command::Audit(arguments) => audit::run(arguments).await,
        Command::Bench(arguments) => bench::run(arguments).await,
    }
}

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
