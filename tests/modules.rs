//! Checks the module graph of `src/`, which is read from the `crate::` paths. At three levels there
//! must be no cycles: the files and folders of `src/`, those of `src/kinds/`, and all modules.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

type Module = Vec<String>;
/// For each module the modules that it uses, each with a file that does.
type Graph = BTreeMap<String, BTreeMap<String, String>>;

fn source() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("src")
}

fn files(folder: &Path, out: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            files(&path, out);
        } else if path.extension().is_some_and(|ending| ending == "rs")
            && !path.ends_with("tests.rs")
        {
            out.push(path);
        }
    }
}

/// `src/a/b/mod.rs` and `src/a/b.rs` are both `a::b`.
fn module_of(path: &Path) -> Module {
    let relative = path.strip_prefix(source()).unwrap().with_extension("");
    let mut module: Module = relative
        .iter()
        .map(|part| part.to_string_lossy().into_owned())
        .collect();
    if module.last().is_some_and(|last| last == "mod") {
        module.pop();
    }
    module
}

/// The text without tests and comments.
fn production(text: &str) -> String {
    let text = text.split("#[cfg(test)]").next().unwrap();
    text.lines()
        .map(|line| line.split("//").next().unwrap())
        .collect::<Vec<_>>()
        .join("\n")
}

/// Reads the paths of a use tree such as `a::{b, c::{d, e}}`. Returns the length of the tree in the
/// text.
fn paths(text: &str, before: &[String], out: &mut Vec<Module>) -> usize {
    let (mut path, mut read) = (before.to_vec(), 0);
    loop {
        let rest = &text[read..];
        let name: String = rest
            .chars()
            .take_while(|letter| letter.is_alphanumeric() || *letter == '_')
            .collect();
        read += name.len();
        if !name.is_empty() {
            path.push(name);
        }
        match text[read..].strip_prefix("::") {
            Some(more) if more.starts_with('{') => {
                read += 3;
                loop {
                    read += text[read..].len()
                        - text[read..].trim_start_matches([' ', '\n', ',']).len();
                    if text[read..].starts_with('}') || read >= text.len() {
                        return read + 1;
                    }
                    read += paths(&text[read..], &path, out);
                    // Skips ` as other`.
                    read += text[read..].find([',', '}']).unwrap_or(0);
                }
            }
            Some(more)
                if more.starts_with(|letter: char| letter.is_alphanumeric() || letter == '_') =>
            {
                read += 2
            }
            _ => {
                out.push(path);
                return read;
            }
        }
    }
}

fn used(module: &Module, text: &str) -> Vec<Module> {
    let mut all = Vec::new();
    let root = if module == &["main"] {
        "freehold::"
    } else {
        "crate::"
    };
    for (at, _) in text.match_indices(root) {
        paths(&text[at + root.len()..], &[], &mut all);
    }
    assert!(
        !text.contains("super::"),
        "{module:?} uses super::; write the path from crate::"
    );
    all
}

/// Every use of one module by another, with the file.
fn uses() -> Vec<(Module, Module, String)> {
    let mut all = Vec::new();
    files(&source(), &mut all);
    let modules: BTreeSet<Module> = all.iter().map(|path| module_of(path)).collect();
    let mut uses = Vec::new();
    for path in &all {
        let module = module_of(path);
        if module == ["lib"] {
            continue;
        }
        let text = production(&fs::read_to_string(path).unwrap());
        for mut target in used(&module, &text) {
            while !target.is_empty() && !modules.contains(&target) {
                target.pop();
            }
            if !target.is_empty() && target != module {
                uses.push((
                    module.clone(),
                    target,
                    path.strip_prefix(source())
                        .unwrap()
                        .to_string_lossy()
                        .into_owned(),
                ));
            }
        }
    }
    assert!(
        uses.len() > 500,
        "only {} uses found: this test does not read them any more",
        uses.len()
    );
    uses
}

/// The graph of groups of modules. A folder and the modules in it may use each other; that is no
/// cycle.
fn graph(uses: &[(Module, Module, String)], group: impl Fn(&Module) -> Option<String>) -> Graph {
    let mut graph = Graph::new();
    for (from, to, file) in uses {
        let (Some(from), Some(to)) = (group(from), group(to)) else {
            continue;
        };
        let kin = |one: &str, other: &str| {
            other
                .strip_prefix(one)
                .is_some_and(|rest| rest.starts_with("::"))
        };
        if from != to && !kin(&from, &to) && !kin(&to, &from) {
            graph
                .entry(from)
                .or_default()
                .entry(to)
                .or_insert_with(|| file.clone());
        }
    }
    graph
}

