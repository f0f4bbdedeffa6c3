//! ASGI apps and async functions: how they are found, what they are told, and when they begin and end.

use nix::sys::signal::Signal;
use serde_json::json;

use crate::support::{Expect, Worker, requires, until};

/// An app without a framework. What is asked for is in the path.
pub(super) const APP: &str = r#"
import asyncio, json, os

async def app(scope, receive, send):
    if scope["type"] == "lifespan":
        await receive()
        print("started", flush=True)
        scope["state"]["started"] = True
        await send({"type": "lifespan.startup.complete"})
        await receive()
        await asyncio.sleep(0)
        print("ended in order", flush=True)
        await send({"type": "lifespan.shutdown.complete"})
        return
    assert scope["type"] == "http" and scope["state"]["started"]
    async def answer(status, body):
        await send({"type": "http.response.start", "status": status, "headers": [(b"content-type", b"text/plain"), (b"a", b"b")]})
        await send({"type": "http.response.body", "body": body})
    path = scope["path"][len(scope["root_path"]):]
    if path == "/scope":
        shown = {name: scope[name] for name in ("path", "root_path", "method", "scheme")}
        shown["raw_path"], shown["query"] = scope["raw_path"].decode(), scope["query_string"].decode()
        shown["client"], shown["server"] = scope["client"][0], scope["server"][0]
        shown["headers"] = [value.decode() for name, value in scope["headers"] if name == b"x-a"]
        await answer(418, json.dumps(shown).encode())
    elif path == "/stream":
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"first\n", "more_body": True})
        while (await receive())["type"] != "http.disconnect":
            pass
        print("nobody listens", flush=True)
    elif path == "/wait":
        print("waits", flush=True)
        while (await receive())["type"] != "http.disconnect":
            pass
        print("nobody waits", flush=True)
    elif path == "/raise":
        raise ValueError("on purpose")
    elif path == "/after":
        await answer(200, b"at once\n")
        await asyncio.sleep(0.01)
        print("afterwards", flush=True)
    else:
        n = 0
        while True:
            message = await receive()
            n += len(message["body"])
            if not message["more_body"]:
                break
        await answer(200, b"%d\n" % n)
"#;

#[test]
fn an_asgi_app_is_served_with_what_the_specification_says() {
    requires!(Root);
    let worker = Worker::start();
    worker.install_f("web", APP);
    let reply = worker.request("PUT", "/run/web/scope?a=%20", &[("x-a", "1"), ("x-a", "2")], "");
    assert_eq!(reply.header("a"), Some("b"));
    let shown: serde_json::Value = serde_json::from_str(&reply.expect(418)).unwrap();
    let client = shown["client"].clone();
    let expected = json!({
        "path": "/run/web/scope", "root_path": "/run/web", "method": "PUT", "scheme": "http", "raw_path": "/run/web/scope",
        "query": "a=%20", "client": client, "server": "localhost", "headers": ["1", "2"],
    });
    assert_eq!(shown, expected);
    assert!(client == "127.0.0.1" || client == "::1", "{client}");
    let encoded = worker.get("/run/web/%C3%A9");
    assert_eq!(encoded.expect(200), "0\n");
    for n in [0, 5, 300_000, 2_000_000] {
        assert_eq!(worker.call("web", vec![b'x'; n]).expect(200), format!("{n}\n"));
    }
    let said = worker.get("/run/web/raise").expect(500);
    assert!(said.ends_with("ValueError: on purpose\n"), "{said}");
    assert_eq!(worker.lambda("web")["errors"], 1);
    worker.finish();
}

#[test]
fn an_async_function_is_a_function_like_others() {
    requires!(Root);
    let worker = Worker::start();
    worker.install_f(
        "f",
        "import asyncio\nasync def f(event):\n    await asyncio.sleep(0)\n    return [event]",
    );
    worker.install_f("g", "async def f(event, context): return [event, context.path]");
    for n in 0..50 {
        assert_eq!(worker.call("f", json!(n)).ok(), json!([n]));
    }
    let reply = worker.request("POST", "/run/g/below", &[], "1");
    assert_eq!(reply.ok(), json!([1, "/below"]));
    worker.install_f("f", "async def f(event): raise ValueError('on purpose')");
    assert!(worker.call("f", "1").expect(500).ends_with("ValueError: on purpose\n"));
    worker.finish();
}

