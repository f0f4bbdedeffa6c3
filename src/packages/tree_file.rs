//! `import_cache_tree`: a tree of zygotes that somebody drew, in OpenLambda's form.
//!
//! ```text
//! {"packages": [], "children": [{"packages": ["numpy==2.2.1"], "children": [{"packages": ["pandas==2.2.3"]}]}]}
//! ```

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::Path;

use actors::tree::{DRAWN_MAX, Plan, Requirement};
use serde_json::{Map, Value, json};

use super::requirement::{self, Line};
use crate::json;

/// Reads a tree: a path, a JSON text, or the object itself.
///
/// # Errors
/// What is wrong with it, and where.
pub fn read(tree: &Value) -> Result<Plan, String> {
    match tree {
        Value::String(text) if text.trim_start().starts_with('{') => {
            parse(&json::read(text).map_err(|error| format!("the text is not understood: {error}"))?)
        }
        Value::String(path) => {
            let text = fs::read_to_string(path).map_err(|error| format!("cannot read {path}: {error}"))?;
            let tree = json::read(&text).map_err(|error| format!("{path}: {error}"))?;
            parse(&tree).map_err(|error| format!("{path}: {error}"))
        }
        tree => parse(tree),
    }
}

/// Reads the object itself.
///
/// # Errors
/// What is wrong with it, and where.
pub fn parse(tree: &Value) -> Result<Plan, String> {
    let mut n_nodes = 0;
    let plan = node(tree, "the root", &mut n_nodes)?;
    if plan.packages.is_empty() { Ok(plan) } else { Err("the root must have no packages".into()) }
}

/// A tree of these nodes, each with the place of its parent in the list and what it adds.
#[must_use]
pub fn nested(nodes: &[(Option<usize>, Vec<String>)]) -> Value {
    fn below(parent: Option<usize>, nodes: &[(Option<usize>, Vec<String>)]) -> Vec<Value> {
        let children = nodes.iter().enumerate().filter(|(_, (above, _))| *above == parent);
        children
            .map(|(at, (_, packages))| json!({ "packages": packages, "children": below(Some(at), nodes) }))
            .collect()
    }
    json!({ "packages": [], "children": below(None, nodes) })
}

/// Where a worker keeps a tree that somebody gave it while it ran.
pub const KEPT: &str = "zygotes.json";

/// Keeps a tree for the next start: all of it or nothing.
///
/// # Errors
/// The system's.
pub fn keep(path: &Path, tree: &Value) -> io::Result<()> {
    let aside = path.with_extension("json.new");
    let mut file = File::create(&aside)?;
    file.write_all(format!("{tree:#}\n").as_bytes())?;
    file.sync_all()?;
    fs::rename(&aside, path)
}

