//! The rules of `docs/ARCHITECTURE.md` that can be read off the sources. A rule that is to change is changed there,
//! here, and argued in `docs/decisions/`.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

/// Where unsafe code may be. The last of these is the allocator, whose interface is unsafe by nature.
const UNSAFE: [&str; 4] =
    ["src/sandbox/sys.rs", "src/sandbox/native/", "src/fd/watched.rs", "src/profile/sampling.rs"];

/// Where a channel without a bound may be made: invariant 10 of `docs/ARCHITECTURE.md` says of each what bounds it instead.
const UNBOUNDED: [&str; 7] = [
    "src/kafka.rs",
    "src/kafka/shared.rs",
    "src/sandbox/logs.rs",
    "src/sandbox/network.rs",
    "src/sandbox/reaper.rs",
    "src/sandbox/watchdog.rs",
    "src/triggers.rs",
];

/// Crates by which `actors` could reach the world, and ways of the standard library and of tokio to do so.
const WORLDLY_CRATES: [&str; 8] =
    ["nix", "libc", "rustix", "actix-web", "hyper", "notify", "tar", "tempfile"];
const WORLDLY_PATHS: [&str; 8] = [
    "std::fs",
    "std::net",
    "std::process",
    "std::env",
    "tokio::fs",
    "tokio::net",
    "tokio::process",
    "tokio::signal",
];

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

