//! What each module of `src/` may import, as ARCHITECTURE.md has it, checked in the source text.
//!
//! Comments, strings and doc text do not count. Test code may use tokio anywhere, for `#[tokio::test]`.

mod circles;
mod paths;

use std::fs;
use std::path::{Path, PathBuf};

use paths::{Import, imports};

/// Longer files are two rooms.
const MAX_LINES: usize = 600;

/// Crates that belong to some rooms only; every other crate is free.
const WATCHED: &[&str] = &[
    "actix",
    "actix_rt",
    "actix_web",
    "infinite_scheduler_entity",
    "infinite_scheduler_migration",
    "rdkafka",
    "redis",
    "reqwest",
    "rusqlite",
    "sea_orm",
    "sea_orm_migration",
    "sqlx",
    "tokio",
];

struct Room {
    /// A module of ours, or a part of one that may import more: the longest name counts.
    name: &'static str,
    /// Modules of ours, besides itself.
    ours: &'static [&'static str],
    /// Of the watched crates.
    crates: &'static [&'static str],
}

const ROOMS: &[Room] = &[
    Room { name: "model", ours: &[], crates: &[] },
    Room { name: "health", ours: &["model"], crates: &[] },
    Room {
        name: "store",
        ours: &["model", "health"],
        // tokio carries work to SQLite's writer thread and answers back.
        crates: &[
            "infinite_scheduler_entity",
            "infinite_scheduler_migration",
            "rusqlite",
            "sea_orm",
            "sqlx",
            "tokio",
        ],
    },
    Room { name: "kafka", ours: &["model", "health"], crates: &["rdkafka", "tokio"] },
    Room { name: "recovery", ours: &[], crates: &["tokio"] },
    Room { name: "admission", ours: &["model", "recovery", "store"], crates: &["tokio"] },
    Room {
        name: "actors",
        ours: &["model", "health", "recovery", "store", "kafka", "dispatch", "admission"],
        crates: &["actix", "actix_rt", "redis", "tokio"],
    },
    Room {
        name: "dispatch",
        ours: &["model", "health", "kafka"],
        crates: &["redis", "reqwest", "tokio"],
    },
    // `config` knows the settings of Kafka and of the log, and hides the passwords of URLs as
    // `store` does.
    Room {
        name: "config",
        ours: &["model", "store", "kafka", "dispatch", "telemetry"],
        crates: &["redis"],
    },
    Room { name: "telemetry", ours: &[], crates: &[] },
    Room {
        name: "operations",
        ours: &["model", "store", "kafka", "admission", "config"],
        crates: &["tokio"],
    },
    Room {
        name: "service",
        ours: &[
            "model",
            "health",
            "store",
            "kafka",
            "dispatch",
            "admission",
            "actors",
            "config",
            "operations",
            "telemetry",
        ],
        crates: &["actix", "tokio"],
    },
    // `service` for its handle alone.
    Room {
        name: "http",
        ours: &["model", "health", "operations", "service", "config"],
        crates: &["actix_web"],
    },
    Room { name: "cli", ours: CLI, crates: &["tokio"] },
    // What is measured and shown is the inside, too.
    Room {
        name: "cli/bench",
        ours: &["cli", "model", "store", "kafka", "dispatch", "operations", "service", "telemetry"],
        crates: &["rdkafka", "rusqlite", "sea_orm", "sqlx", "tokio"],
    },
    Room {
        name: "cli/demo",
        ours: &["cli", "model", "kafka", "dispatch", "service", "http", "telemetry"],
        crates: &["tokio"],
    },
    // The handler that both of them give their jobs to.
    Room { name: "cli/timing", ours: &["cli", "model", "dispatch"], crates: &[] },
];

/// What a command may import: what it parses, what it calls, and what it starts.
const CLI: &[&str] = &["model", "health", "config", "operations", "service", "http", "telemetry"];

#[test]
fn every_room_imports_only_what_it_may() {
    let offences: Vec<String> =
        sources().iter().flat_map(|(file, text)| offences(file, text)).collect();
    assert!(offences.is_empty(), "\n{}", offences.join("\n"));
}

#[test]
fn no_file_is_two_rooms() {
    let long: Vec<String> =
        sources().iter().filter_map(|(file, text)| too_long(file, text)).collect();
    assert!(long.is_empty(), "\n{}", long.join("\n"));
}

