//! The worker's description of its own paths, `GET /openapi.json`, in OpenAPI 3.1.
//!
//! What is registered in `super::paths` is described here; tests compare the two, and `docs/API.md` with this.

mod operations;
mod schemas;
#[cfg(test)]
mod tests;

use std::sync::LazyLock;

use actix_web::HttpResponse;
use utoipa::openapi::OpenApi;
use utoipa::openapi::info::{Info, License};
use utoipa::openapi::path::{HttpMethod, OperationBuilder, PathItem, PathsBuilder};
use utoipa::openapi::schema::Type;

use operations::{
    FROM_A_PAGE, FROM_NO_PAGE, GZIP, JSON, body, busy, by_hand, calls, classic_calls, classic_options,
    content, failure, json, list, one_by_hand, only_post, pprof, registry, text, triggers, with_failures,
    worker, zygotes,
};
use schemas::{
    bytes, calls_to_fit, function_config, lambdas, map_of, of, order_by_hand, projection, registered_kafka,
    shown, zygote_tree,
};

/// Made once: it is the same for as long as the worker runs.
static DOCUMENT: LazyLock<String> = LazyLock::new(|| described().to_json().expect("the types are JSON's"));

/// `/openapi.json`.
pub(super) async fn document() -> HttpResponse {
    HttpResponse::Ok().content_type("application/json").body(DOCUMENT.as_str())
}

fn described() -> OpenApi {
    let mut info = Info::new("OpenLambda worker", env!("CARGO_PKG_VERSION"));
    info.description = Some(
        "Runs functions, each in a sandbox of its own. Error texts are `text/plain`. All but calls of functions is refused with 403 when it comes from a web page (it has an `Origin`, or a `Sec-Fetch-Site` of another site), and when its `Host` is no IP address, not `localhost` or below it, not the `worker_url`, no name of the machine, and none of `allowed_hosts` in `config.json`; on the Unix socket any `Host` will do, and a request without one anywhere. Here is what can be asked: a path that lacks a function's name is answered 400, another method 404, or 405 with `Allow`, and what cannot be read as HTTP 400, 408 or 431, each with a sentence. On the worker's Unix socket there is `/pid` as well."
            .to_owned(),
    );
    let mut license = License::new("Apache License 2.0");
    license.identifier = Some("Apache-2.0".to_owned());
    info.license = Some(license);
    let mut paths = PathsBuilder::new();
    for (path, mut item) in items() {
        if !path.starts_with("/run") {
            keep_pages_out(&mut item);
        }
        paths = paths.path(path, item);
    }
    OpenApi::new(info, paths)
}

/// What holds of all but calls (`super::origin`).
fn keep_pages_out(item: &mut PathItem) {
    let operations = [&mut item.get, &mut item.put, &mut item.post, &mut item.delete];
    for operation in operations.into_iter().flatten() {
        let responses = &mut operation.responses.responses;
        responses.entry("403".to_owned()).or_insert_with(|| failure(403, FROM_NO_PAGE).into());
    }
}

fn items() -> Vec<(&'static str, PathItem)> {
    use HttpMethod::Get;
    vec![
        ("/run/{name}", calls("run", false)),
        ("/run/{name}/{path}", calls("run_below", true)),
        ("/runLambda", PathItem::new(HttpMethod::Options, classic_options("run_lambda_nothing"))),
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
                    .response("200", content("The files", GZIP, bytes()))
                    .response("503", busy("The store is away")),
            );
            item.post = Some(
                with_failures(
                    registry("upload", "Upload a function; it is served when this is answered"),
                    &[400, 403, 408, 500, 503],
                )
                .request_body(Some(body(
                    "A `.tar.gz` with the function's files at its top",
                    GZIP,
                    bytes(),
                    true,
                )))
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
        ("/kafka/register/{name}", {
            let mut item = PathItem::default();
            item.post = Some(
                with_failures(
                    triggers("register_kafka", "Have a function called with records from Kafka"),
                    &[403, 503],
                )
                .response("200", json("In OpenLambda's form", registered_kafka()))
                .response("400", text("The name is none, or `ol.yaml` has no Kafka triggers"))
                .response("404", text("There is no such function"))
                .build(),
            );
            item.delete = Some(
                with_failures(triggers("unregister_kafka", "Have it called so no more"), &[400, 403, 503])
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
                    calls_to_fit(),
                    false,
                )))
                .response("200", json("What `ol zygotes train` shows", projection()))
                .response("400", text("The body is not understood"));
            PathItem::new(HttpMethod::Post, with_failures(operation, &[408, 413]))
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
                with_failures(
                    set(zygotes("import_zygotes", "Use this tree of zygotes from now on")),
                    &[408, 413],
                )
                .request_body(Some(body("The tree, in OpenLambda's form", JSON, zygote_tree(), true)))
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
                    "`code`: a function of the registry; `leaf`: whether it runs that, `true` if not given; `parent`: an id or nothing; `pkgs`: packages; `runtime`: `python` or nothing. Another field is refused",
                    JSON,
                    order_by_hand(),
                    true,
                )))
                .response("200", text("Its id"));
            only_post(with_failures(create, &[400, 403, 404, 408, 413, 500, 503]))
        }),
        ("/destroy/{id}", only_post(one_by_hand("destroy", "End it, and all that were forked from it"))),
        ("/pause/{id}", only_post(one_by_hand("pause", "Stop it for a while"))),
        ("/unpause/{id}", only_post(one_by_hand("unpause", "Let it go on"))),
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