#[test]
fn an_app_may_have_a_name_of_its_own_and_one_that_is_not_there_is_said() {
    requires!(Root);
    let worker = Worker::start();
    let code = "
def f(event): return 'f'
def my_wsgi_app(environ, start):
    start('200 OK', [])
    return [b'wsgi ' + environ['REMOTE_ADDR'].encode()]
async def my_asgi_app(scope, receive, send):
    assert scope['type'] == 'http'
    await send({'type': 'http.response.start', 'status': 200})
    await send({'type': 'http.response.body', 'body': b'asgi'})
";
    let install = |environment: &str| {
        let yaml = format!("environment:\n  OL_ENTRY_FILE: main.py\n{environment}");
        worker.install("f", &[("main.py", code), ("ol.yaml", &yaml)]);
        worker.call("f", "")
    };
    assert_eq!(install("").ok(), json!("f"));
    let said = install("  OL_WSGI_ENTRY: my_wsgi_app").expect(200);
    assert!(said == "wsgi 127.0.0.1" || said == "wsgi ::1", "{said}");
    assert_eq!(install("  OL_ASGI_ENTRY: my_asgi_app").expect(200), "asgi");
    let said = install("  OL_ASGI_ENTRY: nonesuch").expect(500);
    assert!(said.contains("OL_ASGI_ENTRY is 'nonesuch', and main.py defines nothing of that name"), "{said}");
    let said = install("  OL_ASGI_ENTRY: my_asgi_app\n  OL_WSGI_ENTRY: my_wsgi_app").expect(500);
    assert!(said.contains("are both set"), "{said}");
    worker.install("f", &[("f.py", code), (".env", "OL_WSGI_ENTRY=my_wsgi_app\n")]);
    assert!(worker.call("f", "").expect(200).starts_with("wsgi"));
    worker.finish();
}

#[test]
fn an_app_is_told_of_its_beginning_and_of_an_end_in_order() {
    requires!(Root);
    let mut worker = Worker::with_config(json!({"limits": {"max_instances": 1}})).start();
    let n_said = |worker: &Worker, words: &str| worker.function_log("web").matches(words).count();
    worker.install_f("web", APP);
    let first = worker.call("web", "").sandbox();
    assert_eq!((n_said(&worker, "started"), n_said(&worker, "ended in order")), (1, 0));
    assert_eq!(worker.call("web", "").sandbox(), first);
    // New code, and an end of the worker.
    worker.install_f("web", &format!("{APP}\n# changed"));
    until("the old one has ended", || n_said(&worker, "ended in order") == 1);
    assert_ne!(worker.call("web", "").sandbox(), first);
    until("it says so", || n_said(&worker, "started") == 2);
    worker.ol("worker down").succeed();
    worker.wait_for_end();
    assert_eq!(n_said(&worker, "ended in order"), 2, "{}", worker.function_log("web"));
    worker.start_again();
    // One that does not come to an end is ended.
    let never = APP.replace("await asyncio.sleep(0)\n", "await asyncio.sleep(600)\n");
    worker.install_f("never", &never);
    worker.call("never", "").expect(200);
    worker.finish();
}

#[test]
fn an_app_that_cannot_start_is_not_served_and_says_why() {
    requires!(Root);
    let worker = Worker::start();
    let failed = r#"
import time
time.sleep(0.02)
async def app(scope, receive, send):
    assert scope["type"] == "lifespan"
    await receive()
    await send({"type": "lifespan.startup.failed", "message": "no database today"})
"#;
    worker.install_f("web", failed);
    // From a standby, and from a zygote that has imported it.
    for _ in 0..6 {
        let said = worker.call("web", "").text();
        assert!(said.contains("did not start (lifespan.startup)\n\nno database today"), "{said}");
    }
    worker.install_f("web", APP);
    worker.call("web", "").expect(200);
    worker.finish();
}

