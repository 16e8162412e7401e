//! The structure of the source: who may use whom, and where each outside world has its door.
//!
//! Reads the sources as text. Comments, literals and test code do not count.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

/// Which modules a top-level module may use.
const EDGES: &[(&[&str], &[&str])] = &[
    (&["domain", "playready", "clearkey", "config", "clock", "outbound", "kurrent_protocol"], &[]),
    (&["keys", "access"], &["domain", "clock", "config"]),
    (&["ledger"], &["domain", "clock", "config", "kurrent_protocol"]),
    (&["packaging"], &["domain", "playready", "keys", "clock", "config"]),
    (&["entitlement"], &["domain", "playready", "keys", "clock", "config", "outbound"]),
    (&["simulator"], &["playready", "clock"]),
    (
        &["licensing"],
        &["domain", "playready", "clearkey", "entitlement", "ledger", "keys", "clock"],
    ),
    (&["projections", "audit", "analytics"], &["domain", "ledger", "clock"]),
    (&["notify"], &["domain", "ledger", "clock", "outbound"]),
    // The log itself, offered over a protocol.
    (&["grpc"], &["ledger", "kurrent_protocol", "access", "domain", "config", "clock"]),
    (
        &["http"],
        &[
            "licensing",
            "packaging",
            "access",
            "domain",
            "config",
            "clock",
            "projections",
            "audit",
            "analytics",
            "notify",
        ],
    ),
    (&["main"], &["cli"]),
];

/// Modules that may use all others.
const USES_ALL: &[&str] = &["cli", "lib"];

/// What only these files, or folders, may name.
const DOORS: &[(&str, &[&str])] = &[
    // The service hands its parts to the routes in actix's own container.
    ("actix_web", &["http", "cli/service.rs"]),
    ("actix_http", &["http"]),
    ("actix_server", &["http"]),
    ("actix_service", &["http"]),
    ("actix_tls", &["http"]),
    ("tonic", &["grpc", "ledger/kurrent"]),
    ("eventstore", &["ledger/kurrent"]),
    ("prost", &["kurrent_protocol", "grpc", "ledger/kurrent"]),
    ("clap", &["cli"]),
    // What was delivered is derived from no event, and kept apart from what is.
    ("rusqlite", &["ledger", "projections", "notify/store"]),
    ("prometheus_client", &["http", "licensing/metrics.rs", "notify/metrics.rs"]),
    ("aws_lc_sys", &["playready/elgamal.rs"]),
    ("libmimalloc_sys", &["cli/allocator.rs"]),
    ("unsafe", &["playready/elgamal.rs", "cli/allocator.rs"]),
    ("ureq", &["simulator", "cli", "entitlement", "outbound"]),
    ("jsonwebtoken", &["entitlement/token"]),
];

/// What may lie beside the source, apart from files that begin with a dot.
const TOP_LEVEL: &[&str] = &[
    "Cargo.toml",
    "Cargo.lock",
    "LICENSE",
    "README.md",
    "docker-compose.yml",
    "src",
    "migrations",
    "projections",
    "tests",
    "benches",
    // The default place of what is built.
    "target",
];

const LINES_MAX: usize = 600;

