//! `ol worker init`: a directory for a worker, with the configuration and the base image.

use std::fs;
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use structopt::StructOpt;

use crate::cli::error::{CliError, must_be_root};
use crate::cli::lock::WorkerLock;
use crate::cli::ol_dir::{OlDir, State};
use crate::cli::settings::Settings;
use crate::cli::{complain, files, foreground, say};
use crate::image;

/// Make the directory of a worker, or make it anew: the functions in its registry stay
#[derive(StructOpt)]
pub(crate) struct Init {
    /// The worker's directory
    #[structopt(short, long, parse(from_os_str), default_value = "default-ol")]
    path: PathBuf,
    /// What functions see as their machine: a directory, a docker archive or an OCI layout [default: this machine's own /usr]
    #[structopt(short, long, parse(from_os_str))]
    image: Option<PathBuf>,
    /// Prepare the base image anew, even if there is one
    #[structopt(short = "b", long)]
    newbase: bool,
}

impl Init {
    pub(super) fn run(self) -> Result<(), CliError> {
        must_be_root("ol worker init")?;
        let ol_dir = OlDir::at(&self.path)?;
        if let State::Running(worker) | State::Unknown(worker) = ol_dir.state()? {
            let hint = format!("ol worker down -p {}", self.path.display());
            return Err(CliError::AlreadyRunning { pid: worker.pid, hint });
        }
        let is_new = !ol_dir.is_initialized()?;
        let settings = Settings::defaults(ol_dir.path())?;
        initialize(&ol_dir, &settings, self.image.as_deref(), self.newbase)?;
        let done = if is_new { "Initialized" } else { "Reinitialized" };
        say(format!("{done} {}\n", ol_dir.path().display()));
        Ok(())
    }
}

/// Make the directory, or everything in it but the functions anew. The stamp comes last: what has
/// none is not finished, and an `init` that was killed is simply done again.
pub(in crate::cli) fn initialize(
    ol_dir: &OlDir,
    settings: &Settings,
    image: Option<&Path>,
    new_base: bool,
) -> Result<(), CliError> {
    let path = ol_dir.path();
    // In this order: whoever makes the directory at this moment puts `begun` in first, and takes it away last.
    if has_entries(path)? && !ol_dir.begun().exists() && !ol_dir.is_initialized()? {
        return Err(CliError::NotOurs(path.to_owned()));
    }
    if !path.exists() {
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(path)
            .map_err(CliError::file("make", path))?;
    }
    fs::write(ol_dir.begun(), "").map_err(CliError::file("make", ol_dir.begun()))?;
    let worker_dir = settings.worker_dir();
    for dir in [&ol_dir.worker(), &worker_dir, &settings.config.registry_dir, &ol_dir.base()] {
        files::make_dir(dir)?;
    }
    let _lock = WorkerLock::take(&worker_dir)?;
    foreground::sweep(settings)?;
    files::remove(&ol_dir.stamp())?;
    empty(&ol_dir.worker())?;
    files::remove(&ol_dir.overrides())?;
    files::replace_json(&ol_dir.config(), &settings.document.value)?;
    prepare_base(ol_dir, settings, image, new_base)?;
    if let Some(why) = crate::serve::no_installer(path, &settings.config) {
        complain(format_args!(
            "ol: packages cannot be installed, only those that are there can be used: {why}"
        ));
    }
    let now_s = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
    files::replace(&ol_dir.stamp(), format!("{now_s}\n").as_bytes(), 0o400)?;
    files::remove(&ol_dir.begun())
}

/// A base that is there already is kept, unless another or a new one is asked for: to unpack one takes long.
fn prepare_base(
    ol_dir: &OlDir,
    settings: &Settings,
    image: Option<&Path>,
    new_base: bool,
) -> Result<(), CliError> {
    let python = settings.config.python.as_deref();
    let failed = |error: image::ImageError| match error.setting() {
        Some((field, problem)) => settings.error(field, problem).into(),
        None => CliError::Image(error),
    };
    // A description that cannot be read is one that is written anew.
    let present = image::Chosen::load(ol_dir.path()).ok().flatten();
    let is_wanted =
        |present: &image::Chosen| image.is_none_or(|image| image.canonicalize().ok() == present.image);
    let image = match present {
        Some(present) if is_wanted(&present) && !new_base => {
            // As a new one: the configuration may ask for another interpreter now.
            return present.with_python(python).map(drop).map_err(failed);
        }
        present => image.map(Path::to_owned).or_else(|| present?.image),
    };
    image::prepare(ol_dir.path(), image.as_deref(), python).map(drop).map_err(failed)
}