/// The shortest cycle through each module that is in one, without duplicates, with the files that
/// cause it.
fn circles(graph: &Graph) -> Vec<String> {
    let (mut found, mut seen) = (Vec::new(), BTreeSet::new());
    for start in graph.keys() {
        let mut ways: Vec<Vec<&String>> = vec![vec![start]];
        let mut reached = BTreeSet::new();
        let mut next = 0;
        while let Some(way) = ways.get(next).cloned() {
            next += 1;
            let last = way[way.len() - 1];
            for to in graph.get(last).into_iter().flat_map(BTreeMap::keys) {
                if to == start {
                    let mut members = way.clone();
                    members.sort();
                    if seen.insert(members) {
                        let closed = way.iter().copied().chain([start]).collect::<Vec<_>>();
                        let steps = closed.windows(2).map(|pair| {
                            format!("{} uses {} ({})", pair[0], pair[1], graph[pair[0]][pair[1]])
                        });
                        found.push(steps.collect::<Vec<_>>().join(", "));
                    }
                    next = ways.len();
                } else if reached.insert(to) {
                    ways.push(way.iter().copied().chain([to]).collect());
                }
            }
        }
    }
    found
}

fn top(module: &Module) -> Option<String> {
    module.first().cloned()
}

/// The group of a module: a file or folder of `src/kinds/`, or another one of `src/`; `kinds`
/// itself is the registry.
fn kind(module: &Module) -> Option<String> {
    Some(module[..module.len().min(if module[0] == "kinds" { 2 } else { 1 })].join("::"))
}

#[test]
fn no_two_files_or_folders_of_src_need_each_other() {
    let circles = circles(&graph(&uses(), top));
    assert!(circles.is_empty(), "{circles:#?}");
}

#[test]
fn no_two_kinds_need_each_other() {
    let graph = graph(&uses(), kind);
    let circles = circles(&graph);
    assert!(circles.is_empty(), "{circles:#?}");
    // The registry uses every kind, and no kind uses the registry.
    for (from, to) in &graph {
        let knows_it = to.contains_key("kinds") && from.starts_with("kinds::");
        assert!(!knows_it, "{from} uses the registry");
    }
}

/// A folder in `kinds/kafka_cluster` is one concern: there the rule applies to files and folders,
/// and the files of one concern may use each other.
#[test]
fn no_two_modules_need_each_other() {
    let name = |module: &Module| match module.as_slice() {
        [kinds, cluster, concern, ..] if kinds == "kinds" && cluster == "kafka_cluster" => {
            format!("kinds::kafka_cluster::{concern}")
        }
        other => other.join("::"),
    };
    let circles = circles(&graph(&uses(), |module| Some(name(module))));
    assert!(circles.is_empty(), "{circles:#?}");
}

#[test]
fn the_generic_folders_know_no_kind_and_no_kafka() {
    for (from, to, file) in uses() {
        let generic = ["runtime", "kubernetes"].contains(&from[0].as_str());
        let specific = ["kinds", "tenancy", "clusters", "webhook", "cli"].contains(&to[0].as_str());
        assert!(!(generic && specific), "{file} uses {}", to.join("::"));
    }
    let mut all = Vec::new();
    files(&source(), &mut all);
    for path in all {
        let module = module_of(&path);
        let text = production(&fs::read_to_string(&path).unwrap());
        let generic = ["runtime", "kubernetes"].contains(&module[0].as_str());
        assert!(
            !(generic && text.contains("freehold_kafka")),
            "{} uses Kafka",
            path.display()
        );
    }
}

/// Which of the basic folders may use which, from the lowest to the highest.
#[test]
fn lower_folders_do_not_use_higher_ones() {
    let order = [
        "words",
        "kubernetes",
        "api",
        "runtime",
        "certificates",
        "clusters",
        "tenancy",
        "kinds",
        "webhook",
        "cli",
        "main",
    ];
    let place = |module: &Module| order.iter().position(|one| *one == module[0]);
    for (from, to, file) in uses() {
        if let (Some(from_place), Some(to_place)) = (place(&from), place(&to)) {
            assert!(
                from_place >= to_place,
                "{file} uses {}: {} is below {}",
                to.join("::"),
                from[0],
                to[0]
            );
        }
    }
}

#[test]
fn circles_are_found() {
    let graph_of = |pairs: &[(&str, &str)]| {
        let mut graph = Graph::new();
        for (from, to) in pairs {
            graph
                .entry((*from).to_owned())
                .or_default()
                .insert((*to).to_owned(), "file".to_owned());
        }
        graph
    };
    assert!(circles(&graph_of(&[("a", "b"), ("b", "c"), ("a", "c")])).is_empty());
    let found = circles(&graph_of(&[("a", "b"), ("b", "c"), ("c", "a"), ("x", "a")]));
    assert_eq!(found, ["a uses b (file), b uses c (file), c uses a (file)"]);
    let mut all = Vec::new();
    paths("a::{b, c::{d as e, f},\n g}; x", &[], &mut all);
    let all: Vec<String> = all.iter().map(|path| path.join("::")).collect();
    assert_eq!(all, ["a::b", "a::c::d", "a::c::f", "a::g"]);
}
