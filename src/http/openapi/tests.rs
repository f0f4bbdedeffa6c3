//! The description beside what is registered, beside the specification, and beside `docs/API.md`.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use actors::name::{FunctionName, NAME_LENGTH_MAX};
use serde_json::Value;

use super::*;

fn as_json() -> Value {
    DOCUMENT.parse().unwrap()
}

/// Path, method, operation: as the document has them.
fn operations() -> Vec<(String, String, Value)> {
    let document = as_json();
    let paths = document["paths"].as_object().unwrap();
    let of_path = |(path, item): (&String, &Value)| {
        let methods = item.as_object().unwrap().iter();
        methods
            .map(|(method, operation)| (path.clone(), method.clone(), operation.clone()))
            .collect::<Vec<_>>()
    };
    paths.iter().flat_map(of_path).collect()
}

/// Path and method of each `.route("…", web::…` of `paths` in `src/http.rs`.
fn registered() -> BTreeSet<(String, String)> {
    let code = include_str!("../../http.rs");
    let code = code.split_once("pub fn paths(").unwrap().1.split_once("\n}").unwrap().0;
    let found: BTreeSet<_> = code
        .split(".route(")
        .skip(1)
        // What is only refused is nothing that a client would want to ask.
        .filter(|rest| !["no_name)", "no_method)"].iter().any(|handler| rest.contains(handler)))
        .map(|rest| {
            let path = rest.split('"').nth(1).unwrap().replace("{tail:.*}", "{name}");
            let call = rest.split_once("web::").unwrap().1;
            let method = match call.split_once('(').unwrap().0 {
                // Any: then `GET` as well.
                "route" => "get".to_owned(),
                "method" => call.split_once("Method::").unwrap().1.split_once(')').unwrap().0.to_lowercase(),
                word => word.to_owned(),
            };
            (path, method)
        })
        .collect();
    assert!(found.len() > 10, "the routes were not understood: {found:?}");
    found
}

#[test]
fn every_route_that_is_registered_is_described_and_no_other() {
    let described: BTreeSet<_> = operations().into_iter().map(|(path, method, _)| (path, method)).collect();
    let registered = registered();
    let missing: Vec<_> = registered.difference(&described).collect();
    assert!(missing.is_empty(), "not described: {missing:?}");
    let paths: BTreeSet<_> = registered.iter().map(|(path, _)| path.as_str()).collect();
    for (path, _) in &described {
        let path = path.strip_suffix("/{path}").unwrap_or(path);
        assert!(paths.contains(path), "{path} is described and not registered");
    }
}

#[test]
fn every_operation_may_come_to_something() {
    for (path, method, operation) in operations() {
        let responses = operation["responses"].as_object().unwrap();
        let succeeds = |status: &String| status.starts_with('2') || status == "default";
        assert!(responses.keys().any(succeeds), "{method} {path} is only refused");
    }
}

#[test]
fn names_of_functions_are_told_as_they_are_checked() {
    let mut n_names = 0;
    for (path, method, operation) in operations() {
        for parameter in operation["parameters"].as_array().into_iter().flatten() {
            if parameter["name"] == "name" {
                n_names += 1;
                let schema = &parameter["schema"];
                assert_eq!(schema["pattern"], schemas::NAME_PATTERN, "{method} {path}");
                assert_eq!(schema["maxLength"], NAME_LENGTH_MAX, "{method} {path}");
            }
        }
    }
    assert!(n_names > 10, "{n_names}");
    // The pattern is: one of the first class, and any number of the second.
    let classes: Vec<&str> = schemas::NAME_PATTERN.split(['[', ']']).filter(|part| part.len() > 2).collect();
    let [first, others] = classes[..] else { panic!("{classes:?}") };
    let is_in = |class: &str, c: char| {
        let listed: String = class.replace("A-Z", "").replace("a-z", "").replace("0-9", "");
        c.is_ascii_alphanumeric() || listed.contains(c)
    };
    for c in (0..=255_u8).map(char::from) {
        assert_eq!(c.to_string().parse::<FunctionName>().is_ok(), is_in(first, c), "{c:?}");
        assert_eq!(format!("a{c}").parse::<FunctionName>().is_ok(), is_in(others, c), "{c:?}");
    }
}

