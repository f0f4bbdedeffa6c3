//! The frameworks that people use, as they come from the real index, unmodified.

use super::with_clients;
use crate::support::{Expect, Worker, requires, until, write_folder};

/// Deploys it, and waits until its packages are there.
fn deploy(worker: &Worker, name: &str, files: &[(&str, &str)]) {
    write_folder(&worker.registry().join(name), files);
    worker.lambda_until("its packages are there", name, |lambda| lambda["state"] == "ready");
}

#[test]
fn flask_runs_unmodified() {
    requires!(Root, Uv, RealIndex);
    let worker = Worker::start();
    let code = r#"
from flask import Flask, request, url_for, stream_with_context, Response
app = Flask(__name__)
@app.route("/")
def index(): return "hi\n", 418, {"A": "B"}
@app.route("/items/<int:n>", methods=["GET", "POST"])
def item(n): return {"n": n, "form": request.form.to_dict(), "url": url_for("index"), "from": request.remote_addr, "q": request.args.get("q")}
@app.route("/stream")
def stream(): return Response(stream_with_context(f"{n}\n" for n in range(3)))
@app.errorhandler(404)
def missing(error): return "no such page\n", 404
"#;
    deploy(&worker, "flask", &[("f.py", code), ("requirements.txt", "flask\n")]);
    let reply = worker.get("/run/flask");
    assert_eq!(reply.header("a"), Some("B"));
    assert_eq!(reply.expect(418), "hi\n");
    let form = &[("content-type", "application/x-www-form-urlencoded")];
    let item = worker.request("POST", "/run/flask/items/7?q=%C3%A9", form, "a=1&b=2").ok();
    assert_eq!((&item["n"], &item["url"], &item["q"]), (&7.into(), &"/run/flask/".into(), &"é".into()));
    assert_eq!(item["form"], serde_json::json!({"a": "1", "b": "2"}));
    assert!(item["from"] == "127.0.0.1" || item["from"] == "::1", "{item}");
    assert_eq!(worker.get("/run/flask/stream").expect(200), "0\n1\n2\n");
    assert_eq!(worker.get("/run/flask/nonesuch").expect(404), "no such page\n");
    worker.finish();
}

const DJANGO: &str = r#"
import asyncio
import django
from django.conf import settings
from django.http import HttpResponse, JsonResponse, StreamingHttpResponse
from django.urls import path, reverse

settings.configure(DEBUG=False, SECRET_KEY="x", ROOT_URLCONF=__name__, ALLOWED_HOSTS=["*"],
                   MIDDLEWARE=["django.middleware.common.CommonMiddleware"])

def index(request):
    return HttpResponse("hi\n", status=418, headers={"A": "B"})

def item(request, n):
    return JsonResponse({"n": n, "post": request.POST.dict(), "url": reverse("item", args=[n]), "path": request.path, "from": request.META["REMOTE_ADDR"]})

def stream(request):
    return StreamingHttpResponse(PIECES)

async def soon(request):
    await asyncio.sleep(0)
    return HttpResponse(f"soon {len(request.body)}\n")

urlpatterns = [path("", index), path("items/<int:n>", item, name="item"), path("stream", stream), path("soon", soon)]
"#;

fn django_answers(worker: &Worker, name: &str) {
    let reply = worker.get(&format!("/run/{name}"));
    assert_eq!(reply.header("a"), Some("B"));
    assert_eq!(reply.expect(418), "hi\n");
    let form = &[("content-type", "application/x-www-form-urlencoded")];
    let item = worker.request("POST", &format!("/run/{name}/items/7"), form, "a=1").ok();
    let url = format!("/run/{name}/items/7");
    assert_eq!(
        (&item["n"], &item["url"], &item["path"]),
        (&7.into(), &url.as_str().into(), &url.as_str().into())
    );
    assert_eq!(item["post"], serde_json::json!({"a": "1"}));
    assert!(item["from"] == "127.0.0.1" || item["from"] == "::1", "{item}");
    assert_eq!(worker.get(&format!("/run/{name}/stream")).expect(200), "0\n1\n2\n");
    let body = vec![b'x'; 1_000_000];
    let long = worker.request("POST", &format!("/run/{name}/soon"), &[("content-type", "text/plain")], body);
    assert_eq!(long.expect(200), "soon 1000000\n");
    worker.get(&format!("/run/{name}/nonesuch")).expect(404);
}

