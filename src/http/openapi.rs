//! The worker's description of its own paths, `GET /openapi.json`, in OpenAPI 3.1.
//!
//! What is registered in `super::paths` is described here; tests compare the two, and `docs/API.md` with this.

use std::sync::LazyLock;

use actix_web::HttpResponse;
use utoipa::openapi::header::Header;
use utoipa::openapi::info::{Info, License};
use utoipa::openapi::path::{
    HttpMethod, Operation, OperationBuilder, ParameterBuilder, ParameterIn, PathItem, PathsBuilder,
};
use utoipa::openapi::request_body::{RequestBody, RequestBodyBuilder};
use utoipa::openapi::response::{Response, ResponseBuilder};
use utoipa::openapi::schema::{
    AdditionalProperties, ArrayBuilder, Object, ObjectBuilder, Schema, SchemaType, Type,
};
use utoipa::openapi::{Content, OpenApi, RefOr, Required};

/// Made once: it is the same for as long as the worker runs.
static DOCUMENT: LazyLock<String> = LazyLock::new(|| described().to_json().expect("the types are JSON's"));

/// `/openapi.json`.
pub(super) async fn document() -> HttpResponse {
    HttpResponse::Ok().content_type("application/json").body(DOCUMENT.as_str())
}

const TEXT: &str = "text/plain";
const JSON: &str = "application/json";
const GZIP: &str = "application/gzip";
const ANYTHING: &str = "*/*";

/// The methods of a call. A function decides what they mean.
const METHODS: [(HttpMethod, &str); 7] = [
    (HttpMethod::Get, "get"),
    (HttpMethod::Put, "put"),
    (HttpMethod::Post, "post"),
    (HttpMethod::Delete, "delete"),
    (HttpMethod::Options, "options"),
    (HttpMethod::Head, "head"),
    (HttpMethod::Patch, "patch"),
];

/// Refusals of a call, which are texts; see `super::error` for each.
const CALL_FAILURES: [(u16, &str); 12] = [
    (
        400,
        "The name is none, the body is not JSON (or, for a program, not text), or a request for a WebSocket is wrong or to a function that speaks none",
    ),
    (404, "There is no such function"),
    (405, "The function does not serve this method; `Allow` says which it does"),
    (408, "The body did not arrive in time"),
    (413, "The body is longer than `max_body_mb`, or than the argument of a program may be"),
    (426, "The version of WebSocket is another than 13"),
    (429, "Too many requests wait for this function, or this one has waited too long"),
    (431, "Path and headers are longer than the function can be told"),
    (500, "The function raised or failed, returned what is not JSON, or could not be loaded"),
    (502, "The sandbox died, or its answer was not HTTP"),
    (503, "No sandbox can be made, the function is being restarted, or the worker ends"),
    (504, "The function took longer than its `runtime_sec`"),
];

const FROM_A_PAGE: &str =
    "The request comes from a web page: it has an `Origin`; or the registry is only read";

fn described() -> OpenApi {
    let mut info = Info::new("OpenLambda worker", env!("CARGO_PKG_VERSION"));
    info.description = Some(
        "Runs functions, each in a sandbox of its own. Error texts are `text/plain`. On the worker's Unix socket there is `/pid` as well."
            .to_owned(),
    );
    let mut license = License::new("Apache License 2.0");
    license.identifier = Some("Apache-2.0".to_owned());
    info.license = Some(license);
    let mut paths = PathsBuilder::new();
    for (path, item) in items() {
        paths = paths.path(path, item);
    }
    OpenApi::new(info, paths)
}

