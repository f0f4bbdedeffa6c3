//! `ol admin install`: a folder, an archive or a git repository becomes a function of a running worker.

use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::time::Duration;

use actors::name::FunctionName;
use serde_json::json;
use structopt::StructOpt;
use tempfile::TempDir;

use super::update::patient;
use crate::cli::error::CliError;
use crate::cli::ol_dir::OlDir;
use crate::cli::package::{self, Extra};
use crate::cli::{functions, say, talk};
use crate::client::{Client, Method, StatusCode};

/// A repository that takes longer is not a function's.
const CLONE_WAIT_MAX: Duration = Duration::from_secs(300);

/// Upload a folder, an archive or a git repository as a function
#[derive(StructOpt)]
pub(crate) struct Install {
    /// The worker's directory
    #[structopt(short, long, parse(from_os_str), default_value = "default-ol")]
    path: PathBuf,
    /// Use this file as the function's ol.yaml
    #[structopt(short, long, parse(from_os_str))]
    config: Option<PathBuf>,
    /// Use this file as the function's requirements.txt
    #[structopt(short, long, parse(from_os_str))]
    requirements: Option<PathBuf>,
    /// The function's name [default: the source's]
    #[structopt(short, long)]
    name: Option<String>,
    /// What was installed, and its address, as JSON
    #[structopt(long)]
    json: bool,
    /// A folder, a .tar.gz, or a git repository (https://…, ssh://…, file://…, git@…:…)
    source: String,
}

impl Install {
    pub(super) fn run(self) -> Result<(), CliError> {
        let source = Source::of(&self.source);
        let name: FunctionName = match &self.name {
            Some(name) => name.parse()?,
            None => source.name()?.parse()?,
        };
        // Before a repository is fetched for nobody.
        let settings = OlDir::at(&self.path)?.running()?;
        let extra = Extra { config: self.config.as_deref(), requirements: self.requirements.as_deref() };
        let archive = match source {
            Source::Repository(url) => package::pack(clone(url)?.path(), &extra)?,
            Source::Archive(path) => package::repack(path, &extra)?,
            Source::Folder(path) => package::pack(path, &extra)?,
        };
        upload(&settings.client(), &name, archive)?;
        let address = format!("{}/run/{name}", settings.address());
        if self.json {
            say(format!("{}\n", json!({"name": name.as_str(), "url": format!("http://{address}")})));
        } else {
            say(format!("Installed {name}. To call it:\n  curl -X POST {address} -d '{{}}'\n"));
        }
        Ok(())
    }
}

/// Where a function's files are.
#[derive(Debug, PartialEq, Eq)]
enum Source<'a> {
    Repository(&'a str),
    Archive(&'a Path),
    Folder(&'a Path),
}

impl<'a> Source<'a> {
    fn of(source: &'a str) -> Self {
        // As git tells an address from a path: by a scheme, or by a colon before the first slash.
        let host = source.split('/').next().unwrap_or_default();
        if source.contains("://") || (host.contains(':') && !Path::new(source).exists()) {
            return Self::Repository(source);
        }
        let path = Path::new(source);
        if path.is_file() { Self::Archive(path) } else { Self::Folder(path) }
    }

    /// What the function is called if nothing else is said.
    fn name(&self) -> Result<String, CliError> {
        Ok(match self {
            Self::Repository(url) => repository_name(url).to_owned(),
            Self::Archive(path) => {
                let name = path.file_name().unwrap_or_default().to_string_lossy();
                let stem = [".tar.gz", ".tgz"].iter().find_map(|suffix| name.strip_suffix(suffix));
                stem.unwrap_or(&name).to_owned()
            }
            Self::Folder(path) => folder_name(path)?,
        })
    }
}

/// Give a worker a function's archive. The answer 201 means that it is served.
pub(in crate::cli) fn upload(client: &Client, name: &FunctionName, archive: Vec<u8>) -> Result<(), CliError> {
    functions::accepted("GET", "/status", talk::ask(client, "/status")??)?;
    let path = format!("/registry/{name}");
    let headers = [("content-type", "application/gzip")];
    let reply = talk::wait(patient(client.clone()).request(Method::POST, &path, &headers, archive))??;
    let reply = functions::accepted("POST", &path, reply)?;
    if reply.status == StatusCode::CREATED {
        return Ok(());
    }
    Err(CliError::Answer(format!("the worker answered POST {path} with {}, not with 201", reply.status)))
}

fn folder_name(folder: &Path) -> Result<String, CliError> {
    let whole = folder.canonicalize().map_err(CliError::file("find", folder))?;
    Ok(whole.file_name().unwrap_or_default().to_string_lossy().into_owned())
}

/// The last word of a repository's address, as git would name the folder.
fn repository_name(url: &str) -> &str {
    let last = url.trim_end_matches('/').rsplit(['/', ':']).next().unwrap_or_default();
    last.strip_suffix(".git").unwrap_or(last)
}

fn clone(url: &str) -> Result<TempDir, CliError> {
    let failed = |reason: String| CliError::Git { url: url.to_owned(), reason };
    let dir = TempDir::with_prefix("ol-install-").map_err(|error| failed(error.to_string()))?;
    let mut git = tokio::process::Command::new("git");
    git.args(["clone", "--quiet", "--depth", "1", "--", url]).arg(dir.path());
    // Without a person to ask, a repository that wants a password is one that fails.
    git.env("GIT_TERMINAL_PROMPT", "0").stdin(std::process::Stdio::null()).kill_on_drop(true);
    let done = talk::wait(async { tokio::time::timeout(CLONE_WAIT_MAX, git.output()).await })?;
    let output = done
        .map_err(|_| failed(format!("it took longer than {} s", CLONE_WAIT_MAX.as_secs())))?
        .map_err(|error| match error.kind() {
            ErrorKind::NotFound => CliError::NoGit(url.to_owned()),
            _ => failed(format!("cannot run git: {error}")),
        })?;
    if output.status.success() {
        return Ok(dir);
    }
    Err(failed(String::from_utf8_lossy(&output.stderr).trim().to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_repository_names_its_function() {
        for url in
            ["https://x.y/a/hello.git", "git@x.y:hello.git", "git@x.y:a/hello.git", "https://x.y/hello/"]
        {
            assert_eq!(repository_name(url), "hello", "{url}");
        }
    }

    #[test]
    fn a_source_is_what_it_looks_like() {
        let dir = tempfile::tempdir().unwrap();
        let archive = dir.path().join("hello.tar.gz");
        std::fs::write(&archive, "").unwrap();
        let archive = archive.to_str().unwrap();
        assert_eq!(Source::of(archive), Source::Archive(Path::new(archive)));
        assert_eq!(Source::of(archive).name().unwrap(), "hello");
        for url in ["https://x.y/a.git", "file:///a/b.git", "ssh://git@x.y/a", "git@x.y:a/b.git", "x.y:a"] {
            assert_eq!(Source::of(url), Source::Repository(url));
        }
        for folder in ["here", "./a:b", "/a/b.git", ".."] {
            assert_eq!(Source::of(folder), Source::Folder(Path::new(folder)));
        }
    }

    #[test]
    fn a_folder_names_its_function_even_when_called_dot() {
        let dir = tempfile::tempdir().unwrap();
        let folder = dir.path().join("hello");
        std::fs::create_dir(&folder).unwrap();
        assert_eq!(folder_name(&folder.join(".")).unwrap(), "hello");
    }
}
