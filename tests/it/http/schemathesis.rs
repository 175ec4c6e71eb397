//! The API against its own OpenAPI document: schemathesis asks what the document allows and what it
//! does not, with each role and without a token.

use std::path::Path;
use std::process::{Command, Output};

use infinite_scheduler::config::{Role, TokenConfig};

use super::{Served, builder, local};
use crate::support::is_long;
use crate::support::services::{Database, temporary_folder};

const CHECKS: &str = "not_a_server_error,status_code_conformance,content_type_conformance,\
                      response_schema_conformance";

#[tokio::test(flavor = "multi_thread")]
async fn what_the_document_says_is_what_is_answered() {
    if !is_long() {
        println!("schemathesis runs in `tests/run long` only");
        return;
    }
    let folder = temporary_folder();
    let environment = folder.path().join("python").display().to_string();
    if !run(folder.path(), "python3", &["-m", "venv", &environment])
        .await
        .is_some_and(|made| made.status.success())
    {
        println!("skipped: python3 with venv is missing, which installs schemathesis");
        return;
    }
    let pip = format!("{environment}/bin/pip");
    let installed =
        run(folder.path(), &pip, &["-q", "install", "schemathesis"]).await.expect("pip");
    if !installed.status.success() {
        println!(
            "skipped: PyPI has no schemathesis: {}",
            String::from_utf8_lossy(&installed.stderr)
        );
        return;
    }
    let database = Database::Sqlite.fresh().await;
    let options = [("admin", Role::Admin), ("operate", Role::Operate), ("read", Role::Read)]
        .into_iter()
        .fold(local(), |options, (name, role)| options.token(TokenConfig::new(name, role, name)));
    let served = Served::of(builder(database.url()), options).await;
    let document = served.request(reqwest::Method::GET, "/api/openapi.json").bearer_auth("read");
    let document = document.send().await.expect("an answer").text().await.expect("text");
    let file = folder.path().join("openapi.json").display().to_string();
    std::fs::write(&file, document).expect("a file");
    let (url, st) = (served.url(""), format!("{environment}/bin/st"));
    for token in ["admin", "operate", "read", "none", ""] {
        let header = format!("Authorization: Bearer {token}");
        let mut arguments = vec!["run", &file, "--url", &url, "--checks", CHECKS, "--no-color"];
        arguments.extend(["--phases", "examples,coverage,fuzzing", "--max-examples", "20"]);
        // The one instance would have no shards any more.
        arguments.extend(["--exclude-path-regex", "/drain$"]);
        if !token.is_empty() {
            arguments.extend(["-H", &header]);
        }
        let asked = run(folder.path(), &st, &arguments).await.expect("schemathesis");
        let said = String::from_utf8_lossy(&asked.stdout);
        assert!(asked.status.success(), "token {token:?}: {said}");
        assert!(!said.contains("unresolvable reference"), "{said}");
    }
    served.end().await;
}

/// `None` if there is no such program.
async fn run(folder: &Path, program: &str, arguments: &[&str]) -> Option<Output> {
    let mut command = Command::new(program);
    // It keeps a folder of its own where it runs.
    command.args(arguments).current_dir(folder);
    tokio::task::spawn_blocking(move || command.output()).await.expect("no panic").ok()
}