fn items() -> Vec<(&'static str, PathItem)> {
    use HttpMethod::Get;
    vec![
        ("/run", no_name("run")),
        ("/run/{name}", calls("run", false)),
        ("/run/{name}/{path}", calls("run_below", true)),
        ("/runLambda", no_name("run_lambda")),
        ("/runLambda/{name}", classic_calls("run_lambda", false)),
        ("/runLambda/{name}/{path}", classic_calls("run_lambda_below", true)),
        (
            "/status",
            PathItem::new(
                Get,
                worker("status", "Whether the worker serves").response("200", text("`ready`")),
            ),
        ),
        (
            "/stats",
            PathItem::new(
                Get,
                worker("stats", "Counts and mean times, under OpenLambda's names").response(
                    "200",
                    json("`<name>.cnt`, with `<name>.ms-avg` or `<name>.us-avg`", map_of(Type::Integer)),
                ),
            ),
        ),
        (
            "/debug",
            PathItem::new(
                Get,
                worker("debug", "The lambdas, for people")
                    .response("200", text("A text"))
                    .response("503", busy("The worker ends")),
            ),
        ),
        (
            "/lambdas",
            PathItem::new(
                Get,
                worker("lambdas", "The worker and its lambdas")
                    .response("200", json("What `ol worker status` shows, and more", lambdas()))
                    .response("503", busy("The worker ends")),
            ),
        ),
        (
            "/openapi.json",
            PathItem::new(
                Get,
                worker("openapi", "This description").response("200", json("OpenAPI 3.1", of(Type::Object))),
            ),
        ),
        ("/registry", PathItem::new(Get, list("list"))),
        ("/registry/", PathItem::new(Get, list("list_with_slash"))),
        ("/registry/{name}", {
            let mut item = PathItem::new(
                Get,
                with_failures(registry("download", "Download a function"), &[400, 404, 500])
                    .response(
                        "200",
                        ResponseBuilder::new().description("The files").content(GZIP, bytes()).build(),
                    )
                    .response("503", busy("The store is away")),
            );
            item.post = Some(
                with_failures(
                    registry("upload", "Upload a function; it is served when this is answered"),
                    &[400, 403, 500, 503],
                )
                .request_body(Some(body("A `.tar.gz` with the function's files at its top", GZIP, true)))
                .response("201", text("`Lambda <name> uploaded successfully`"))
                .build(),
            );
            item.delete = Some(
                with_failures(registry("delete", "Remove a function"), &[400, 403, 404, 500, 503])
                    .response("200", text("`Lambda <name> deleted successfully`"))
                    .build(),
            );
            item
        }),
        (
            "/registry/{name}/config",
            PathItem::new(
                Get,
                with_failures(
                    registry("config", "How the worker understands a function's `ol.yaml`"),
                    &[400, 404, 500, 503],
                )
                .response("200", json("In OpenLambda's form", function_config())),
            ),
        ),
        ("/kafka/register/", {
            let operation = triggers("kafka_nothing", "Names no function");
            PathItem::new(Get, operation.response("400", text("`lambda name required`")))
        }),
        ("/kafka/register/{name}", {
            let named = |id, summary| triggers(id, summary).parameter(in_path("name", "The function's name"));
            let operation = named("kafka", "Neither `POST` nor `DELETE`");
            let mut item = PathItem::new(Get, operation.response("405", text("`method not allowed`")));
            item.post = Some(
                with_failures(
                    named("register_kafka", "Have a function called with records from Kafka"),
                    &[403, 503],
                )
                .response("200", json("In OpenLambda's form", registered_kafka()))
                .response("400", text("The name is none, or `ol.yaml` has no Kafka triggers"))
                .response("404", text("There is no such function"))
                .build(),
            );
            item.delete = Some(
                with_failures(named("unregister_kafka", "Have it called so no more"), &[400, 403, 503])
                    .response("200", json("In OpenLambda's form", registered_kafka()))
                    .build(),
            );
            item
        }),
        (
            "/zygotes",
            PathItem::new(
                Get,
                zygotes("zygotes", "The zygotes of packages, as they are")
                    .response("200", json("What `ol zygotes show` draws", shown())),
            ),
        ),
        ("/zygotes/fit", {
            let operation = zygotes("fit_zygotes", "What another tree would bring; nothing is made")
                .request_body(Some(body(
                    "`{\"calls\": {\"NAME\": 3}}`, starts of sandboxes by function; nothing: those of the last minutes",
                    JSON,
                    false,
                )))
                .response("200", json("What `ol zygotes train` shows", projection()))
                .response("400", text("The body is not understood"));
            PathItem::new(HttpMethod::Post, operation)
        }),
        ("/zygotes/tree", {
            let mut item = PathItem::new(
                Get,
                zygotes("export_zygotes", "The tree of zygotes")
                    .response("200", json("In OpenLambda's form", zygote_tree())),
            );
            let set = |operation: OperationBuilder| {
                operation
                    .response("200", text("A sentence"))
                    .response("403", failure(403, FROM_A_PAGE))
                    .response("409", text("The configuration says which zygotes there are"))
                    .response("500", text("The tree cannot be kept on disk"))
            };
            item.put = Some(
                set(zygotes("import_zygotes", "Use this tree of zygotes from now on"))
                    .request_body(Some(body("The tree, in OpenLambda's form", JSON, true)))
                    .response("400", text("What is wrong with it; the text names the node"))
                    .build(),
            );
            item.delete =
                Some(set(zygotes("forget_zygotes", "Let the tree of zygotes fit itself again")).build());
            item
        }),
        ("/pprof/mem", {
            let take = |id| {
                with_failures(worker(id, "What the worker's own memory is in use for"), &[403])
                    .response("200", pprof())
                    .response("500", text("The profile cannot be made"))
                    .response("503", text("One is being made already"))
            };
            let mut item = PathItem::new(Get, take("memory_profile"));
            item.post = Some(take("memory_profile_by_post").build());
            item
        }),
        ("/pprof/cpu-start", {
            let start = |id| {
                with_failures(worker(id, "Begin to profile the worker's processor time"), &[403])
                    .response("200", text("Nothing"))
                    .response("400", text("Profiling has been started already"))
                    .response("500", text("The profiler cannot start"))
            };
            let mut item = PathItem::new(Get, start("cpu_start"));
            item.post = Some(start("cpu_start_by_post").build());
            item
        }),
        ("/pprof/cpu-stop", {
            let stop = |id| {
                with_failures(worker(id, "End it, and give the profile"), &[403])
                    .response("200", pprof())
                    .response("400", text("Profiling was not started"))
                    .response("500", text("The profile cannot be made"))
            };
            let mut item = PathItem::new(Get, stop("cpu_stop"));
            item.post = Some(stop("cpu_stop_by_post").build());
            item
        }),
        ("/create", {
            let create = by_hand("create", "Make a sandbox, or a zygote that others are forked from")
                .request_body(Some(body(
                    "`code`: a function of the registry; `leaf`; `parent`: an id or nothing; `pkgs`: packages",
                    JSON,
                    true,
                )))
                .response("200", text("Its id"));
            PathItem::new(HttpMethod::Post, with_failures(create, &[400, 403, 404, 413, 500, 503]))
        }),
        (
            "/destroy/{id}",
            PathItem::new(
                HttpMethod::Post,
                one_by_hand("destroy", "End it, and all that were forked from it"),
            ),
        ),
        ("/pause/{id}", PathItem::new(HttpMethod::Post, one_by_hand("pause", "Stop it for a while"))),
        ("/unpause/{id}", PathItem::new(HttpMethod::Post, one_by_hand("unpause", "Let it go on"))),
        ("/registry/{name}/packages", {
            let mut item = PathItem::new(
                Get,
                with_failures(
                    registry("packages", "Which packages a function asks for, and what that has come to"),
                    &[400, 404, 500, 503],
                )
                .response("200", json("Its lock", of(Type::Object))),
            );
            item.post = Some(
                with_failures(
                    registry("update", "Settle anew which packages these are; served when this is answered"),
                    &[400, 403, 404, 500, 503],
                )
                .response("200", json("The new lock", of(Type::Object)))
                .build(),
            );
            item
        }),
    ]
}

