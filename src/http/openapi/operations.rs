//! What operations are alike in: by whom they are answered, what they are told, and how they fail.

use utoipa::openapi::header::Header;
use utoipa::openapi::path::{
    HttpMethod, Operation, OperationBuilder, ParameterBuilder, ParameterIn, PathItem,
};
use utoipa::openapi::request_body::{RequestBody, RequestBodyBuilder};
use utoipa::openapi::response::{Response, ResponseBuilder};
use utoipa::openapi::schema::{Schema, Type};
use utoipa::openapi::{Content, RefOr, Required};

use super::schemas::{anything, array_of, bytes, function_names, of};

const TEXT: &str = "text/plain";
pub(super) const JSON: &str = "application/json";
pub(super) const GZIP: &str = "application/gzip";
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

/// Refusals of a call, which are texts; see `src/http/error.rs` for each.
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

pub(super) const FROM_A_PAGE: &str = "The request comes from a web page, by its `Origin` or `Sec-Fetch-Site`, or its `Host` is no name of the machine; or the registry is only read";
/// The same, where nothing is written.
pub(super) const FROM_NO_PAGE: &str = "The request comes from a web page, by its `Origin` or `Sec-Fetch-Site`, or its `Host` is no name of the machine";

// Kinds of operations.

pub(super) fn worker(id: &str, summary: &str) -> OperationBuilder {
    OperationBuilder::new().operation_id(Some(id)).tag("worker").summary(Some(summary))
}

/// Only with `server_mode: sock`.
pub(super) fn by_hand(id: &str, summary: &str) -> OperationBuilder {
    OperationBuilder::new().operation_id(Some(id)).tag("sandboxes by hand").summary(Some(summary))
}

pub(super) fn one_by_hand(id: &str, summary: &str) -> OperationBuilder {
    let operation = by_hand(id, summary).parameter(in_path("id", "What `/create` has answered"));
    with_failures(operation, &[403, 404, 502]).response("200", text("Nothing"))
}

/// Each may find the actor that is asked being restarted.
pub(super) fn zygotes(id: &str, summary: &str) -> OperationBuilder {
    let operation = OperationBuilder::new().operation_id(Some(id)).tag("zygotes").summary(Some(summary));
    operation.response("503", busy("The zygotes are being restarted"))
}

pub(super) fn triggers(id: &str, summary: &str) -> OperationBuilder {
    let operation = OperationBuilder::new().operation_id(Some(id)).tag("triggers").summary(Some(summary));
    operation.parameter(function_name())
}

pub(super) fn registry(id: &str, summary: &str) -> OperationBuilder {
    let operation = OperationBuilder::new().operation_id(Some(id)).tag("registry").summary(Some(summary));
    operation.parameter(function_name())
}

pub(super) fn list(id: &str) -> OperationBuilder {
    OperationBuilder::new()
        .operation_id(Some(id))
        .tag("registry")
        .summary(Some("The names of all functions"))
        .response("200", json("In the order of the alphabet", array_of(Type::String)))
        .response("500", text("The registry cannot be read"))
        .response("503", busy("The store is away"))
}

/// A path where nothing but `POST` does something.
pub(super) fn only_post(post: OperationBuilder) -> PathItem {
    PathItem::new(HttpMethod::Post, post)
}