fn read(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// All files below a directory of the repository whose names end so, by their path in the repository.
fn files(directory: &str, suffix: &str) -> Vec<String> {
    let mut found = Vec::new();
    let mut directories = vec![root().join(directory)];
    while let Some(directory) = directories.pop() {
        for entry in
            fs::read_dir(&directory).unwrap_or_else(|error| panic!("{}: {error}", directory.display()))
        {
            let path = entry.expect("a directory of the repository can be read").path();
            if path.is_dir() {
                directories.push(path);
            } else if path.to_string_lossy().ends_with(suffix) {
                let path = path.strip_prefix(root()).expect("it lies below");
                found.push(path.to_str().expect("a path of ours is UTF-8").to_owned());
            }
        }
    }
    assert!(!found.is_empty(), "nothing in {directory} ends with {suffix}: the rule would hold of anything");
    found.sort();
    found
}

/// The text of Rust code with comments and literals blanked out.
fn code(text: &str) -> String {
    let chars: Vec<char> = text.chars().collect();
    let at = |i: usize| chars.get(i).copied().unwrap_or('\0');
    let mut code = String::with_capacity(text.len());
    let mut i = 0;
    while i < chars.len() {
        let start = i;
        let in_word = start > 0 && (at(start - 1).is_alphanumeric() || at(start - 1) == '_');
        match at(i) {
            '/' if at(i + 1) == '/' => {
                while i < chars.len() && at(i) != '\n' {
                    i += 1;
                }
            }
            '/' if at(i + 1) == '*' => {
                i += 2;
                while i < chars.len() && !(at(i) == '*' && at(i + 1) == '/') {
                    i += 1;
                }
                i += 2;
            }
            'r' if !in_word && raw_hashes(&chars, i + 1).is_some() => {
                let n = raw_hashes(&chars, i + 1).unwrap_or_default();
                i += n + 2;
                while i < chars.len() && !(at(i) == '"' && (1..=n).all(|j| at(i + j) == '#')) {
                    i += 1;
                }
                i += n + 1;
            }
            '"' => {
                i += 1;
                while i < chars.len() && at(i) != '"' {
                    i += if at(i) == '\\' { 2 } else { 1 };
                }
                i += 1;
            }
            '\'' if at(i + 1) == '\\' => {
                i += 3;
                while i < chars.len() && at(i) != '\'' {
                    i += 1;
                }
                i += 1;
            }
            '\'' if at(i + 2) == '\'' => i += 3,
            other => {
                code.push(other);
                i += 1;
                continue;
            }
        }
        // Lines stay where they are.
        code.extend(chars[start..i.min(chars.len())].iter().map(|&c| if c == '\n' { '\n' } else { ' ' }));
    }
    code
}

/// The number of `#` if a raw string goes on here.
fn raw_hashes(chars: &[char], from: usize) -> Option<usize> {
    let n = chars[from.min(chars.len())..].iter().take_while(|&&c| c == '#').count();
    (chars.get(from + n) == Some(&'"')).then_some(n)
}

fn is_word(c: char) -> bool {
    c.is_alphanumeric() || c == '_'
}

/// Whether the word stands in the code, and not as a part of another one.
fn has_word(code: &str, word: &str) -> bool {
    code.match_indices(word).any(|(at, _)| {
        !code[..at].chars().next_back().is_some_and(is_word)
            && !code[at + word.len()..].chars().next().is_some_and(is_word)
    })
}

/// The paths that a list like that of `use` names: of `a::{b, c::{d}}` these are `a::b` and `a::c::d`.
fn listed(tree: &str) -> Vec<String> {
    let Some((before, list)) = tree.split_once('{') else {
        return vec![tree.split(" as ").next().unwrap_or_default().split_whitespace().collect()];
    };
    let before: String = before.split_whitespace().collect();
    let mut paths = Vec::new();
    let (mut depth, mut start) = (0, 0);
    for (i, c) in list.char_indices() {
        match c {
            '{' => depth += 1,
            '}' if depth > 0 => depth -= 1,
            ',' | '}' if depth == 0 => {
                let inner = &list[start..i];
                if !inner.trim().is_empty() {
                    paths.extend(listed(inner).iter().map(|path| format!("{before}{path}")));
                }
                start = i + 1;
                if c == '}' {
                    break;
                }
            }
            _ => {}
        }
    }
    paths
}

/// All that begins with this path in the code, alone and in braces.
fn used_paths(code: &str, begin: &str) -> BTreeSet<String> {
    let statements =
        code.match_indices("use ").filter(|(at, _)| !code[..*at].chars().next_back().is_some_and(is_word));
    let trees = statements.filter_map(|(at, found)| code[at + found.len()..].split(';').next());
    let imported = trees.flat_map(listed).filter(|path| path.starts_with(begin));
    let inline = code.match_indices(begin).filter(|(at, _)| {
        !code[..*at].chars().next_back().is_some_and(|c| is_word(c) || c == '$' || c == ':')
    });
    let inline = inline.map(|(at, _)| code[at..].chars().take_while(|&c| is_word(c) || c == ':').collect());
    imported.chain(inline).collect()
}

/// The modules that stand behind `crate::`, alone or in braces; and those that stand behind as many `super::` as lead there.
fn used_modules(path: &str, code: &str) -> BTreeSet<String> {
    let first_word = |text: &str| -> String { text.chars().take_while(|&c| is_word(c)).collect() };
    let of_crate = used_paths(code, "crate::").into_iter().map(|path| first_word(&path["crate::".len()..]));
    let n_up = path.strip_prefix("src/").map_or(0, |path| path.split('/').count());
    let of_super = used_paths(code, "super::").into_iter().filter_map(|path| {
        let rest = path.trim_start_matches("super::");
        let n = (path.len() - rest.len()) / "super::".len();
        // From a module within the file one more leads to the same: there it is the file's own.
        (n >= n_up)
            .then(|| first_word(rest))
            .filter(|word| root().join("src").join(format!("{word}.rs")).exists())
    });
    of_crate.chain(of_super).filter(|word| !word.is_empty()).collect()
}

/// `src/http/run.rs` → `http`. The programs' own files have none.
fn module_of(path: &str) -> Option<&str> {
    let path = path.strip_prefix("src/")?;
    let name = path.split('/').next()?.trim_end_matches(".rs");
    (!matches!(name, "lib" | "main" | "bin")).then_some(name)
}

/// Which module of this crate may use which, by the code map of the document.
fn arrows() -> Vec<(String, BTreeSet<String>)> {
    let text = read(&root().join("docs/ARCHITECTURE.md"));
    let map = text.split("\n## Code map\n").nth(1).expect("there is a code map").split("\n## ").next();
    let rows = map.into_iter().flat_map(str::lines).filter(|line| line.starts_with("| `src/"));
    let words =
        |cell: &str| -> Vec<String> { cell.split('`').skip(1).step_by(2).map(str::to_owned).collect() };
    let mut arrows = Vec::new();
    for row in rows {
        let cells: Vec<&str> = row.trim_matches('|').split(" | ").collect();
        let (of, to) = (cells[0], cells[cells.len() - 1]);
        let to: BTreeSet<String> = words(to).into_iter().collect();
        let modules: BTreeSet<String> =
            words(of).iter().filter_map(|path| module_of(path)).map(str::to_owned).collect();
        arrows.extend(modules.into_iter().map(|module| (module, to.clone())));
    }
    assert!(!arrows.is_empty(), "the code map was not understood");
    arrows
}

/// Every module that there is.
fn modules() -> BTreeSet<String> {
    files("src", ".rs").iter().filter_map(|path| module_of(path)).map(str::to_owned).collect()
}

#[test]
fn the_code_map_has_every_module() {
    let mut named: Vec<String> = arrows().into_iter().map(|(module, _)| module).collect();
    named.sort();
    // What a module's folder holds may have lines of its own; the way that the Python goes is none of ours.
    named.dedup();
    let mut there: Vec<String> = modules().into_iter().collect();
    there.retain(|module| module != "architecture");
    assert_eq!(named, there);
}

#[test]
fn arrows_between_modules_go_one_way() {
    let arrows = arrows();
    let mut wrong = Vec::new();
    let mut used_somewhere = BTreeSet::new();
    for path in files("src", ".rs") {
        let Some(module) = module_of(&path) else { continue };
        let is_allowed = |used: &String| arrows.iter().any(|(from, to)| from == module && to.contains(used));
        for used in used_modules(&path, &code(&read(&root().join(&path)))) {
            if used != module && !is_allowed(&used) {
                wrong.push(format!("{path} uses crate::{used}"));
            }
            used_somewhere.insert((module.to_owned(), used));
        }
    }
    for (from, to) in arrows {
        let unused = to.into_iter().filter(|to| !used_somewhere.contains(&(from.clone(), to.clone())));
        wrong.extend(unused.map(|to| format!("the code map lets {from} use {to}, and it does not")));
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn the_allowed_arrows_have_no_cycle() {
    // Whoever is used by nobody that is left is taken away, until nothing is left, or only a cycle.
    let mut left = arrows();
    while !left.is_empty() {
        let before = left.len();
        let used: BTreeSet<_> =
            left.iter().flat_map(|(from, to)| to.iter().filter(move |to| *to != from).cloned()).collect();
        left.retain(|(from, _)| used.contains(from));
        assert!(left.len() < before, "these use each other in a circle: {left:?}");
    }
}

#[test]
fn unsafe_code_is_behind_one_door() {
    let outside = |path: &String| !UNSAFE.iter().any(|door| path.starts_with(door));
    let paths = ["src", "actors/src", "integration"].iter().flat_map(|directory| files(directory, ".rs"));
    for path in paths.filter(outside) {
        assert!(
            !has_word(&code(&read(&root().join(&path))), "unsafe"),
            "{path} has unsafe code; it belongs to {UNSAFE:?}"
        );
    }
    assert!(read(&root().join("actors/src/lib.rs")).contains("#![forbid(unsafe_code)]"));
}

#[test]
fn channels_without_a_bound_are_those_that_are_justified() {
    let is_test = |path: &String| path.split(['/', '.']).any(|part| part == "tests");
    let paths = ["src", "actors/src"].iter().flat_map(|directory| files(directory, ".rs"));
    let makes_one = |path: &String| {
        let code = code(&read(&root().join(path)));
        has_word(&code, "unbounded") || has_word(&code, "unbounded_channel")
    };
    let found: BTreeSet<String> = paths.filter(|path| !is_test(path)).filter(makes_one).collect();
    assert_eq!(found, UNBOUNDED.map(str::to_owned).into());
}

#[test]
fn the_actors_cannot_reach_the_world() {
    let manifest = read(&root().join("actors/Cargo.toml"));
    for line in manifest.lines() {
        let name = line.split(['=', '.', ' ']).next().unwrap_or_default();
        assert!(!WORLDLY_CRATES.contains(&name), "actors depends on {name}");
    }
    for path in files("actors/src", ".rs") {
        let code = code(&read(&root().join(&path)));
        for way in WORLDLY_PATHS {
            assert!(
                used_paths(&code, way).is_empty(),
                "{path} uses {way}; what the actors need from the world is a trait of actors::world"
            );
        }
    }
}

#[test]
fn what_the_documents_point_at_is_there() {
    let mut documents = files("docs", ".md");
    documents.extend(["README.md", "CONTRIBUTING.md", "CHANGELOG.md"].map(str::to_owned));
    let mut wrong = Vec::new();
    for document in documents {
        let text = read(&root().join(&document));
        let here = Path::new(&document).parent().expect("it is a file").to_owned();
        let links = text
            .match_indices("](")
            .map(|(at, _)| text[at + 2..].split([')', '#']).next().unwrap_or_default());
        for link in links.filter(|link| !link.is_empty() && !link.contains("://")) {
            if !root().join(&here).join(link).exists() {
                wrong.push(format!("{document} links to {link}"));
            }
        }
        for word in text.split('`').skip(1).step_by(2) {
            let is_path = ["src/", "actors/", "integration/", "docs/", "quickstart/", ".ci/"]
                .iter()
                .any(|top| word.starts_with(top));
            if is_path && !word.contains([' ', '<', '*', '…', '\n']) && !root().join(word).exists() {
                wrong.push(format!("{document} names {word}"));
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

/// The text of everything that tests are in.
fn sources() -> Vec<String> {
    let rust = ["src", "actors/src", "integration"].iter().flat_map(|directory| files(directory, ".rs"));
    let python = files("src/sandbox/runtime/python/tests", ".py");
    rust.chain(python).map(|path| read(&root().join(path))).collect()
}

fn is_defined(name: &str, sources: &[String]) -> bool {
    let definitions = ["fn", "def"].map(|keyword| format!("{keyword} {name}("));
    sources.iter().any(|source| definitions.iter().any(|definition| source.contains(definition)))
}

#[test]
fn the_tests_that_the_documents_name_exist() {
    let sources = sources();
    for document in files("docs", ".md") {
        let text = read(&root().join(&document));
        // Nothing but tests has names that are sentences.
        let is_sentence = |word: &&str| {
            word.split('_').filter(|part| !part.is_empty()).count() > 4 && word.chars().all(is_word)
        };
        for name in text.split('`').filter(is_sentence) {
            assert!(is_defined(name, &sources), "{document} names the test {name}, which is not there");
        }
    }
}

#[test]
fn what_is_said_to_be_the_same_as_in_openlambda_is_tested() {
    let sources = sources();
    let text = read(&root().join("docs/COMPATIBILITY.md"));
    let mut n_same = 0;
    for row in text.lines().filter(|line| line.starts_with("| ") && !line.ends_with("| here | |")) {
        let cells: Vec<_> = row.trim_matches('|').split(" | ").map(str::trim).collect();
        let &[_, verdict, last] = cells.as_slice() else { panic!("not three columns: {row}") };
        // A word in backticks that could be a test's.
        let named: Vec<_> = last.split('`').skip(1).step_by(2).filter(|word| word.contains('_')).collect();
        match verdict {
            "same" => {
                n_same += 1;
                assert!(!named.is_empty(), "no test behind: {row}");
                for word in named {
                    assert!(is_defined(word, &sources), "{word} is no test: {row}");
                }
            }
            "different" => assert!(!last.is_empty(), "no reason: {row}"),
            "not yet" => {}
            other => panic!("'{other}' is none of same, different, not yet: {row}"),
        }
    }
    assert!(n_same > 0, "the table was not understood");
}

#[test]
fn comments_and_literals_are_no_code() {
    let text =
        "a // unsafe\nb \"unsafe \\\" unsafe\" c r#\"unsafe \" unsafe\"# 'u' '\\'' &'a d /* unsafe\n */ e";
    let code = code(text);
    assert_eq!(code.split_whitespace().collect::<Vec<_>>(), ["a", "b", "c", "&'a", "d", "e"]);
    assert_eq!(code.lines().count(), text.lines().count());
}

#[test]
fn modules_are_found_alone_in_braces_and_from_below() {
    let code = "use crate::http; pub(crate) fn f(x: crate::config::C) {} use crate::{a::{b, c}, d, e as f};
        use super::super::json::J; use super::run;";
    let used = used_modules("src/http/run.rs", code);
    assert_eq!(used, ["http", "config", "a", "d", "e", "json"].map(str::to_owned).into());
    assert!(used_modules("src/http.rs", "use super::json;").contains("json"));
}

#[test]
fn ways_to_the_world_are_found_in_braces() {
    let code =
        "use std::{io, fs::{self, File}}; fn f() { std::net::lookup() } mod mystd { use x::std::env; }";
    assert!(!used_paths(code, "std::fs").is_empty() && !used_paths(code, "std::net").is_empty());
    assert!(used_paths(code, "std::env").is_empty() && used_paths(code, "std::process").is_empty());
}