// Kinds of operations.

fn worker(id: &str, summary: &str) -> OperationBuilder {
    OperationBuilder::new().operation_id(Some(id)).tag("worker").summary(Some(summary))
}

/// Only with `server_mode: sock`.
fn by_hand(id: &str, summary: &str) -> OperationBuilder {
    OperationBuilder::new().operation_id(Some(id)).tag("sandboxes by hand").summary(Some(summary))
}

fn one_by_hand(id: &str, summary: &str) -> OperationBuilder {
    let operation = by_hand(id, summary).parameter(in_path("id", "What `/create` has answered"));
    with_failures(operation, &[403, 404, 502]).response("200", text("Nothing"))
}

/// Each may find the actor that is asked being restarted.
fn zygotes(id: &str, summary: &str) -> OperationBuilder {
    let operation = OperationBuilder::new().operation_id(Some(id)).tag("zygotes").summary(Some(summary));
    operation.response("503", busy("The zygotes are being restarted"))
}

fn triggers(id: &str, summary: &str) -> OperationBuilder {
    OperationBuilder::new().operation_id(Some(id)).tag("triggers").summary(Some(summary))
}

fn registry(id: &str, summary: &str) -> OperationBuilder {
    let operation = OperationBuilder::new().operation_id(Some(id)).tag("registry").summary(Some(summary));
    operation.parameter(in_path("name", "The function's name"))
}

