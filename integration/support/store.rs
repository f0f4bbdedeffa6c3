//! Stores on the loopback that functions come from: servers that speak as those of the clouds do, which `quickstart/deps.sh --test`
//! installs, and a plain web server.

use std::fs;
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use openlambda::client::{Client, Method, Reply};
use serde_json::{Value, json};

use super::wait::{block_on, patience, until};
use super::{Place, free_port};

/// Where deps.sh puts the servers.
pub(crate) const HOME: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/target/test-stores");

/// What all objects begin with.
const PREFIX: &str = "deep/down";

/// Runs until it is dropped.
#[derive(Debug)]
pub(crate) struct Store {
    kind: Kind,
    place: Place,
    port: u16,
    server: Option<Child>,
    /// Gives out tokens, as the machines of Google do.
    tokens: Option<(u16, Child)>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// Moto, as Amazon S3.
    S3,
    /// Moto again: Google's interface for XML is near enough to Amazon's.
    Gcs,
    /// Azurite.
    Azure,
    /// The web server of Python.
    Web,
    /// The same, which also lists what it has as WebDAV wants it.
    WebDav,
}

impl Store {
    #[track_caller]
    pub(crate) fn s3() -> Self {
        Self::of(Kind::S3)
    }

    #[track_caller]
    pub(crate) fn gcs() -> Self {
        Self::of(Kind::Gcs)
    }

    #[track_caller]
    pub(crate) fn azure() -> Self {
        Self::of(Kind::Azure)
    }

    #[track_caller]
    pub(crate) fn web() -> Self {
        Self::of(Kind::Web)
    }

    #[track_caller]
    pub(crate) fn web_dav() -> Self {
        Self::of(Kind::WebDav)
    }

    #[track_caller]
    fn of(kind: Kind) -> Self {
        let tokens = (kind == Kind::Gcs).then(|| {
            let port = free_port();
            let mut python = Command::new("/usr/bin/python3");
            python.args(["-c", GIVE_TOKENS, &port.to_string()]);
            let server = python.stdin(Stdio::null()).stderr(Stdio::null()).spawn();
            until("tokens are given out", || TcpStream::connect(("127.0.0.1", port)).is_ok());
            (port, server.expect("Python can be started"))
        });
        let mut store = Self { kind, place: Place::new(), port: free_port(), server: None, tokens };
        fs::create_dir_all(store.files()).expect("a directory can be made");
        store.come();
        store
    }

    /// Of the web server: what it shows.
    pub(crate) fn files(&self) -> PathBuf {
        self.place.join("files").join(PREFIX)
    }

    fn command(&self) -> Command {
        let home = Path::new(HOME);
        let port = self.port.to_string();
        let mut command = match self.kind {
            Kind::S3 | Kind::Gcs => {
                let mut command = Command::new(home.join("bin/moto_server"));
                command.args(["-H", "127.0.0.1", "-p", &port]);
                command
            }
            Kind::Azure => {
                let mut command = Command::new("node");
                command.arg(home.join("azurite/node_modules/.bin/azurite-blob")).args([
                    "--silent",
                    "--skipApiVersionCheck",
                    "--disableTelemetry",
                    "--blobHost",
                    "127.0.0.1",
                    "--blobPort",
                    &port,
                    "--location",
                ]);
                command.arg(self.place.join("azurite"));
                command
            }
            Kind::Web => {
                let mut command = Command::new("/usr/bin/python3");
                command.args(["-m", "http.server", "--bind", "127.0.0.1", &port, "--directory"]);
                command.arg(self.place.join("files"));
                command
            }
            Kind::WebDav => {
                let mut command = Command::new("/usr/bin/python3");
                command.args(["-c", SERVE_WEB_DAV, &port]).arg(self.place.join("files"));
                command
            }
        };
        command
            .current_dir(self.place.path())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        command
    }

    /// Starts it. Moto has then forgotten everything; the others have not.
    #[track_caller]
    pub(crate) fn come(&mut self) {
        self.come_without_bucket();
        self.make_bucket();
    }