#[test]
fn no_modules_import_each_other_in_a_circle() {
    let circles = circles::Tree::of(&sources()).circles();
    assert!(circles.is_empty(), "\n{}", circles.join("\n"));
}

/// A message that an actor handles and does not list is lost without a word.
#[test]
fn every_message_that_an_actor_handles_is_in_its_routes() {
    let actors: Vec<_> =
        sources().into_iter().filter(|(file, _)| file.starts_with("actors")).collect();
    let is_child = |text: &str| text.contains("impl Child for ");
    let missing: Vec<String> = actors
        .iter()
        .filter(|(_, text)| is_child(text))
        .flat_map(|(file, text)| {
            let handled = text.split("impl Handler<").skip(1);
            let handled = handled.filter_map(|rest| rest.split_once('>').map(|(name, _)| name));
            // The Supervisor sends `Report` to all actors itself.
            let listed =
                |name: &&str| *name == "Report" || text.contains(&format!(".handles::<{name}>()"));
            let missing = handled.filter(move |name| !listed(name));
            missing.map(move |name| format!("src/{}: {name}", file.display()))
        })
        .collect();
    assert!(missing.is_empty(), "not among the routes:\n{}", missing.join("\n"));
    assert!(actors.iter().filter(|(_, text)| is_child(text)).count() >= 7);
}

/// Every `.rs` below `src/`, as its path from there and its text.
fn sources() -> Vec<(PathBuf, String)> {
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut folders = vec![src.clone()];
    let mut sources = Vec::new();
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).expect("a readable folder") {
            let path = entry.expect("an entry").path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let text = fs::read_to_string(&path).expect("a readable file");
                sources.push((path.strip_prefix(&src).expect("below src").to_owned(), text));
            }
        }
    }
    assert!(!sources.is_empty(), "nothing below {}", src.display());
    sources.sort();
    sources
}

fn too_long(file: &Path, text: &str) -> Option<String> {
    let lines = text.lines().count();
    (lines > MAX_LINES)
        .then(|| format!("src/{}: {lines} lines, and {MAX_LINES} is too many", file.display()))
}

/// What `text`, as the content of `file` (a path from `src/`), imports against the table.
fn offences(file: &Path, text: &str) -> Vec<String> {
    let module = module_path(file);
    let Some(room) = room_of(&module) else { return Vec::new() };
    let in_tests = module.last().is_some_and(|name| name == "tests");
    imports(text)
        .iter()
        .filter(|import| !may_import(room, &module, import, in_tests))
        .map(|import| {
            let (name, path) = (room.name, import.path.join("::"));
            format!("src/{}:{}: {name} may not import {path}", file.display(), import.line)
        })
        .collect()
}

/// The room that a module is in; of a room and a part of it the part.
fn room_of(module: &[String]) -> Option<&'static Room> {
    let is_in = |room: &&Room| {
        let parts = room.name.split('/').count();
        module.len() >= parts && room.name.split('/').zip(module).all(|(name, part)| name == part)
    };
    ROOMS.iter().filter(is_in).max_by_key(|room| room.name.len())
}

fn may_import(room: &Room, module: &[String], import: &Import, in_tests: bool) -> bool {
    let path: Vec<&str> = import.path.iter().map(String::as_str).collect();
    let supers = path.iter().take_while(|segment| **segment == "super").count();
    let may = |ours: &str| Some(ours) == room.name.split('/').next() || room.ours.contains(&ours);
    match path[..] {
        ["crate", ours, ..] => may(ours),
        // `super` as often as the module is deep is the crate's root.
        ["super", ..] if supers >= module.len() => match path.get(supers) {
            Some(ours) => !is_room(ours) || may(ours),
            None => true,
        },
        ["tokio", ..] if in_tests || import.in_tests => true,
        [name, ..] => !WATCHED.contains(&name) || room.crates.contains(&name),
        [] => true,
    }
}

fn is_room(name: &str) -> bool {
    ROOMS.iter().any(|room| room.name == name)
}

/// `store/admit/mod.rs` is the module `store::admit`.
fn module_path(file: &Path) -> Vec<String> {
    let mut segments: Vec<String> = file
        .with_extension("")
        .iter()
        .map(|segment| segment.to_string_lossy().into_owned())
        .collect();
    if segments.last().is_some_and(|last| last == "mod") {
        segments.pop();
    }
    segments
}

mod tests {
    use super::*;

    fn check(file: &str, text: &str, expected: &[&str]) {
        assert_eq!(offences(Path::new(file), text), expected, "{file}: {text}");
    }