fn has_entries(path: &Path) -> Result<bool, CliError> {
    match fs::read_dir(path) {
        Ok(mut entries) => Ok(entries.next().is_some()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(CliError::file("read", path)(error)),
    }
}

/// Remove what an earlier worker worked with; not the lock, which is ours at this moment.
fn empty(dir: &Path) -> Result<(), CliError> {
    for entry in fs::read_dir(dir).map_err(CliError::file("read", dir))? {
        let entry = entry.map_err(CliError::file("read", dir))?;
        if entry.file_name() == "worker.lock" {
            continue;
        }
        let path = entry.path();
        let is_dir = entry.file_type().is_ok_and(|kind| kind.is_dir());
        let removed = if is_dir { fs::remove_dir_all(&path) } else { fs::remove_file(&path) };
        removed.map_err(CliError::file("remove", path))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn made(path: &Path) -> Result<OlDir, CliError> {
        let ol_dir = OlDir::at(path)?;
        let defaults = crate::config::Config::default_for(path, None);
        let settings = Settings::of(crate::config::Document::made(defaults, &ol_dir.config()), path)?;
        // The base is not what is tested: it may not be there on the machine that tests.
        fs::create_dir_all(path).unwrap();
        let tree = ol_dir.base();
        let base = serde_json::json!({"base": {"directory": tree}, "image": null});
        if ol_dir.is_initialized()? || ol_dir.begun().exists() || !has_entries(path)? {
            fs::write(path.join(image::DESCRIPTOR), base.to_string()).unwrap();
            fs::create_dir_all(tree.join("usr/bin")).unwrap();
            let python = tree.join("usr/bin/python3.11");
            fs::write(&python, "").unwrap();
            fs::set_permissions(python, fs::Permissions::from_mode(0o755)).unwrap();
            fs::write(ol_dir.begun(), "").unwrap();
        }
        initialize(&ol_dir, &settings, None, false)?;
        Ok(ol_dir)
    }

    #[test]
    fn what_a_worker_needs_is_there_afterwards() {
        let dir = tempfile::tempdir().unwrap();
        let ol_dir = made(&dir.path().join("ol")).unwrap();
        for path in
            [ol_dir.stamp(), ol_dir.config(), ol_dir.worker(), ol_dir.base(), ol_dir.path().join("registry")]
        {
            assert!(path.exists(), "{}", path.display());
        }
        assert!(!ol_dir.begun().exists());
        assert_eq!(ol_dir.state().unwrap(), State::StoppedClean);
    }

    #[test]
    fn functions_survive_a_second_init_and_the_last_runs_state_does_not() {
        let dir = tempfile::tempdir().unwrap();
        let ol_dir = made(dir.path()).unwrap();
        fs::create_dir(dir.path().join("registry/hello")).unwrap();
        fs::write(ol_dir.worker().join("worker.pid"), "1").unwrap();
        fs::write(ol_dir.overrides(), "{}").unwrap();
        fs::create_dir(ol_dir.worker().join("code")).unwrap();
        made(dir.path()).unwrap();
        assert!(dir.path().join("registry/hello").exists());
        assert!(!ol_dir.worker().join("worker.pid").exists() && !ol_dir.overrides().exists());
        assert!(!ol_dir.worker().join("code").exists());
    }

    #[test]
    fn an_init_that_was_killed_is_done_again() {
        let dir = tempfile::tempdir().unwrap();
        let ol_dir = made(dir.path()).unwrap();
        fs::write(ol_dir.begun(), "").unwrap();
        fs::remove_file(ol_dir.stamp()).unwrap();
        made(dir.path()).unwrap();
        assert!(ol_dir.is_initialized().unwrap());
    }

    #[test]
    fn a_base_that_is_kept_must_have_the_interpreter_that_is_asked_for_now() {
        let dir = tempfile::tempdir().unwrap();
        let ol_dir = made(dir.path()).unwrap();
        let again = |python: &str| {
            let mut value = crate::config::Config::default_for(dir.path(), None);
            value["python"] = python.into();
            let document = crate::config::Document::made(value, &ol_dir.config());
            initialize(&ol_dir, &Settings::of(document, dir.path())?, None, false)
        };
        again("/usr/bin/python3.11").unwrap();
        let refused = again("/usr/bin/python3.12").unwrap_err();
        assert!(matches!(refused, CliError::Config(_)), "{refused:?}");
        let said = format!("{}: python: is /usr/bin/python3.12, and ", ol_dir.config().display());
        assert!(refused.to_string().starts_with(&said), "{refused}");
    }

    #[test]
    fn somebody_elses_directory_is_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("thesis.tex"), "").unwrap();
        assert!(matches!(made(dir.path()), Err(CliError::NotOurs(_))));
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    }
}