    #[track_caller]
    pub(crate) fn come_without_bucket(&mut self) {
        self.server = Some(self.command().spawn().expect("the server can be started"));
        until("the store answers", || TcpStream::connect(("127.0.0.1", self.port)).is_ok());
    }

    pub(crate) fn make_bucket(&self) {
        match self.kind {
            Kind::S3 | Kind::Gcs => {
                assert_eq!(self.request(Method::PUT, "/functions", Vec::new()).status.as_u16(), 200)
            }
            // Only who signs may make one there.
            Kind::Azure => {
                let mut python = Command::new(Path::new(HOME).join("bin/python"));
                python.args(["-c", MAKE_CONTAINER, &self.port.to_string()]);
                assert!(python.status().expect("Python can be started").success());
            }
            Kind::Web | Kind::WebDav => {}
        }
    }

    pub(crate) fn go(&mut self) {
        if let Some(mut server) = self.server.take() {
            drop(server.kill());
            drop(server.wait());
        }
    }

    /// It still takes connections, and says nothing any more.
    pub(crate) fn hang(&self) {
        self.signal(Signal::SIGSTOP);
    }

    pub(crate) fn go_on(&self) {
        self.signal(Signal::SIGCONT);
    }

    fn signal(&self, signal: Signal) {
        let server = self.server.as_ref().expect("it runs");
        kill(Pid::from_raw(server.id().cast_signed()), signal).expect("it is our child");
    }

    /// For `registry`.
    pub(crate) fn url(&self) -> String {
        match self.kind {
            Kind::S3 => format!("s3://functions/{PREFIX}?region=us-east-1"),
            Kind::Gcs => format!("gs://functions/{PREFIX}"),
            Kind::Azure => format!("az://functions/{PREFIX}"),
            Kind::Web | Kind::WebDav => format!("http://127.0.0.1:{}/{PREFIX}", self.port),
        }
    }

    /// What a worker finds it with.
    pub(crate) fn environment(&self) -> Vec<(&'static str, String)> {
        let address = format!("http://127.0.0.1:{}", self.port);
        match self.kind {
            Kind::S3 => vec![
                ("AWS_ENDPOINT", address),
                ("AWS_ALLOW_HTTP", "true".into()),
                ("AWS_ACCESS_KEY_ID", "somebody".into()),
                ("AWS_SECRET_ACCESS_KEY", "very-secret-indeed".into()),
            ],
            Kind::Gcs => {
                let tokens = self.tokens.as_ref().map_or(0, |(port, _)| *port);
                vec![
                    ("GOOGLE_BASE_URL", address),
                    ("GOOGLE_ALLOW_HTTP", "true".into()),
                    ("GCE_METADATA_HOST", format!("127.0.0.1:{tokens}")),
                ]
            }
            Kind::Azure => {
                vec![("AZURE_STORAGE_USE_EMULATOR", "true".into()), ("AZURITE_BLOB_STORAGE_URL", address)]
            }
            Kind::Web | Kind::WebDav => Vec::new(),
        }
    }

    /// For the configuration of a worker that looks often.
    pub(crate) fn config(&self) -> Value {
        json!({ "registry": self.url(), "registry_cache_ms": 500 })
    }

    /// As somebody else would, past all workers. Not for Azure.
    #[track_caller]
    pub(crate) fn put(&self, name: &str, archive: Vec<u8>) {
        if matches!(self.kind, Kind::Web | Kind::WebDav) {
            let temporary = self.place.join("new");
            fs::write(&temporary, archive).expect("a file can be written");
            fs::rename(temporary, self.files().join(format!("{name}.tar.gz"))).expect("it can be renamed");
            return;
        }
        let path = format!("/functions/{PREFIX}/{name}.tar.gz");
        assert_eq!(self.request(Method::PUT, &path, archive).status.as_u16(), 200);
    }

    #[track_caller]
    pub(crate) fn remove(&self, name: &str) {
        if matches!(self.kind, Kind::Web | Kind::WebDav) {
            fs::remove_file(self.files().join(format!("{name}.tar.gz"))).expect("it is there");
            return;
        }
        let path = format!("/functions/{PREFIX}/{name}.tar.gz");
        assert!(self.request(Method::DELETE, &path, Vec::new()).status.is_success());
    }

