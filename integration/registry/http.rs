//! The registry over HTTP: the answers that OpenLambda's tools read.

use std::fs;

use flate2::read::GzDecoder;
use openlambda::client::{Client, Method};
use serde_json::json;

use crate::support::{Archive, Expect, Worker, block_on, requires};

const CODE: &str = "def f(event): return 'here'";

#[test]
fn a_function_is_uploaded_listed_downloaded_and_deleted() {
    requires!(Root);
    let worker = Worker::start();
    assert_eq!(worker.get("/registry/").expect(200), "[]");
    let archive = Archive::of(&[("f.py", CODE)]);
    let reply = worker.upload("one", archive.clone());
    assert_eq!(reply.expect(201), "Lambda one uploaded successfully");
    // Served when the upload is answered, not some time later.
    assert_eq!(worker.call("one", "").ok(), json!("here"));
    worker.drop_in("two", &[("f.py", CODE)]);
    assert_eq!(worker.call("two", "").ok(), json!("here"));
    assert_eq!(worker.get("/registry/").ok(), json!(["one", "two"]));
    assert_eq!(worker.get("/registry").ok(), json!(["one", "two"]));

    let down = worker.get("/registry/one");
    assert_eq!(down.header("content-type"), Some("application/gzip"));
    assert_eq!(down.body, archive);
    assert_eq!(names_in(&worker.get("/registry/two").body), ["f.py"]);
    worker.get("/registry/nobody").expect(404);

    for name in ["one", "two"] {
        let reply = worker.request("DELETE", &format!("/registry/{name}"), &[], "");
        assert_eq!(reply.expect(200), format!("Lambda {name} deleted successfully"));
        worker.call(name, "").expect(404);
        worker.request("DELETE", &format!("/registry/{name}"), &[], "").expect(404);
    }
    assert_eq!(worker.get("/registry/").expect(200), "[]");
    assert_eq!(std::fs::read_dir(worker.registry()).unwrap().count(), 0);
}

#[test]
fn a_body_that_is_announced_as_too_long_is_refused_before_it_is_sent() {
    requires!(Root);
    let worker = Worker::with_config(json!({"max_code_mb": 1})).start();
    for (method, path, status, words) in [
        ("POST", "/registry/big", "400", "at most 1 MiB"),
        ("POST", "/zygotes/fit", "413", "longer than 256 KiB"),
        ("PUT", "/zygotes/tree", "413", "longer than 256 KiB"),
    ] {
        let mut connection = worker.connect();
        connection.announce(method, path, 999_999_999_999);
        let answer = connection.read_until(words);
        assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{path}: {answer}");
        assert!(answer.contains("connection: close"), "{path}: {answer}");
    }
    assert_eq!(worker.get("/registry/").ok(), json!([]));
    worker.finish();
}

#[test]
fn a_web_page_cannot_change_the_registry() {
    requires!(Root);
    let worker = Worker::start();
    let archive = Archive::of(&[("f.py", CODE)]);
    worker.upload("mine", archive.clone()).expect(201);
    let page = [("origin", "http://example.org")];
    for (method, name, body) in [("POST", "planted", archive), ("DELETE", "mine", Vec::new())] {
        let reply = worker.request(method, &format!("/registry/{name}"), &page, body);
        assert!(reply.expect(403).contains("Origin"));
    }
    assert_eq!(worker.get("/registry/").ok(), json!(["mine"]));
    // An image in a page has no origin.
    let image = [("sec-fetch-site", "cross-site")];
    worker.request("GET", "/pprof/cpu-start", &image, Vec::new()).expect(403);
    let typed = [("sec-fetch-site", "none")];
    worker.request("GET", "/pprof/cpu-stop", &typed, Vec::new()).expect(400);
}

