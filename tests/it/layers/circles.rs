//! Circles of modules: files that import each other, directly or indirectly.
//!
//! A module and what is below it count as one: a child may use what its parent has, as it is a
//! part of it. Siblings are compared, at every level. A name that a module
//! only hands on is followed to the module that it comes from.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use super::module_path;
use super::paths::{Import, imports};

type Module = Vec<String>;

/// The modules of a source tree, and what each of them imports.
pub(crate) struct Tree(BTreeMap<Module, (PathBuf, Vec<Import>)>);

/// How often a name is followed through modules that only hand it on.
const HOPS: usize = 8;

impl Tree {
    pub(crate) fn of(sources: &[(PathBuf, String)]) -> Self {
        let module = |(file, text): &(PathBuf, String)| {
            let path = module_path(file);
            let path = if path == ["lib"] { Module::new() } else { path };
            let imports = imports(text).into_iter().filter(|import| !import.in_tests);
            (path, (file.clone(), imports.collect()))
        };
        let is_code = |(path, _): &(Module, _)| path.last().is_none_or(|name| name != "tests");
        Self(sources.iter().map(module).filter(is_code).collect())
    }

    /// Every circle, as a sentence.
    pub(crate) fn circles(&self) -> Vec<String> {
        let mut levels: BTreeMap<Module, BTreeMap<String, BTreeMap<String, String>>> =
            BTreeMap::new();
        for (module, (file, imports)) in &self.0 {
            for import in imports {
                let Some(target) = self.absolute(module, &import.path) else { continue };
                let target = self.resolve(&target, HOPS);
                let same = module.iter().zip(&target).take_while(|(a, b)| a == b).count();
                let (Some(from), Some(to)) = (module.get(same), target.get(same)) else {
                    continue;
                };
                let says = format!("src/{}:{}", file.display(), import.line);
                let level = levels.entry(module[..same].to_vec()).or_default();
                level.entry(from.clone()).or_default().entry(to.clone()).or_insert(says);
            }
        }
        let found = levels.iter().filter_map(|(parent, graph)| {
            let circle = circle_in(graph)?;
            let steps = circle.windows(2).map(|step| {
                let says = &graph[&step[0]][&step[1]];
                format!("{} imports {} ({says})", step[0], step[1])
            });
            let parent = if parent.is_empty() { "src".into() } else { parent.join("::") };
            Some(format!("{parent}: {}", steps.collect::<Vec<_>>().join(", ")))
        });
        found.collect()
    }

    /// The path from the root, if it is one of ours.
    fn absolute(&self, module: &Module, path: &[String]) -> Option<Module> {
        let supers = path.iter().take_while(|segment| *segment == "super").count();
        let (base, rest) = match path.first()?.as_str() {
            "crate" => (&[][..], &path[1..]),
            "self" => (&module[..], &path[1..]),
            "super" => (&module[..module.len().checked_sub(supers)?], &path[supers..]),
            first => {
                let child = [&module[..], &[first.to_owned()]].concat();
                self.0.contains_key(&child).then_some((&module[..], path))?
            }
        };
        Some([base, rest].concat())
    }

    /// The module that the path's last name comes from.
    fn resolve(&self, path: &[String], hops: usize) -> Module {
        let deepest = (0..=path.len()).rev().find(|end| self.0.contains_key(&path[..*end]));
        let (module, rest) = path.split_at(deepest.unwrap_or_default());
        let handed_on = rest.first().filter(|_| hops > 0).and_then(|name| {
            let (_, imports) = self.0.get(module)?;
            let import =
                imports.iter().find(|one| one.path.len() > 1 && one.path.last() == Some(name));
            self.absolute(&module.to_vec(), &import?.path)
        });
        match handed_on {
            Some(path) => self.resolve(&path, hops - 1),
            None => module.to_vec(),
        }
    }
}

/// A circle in the graph, its first module once more at its end.
fn circle_in(graph: &BTreeMap<String, BTreeMap<String, String>>) -> Option<Vec<String>> {
    let mut done = BTreeSet::new();
    graph.keys().find_map(|start| walk(graph, start, &mut Vec::new(), &mut done))
}

fn walk(
    graph: &BTreeMap<String, BTreeMap<String, String>>,
    at: &String,
    trail: &mut Vec<String>,
    done: &mut BTreeSet<String>,
) -> Option<Vec<String>> {
    if let Some(begin) = trail.iter().position(|name| name == at) {
        return Some([&trail[begin..], std::slice::from_ref(at)].concat());
    }
    if done.contains(at) {
        return None;
    }
    trail.push(at.clone());
    let circle =
        graph.get(at).and_then(|next| next.keys().find_map(|to| walk(graph, to, trail, done)));
    trail.pop();
    done.insert(at.clone());
    circle
}

mod tests {
    use super::*;

    fn check(files: &[(&str, &str)], expected: &[&str]) {
        let sources: Vec<_> =
            files.iter().map(|(file, text)| (PathBuf::from(file), (*text).to_owned())).collect();
        assert_eq!(Tree::of(&sources).circles(), expected, "{files:?}");
    }

    #[test]
    fn two_files_that_import_each_other_are_named() {
        check(
            &[
                ("kafka/mod.rs", "mod partition; mod rebalance;"),
                ("kafka/partition.rs", "use super::rebalance::Rebalancer;"),
                ("kafka/rebalance.rs", "\nuse crate::kafka::partition::Queue;"),
            ],
            &["kafka: partition imports rebalance (src/kafka/partition.rs:1), \
               rebalance imports partition (src/kafka/rebalance.rs:2)"],
        );
    }

    #[test]
    fn a_circle_by_way_of_others_and_of_names_handed_on_is_one() {
        check(
            &[
                ("lib.rs", "mod a; mod b; mod c;"),
                ("a.rs", "use crate::b::B;"),
                ("b.rs", "mod inner; pub use inner::B;"),
                ("b/inner.rs", "fn f() { crate::c::g() }"),
                ("c/mod.rs", "mod d; use super::a::A;"),
            ],
            &["src: a imports b (src/a.rs:1), b imports c (src/b/inner.rs:1), \
               c imports a (src/c/mod.rs:1)"],
        );
        check(
            &[
                ("a/mod.rs", "mod b; mod c; use b::B; use c::C;"),
                ("a/b.rs", "use super::C;"),
                ("a/c.rs", "use super::B;"),
            ],
            &["a: b imports c (src/a/b.rs:1), c imports b (src/a/c.rs:1)"],
        );
    }

    #[test]
    fn a_child_is_part_of_its_parent_and_tests_do_not_count() {
        check(
            &[
                ("a/mod.rs", "mod b; use b::B; pub struct A;"),
                ("a/b.rs", "use super::A; #[cfg(test)] mod tests { use super::super::c::C; }"),
                ("a/c.rs", "use super::b::B;"),
                ("a/b/tests.rs", "use super::super::c::C;"),
            ],
            &[],
        );
    }
}
