//! A database: PostgreSQL, as Debian packages it, with a cluster of the test's own.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};

use nix::sys::signal::{Signal, kill};
use nix::unistd::{Pid, User, chown};
use tempfile::TempDir;

use super::wait::until;
use super::{Program, free_port};

/// Runs until it is dropped, with a role `ol` whose password is `ol`, and a database of that name.
#[derive(Debug)]
pub(crate) struct Database {
    server: Child,
    port: u16,
    _directory: TempDir,
}

impl Database {
    /// It listens wherever the network of this thread can be reached.
    pub(crate) fn start() -> Self {
        let directory = TempDir::with_prefix("ol-test-database-").expect("a directory can be made");
        // It will not run as root.
        let nobody = User::from_name("nobody").expect("users can be looked up").expect("there is nobody");
        chown(directory.path(), Some(nobody.uid), Some(nobody.gid)).expect("root may do that");
        let program = |name: &str| {
            let path = programs().expect("the test requires it").join(name);
            let (uid, gid) = (nobody.uid.to_string(), nobody.gid.to_string());
            Program::at("setpriv")
                .args(["--reuid", &uid, "--regid", &gid, "--clear-groups", "--"])
                .arg(path)
                .within(directory.path())
        };
        let password = directory.path().join("password");
        fs::write(&password, "ol").expect("a file can be written");
        let data = directory.path().join("data");
        program("initdb")
            .words("--username ol --auth scram-sha-256 --encoding UTF8 --locale C --no-sync --pwfile")
            .args([&password, Path::new("--pgdata"), &data])
            .succeed();
        let who_may = "host all all 0.0.0.0/0 scram-sha-256\n";
        fs::write(data.join("pg_hba.conf"), who_may).expect("a file can be written");
        let port = free_port();
        let server = program("postgres")
            .args([Path::new("-D"), &data])
            .words("-c listen_addresses=0.0.0.0 -c unix_socket_directories= -c fsync=off -p")
            .arg(port.to_string())
            .into_command()
            .stdout(Stdio::null())
            .stderr(fs::File::create(directory.path().join("log")).expect("a file can be made"))
            .spawn()
            .expect("it can be started");
        let database = Self { server, port, _directory: directory };
        until("the database answers", || database.try_ask("postgres", "SELECT 1").is_ok());
        database.try_ask("postgres", "CREATE DATABASE ol").expect("a database can be made");
        database
    }

    /// For clients, by this address of the machine that it runs on.
    pub(crate) fn url(&self, address: &str) -> String {
        format!("postgresql://ol:ol@{address}:{}/ol", self.port)
    }

    fn try_ask(&self, database: &str, query: &str) -> Result<String, String> {
        let url = format!("postgresql://ol:ol@127.0.0.1:{}/{database}", self.port);
        let said = Program::at(programs().expect("the test requires it").join("psql"))
            .args(["--no-psqlrc", "--tuples-only", "--no-align", "-c", query, &url])
            .run();
        if said.code == Some(0) { Ok(said.stdout) } else { Err(said.stderr) }
    }
}

impl Drop for Database {
    fn drop(&mut self) {
        // It ends at once, and kills those of its processes that have not within 5 s ("Shutting Down the Server" in its manual).
        let _ = kill(Pid::from_raw(self.server.id().cast_signed()), Signal::SIGQUIT);
        drop(self.server.wait());
    }
}

/// Where the newest version's programs are.
pub(crate) fn programs() -> Option<PathBuf> {
    let versions = fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten();
    let number = |entry: &fs::DirEntry| entry.file_name().to_str()?.parse::<u32>().ok();
    let versions = versions.filter(|entry| entry.path().join("bin/initdb").exists());
    let newest = versions.max_by_key(number)?;
    Some(newest.path().join("bin"))
}