fn call(id: &str, method: &str, is_below: bool) -> OperationBuilder {
    let mut operation = OperationBuilder::new()
        .operation_id(Some(format!("{id}_{method}")))
        .tag("functions")
        .summary(Some("Call a function"))
        .description(Some(
            "Query, headers and body go to the function. One that is called with an event takes JSON and gives JSON, with 200; a program (`f.bin`) takes the body as its argument; a WSGI or ASGI application says status, type and headers itself. With the headers of RFC 6455, `GET` opens a WebSocket to an ASGI application.",
        ))
        .parameter(function_name());
    if is_below {
        operation = operation.parameter(in_path("path", "A path of any depth, for the function"));
    }
    if !matches!(method, "get" | "head" | "delete") {
        let mut body = body("Of any type; the event, if it is JSON", ANYTHING, bytes(), false);
        body.content.insert(JSON.to_owned(), Content::new(Some(anything())).into());
        operation = operation.request_body(Some(body));
    }
    let answer = ResponseBuilder::new()
        .description("The function's answer")
        .header("X-Ol-Invocation", Header::new(of(Type::String)))
        .header("Server-Timing", Header::new(of(Type::String)))
        .content(ANYTHING, Content::new(Some(bytes())))
        .content(JSON, Content::new(Some(anything())))
        .build();
    operation = operation.response("200", answer.clone()).response("default", answer);
    for (status, description) in CALL_FAILURES {
        operation = operation.response(status.to_string(), failure(status, description));
    }
    operation
}

pub(super) fn calls(id: &str, is_below: bool) -> PathItem {
    let mut item = PathItem::default();
    for (method, word) in METHODS {
        *slot(&mut item, &method) = Some(call(id, word, is_below).build());
    }
    item
}

/// Answered by the worker, for web pages.
pub(super) fn classic_options(id: &str) -> OperationBuilder {
    OperationBuilder::new()
        .operation_id(Some(format!("{id}_options")))
        .tag("functions")
        .summary(Some("Ask whether a web page may call"))
        .response("200", ResponseBuilder::new().description("Pages of any origin may").build())
}

/// The same, but that `OPTIONS` is answered by the worker, see [`classic_options`].
pub(super) fn classic_calls(id: &str, is_below: bool) -> PathItem {
    let mut item = calls(id, is_below);
    let mut options = classic_options(id).parameter(function_name());
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

fn function_name() -> ParameterBuilder {
    in_path("name", "The function's name").schema(Some(function_names()))
}

fn in_path(name: &str, description: &str) -> ParameterBuilder {
    ParameterBuilder::new()
        .name(name)
        .parameter_in(ParameterIn::Path)
        .required(Required::True)
        .description(Some(description))
        .schema(Some(of(Type::String)))
}

pub(super) fn body(
    description: &str,
    kind: &str,
    schema: impl Into<RefOr<Schema>>,
    is_required: bool,
) -> RequestBody {
    RequestBodyBuilder::new()
        .description(Some(description))
        .required(Some(if is_required { Required::True } else { Required::False }))
        .content(kind, Content::new(Some(schema)))
        .build()
}

pub(super) fn with_failures(mut operation: OperationBuilder, statuses: &[u16]) -> OperationBuilder {
    for &status in statuses {
        let description = match status {
            400 => "The name, or what was sent, cannot be meant, or its packages cannot be had",
            403 => FROM_A_PAGE,
            404 => "There is no such function or sandbox",
            408 => "The body did not arrive in time",
            413 => "The body is too long",
            502 => "The sandbox has ended",
            503 => "Part of the worker is being restarted, or the package index or the store is away",
            _ => "The registry cannot be read or written, or the function cannot be served",
        };
        operation = operation.response(status.to_string(), failure(status, description));
    }
    operation
}

pub(super) fn failure(status: u16, description: &str) -> Response {
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

pub(super) fn busy(description: &str) -> Response {
    let mut response = text(description);
    response.headers.insert("Retry-After".to_owned(), Header::new(of(Type::Integer)).into());
    response
}

pub(super) fn text(description: &str) -> Response {
    content(description, TEXT, of(Type::String))
}

pub(super) fn json(description: &str, schema: impl Into<RefOr<Schema>>) -> Response {
    content(description, JSON, schema)
}

/// A profile.
pub(super) fn pprof() -> Response {
    content("In the form of `pprof`, gzipped", "application/octet-stream", bytes())
}

pub(super) fn content(description: &str, kind: &str, schema: impl Into<RefOr<Schema>>) -> Response {
    ResponseBuilder::new().description(description).content(kind, Content::new(Some(schema))).build()
}