#[test]
fn an_app_that_takes_long_to_import_starts_in_each_fork() {
    requires!(Root);
    let worker = Worker::with_config(json!({"limits": {"max_instances": 3}})).start();
    let code = format!("import time\ntime.sleep(0.05)\nprint('imported', flush=True)\n{APP}");
    worker.install("web", &[("f.py", &code), ("ol.yaml", "reuse-sandbox: false\n")]);
    let mut seen = Vec::new();
    until("one was forked", || {
        let reply = worker.call("web", "");
        let timing = reply.header("server-timing").unwrap_or_default().to_owned();
        seen.push(reply.sandbox());
        reply.expect(200);
        timing.contains("desc=forked") && seen.len() > 5
    });
    until("each has started, and each ended in order", || {
        let log = worker.function_log("web");
        log.matches("started").count() >= seen.len() && log.matches("ended in order").count() >= seen.len()
    });
    assert!(worker.function_log("web").matches("imported").count() < seen.len());
    worker.finish();
}

/// The end in order waits until it may go on; which is well within the time that it may take.
#[test]
fn an_app_ends_in_order_also_when_what_it_was_forked_from_has_to_go() {
    requires!(Root);
    let worker = Worker::with_config(json!({"limits": {"max_instances": 8}})).start();
    let gate = "import signal
        may_go = asyncio.Event()
        asyncio.get_running_loop().add_signal_handler(signal.SIGUSR1, may_go.set)
        print('is told', flush=True)
        await may_go.wait()";
    let app = APP.replace("await asyncio.sleep(0)", gate);
    assert_ne!(app, APP);
    worker.install_f("web", &format!("import time\ntime.sleep(0.05)\n{app}"));
    let says = |words: &str| worker.function_log("web").matches(words).count();
    // Each needs a sandbox of its own, and by and by these are forked from a zygote.
    let mut waiting = Vec::new();
    until("one was forked", || {
        let mut client = worker.connect();
        client.announce("POST", "/run/web/wait", 0);
        waiting.push(client);
        until("it waits", || says("waits") >= waiting.len());
        worker.status_json()["worker"]["counters"]["lambda_zygote_forks"].as_u64() >= Some(1)
    });
    drop(waiting);
    worker.lambda_until("nobody waits", "web", |lambda| lambda["busy"] == 0);
    let (n, zygote) = (says("started"), worker.zygote_processes());
    // The zygote of the old code goes when one of the new is asked for.
    let new = [
        ("f.py", "import time\ntime.sleep(0.05)\ndef f(event): return 'new'\n"),
        ("ol.yaml", "reuse-sandbox: false\n"),
    ];
    worker.install("web", &new);
    until("the zygote has ended", || {
        assert_eq!(worker.call("web", "").ok(), json!("new"));
        zygote.iter().any(|process| !process.is_alive())
    });
    until("all are told", || says("is told") >= n);
    for line in worker.function_log("web").lines().filter(|line| line.contains("is told")) {
        let id = line.split(' ').nth(1).and_then(|word| word.split('-').next()?.parse().ok()).unwrap();
        // The other one is its init, to which such a signal means nothing.
        worker.sandbox_processes(id).iter().for_each(|process| process.signal(Signal::SIGUSR1));
    }
    until("each ends in order", || says("ended in order") >= n);
    until("nothing of the zygote is left", || zygote.iter().all(|process| !process.is_alive()));
    worker.finish();
}

#[test]
fn what_an_app_does_after_its_answer_keeps_nobody_waiting() {
    requires!(Root);
    let worker = Worker::with_config(json!({"limits": {"max_instances": 1}})).start();
    worker.install_f("web", &APP.replace("asyncio.sleep(0.01)", "asyncio.sleep(600)"));
    let first = worker.get("/run/web/after").sandbox();
    // The first one goes on for ten minutes.
    assert_eq!(worker.get("/run/web/after").sandbox(), first);
    worker.install_f("soon", APP);
    worker.get("/run/soon/after").expect(200);
    worker.logged("soon", "afterwards");
    // The app is not asked to end what is under way for ever, so the worker ends it.
    worker.finish();
}