#[test]
fn modules_use_only_those_they_may() {
    let (mut wrong, mut seen) = (BTreeSet::new(), BTreeSet::new());
    for source in sources() {
        let module = source.module();
        for used in source.modules_used() {
            seen.insert((module.clone(), used.clone()));
            if used != module && !may_use(&module, &used) {
                wrong.insert(format!("{} uses {used}", source.name));
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
    // What cannot be missing, so that an empty list means something.
    for (module, used) in [("licensing", "ledger"), ("cli", "http"), ("ledger", "domain")] {
        assert!(seen.contains(&(module.to_owned(), used.to_owned())), "{module} -> {used}");
    }
}

#[test]
fn every_module_has_its_place_in_the_rules() {
    let ruled = EDGES.iter().flat_map(|(modules, _)| *modules).chain(USES_ALL);
    let ruled: BTreeSet<_> = ruled.map(|module| (*module).to_owned()).collect();
    let found: BTreeSet<_> = sources().iter().map(Source::module).collect();
    assert!(found.is_subset(&ruled), "{:?}", found.difference(&ruled));
}

#[test]
fn each_outside_world_has_its_door() {
    let mut wrong = Vec::new();
    for source in sources() {
        let words: BTreeSet<_> = words(&source.code).collect();
        for (word, doors) in DOORS {
            let inside = doors.iter().any(|door| {
                source.name == *door
                    || source.name == format!("{door}.rs")
                    || source.name.starts_with(&format!("{door}/"))
            });
            if words.contains(word) && !inside {
                wrong.push(format!("{} names {word}", source.name));
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn no_file_is_longer_than_a_reader_can_hold() {
    let long = files_below(&["src", "tests", "benches"], "rs")
        .into_iter()
        .filter(|path| fs::read_to_string(path).unwrap().lines().count() > LINES_MAX);
    assert_eq!(long.collect::<Vec<_>>(), Vec::<PathBuf>::new());
}

#[test]
fn modules_are_named_after_what_they_are() {
    let nameless = ["mod.rs", "utils.rs", "util.rs", "helpers.rs", "common.rs", "misc.rs"];
    let found = files_below(&["src", "tests", "benches"], "rs").into_iter();
    let found = found.filter(|path| nameless.iter().any(|name| path.ends_with(name)));
    assert_eq!(found.collect::<Vec<_>>(), Vec::<PathBuf>::new());
}

#[test]
fn nothing_lies_beside_the_source_that_does_not_belong_there() {
    let entries = fs::read_dir(root()).unwrap();
    let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let stray = names.filter(|name| !name.starts_with('.') && !TOP_LEVEL.contains(&name.as_str()));
    assert_eq!(stray.collect::<Vec<_>>(), Vec::<String>::new());
}

#[test]
fn no_file_names_a_machine_or_leaves_work_behind() {
    // Put together here, so that this file does not name them either.
    let unfinished = [["TO", "DO"], ["FIX", "ME"], ["todo", "!("], ["unimplemented", "!("]];
    let machine = [["/wo", "rk/"], ["/ho", "me/"], ["/ro", "ot/"], ["lic", "ence"]];
    let found_in = |path: &PathBuf| {
        let text = fs::read_to_string(path).unwrap_or_default();
        let words = unfinished.iter().chain(&machine).map(|parts| parts.concat());
        words
            .filter(|word| text.contains(word))
            .map(|word| (path.clone(), word))
            .collect::<Vec<_>>()
    };
    let mut files = Vec::new();
    for kind in ["rs", "md", "sql", "toml", "yml", "js"] {
        files.extend(files_below(&["src", "tests", "benches", "migrations", "projections"], kind));
    }
    files.extend(["README.md", "Cargo.toml", ".ci/run"].map(|name| root().join(name)));
    assert_eq!(files.iter().flat_map(found_in).collect::<Vec<_>>(), Vec::new());
}

/// The code of one file of `src`, without comments, literals and test code.
struct Source {
    /// The path below `src`, with `/`.
    name: String,
    code: String,
}

impl Source {
    /// The top-level module it belongs to.
    fn module(&self) -> String {
        let first = self.name.split('/').next().unwrap();
        first.strip_suffix(".rs").unwrap_or(first).to_owned()
    }

    /// Top-level modules it names, by `crate::`, by `super::` or by the library's name.
    fn modules_used(&self) -> BTreeSet<String> {
        let depth = self.name.split('/').count();
        let mut used = BTreeSet::new();
        for (start, _) in self.code.match_indices("crate::") {
            used.extend(first_names(&self.code[start + "crate::".len()..]));
        }
        for (start, _) in self.code.match_indices("license_ledger::") {
            used.extend(first_names(&self.code[start + "license_ledger::".len()..]));
        }
        let to_root = "super::".repeat(depth);
        for (start, _) in self.code.match_indices(&to_root) {
            let preceded = self.code[..start].ends_with("super::");
            if !preceded {
                used.extend(first_names(&self.code[start + to_root.len()..]));
            }
        }
        let modules: BTreeSet<_> = top_level_modules();
        used.retain(|name| modules.contains(name));
        used
    }
}

/// The first names of a path, or of each path in a group `{a::b, c}`.
fn first_names(rest: &str) -> Vec<String> {
    let name = |text: &str| {
        let text = text.trim_start();
        text[..text.find(|c| !is_word(c)).unwrap_or(text.len())].to_owned()
    };
    let Some(group) = rest.strip_prefix('{') else { return vec![name(rest)] };
    let mut names = vec![name(group)];
    let mut depth = 0;
    for (at, c) in group.char_indices() {
        match c {
            '{' => depth += 1,
            '}' if depth == 0 => break,
            '}' => depth -= 1,
            ',' if depth == 0 => names.push(name(&group[at + 1..])),
            _ => {}
        }
    }
    names
}

fn may_use(module: &str, used: &str) -> bool {
    let rule = EDGES.iter().find(|(modules, _)| modules.contains(&module));
    USES_ALL.contains(&module) || rule.is_some_and(|(_, allowed)| allowed.contains(&used))
}

fn top_level_modules() -> BTreeSet<String> {
    let entries = fs::read_dir(root().join("src")).unwrap();
    let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    names.map(|name| name.strip_suffix(".rs").unwrap_or(&name).to_owned()).collect()
}

/// All files of `src` but those that are only compiled for tests.
fn sources() -> Vec<Source> {
    let src = root().join("src");
    let mut code_by_path = BTreeMap::new();
    for path in files_below(&["src"], "rs") {
        code_by_path.insert(path.clone(), without_literals(&fs::read_to_string(&path).unwrap()));
    }
    let test_only: BTreeSet<_> = code_by_path
        .iter()
        .flat_map(|(path, code)| {
            test_modules(code).into_iter().map(|name| path.with_extension("").join(name))
        })
        .collect();
    let is_test_only = |path: &Path| {
        path.with_extension("").ancestors().any(|ancestor| test_only.contains(ancestor))
    };
    let kept = code_by_path.iter().filter(|(path, _)| !is_test_only(path));
    kept.map(|(path, code)| {
        let name = path.strip_prefix(&src).unwrap().to_str().unwrap().to_owned();
        Source { name, code: without_test_items(code) }
    })
    .collect()
}

const TEST_ONLY: &str = "#[cfg(test)]";

/// The names of modules in files of their own that are only compiled for tests.
fn test_modules(code: &str) -> Vec<String> {
    let items = code.split(TEST_ONLY).skip(1);
    let names = items.filter_map(|item| {
        let (visibility, module) = item.trim_start().split_once("mod ")?;
        let is_module = visibility.is_empty() || visibility.starts_with("pub");
        let (name, _) = module.split_once(';').filter(|_| is_module)?;
        Some(name.to_owned())
    });
    names.filter(|name| name.chars().all(is_word)).collect()
}

/// The code without items that are only compiled for tests.
fn without_test_items(code: &str) -> String {
    let mut parts = code.split(TEST_ONLY);
    let mut kept = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        let mut depth = 0;
        let end = part.char_indices().find_map(|(at, c)| {
            match c {
                '{' => depth += 1,
                '}' => depth -= 1,
                _ => {}
            }
            (depth == 0 && matches!(c, '}' | ';')).then_some(at + 1)
        });
        kept.push_str(&part[end.unwrap_or(part.len())..]);
    }
    kept
}

/// The code without comments and without what stands in quotes.
fn without_literals(text: &str) -> String {
    let mut code = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(c) = rest.chars().next() {
        let skipped = match c {
            '/' if rest.starts_with("//") => rest.find('\n').unwrap_or(rest.len()),
            '"' => quoted(rest),
            'r' if !code.ends_with(is_word) => raw_string(rest).unwrap_or(0),
            '\'' => char_literal(rest),
            _ => 0,
        };
        if skipped == 0 {
            code.push(c);
        }
        rest = &rest[skipped.max(c.len_utf8())..];
    }
    code
}

fn quoted(text: &str) -> usize {
    let mut escaped = false;
    let end = text.char_indices().skip(1).find(|(_, c)| {
        let ends = *c == '"' && !escaped;
        escaped = *c == '\\' && !escaped;
        ends
    });
    end.map_or(text.len(), |(at, _)| at + 1)
}

fn raw_string(text: &str) -> Option<usize> {
    let hashes = text[1..].bytes().take_while(|byte| *byte == b'#').count();
    let body = text[1 + hashes..].strip_prefix('"')?;
    let end = format!("\"{}", "#".repeat(hashes));
    body.find(&end).map(|at| 2 + hashes + at + end.len())
}

/// The length of a character literal; 0 for a lifetime.
fn char_literal(text: &str) -> usize {
    let mut chars = text.char_indices().skip(1);
    match chars.next() {
        Some((_, '\\')) => text[3..].find('\'').map_or(0, |at| at + 4),
        Some(_) => chars.next().filter(|(_, c)| *c == '\'').map_or(0, |(at, _)| at + 1),
        None => 0,
    }
}

fn words(code: &str) -> impl Iterator<Item = &str> {
    code.split(|c| !is_word(c)).filter(|word| !word.is_empty())
}

fn is_word(c: char) -> bool {
    c.is_alphanumeric() || c == '_'
}

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

/// All files of this kind in these folders of the project.
fn files_below(folders: &[&str], kind: &str) -> Vec<PathBuf> {
    let mut pending: Vec<_> = folders.iter().map(|folder| root().join(folder)).collect();
    let mut found = Vec::new();
    while let Some(folder) = pending.pop() {
        let Ok(entries) = fs::read_dir(&folder) else { continue };
        for path in entries.map(|entry| entry.unwrap().path()) {
            if path.is_dir() {
                pending.push(path);
            } else if path.extension().is_some_and(|extension| extension == kind) {
                found.push(path);
            }
        }
    }
    found.sort();
    found
}

#[test]
fn the_reader_of_sources_sees_code_and_nothing_else() {
    let text = "use crate::{a::X, b::{c, d}};\n// crate::e\nlet s = \"crate::f \\\" \";\n\
        let r = r#\"crate::g \"# ; let c = '\"'; let q = '\\''; fn o<'a>() { super::h::i(); }\n\
        #[cfg(test)]\nmod tests { use crate::j; fn x() {} }\n#[cfg(test)]\nmod k;\n\
        #[cfg(test)]\npub(in crate::n) mod p;\ncrate::l::m();";
    let code = without_literals(text);
    assert_eq!(test_modules(&code), ["k", "p"]);
    let code = without_test_items(&code);
    for (present, name) in [
        (true, "a"),
        (true, "b"),
        (false, "e"),
        (false, "f"),
        (false, "g"),
        (true, "h"),
        (false, "j"),
        (false, "k"),
        (true, "l"),
    ] {
        assert_eq!(words(&code).any(|word| word == name), present, "{name}: {code}");
    }
    assert_eq!(first_names("{a::X, b::{c, d}, e};"), ["a", "b", "e"]);
    assert_eq!(first_names("l::m();"), ["l"]);
}