fn list(id: &str) -> OperationBuilder {
    OperationBuilder::new()
        .operation_id(Some(id))
        .tag("registry")
        .summary(Some("The names of all functions"))
        .response("200", json("In the order of the alphabet", array_of(Type::String)))
        .response("500", text("The registry cannot be read"))
        .response("503", busy("The store is away"))
}

/// A path without a function in it, whatever the method.
fn no_name(id: &str) -> PathItem {
    let operation = OperationBuilder::new()
        .operation_id(Some(format!("{id}_nothing")))
        .tag("functions")
        .summary(Some("Names no function"))
        .response("400", text("`expected invocation format: /run/<lambda-name>`"));
    PathItem::new(HttpMethod::Get, operation)
}

fn call(id: &str, method: &str, is_below: bool) -> OperationBuilder {
    let mut operation = OperationBuilder::new()
        .operation_id(Some(format!("{id}_{method}")))
        .tag("functions")
        .summary(Some("Call a function"))
        .description(Some(
            "Query, headers and body go to the function. One that is called with an event takes JSON and gives JSON, with 200; a program (`f.bin`) takes the body as its argument; a WSGI or ASGI application says status, type and headers itself. With the headers of RFC 6455, `GET` opens a WebSocket to an ASGI application.",
        ))
        .parameter(in_path("name", "The function's name"));
    if is_below {
        operation = operation.parameter(in_path("path", "A path of any depth, for the function"));
    }
    if !matches!(method, "get" | "head" | "delete") {
        operation =
            operation.request_body(Some(body("Of any type; the event, if it is JSON", ANYTHING, false)));
    }
    let answer = ResponseBuilder::new()
        .description("The function's answer")
        .header("X-Ol-Invocation", Header::new(of(Type::String)))
        .header("Server-Timing", Header::new(of(Type::String)))
        .content(ANYTHING, bytes())
        .build();
    operation = operation.response("200", answer.clone()).response("default", answer);
    for (status, description) in CALL_FAILURES {
        operation = operation.response(status.to_string(), failure(status, description));
    }
    operation
}

fn calls(id: &str, is_below: bool) -> PathItem {
    let mut item = PathItem::default();
    for (method, word) in METHODS {
        *slot(&mut item, &method) = Some(call(id, word, is_below).build());
    }
    item
}

/// The same, but that `OPTIONS` is answered by the worker, for web pages.
fn classic_calls(id: &str, is_below: bool) -> PathItem {
    let mut item = calls(id, is_below);
    let mut options = OperationBuilder::new()
        .operation_id(Some(format!("{id}_options")))
        .tag("functions")
        .summary(Some("Ask whether a web page may call"))
        .parameter(in_path("name", "The function's name"))
        .response("200", ResponseBuilder::new().description("Pages of any origin may").build());
    if is_below {
        options = options.parameter(in_path("path", "A path of any depth, for the function"));
    }
    item.options = Some(options.build());
    item
}

fn slot<'a>(item: &'a mut PathItem, method: &HttpMethod) -> &'a mut Option<Operation> {
    match method {
        HttpMethod::Get => &mut item.get,
        HttpMethod::Put => &mut item.put,
        HttpMethod::Post => &mut item.post,
        HttpMethod::Delete => &mut item.delete,
        HttpMethod::Options => &mut item.options,
        HttpMethod::Head => &mut item.head,
        HttpMethod::Patch => &mut item.patch,
        HttpMethod::Trace => &mut item.trace,
    }
}

