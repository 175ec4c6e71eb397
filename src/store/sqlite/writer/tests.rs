//! What a group of tasks leaves in the file, and the answers to its callers.

use std::sync::mpsc;

use super::*;

const RAN: &str = "insert into ran (name) values (?)";

/// A connection to a new file, with another one that sees what was committed.
fn file() -> (tempfile::TempDir, Connection, Connection) {
    let folder = tempfile::tempdir().unwrap();
    let [writer, reader] =
        [(); 2].map(|()| Connection::open(folder.path().join("tasks.db")).unwrap());
    writer.execute_batch("pragma journal_mode = wal; create table ran (name text unique)").unwrap();
    (folder, writer, reader)
}

/// What one task does: the names that it inserts, and whether that is to be kept.
type Plan = (&'static [&'static str], bool);

/// Runs the tasks as one group; returns the answers and the names in the file.
fn run(tasks: &[Plan]) -> (Vec<std::result::Result<(), String>>, Vec<String>) {
    let (_folder, connection, reader) = file();
    let (queue, requests) = mpsc::channel();
    let mut answers = Vec::new();
    for &(names, keep) in tasks {
        let (answer, answered) = oneshot::channel();
        let run = move |connection: &Connection| {
            for name in names {
                connection.execute(RAN, [name])?;
            }
            Ok(keep)
        };
        let task = Work { run, keep: |keep| *keep, result: None, answer };
        queue.send(Request::Write(Box::new(task))).unwrap();
        answers.push(answered);
    }
    let Ok(Request::Write(first)) = requests.recv() else { panic!("no task") };
    assert!(write_group(&connection, first, &requests).is_none());
    assert!(connection.is_autocommit());
    let answers = answers.into_iter().map(|mut answered| {
        answered.try_recv().unwrap().map(drop).map_err(|error| error.to_string())
    });
    let mut names = reader.prepare("select name from ran order by name").unwrap();
    let names = names.query_map([], |row| row.get(0)).unwrap();
    (answers.collect(), names.map(rusqlite::Result::unwrap).collect())
}

#[test]
fn tasks_that_succeed_share_a_commit() {
    let (answers, names) = run(&[(&["a"], true), (&["b", "c"], true), (&["d"], true)]);
    assert_eq!(answers, [Ok(()), Ok(()), Ok(())]);
    assert_eq!(names, ["a", "b", "c", "d"]);
}

#[test]
fn a_task_that_fails_undoes_nothing_but_its_own_changes() {
    for failing in 0..4 {
        let good: [Plan; 4] = [(&["a"], true), (&["b"], true), (&["c"], true), (&["d"], true)];
        let mut tasks = good;
        tasks[failing] = (&["x", "x"], true);
        let (answers, names) = run(&tasks);
        let expected: Vec<&str> = good
            .iter()
            .enumerate()
            .filter(|(n, _)| *n != failing)
            .map(|(_, (n, _))| n[0])
            .collect();
        assert_eq!(names, expected, "task {failing} fails");
        for (n, answer) in answers.iter().enumerate() {
            assert_eq!(answer.is_err(), n == failing, "task {failing} fails: {answer:?} of {n}");
        }
    }
}

#[test]
fn what_is_not_to_be_kept_is_undone_and_answered() {
    let (answers, names) = run(&[(&["a"], true), (&["b"], false), (&["c"], false), (&["d"], true)]);
    assert_eq!(answers, [Ok(()), Ok(()), Ok(()), Ok(())]);
    assert_eq!(names, ["a", "d"]);
}

#[test]
fn a_task_that_ends_the_transaction_fails_the_group_and_the_next_one_works() {
    let (_folder, connection, _reader) = file();
    let (queue, requests) = mpsc::channel();
    let mut answers = Vec::new();
    // The second one fails, so that the others run in savepoints; the third ends the transaction.
    for sql in
        ["insert into ran values ('a')", "no sql", "rollback", "insert into ran values ('b')"]
    {
        let (answer, answered) = oneshot::channel();
        let run = move |connection: &Connection| Ok(connection.execute_batch(sql)?);
        queue
            .send(Request::Write(Box::new(Work { run, keep: |()| true, result: None, answer })))
            .unwrap();
        answers.push(answered);
    }
    let Ok(Request::Write(first)) = requests.recv() else { panic!("no task") };
    write_group(&connection, first, &requests);
    for mut answered in answers {
        answered.try_recv().unwrap().unwrap_err();
    }
    assert!(connection.is_autocommit());
    begin(&connection).unwrap();
}