#[test]
fn the_description_is_openapi_3_1() {
    // What the types cannot hold would be lost on the way back.
    // (They hold a schema that allows anything, but cannot be read from it.)
    let readable = DOCUMENT.replace(r#""schema":{}"#, r#""schema":{"type":"object"}"#);
    let back: OpenApi = serde_json::from_str(&readable).unwrap();
    assert_eq!(serde_json::to_value(&back).unwrap(), readable.parse::<Value>().unwrap());
    assert_eq!(as_json()["openapi"], "3.1.0");
    // What the types do not say, but the specification does.
    let mut ids = BTreeSet::new();
    for (path, method, operation) in operations() {
        let id = operation["operationId"].as_str().unwrap().to_owned();
        assert!(ids.insert(id.clone()), "{id} comes twice");
        let in_path: BTreeSet<_> =
            path.split('{').skip(1).map(|rest| rest.split_once('}').unwrap().0).collect();
        let parameters = operation["parameters"].as_array().cloned().unwrap_or_default();
        let told: BTreeSet<_> =
            parameters.iter().map(|parameter| parameter["name"].as_str().unwrap()).collect();
        assert_eq!(told, in_path, "{method} {path}");
        assert!(parameters.iter().all(|parameter| parameter["required"] == true), "{method} {path}");
        assert!(!operation["responses"].as_object().unwrap().is_empty(), "{method} {path}");
        // Generators leave out operations that have bodies of which nothing is said.
        let has_schemas = |holder: &Value| {
            holder["content"]
                .as_object()
                .into_iter()
                .flatten()
                .all(|(_, content)| content["schema"].is_object())
        };
        assert!(has_schemas(&operation["requestBody"]), "{method} {path}");
        let mut responses = operation["responses"].as_object().unwrap().values();
        assert!(responses.all(has_schemas), "{method} {path}");
    }
}

/// The description for people.
fn for_people() -> String {
    let mut text = String::from(
        "# The HTTP interface\n\nThe same as `GET /openapi.json`, and made of it: `WRITE_DOCS=1 cargo test --lib openapi`. What a call of a function is, and examples:\n[FUNCTIONS.md](FUNCTIONS.md).\n",
    );
    let document = as_json();
    let _ = writeln!(text, "\n{}", document["info"]["description"].as_str().unwrap());
    let mut operations = operations();
    operations.sort_by_key(|(path, _, operation)| (operation["tags"][0].to_string(), path.clone()));
    let mut rest = operations.as_slice();
    let mut tag = Value::Null;
    while let Some((path, _, first)) = rest.first() {
        if first["tags"][0] != tag {
            tag = first["tags"][0].clone();
            let title = tag.as_str().unwrap();
            let _ = writeln!(text, "\n## {}{}", title[..1].to_uppercase(), &title[1..]);
        }
        // The methods of a path that mean the same stand together.
        let is_same = |(other, _, operation): &&(String, String, Value)| {
            other == path && operation["summary"] == first["summary"]
        };
        let (same, others): (Vec<_>, Vec<_>) = rest.iter().partition(is_same);
        let others: Vec<_> = others.into_iter().cloned().collect();
        let methods: Vec<_> = same.iter().map(|(_, method, _)| method.to_uppercase()).collect();
        let _ = writeln!(
            text,
            "\n### `{}` {path}\n\n{}.",
            methods.join("`, `"),
            first["summary"].as_str().unwrap()
        );
        if let Some(description) = first["description"].as_str() {
            let _ = writeln!(text, "{description}");
        }
        let with_body = same.iter().find_map(|(_, _, operation)| operation["requestBody"].as_object());
        if let Some(body) = with_body {
            let kind = body["content"].as_object().unwrap().keys().next().unwrap();
            let _ = writeln!(text, "\nBody (`{kind}`): {}.", body["description"].as_str().unwrap());
        }
        text += "\n| status | type | |\n|---|---|---|\n";
        for (status, response) in first["responses"].as_object().unwrap() {
            let kinds: Vec<_> =
                response["content"].as_object().into_iter().flatten().map(|(kind, _)| kind).collect();
            let kind = kinds.first().map(|kind| format!("`{kind}`")).unwrap_or_default();
            let mut description = response["description"].as_str().unwrap().to_owned();
            let headers: Vec<_> = response["headers"]
                .as_object()
                .into_iter()
                .flatten()
                .map(|(name, _)| format!("`{name}`"))
                .collect();
            if !headers.is_empty() {
                description += &format!(" ({})", headers.join(", "));
            }
            let _ = writeln!(text, "| {status} | {kind} | {description} |");
        }
        operations = others;
        rest = operations.as_slice();
    }
    text
}

#[test]
fn the_document_for_people_says_the_same() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/API.md");
    let text = for_people();
    if std::env::var_os("WRITE_DOCS").is_some() {
        fs::write(&path, &text).unwrap();
    }
    let written = fs::read_to_string(&path).unwrap_or_default();
    assert!(written == text, "docs/API.md is out of date: WRITE_DOCS=1 cargo test --lib openapi");
}
