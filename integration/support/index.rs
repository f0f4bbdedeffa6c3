//! A package index, on the loopback if no other address is asked for: pypiserver, which `quickstart/deps.sh --test`
//! installs, with packages that tests make.

use std::fs;
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use serde_json::{Value, json};

use super::wait::until;
use super::{Place, Program, free_port};

/// Where deps.sh puts the server, and the wheels that a `setup.py` is built with.
pub(crate) const HOME: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/target/test-index");
/// Makes packages.
const MAKER: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/integration/support/package.py");

/// Runs until it is dropped.
#[derive(Debug)]
pub(crate) struct Index {
    place: Place,
    address: String,
    port: u16,
    server: Option<Child>,
}

/// A package that is being described.
#[derive(Debug)]
pub(crate) struct Package {
    name: String,
    version: String,
    files: Value,
    claims: Value,
    requires: Vec<String>,
    extras: Vec<String>,
    setup: Option<String>,
}

impl Package {
    /// One with a module of its name, that knows its version.
    pub(crate) fn new(name: &str, version: &str) -> Self {
        let module = format!("VERSION = '{version}'\n");
        Self {
            name: name.into(),
            version: version.into(),
            files: json!({ format!("{name}.py"): module }),
            claims: Value::Null,
            requires: Vec::new(),
            extras: Vec::new(),
            setup: None,
        }
    }

    pub(crate) fn needs(mut self, requirement: &str) -> Self {
        self.requires.push(requirement.into());
        self
    }

    pub(crate) fn extra(mut self, name: &str, requirement: &str) -> Self {
        self.extras.push(name.into());
        self.needs(&format!("{requirement} ; extra == '{name}'"))
    }

    pub(crate) fn file(mut self, path: &str, text: &str) -> Self {
        self.files[path] = text.into();
        self
    }

    /// Its `RECORD` says that it has the other's files.
    pub(crate) fn claiming_to_be(mut self, other: &Self) -> Self {
        self.claims = other.files.clone();
        self
    }

    /// A source archive, that has to be built by running this before `setup` is called.
    pub(crate) fn built_by(mut self, code: &str) -> Self {
        let (name, version) = (&self.name, &self.version);
        let end = format!(
            "from setuptools import setup\nsetup(name={name:?}, version={version:?}, py_modules=[{name:?}])\n"
        );
        self.setup = Some(format!("{code}\n{end}"));
        self
    }
}

impl Index {
    /// With what a `setup.py` is built with, and nothing else.
    pub(crate) fn start() -> Self {
        Self::start_at("127.0.0.1")
    }

    /// The same at another address of this thread's network.
    pub(crate) fn start_at(address: &str) -> Self {
        let (place, port) = (Place::new(), free_port());
        let mut index = Self { place, address: address.to_owned(), port, server: None };
        fs::create_dir(index.directory()).expect("a directory can be made");
        for wheel in
            fs::read_dir(Path::new(HOME).join("wheels")).expect("deps.sh has put them there").flatten()
        {
            fs::copy(wheel.path(), index.directory().join(wheel.file_name())).expect("a file can be copied");
        }
        index.come();
        index
    }

    fn directory(&self) -> PathBuf {
        self.place.join("index")
    }

    pub(crate) fn come(&mut self) {
        let server = Command::new(Path::new(HOME).join("bin/pypi-server"))
            .args([
                "run",
                "--disable-fallback",
                "-i",
                &self.address,
                "-a",
                ".",
                "-P",
                ".",
                "-p",
                &self.port.to_string(),
            ])
            .arg(self.directory())
            .current_dir(self.place.path())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("the server can be started");
        self.server = Some(server);
        until("the index answers", || TcpStream::connect((self.address.as_str(), self.port)).is_ok());
    }

    pub(crate) fn go(&mut self) {
        if let Some(mut server) = self.server.take() {
            drop(server.kill());
            drop(server.wait());
        }
    }

    /// For `installer_hosts`.
    pub(crate) fn host(&self) -> String {
        format!("{}:{}", self.address, self.port)
    }

    /// For `pip_mirror`.
    pub(crate) fn url(&self) -> String {
        format!("http://{}:{}/simple", self.address, self.port)
    }

    /// Puts a package in, and gives its archive's hash.
    pub(crate) fn put(&self, package: &Package) -> String {
        let Package { name, version, files, claims, requires, extras, setup } = package;
        let description = json!({
            "name": name, "version": version, "files": files, "claims": claims, "requires": requires, "extras": extras, "setup": setup,
        });
        let path = self.place.join("package.json");
        fs::write(&path, description.to_string()).expect("a file can be written");
        let program = Program::at("/usr/bin/python3").arg(MAKER).arg(self.directory()).arg(path);
        program.succeed().trim().to_owned()
    }
}

impl Drop for Index {
    fn drop(&mut self) {
        self.go();
    }
}