    #[test]
    fn a_forbidden_use_is_named_with_its_line() {
        check(
            "model/job.rs",
            "//! A job.\n\nuse crate::store::Store;\n",
            &["src/model/job.rs:3: model may not import crate::store::Store"],
        );
        check(
            "actors/reader/mod.rs",
            "use sea_orm::entity::prelude::*;",
            &["src/actors/reader/mod.rs:1: actors may not import sea_orm::entity::prelude::*"],
        );
    }

    #[test]
    fn the_same_in_a_room_that_may_is_fine() {
        check("store/admit.rs", "use sea_orm::Set; use crate::{model::Job, store::rows};", &[]);
        check("service.rs", "use crate::store::Store; use actix::System;", &[]);
        check("http/jobs.rs", "use crate::service::Scheduler; use actix_web::web;", &[]);
    }

    #[test]
    fn a_part_of_a_room_has_a_row_of_its_own() {
        let text = "use crate::store::Store; use sea_orm::Set;";
        check("cli/bench/scratch.rs", text, &[]);
        check("cli/bench.rs", text, &[]);
        check(
            "cli/ingest/seek.rs",
            text,
            &[
                "src/cli/ingest/seek.rs:1: cli may not import crate::store::Store",
                "src/cli/ingest/seek.rs:1: cli may not import sea_orm::Set",
            ],
        );
    }

    #[test]
    fn each_branch_of_a_group_counts() {
        check(
            "kafka/intake.rs",
            "use crate::{\n    model::Job,\n    store::{self, admit::Batch},\n};",
            &[
                "src/kafka/intake.rs:3: kafka may not import crate::store::self",
                "src/kafka/intake.rs:3: kafka may not import crate::store::admit::Batch",
            ],
        );
    }

    #[test]
    fn an_inline_path_counts() {
        check(
            "dispatch/http.rs",
            "fn f() {\n    let x: crate::actors::Watch = ::actix::spawn(async {});\n}",
            &[
                "src/dispatch/http.rs:2: dispatch may not import crate::actors::Watch",
                "src/dispatch/http.rs:2: dispatch may not import actix::spawn",
            ],
        );
        check(
            "http/mod.rs",
            "#[tokio::main]\nasync fn main() { sqlx::query(\"\"); }",
            &[
                "src/http/mod.rs:1: http may not import tokio::main",
                "src/http/mod.rs:2: http may not import sqlx::query",
            ],
        );
    }

    #[test]
    fn climbing_out_of_the_room_counts() {
        check(
            "kafka/config/tests.rs",
            "use super::super::super::store::Store; use super::super::producer;",
            &[
                "src/kafka/config/tests.rs:1: kafka may not import super::super::super::store::Store",
            ],
        );
        check("kafka/mod.rs", "mod tests { use super::*; }", &[]);
    }

    #[test]
    fn a_name_at_the_root_hides_its_room() {
        check(
            "http/mod.rs",
            "use crate::Scheduler;",
            &["src/http/mod.rs:1: http may not import crate::Scheduler"],
        );
    }

    #[test]
    fn comments_strings_and_fields_do_not_count() {
        check(
            "model/mod.rs",
            r###"
                //! Unlike [`crate::store::Store`]
                /// use tokio::sync;
                /* use rdkafka::X; /* nested */ use sqlx::Y; */
                const A: &str = "use crate::store::Z; \" tokio::spawn";
                const B: &[u8] = br#"actix::Addr "quoted" "#;
                const C: char = '"';
                fn f<'a>(actix: &'a X) -> u8 { actix.sqlx; my::tokio::thing() }
            "###,
            &[],
        );
    }

    #[test]
    fn tests_may_use_tokio_and_nothing_else() {
        check(
            "model/window.rs",
            "#[cfg(test)]\nmod tests {\n    #[tokio::test]\n    async fn f() { sqlx::x() }\n}\nuse tokio::sync;",
            &[
                "src/model/window.rs:4: model may not import sqlx::x",
                "src/model/window.rs:6: model may not import tokio::sync",
            ],
        );
        check("model/window/tests.rs", "use tokio::time;", &[]);
    }

    #[test]
    fn a_file_past_the_limit_is_too_long() {
        let file = Path::new("model/job.rs");
        assert_eq!(too_long(file, &"\n".repeat(MAX_LINES)), None);
        assert!(too_long(file, &"\n".repeat(MAX_LINES + 1)).is_some());
    }
}