/// Forgets the tree that was kept; none is as good.
///
/// # Errors
/// The system's.
pub fn drop_kept(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

fn node(value: &Value, place: &str, n_nodes: &mut usize) -> Result<Plan, String> {
    *n_nodes += 1;
    if *n_nodes > DRAWN_MAX {
        return Err(format!("there are more than {DRAWN_MAX} nodes"));
    }
    let Value::Object(fields) = value else {
        return Err(format!("{place} is not an object"));
    };
    let known = ["packages", "children", "split_generation"];
    if let Some(field) = fields.keys().find(|field| !known.contains(&field.as_str())) {
        return Err(format!("{place} has a field '{field}', which means nothing"));
    }
    let mut packages = Vec::new();
    for package in list(fields, "packages", place)? {
        let text =
            package.as_str().ok_or_else(|| format!("{place} has a package that is not a text: {package}"))?;
        match requirement::parse(text) {
            Ok(Line::Requirement(one)) if one.pin().is_some() || one.is_open() => {
                packages.push(Requirement { text: text.to_owned(), name: one.name });
            }
            Ok(Line::Requirement(_)) => {
                let problem = "write one version, as name==VERSION";
                return Err(format!("{place} has '{text}' for a package: {problem}"));
            }
            Ok(Line::Option(..) | Line::Constraint(_)) => {
                return Err(format!("{place} has '{text}' for a package"));
            }
            Err(problem) => return Err(format!("{place} has '{text}' for a package: {problem}")),
        }
    }
    let children = list(fields, "children", place)?
        .iter()
        .enumerate()
        .map(|(at, child)| node(child, &place_of(place, at, child), n_nodes))
        .collect::<Result<_, _>>()?;
    Ok(Plan { packages, children })
}

/// The way to a node, with its packages' names where it has some: people count badly.
fn place_of(parent: &str, at: usize, child: &Value) -> String {
    let names = child.get("packages").and_then(Value::as_array);
    let names: Vec<&str> = names.into_iter().flatten().filter_map(Value::as_str).take(3).collect();
    let names = if names.is_empty() { String::new() } else { format!(" ({})", names.join(", ")) };
    let parent = if parent == "the root" { "node children".to_owned() } else { format!("{parent}.children") };
    format!("{parent}[{at}]{names}")
}

fn list<'a>(fields: &'a Map<String, Value>, name: &str, place: &str) -> Result<&'a [Value], String> {
    match fields.get(name) {
        None | Some(Value::Null) => Ok(&[]),
        Some(Value::Array(list)) => Ok(list),
        Some(other) => Err(format!("{place} has {other} for {name}, which must be a list")),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn texts(plan: &Plan) -> Vec<&str> {
        plan.packages.iter().map(|one| one.text.as_str()).collect()
    }

    #[test]
    fn however_a_package_is_written_it_is_known_by_its_name() {
        let tree =
            json!({"children": [{"packages": ["Foo_Bar==1", "foo.bar [extra] == 1", "foo[a,b]", "FOO"]}]});
        let names: Vec<String> =
            parse(&tree).unwrap().children.remove(0).packages.into_iter().map(|one| one.name).collect();
        assert_eq!(names, ["foo-bar", "foo-bar", "foo", "foo"]);
    }

    #[test]
    fn a_tree_is_read_from_an_object_a_text_or_a_file() {
        let tree = json!({"packages": [], "split_generation": 0, "children": [
            {"packages": ["numpy==2.2.1"], "children": [{"packages": ["pandas"], "children": []}]},
        ]});
        let plan = read(&tree).unwrap();
        assert_eq!(texts(&plan.children[0]), ["numpy==2.2.1"]);
        assert_eq!(texts(&plan.children[0].children[0]), ["pandas"]);
        assert_eq!(read(&json!(tree.to_string())).unwrap(), plan);
        let file = tempfile::NamedTempFile::new().unwrap();
        fs::write(&file, tree.to_string()).unwrap();
        assert_eq!(read(&json!(file.path())).unwrap(), plan);
        assert_eq!(read(&json!({})).unwrap(), Plan::default());
    }

    #[test]
    fn a_tree_that_is_written_is_read_again_and_kept_until_it_is_dropped() {
        let of = |parent, name: &str| (parent, vec![name.to_owned()]);
        let tree = nested(&[of(None, "a==1"), of(None, "b==1"), of(Some(0), "c==1"), of(Some(2), "d==1")]);
        let plan = parse(&tree).unwrap();
        assert_eq!(texts(&plan.children[0].children[0].children[0]), ["d==1"]);
        assert_eq!((plan.children.len(), texts(&plan.children[1])), (2, vec!["b==1"]));
        let place = tempfile::tempdir().unwrap();
        let path = place.path().join(KEPT);
        drop_kept(&path).unwrap();
        keep(&path, &tree).unwrap();
        assert_eq!(read(&json!(path)).unwrap(), plan);
        drop_kept(&path).unwrap();
        assert_eq!(fs::read_dir(place.path()).unwrap().count(), 0);
    }

    #[test]
    fn what_is_wrong_is_said_with_the_node() {
        for (tree, said) in [
            (json!({"packages": ["a"]}), "the root must have no packages"),
            (json!([]), "the root is not an object"),
            (json!({"children": {}}), "the root has {} for children, which must be a list"),
            (json!({"children": [{}, 3]}), "node children[1] is not an object"),
            (
                json!({"children": [{"packages": ["a==1"], "children": [{"packages": ["b>1"]}]}]}),
                "node children[0] (a==1).children[0] (b>1) has 'b>1' for a package: write one version",
            ),
            (json!({"children": [{"packges": []}]}), "node children[0] has a field 'packges'"),
            (
                json!({"children": [{"packages": [7]}]}),
                "node children[0] has a package that is not a text: 7",
            ),
            (json!("/nonesuch/tree.json"), "cannot read /nonesuch/tree.json"),
            (json!("{"), "the text is not understood: EOF"),
            (
                json!(r#"{"packages": [], "packages": ["a"]}"#),
                "the text is not understood: 'packages' is here a second time",
            ),
        ] {
            let error = read(&tree).unwrap_err();
            assert!(error.starts_with(said), "{error}");
        }
    }
}