// Parts of operations.

fn in_path(name: &str, description: &str) -> ParameterBuilder {
    ParameterBuilder::new()
        .name(name)
        .parameter_in(ParameterIn::Path)
        .required(Required::True)
        .description(Some(description))
        .schema(Some(of(Type::String)))
}

fn body(description: &str, kind: &str, is_required: bool) -> RequestBody {
    RequestBodyBuilder::new()
        .description(Some(description))
        .required(Some(if is_required { Required::True } else { Required::False }))
        .content(kind, bytes())
        .build()
}

fn with_failures(mut operation: OperationBuilder, statuses: &[u16]) -> OperationBuilder {
    for &status in statuses {
        let description = match status {
            400 => "The name, or what was sent, cannot be meant, or its packages cannot be had",
            403 => FROM_A_PAGE,
            404 => "There is no such function or sandbox",
            413 => "The order is too long",
            502 => "The sandbox has ended",
            503 => "Part of the worker is being restarted, or the package index or the store is away",
            _ => "The registry cannot be read or written, or the function cannot be served",
        };
        operation = operation.response(status.to_string(), failure(status, description));
    }
    operation
}

fn failure(status: u16, description: &str) -> Response {
    match status {
        405 => {
            let mut response = text(description);
            response.headers.insert("Allow".to_owned(), Header::new(of(Type::String)).into());
            response
        }
        429 | 503 => busy(description),
        _ => text(description),
    }
}

fn busy(description: &str) -> Response {
    let mut response = text(description);
    response.headers.insert("Retry-After".to_owned(), Header::new(of(Type::Integer)).into());
    response
}

fn text(description: &str) -> Response {
    content(description, TEXT, of(Type::String))
}

fn json(description: &str, schema: impl Into<RefOr<Schema>>) -> Response {
    content(description, JSON, schema)
}

/// A profile.
fn pprof() -> Response {
    content("In the form of `pprof`, gzipped", "application/octet-stream", of(Type::String))
}

fn content(description: &str, kind: &str, schema: impl Into<RefOr<Schema>>) -> Response {
    ResponseBuilder::new().description(description).content(kind, Content::new(Some(schema))).build()
}

// Bodies.

/// Nothing is said of what the bytes are.
fn bytes() -> Content {
    Content::new(None::<Schema>)
}

fn of(kind: Type) -> Object {
    Object::with_type(kind)
}

fn or_null(kind: Type) -> SchemaType {
    SchemaType::from_iter([kind, Type::Null])
}

fn array_of(kind: Type) -> ArrayBuilder {
    ArrayBuilder::new().items(of(kind))
}

fn map_of(kind: Type) -> ObjectBuilder {
    ObjectBuilder::new()
        .schema_type(Type::Object)
        .additional_properties(Some(AdditionalProperties::RefOr(RefOr::T(of(kind).into()))))
}

fn lambdas() -> ObjectBuilder {
    let mut lambda = ObjectBuilder::new().schema_type(Type::Object);
    for name in ["name", "state"] {
        lambda = lambda.property(name, of(Type::String)).required(name);
    }
    let counts = [
        "generation",
        "busy",
        "warm",
        "frozen",
        "starting",
        "queue",
        "invocations",
        "errors",
        "memory_bytes",
    ];
    for name in counts {
        lambda = lambda.property(name, of(Type::Integer)).required(name);
    }
    for name in ["p50_ms", "p99_ms"] {
        lambda = lambda.property(name, ObjectBuilder::new().schema_type(or_null(Type::Number)));
    }
    lambda = lambda.property("message", ObjectBuilder::new().schema_type(or_null(Type::String)));
    // Of those that have such triggers.
    for triggers in ["cron", "kafka"] {
        lambda = lambda.property(triggers, ArrayBuilder::new().items(of(Type::Object)));
    }
    ObjectBuilder::new()
        .schema_type(Type::Object)
        .property("worker", of(Type::Object))
        .required("worker")
        .property("lambdas", ArrayBuilder::new().items(lambda))
        .required("lambdas")
}