    /// What is there under a name.
    pub(crate) fn has(&self, name: &str) -> bool {
        let path = format!("/functions/{PREFIX}/{name}.tar.gz");
        self.request(Method::HEAD, &path, Vec::new()).status.is_success()
    }

    #[track_caller]
    fn request(&self, method: Method, path: &str, body: Vec<u8>) -> Reply {
        // Moto takes anybody for somebody who says who he is.
        let headers = [("authorization", "Bearer x"), ("content-type", "application/gzip")];
        let client = Client::tcp("127.0.0.1", self.port).with_deadlines(patience(5), patience(20));
        block_on(client.request(method, path, &headers, body)).expect("the store answers")
    }
}

impl Drop for Store {
    fn drop(&mut self) {
        self.go();
        if let Some((_, mut server)) = self.tokens.take() {
            drop(server.kill());
            drop(server.wait());
        }
    }
}

/// What a machine of Google answers to who asks for the token of its account.
const GIVE_TOKENS: &str = r#"
import http.server, json, sys
class Tokens(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        known = self.path.startswith("/computeMetadata/v1/instance/service-accounts/default/")
        told = self.headers.get("Metadata-Flavor") == "Google"
        body = json.dumps({"access_token": "x", "expires_in": 3600, "token_type": "Bearer"}).encode()
        self.send_response(200 if known and told else 404)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
http.server.HTTPServer(("127.0.0.1", int(sys.argv[1])), Tokens).serve_forever()
"#;

/// One level of a directory at a time, as most servers of WebDAV do.
const SERVE_WEB_DAV: &str = r#"
import email.utils, functools, http.server, os, sys
class Dav(http.server.SimpleHTTPRequestHandler):
    def do_PROPFIND(self):
        self.rfile.read(int(self.headers.get("Content-Length") or 0))
        directory = self.translate_path(self.path)
        if self.headers.get("Depth") != "1" or not os.path.isdir(directory):
            self.send_error(403 if os.path.isdir(directory) else 404)
            return
        answers = ""
        for name in ["", *os.listdir(directory)]:
            file = os.path.join(directory, name)
            kind = "<D:collection/>" if os.path.isdir(file) else ""
            answers += (
                f"<D:response><D:href>{self.path.rstrip('/')}/{name}</D:href><D:propstat><D:prop>"
                f"<D:getlastmodified>{email.utils.formatdate(os.path.getmtime(file), usegmt=True)}</D:getlastmodified>"
                f"<D:getcontentlength>{os.path.getsize(file)}</D:getcontentlength><D:resourcetype>{kind}</D:resourcetype>"
                "</D:prop><D:status>HTTP/1.1 200 OK</D:status></D:propstat></D:response>"
            )
        body = f'<?xml version="1.0"?><D:multistatus xmlns:D="DAV:">{answers}</D:multistatus>'.encode()
        self.send_response(207)
        self.send_header("Content-Type", "application/xml")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
handler = functools.partial(Dav, directory=sys.argv[2])
http.server.ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), handler).serve_forever()
"#;

/// Signs as Azure wants it, with the key that everybody knows.
const MAKE_CONTAINER: &str = r#"
import base64, hashlib, hmac, http.client, sys, time
port = int(sys.argv[1])
account = "devstoreaccount1"
key = base64.b64decode("Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw==")
date = time.strftime("%a, %d %b %Y %H:%M:%S GMT", time.gmtime())
head = f"x-ms-date:{date}\nx-ms-version:2021-08-06\n"
what = f"/{account}/{account}/functions\nrestype:container"
text = "PUT" + "\n" * 12 + head + what
signature = base64.b64encode(hmac.new(key, text.encode(), hashlib.sha256).digest()).decode()
connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
connection.request("PUT", f"/{account}/functions?restype=container", headers={
    "x-ms-date": date, "x-ms-version": "2021-08-06", "Content-Length": "0",
    "Authorization": f"SharedKey {account}:{signature}",
})
answer = connection.getresponse()
sys.exit(0 if answer.status in (201, 409) else f"{answer.status} {answer.read()}")
"#;