#[test]
fn a_page_whose_name_is_made_to_lead_here_reads_nothing() {
    requires!(Root);
    let worker = Worker::with_config(json!({ "allowed_hosts": ["ol.example.org"] })).start();
    worker.install("mine", &[("f.py", CODE), ("ol.yaml", "environment: {KEY: secret}\n")]);
    let get = |path: &str, host: &str| worker.request("GET", path, &[("host", host)], "");
    let paths = [
        "/registry/",
        "/registry/mine",
        "/registry/mine/config",
        "/registry/mine/packages",
        "/status",
        "/stats",
        "/debug",
        "/lambdas",
        "/zygotes",
        "/zygotes/tree",
        "/openapi.json",
        "/pprof/mem",
        "/nothing",
    ];
    for path in paths {
        let refused = get(path, "rebound.example:5000").expect(403);
        assert!(refused.contains("'rebound.example:5000' is no name of this machine"), "{path}: {refused}");
        assert!(!refused.contains("secret"), "{refused}");
    }
    for (method, path) in [
        ("POST", "/registry/planted"),
        ("DELETE", "/registry/mine"),
        ("POST", "/registry/mine/packages"),
        ("POST", "/zygotes/fit"),
        ("PUT", "/zygotes/tree"),
        ("DELETE", "/zygotes/tree"),
        ("POST", "/kafka/register/mine"),
        ("POST", "/pprof/cpu-start"),
    ] {
        worker.request(method, path, &[("host", "rebound.example")], "{}").expect(403);
        worker.request(method, path, &[("origin", "http://rebound.example")], "{}").expect(403);
    }
    // A function says itself who may call it.
    for path in ["/run/mine", "/runLambda/mine"] {
        worker
            .request("POST", path, &[("host", "rebound.example"), ("origin", "http://rebound.example")], "{}")
            .expect(200);
    }
    let name = fs::read_to_string("/proc/sys/kernel/hostname").unwrap().trim().to_owned();
    for host in
        ["127.0.0.1", "[::1]:5000", "10.9.8.7:80", "localhost", "x.localhost:1", "ol.example.org:443", &name]
    {
        get("/registry/mine/config", host).expect(200);
    }
    // Programs of long ago say no host, and on the Unix socket it is nobody's.
    let mut connection = worker.connect();
    connection.send(b"GET /registry/ HTTP/1.0\r\n\r\n");
    let answer = connection.read_until("mine");
    assert!(answer.starts_with("HTTP/1.1 200") || answer.starts_with("HTTP/1.0 200"), "{answer}");
    let socket = Client::unix(worker.worker_dir().join("ol.sock"));
    let answer = block_on(socket.request(Method::GET, "/registry/", &[("host", "whatever")], "")).unwrap();
    assert_eq!(answer.ok(), json!(["mine"]));
    // A body that nobody wants is not read.
    let mut connection = worker.connect();
    connection.send(
        b"POST /registry/planted HTTP/1.1\r\nhost: rebound.example\r\ncontent-length: 999999999\r\n\r\n",
    );
    let answer = connection.read_until("is no name of this machine");
    assert!(answer.starts_with("HTTP/1.1 403"), "{answer}");
    assert_eq!(worker.get("/registry/").ok(), json!(["mine"]));
    worker.finish();
}

#[test]
fn the_configuration_has_the_shape_that_tools_read() {
    requires!(Root);
    let worker = Worker::start();
    worker.install_f("plain", CODE);
    assert_eq!(
        worker.get("/registry/plain/config").ok(),
        json!({"Triggers": {"HTTP": [{"Method": "*"}], "Cron": null, "Kafka": null}, "Environment": {}, "ReuseSandbox": true})
    );
    let yaml = "
triggers:
  http:
    - method: POST
  cron:
    - schedule: '*/5 * * * *'
environment:
  NAME: value
reuse-sandbox: false
";
    worker.install("full", &[("f.py", CODE), ("ol.yaml", yaml)]);
    assert_eq!(
        worker.get("/registry/full/config").ok(),
        json!({
            "Triggers": {"HTTP": [{"Method": "POST"}], "Cron": [{"Schedule": "*/5 * * * *"}], "Kafka": null},
            "Environment": {"NAME": "value"},
            "ReuseSandbox": false
        })
    );
    worker.get("/registry/nobody/config").expect(404);
}

#[test]
fn what_is_installed_can_be_looked_at_called_and_removed_by_command() {
    requires!(Root);
    let worker = Worker::start();
    let folder = worker.place().join("greet");
    crate::support::write_folder(&folder, &[("f.py", "def f(event): return 'hi ' + event['name']")]);
    worker.ol("admin install -n greeter").arg(&folder).succeed();
    assert_eq!(worker.ol("admin list").succeed(), "greeter\n");
    assert_eq!(worker.ol("admin invoke").arg("greeter").arg(r#"{"name": "Ann"}"#).succeed(), "\"hi Ann\"\n");
    assert!(worker.ol("admin show --json").arg("greeter").succeed().contains("\"ReuseSandbox\": true"));
    assert_eq!(worker.ol("admin remove").arg("greeter").succeed(), "Removed greeter\n");
    assert_eq!(worker.ol("admin list").succeed(), "");
    let refused = worker.ol("admin invoke").arg("greeter").fail();
    assert!(refused.stderr.contains("404"), "{}", refused.stderr);
    let refused = worker.ol("admin install -n a/b").arg(&folder).fail();
    assert_eq!(refused.code, Some(64), "{}", refused.stderr);
}

fn names_in(archive: &[u8]) -> Vec<String> {
    let mut archive = tar::Archive::new(GzDecoder::new(archive));
    let entries = archive.entries().expect("it is an archive").map(|entry| entry.expect("it is whole"));
    let files = entries.filter(|entry| entry.header().entry_type().is_file());
    let paths = files.map(|entry| entry.path().expect("it has a path").display().to_string());
    paths.map(|path| path.trim_start_matches("./").to_owned()).collect()
}