fn object_of(fields: &[(&str, Type)]) -> ObjectBuilder {
    fields.iter().fold(ObjectBuilder::new().schema_type(Type::Object), |object, (name, kind)| {
        object.property(*name, of(kind.clone())).required(*name)
    })
}

fn registered_kafka() -> ObjectBuilder {
    object_of(&[("status", Type::String), ("lambda", Type::String), ("message", Type::String)])
}

fn zygote_tree() -> ObjectBuilder {
    ObjectBuilder::new()
        .schema_type(Type::Object)
        .property("packages", array_of(Type::String))
        .property("children", array_of(Type::Object))
}

fn shown() -> ObjectBuilder {
    let node = object_of(&[
        ("node", Type::Integer),
        ("parent", Type::Integer),
        ("state", Type::String),
        ("on_host", Type::Boolean),
        ("replicas", Type::Integer),
        ("bytes", Type::Integer),
        ("hits", Type::Integer),
        ("forks", Type::Integer),
        ("saved_ms", Type::Number),
        ("expected_ms", Type::Number),
        ("unused_s", Type::Integer),
    ]);
    let node = node.property("packages", array_of(Type::String)).property("holds", array_of(Type::String));
    object_of(&[("is_drawn", Type::Boolean), ("bytes", Type::Integer), ("bytes_max", Type::Integer)])
        .property("nodes", ArrayBuilder::new().items(node))
        .required("nodes")
}

fn projection() -> ObjectBuilder {
    let node = object_of(&[
        ("bytes", Type::Integer),
        ("n_functions", Type::Integer),
        ("starts", Type::Number),
        ("saved_ms", Type::Number),
    ]);
    let node = node
        .property("parent", ObjectBuilder::new().schema_type(or_null(Type::Integer)))
        .property("packages", array_of(Type::String));
    object_of(&[
        ("n_functions", Type::Integer),
        ("without_ms", Type::Number),
        ("saved_ms", Type::Number),
        ("saved_now_ms", Type::Number),
        ("bytes", Type::Integer),
        ("bytes_max", Type::Integer),
        ("took_ms", Type::Number),
    ])
    .property("unknown", array_of(Type::String))
    .property("unmeasured", array_of(Type::String))
    .property("nodes", ArrayBuilder::new().items(node))
    .property("tree", zygote_tree())
}

fn function_config() -> ObjectBuilder {
    let mut triggers = ObjectBuilder::new().schema_type(Type::Object);
    for name in ["HTTP", "Cron", "Kafka"] {
        triggers = triggers
            .property(name, ArrayBuilder::new().schema_type(or_null(Type::Array)).items(of(Type::Object)))
            .required(name);
    }
    ObjectBuilder::new()
        .schema_type(Type::Object)
        .property("Triggers", triggers)
        .required("Triggers")
        .property("Environment", map_of(Type::String))
        .required("Environment")
        .property("ReuseSandbox", of(Type::Boolean))
        .required("ReuseSandbox")
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;
    use std::fmt::Write as _;
    use std::fs;
    use std::path::Path;

    use serde_json::Value;

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
        let code = include_str!("../http.rs");
        let code = code.split_once("pub fn paths(").unwrap().1.split_once("\n}").unwrap().0;
        let found: BTreeSet<_> = code
            .split(".route(")
            .skip(1)
            .map(|rest| {
                let path = rest.split('"').nth(1).unwrap().replace("{tail:.*}", "{name}");
                let call = rest.split_once("web::").unwrap().1;
                let method = match call.split_once('(').unwrap().0 {
                    // Any: then `GET` as well.
                    "route" => "get".to_owned(),
                    "method" => {
                        call.split_once("Method::").unwrap().1.split_once(')').unwrap().0.to_lowercase()
                    }
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
        let described: BTreeSet<_> =
            operations().into_iter().map(|(path, method, _)| (path, method)).collect();
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
    fn the_description_is_openapi_3_1() {
        // What the types cannot hold would be lost on the way back.
        let back: OpenApi = serde_json::from_str(&DOCUMENT).unwrap();
        assert_eq!(serde_json::to_value(&back).unwrap(), as_json());
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
}
