//! Puts functions into a worker, and calls them.

use std::thread;

use openlambda::client::{Client, Method, Reply};

use super::Worker;
use crate::support::http::{Payload, RawConnection};
use crate::support::wait::{block_on, patience};
use crate::support::{Archive, Files, write_folder};

impl Worker {
    /// Puts a folder into the registry, and waits for nothing.
    pub(crate) fn drop_in(&self, name: &str, files: Files<'_>) {
        write_folder(&self.registry().join(name), files);
    }

    /// Makes it a function that can be called now.
    #[track_caller]
    pub(crate) fn install(&self, name: &str, files: Files<'_>) -> &Self {
        let reply = self.upload(name, Archive::of(files));
        assert_eq!(reply.status.as_u16(), 201, "{}", reply.text());
        self
    }

    /// A function of one file.
    #[track_caller]
    pub(crate) fn install_f(&self, name: &str, code: &str) -> &Self {
        self.install(name, &[("f.py", code)])
    }

    #[track_caller]
    pub(crate) fn upload(&self, name: &str, archive: Vec<u8>) -> Reply {
        self.request("POST", &format!("/registry/{name}"), &[], archive)
    }

    /// `POST /run/<name>`.
    #[track_caller]
    pub(crate) fn call(&self, name: &str, body: impl Payload) -> Reply {
        self.request("POST", &format!("/run/{name}"), &[], body)
    }

    #[track_caller]
    pub(crate) fn get(&self, path: &str) -> Reply {
        self.request("GET", path, &[], "")
    }

    #[track_caller]
    pub(crate) fn request(
        &self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: impl Payload,
    ) -> Reply {
        self.try_request(method, path, headers, body)
            .unwrap_or_else(|error| panic!("{method} {path}: {error}"))
    }

    /// An answer, or the text of why there is none.
    pub(crate) fn try_request(
        &self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: impl Payload,
    ) -> Result<Reply, String> {
        let method: Method = method.parse().expect("it is a method");
        block_on(self.client().request(method, path, headers, body.bytes()))
            .map_err(|error| error.to_string())
    }

    /// A call on a thread of its own, for what happens meanwhile.
    pub(crate) fn call_aside(
        &self,
        name: &str,
        body: impl Payload,
    ) -> thread::JoinHandle<Result<Reply, String>> {
        let (client, path, body) = (self.client(), format!("/run/{name}"), body.bytes());
        thread::spawn(move || block_on(client.post(&path, body)).map_err(|error| error.to_string()))
    }

    pub(crate) fn client(&self) -> Client {
        Client::tcp("localhost", self.port).with_deadlines(patience(10), patience(90))
    }

    /// To the socket that only the owner of the directory may use.
    pub(crate) fn private_client(&self) -> Client {
        Client::unix(self.worker_dir().join("ol.sock")).with_deadlines(patience(10), patience(90))
    }

    pub(crate) fn connect(&self) -> RawConnection {
        RawConnection::open(self.port)
    }
}