#[test]
fn django_runs_unmodified_as_wsgi_and_as_asgi() {
    requires!(Root, Uv, RealIndex);
    let worker = Worker::start();
    let wsgi = DJANGO.replace("PIECES", r#"f"{n}\n" for n in range(3)"#)
        + "\nfrom django.core.wsgi import get_wsgi_application\napplication = get_wsgi_application()\n";
    let asgi = DJANGO.replace("PIECES", "pieces()")
        + "\nasync def pieces():\n    for n in range(3): yield f'{n}\\n'\nfrom django.core.asgi import get_asgi_application\napplication = get_asgi_application()\n";
    let yaml = |kind: &str| {
        format!(
            "environment:\n  OL_ENTRY_FILE: site.py\n  OL_{kind}_ENTRY: application\nlimits:\n  mem_mb: 100\n"
        )
    };
    let settings =
        |code: String| code.replace("DEBUG=False", "DEBUG=False, DATA_UPLOAD_MAX_MEMORY_SIZE=None");
    deploy(
        &worker,
        "wsgi",
        &[("site.py", &settings(wsgi)), ("ol.yaml", &yaml("WSGI")), ("requirements.txt", "django\n")],
    );
    deploy(
        &worker,
        "asgi",
        &[("site.py", &settings(asgi)), ("ol.yaml", &yaml("ASGI")), ("requirements.txt", "django\n")],
    );
    django_answers(&worker, "wsgi");
    django_answers(&worker, "asgi");
    worker.finish();
}

#[test]
fn fastapi_and_starlette_run_unmodified() {
    requires!(Root, Uv, RealIndex, Clients);
    let worker = Worker::start();
    let fastapi = r#"
from contextlib import asynccontextmanager
from fastapi import BackgroundTasks, FastAPI, Request, WebSocket
from fastapi.responses import StreamingResponse
from pydantic import BaseModel

@asynccontextmanager
async def life(app):
    print("fastapi starts", flush=True)
    yield {"started": 7}
    print("fastapi ends", flush=True)

app = FastAPI(lifespan=life)
class Item(BaseModel):
    name: str
    n: int = 1
@app.get("/")
def index(request: Request): return {"started": request.state.started, "url": str(request.url_for("item", n=3))}
@app.post("/items/{n}", name="item")
async def item(n: int, item: Item): return {"n": n, "item": item, "twice": item.n * 2}
@app.get("/later")
async def later(tasks: BackgroundTasks):
    tasks.add_task(print, "fastapi later", flush=True)
    return "now"
@app.get("/sse")
async def sse():
    async def events():
        for n in range(3): yield f"data: {n}\n\n"
    return StreamingResponse(events(), media_type="text/event-stream")
@app.websocket("/ws/{name}")
async def ws(socket: WebSocket, name: str):
    await socket.accept()
    while True: await socket.send_json([name, await socket.receive_json()])
"#;
    let starlette = r#"
import asyncio
from starlette.applications import Starlette
from starlette.responses import JSONResponse, PlainTextResponse, StreamingResponse
from starlette.routing import Mount, Route, WebSocketRoute
from starlette.websockets import WebSocketDisconnect

def sync(request): return JSONResponse({"path": request.url.path, "client": request.client.host})
async def upload(request):
    n = 0
    async for piece in request.stream(): n += len(piece)
    return PlainTextResponse(str(n))
async def endless(request):
    async def pieces():
        try:
            yield "first\n"
            await asyncio.sleep(600)
        finally: print("starlette stops", flush=True)
    return StreamingResponse(pieces())
async def echo(socket):
    await socket.accept(subprotocol="chat")
    try:
        async for text in socket.iter_text(): await socket.send_text(text.upper())
    except WebSocketDisconnect: pass
    print("starlette closed", flush=True)
app = Starlette(routes=[Route("/", sync), Route("/upload", upload, methods=["POST"]), Route("/endless", endless),
                        Mount("/sub", routes=[Route("/page", sync)]), WebSocketRoute("/echo", echo)])
"#;
    let yaml = "limits:\n  mem_mb: 100\n";
    deploy(&worker, "fast", &[("f.py", fastapi), ("ol.yaml", yaml), ("requirements.txt", "fastapi\n")]);
    deploy(&worker, "star", &[("f.py", starlette), ("ol.yaml", yaml), ("requirements.txt", "starlette\n")]);
    let index = worker.get("/run/fast").ok();
    assert_eq!(index["started"], 7);
    let url = format!("http://localhost:{}/run/fast/items/3", worker.port());
    assert_eq!(index["url"], url);
    let json = &[("content-type", "application/json")];
    let item = worker.request("POST", "/run/fast/items/3", json, r#"{"name": "x", "n": 2}"#).ok();
    assert_eq!(item["twice"], 4);
    worker.request("POST", "/run/fast/items/3", json, "{}").expect(422);
    worker.get("/run/fast/docs").expect(200);
    let openapi = worker.get("/run/fast/openapi.json").ok();
    assert_eq!(openapi["servers"][0]["url"], "/run/fast");
    worker.get("/run/fast/later").expect(200);
    worker.logged("fast", "fastapi later");
    assert_eq!(worker.get("/run/fast/sse").expect(200), "data: 0\n\ndata: 1\n\ndata: 2\n\n");
    let page = worker.get("/run/star/sub/page").ok();
    assert_eq!(page["path"], "/run/star/sub/page");
    let body = vec![b'x'; 3_000_000];
    assert_eq!(worker.request("POST", "/run/star/upload", &[], body).expect(200), "3000000");
    let said = with_clients(
        &worker,
        r#"
import httpx, json
from websockets.sync.client import connect
with connect(f"ws://localhost:{PORT}/run/star/echo", subprotocols=["chat"]) as socket:
    assert socket.subprotocol == "chat"
    socket.send("hello")
    assert socket.recv() == "HELLO"
with connect(f"ws://localhost:{PORT}/run/fast/ws/ada") as socket:
    socket.send(json.dumps({"a": 1}))
    assert json.loads(socket.recv()) == ["ada", {"a": 1}]
with httpx.stream("GET", f"http://localhost:{PORT}/run/star/endless", timeout=30) as response:
    assert next(response.iter_text()) == "first\n"
print("all went well")
"#,
    );
    assert_eq!(said, "all went well\n");
    worker.logged("star", "starlette closed");
    worker.logged("star", "starlette stops");
    worker.ol("admin remove fast").succeed();
    until("it ends in order", || worker.function_log("fast").contains("fastapi ends"));
    worker.finish();
}
