//! One cgroup per sandbox: limits, accounts, freezing and killing.
//!
//! Two layouts behind one type: [`v2`], the unified hierarchy, and [`v1`], controllers of version 1 with
//! (on hybrid machines) an empty version 2 hierarchy beside them, which gives freeze and kill. All of a
//! worker's groups lie under one group that is named after its directory, so that a later start finds
//! what a killed one has left.
//!
//! What a lambda's zygote has mapped as shared outlives the forks that wrote to it. It stays counted to the groups that
//! theirs were in: so zygote and forks lie in a [`Nest`], which has a limit for all of them together.

mod v1;
mod v2;
mod weigh;

use std::fs;
use std::io::{self, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use slog::{Logger, debug, o};

use super::reclaim::Means;

/// The share of the processes and threads that the machine can have which all sandboxes of a worker may have together, as one over
/// this: a half. With the other half everything else on the machine can still start, a worker that takes this one's place included;
/// and a half of the least that a kernel is configured for (32,768) is more than 2,000 idle sandboxes take.
const PROCESSES_PART: u64 = 2;

/// Processes and threads that all sandboxes of a worker may have together.
fn processes_max() -> Option<u64> {
    let least = ["kernel/pid_max", "kernel/threads-max"]
        .iter()
        .filter_map(|name| read_number(&Path::new("/proc/sys").join(name)))
        .min()?;
    Some((least / PROCESSES_PART).max(1))
}

/// Limits them, of the group that holds all of a worker's groups.
fn limit_processes(group: &Path) -> Result<()> {
    match processes_max() {
        Some(most) => write(group.join("pids.max"), &most.to_string()),
        // Without /proc the machine's own bound is not known, and holds.
        None => Ok(()),
    }
}

/// A failed read or write below `/sys/fs/cgroup`: a bare "no such file" would say nothing there.
#[derive(Debug, thiserror::Error)]
pub enum CgroupError {
    /// A file could not be written.
    #[error("cannot write {value:?} to {}: {source}", path.display())]
    Write {
        /// Which file.
        path: PathBuf,
        /// What was to be written.
        value: String,
        /// Why not.
        source: io::Error,
    },
    /// A file could not be read.
    #[error("cannot read {}: {source}", path.display())]
    Read {
        /// Which file.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// A group could not be made.
    #[error("cannot make the cgroup {}: {source}", path.display())]
    Create {
        /// Which directory.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// A group could not be removed in time.
    #[error("cannot remove the cgroup {}: {source}", path.display())]
    Remove {
        /// Which directory.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// The machine lacks something.
    #[error("{0}")]
    Unusable(String),
}

/// Shorthand of this module.
pub type Result<T> = std::result::Result<T, CgroupError>;

/// What a group may use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Memory, page cache and `/tmp` included, in bytes.
    pub memory_bytes: u64,
    /// Swap on top of it, in bytes.
    pub swap_bytes: u64,
    /// Processor time, in percent of one core.
    pub cpu_percent: u32,
    /// Processes and threads.
    pub n_processes: u32,
}

/// The group that holds all of one worker's groups.
#[derive(Debug, Clone)]
pub struct CgroupRoot {
    layout: Layout,
    log: Logger,
}

#[derive(Debug, Clone)]
enum Layout {
    V2(v2::Root),
    V1(v1::Root),
}

/// How processes get into a group, in descriptors.
#[derive(Debug)]
pub enum Ways {
    /// By being born there: its directory.
    Birth(OwnedFd),
    /// By writing to `cgroup.procs` of each hierarchy.
    Procs(Vec<OwnedFd>),
}

impl Ways {
    /// All of them.
    pub fn fds(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        let fds = match self {
            Self::Birth(directory) => std::slice::from_ref(directory),
            Self::Procs(procs) => procs,
        };
        fds.iter().map(AsFd::as_fd)
    }
}

/// A group that holds groups, and no process itself. It limits the memory of all of them together, of those that are gone
/// included. It goes with the last of them.
#[derive(Debug)]
pub struct Nest {
    /// In the hierarchy of the memory controller.
    directory: PathBuf,
}

impl Drop for Nest {
    fn drop(&mut self) {
        // Whatever still holds it up is taken by the sweep at the next start.
        let _ = fs::remove_dir(&self.directory);
    }
}

/// One group. Not removed on drop: removal waits for the last process, which the reaper does.
#[derive(Debug)]
pub struct Cgroup {
    layout: LayoutGroup,
    /// As written last, so that a sandbox of the default class costs no write.
    limits: Limits,
    nest: Option<Arc<Nest>>,
    log: Logger,
}

#[derive(Debug)]
enum LayoutGroup {
    V2(v2::Group),
    V1(v1::Group),
}

impl CgroupRoot {
    /// Finds out what the machine has, and makes the worker's group. On version 2 the user `shim`, who is root in the
    /// shims' user namespace, may let processes be born into its groups; `None` changes nothing about that, for who only looks.
    /// `log` hears of each group at level debug.
    ///
    /// # Errors
    /// [`CgroupError::Unusable`] says which controller is missing and what to do.
    pub fn open(name: &str, shim: Option<u32>, log: Logger) -> Result<Self> {
        let mounts = Mounts::read()?;
        let layout = match mounts.unified_with_controllers() {
            Some(root) => Layout::V2(v2::Root::open(&root, name, shim)?),
            None => Layout::V1(v1::Root::open(&mounts, name)?),
        };
        Ok(Self { layout, log })
    }

    /// `v2`, or `v1` with or without `+ freezer of v2`: for people.
    #[must_use]
    pub fn describe(&self) -> &'static str {
        match &self.layout {
            Layout::V2(_) => "v2",
            Layout::V1(root) if root.has_unified() => "v1 (hybrid)",
            Layout::V1(_) => "v1",
        }
    }

    /// A new nest, for groups that may use so much together.
    ///
    /// # Errors
    /// When the directory or a limit could not be written; nothing stays then.
    pub fn nest(&self, name: &str, memory_bytes: u64, swap_bytes: u64) -> Result<Arc<Nest>> {
        let directory = match &self.layout {
            Layout::V2(root) => root.inside(name),
            Layout::V1(root) => root.inside(name),
        };
        create_directory(&directory)?;
        let nest = Arc::new(Nest { directory });
        match &self.layout {
            Layout::V2(_) => v2::limit_nest(&nest.directory, memory_bytes, swap_bytes)?,
            Layout::V1(root) => root.limit_nest(&nest.directory, memory_bytes, swap_bytes)?,
        }
        Ok(nest)
    }

    /// A new group with these limits, in a nest or in none.
    ///
    /// # Errors
    /// When the directory or a limit could not be written; nothing stays then.
    pub fn create(&self, name: &str, limits: Limits, nest: Option<Arc<Nest>>) -> Result<Cgroup> {
        let inside = nest.as_ref().map(|nest| nest.directory.as_path());
        let layout = match &self.layout {
            Layout::V2(root) => LayoutGroup::V2(root.create(name, inside)?),
            Layout::V1(root) => LayoutGroup::V1(root.create(name, inside)?),
        };
        let log = self.log.new(o!("cgroup" => name.to_owned()));
        let mut group = Cgroup { layout, limits, nest, log };
        match group.write_limits(limits, true) {
            Ok(()) => {
                group.tell_limits(true);
                Ok(group)
            }
            Err(error) => {
                // Empty, so it goes at once; if not, the sweep at the next start takes it.
                let _ = group.try_remove();
                Err(error)
            }
        }
    }

    /// Memory charged to all groups together, in bytes.
    #[must_use]
    pub fn memory_bytes(&self) -> u64 {
        match &self.layout {
            Layout::V2(root) => root.memory_bytes(),
            Layout::V1(root) => root.memory_bytes(),
        }
        .unwrap_or(0)
    }

    /// Where the kernel says how long this group's processes wait for memory. `None`: version 1, which does not say it of groups.
    #[must_use]
    pub(super) fn pressure_file(&self) -> Option<PathBuf> {
        match &self.layout {
            Layout::V2(root) => Some(root.inside("memory.pressure")),
            Layout::V1(_) => None,
        }
    }

    /// The group of version 1 that can be asked for events of `memory.pressure_level`.
    #[must_use]
    pub(super) fn pressure_level_group(&self) -> Option<PathBuf> {
        match &self.layout {
            Layout::V2(_) => None,
            Layout::V1(root) => Some(root.inside("")),
        }
    }

    /// Kills what still runs in any of the worker's groups and removes them, the worker's own included.
    /// Gives the number of groups that were found.
    ///
    /// # Errors
    /// When a group stays for [`SWEEP_PATIENCE`] although its processes were killed.
    pub fn sweep(name: &str) -> Result<usize> {
        let mounts = Mounts::read()?;
        let mut n_found = 0;
        for mount in mounts.points() {
            let root = mount.join(name);
            if root.is_dir() {
                n_found += sweep_tree(&root)?;
            }
        }
        Ok(n_found)
    }
}

impl Cgroup {
    /// Changes limits; writes only what differs.
    ///
    /// # Errors
    /// When a limit could not be written.
    pub fn set_limits(&mut self, limits: Limits) -> Result<()> {
        if limits != self.limits {
            self.write_limits(limits, false)?;
            self.limits = limits;
            self.tell_limits(false);
        }
        Ok(())
    }

    fn tell_limits(&self, is_new: bool) {
        let Limits { memory_bytes, swap_bytes, cpu_percent, n_processes } = self.limits;
        debug!(self.log, "a cgroup has limits"; "is_new" => is_new, "memory" => memory_bytes, "swap" => swap_bytes, "cpu_percent" => cpu_percent,
            "n_processes" => n_processes, "is_in_nest" => self.nest.is_some());
    }

    fn write_limits(&mut self, limits: Limits, is_new: bool) -> Result<()> {
        match &self.layout {
            LayoutGroup::V2(group) => group.write_limits(limits),
            LayoutGroup::V1(group) => group.write_limits(limits, is_new),
        }
    }

    /// Where a process can be born into it; `None` with version 1, which has no such thing. Only for who is root in the shims'
    /// user namespace.
    ///
    /// # Errors
    /// When it cannot be opened.
    pub fn birthplace(&self) -> Result<Option<OwnedFd>> {
        match &self.layout {
            LayoutGroup::V2(group) => group.birthplace().map(Some),
            LayoutGroup::V1(_) => Ok(None),
        }
    }

    /// The open `cgroup.procs` of every hierarchy: a process gets in by writing "0" to each. That needs no right but
    /// ours, who opened them. After a pause the first one to get in anywhere on the machine waits some 8 ms for the kernel;
    /// who is born inside does not.
    ///
    /// # Errors
    /// When one cannot be opened.
    pub fn procs(&self) -> Result<Vec<OwnedFd>> {
        match &self.layout {
            LayoutGroup::V2(group) => group.procs().map(|file| vec![file]),
            LayoutGroup::V1(group) => group.procs(),
        }
    }

    /// Stops or continues its processes. Machines without the version 2 freezer have none worth using
    /// (the old one takes 0.15 ms each way): there this does nothing.
    pub fn set_frozen(&self, frozen: bool) {
        if let Some(directory) = self.unified() {
            // A group that is being removed cannot be frozen any more, and need not.
            let _ = fs::write(directory.join("cgroup.freeze"), if frozen { "1" } else { "0" });
            debug!(self.log, "froze or thawed a cgroup"; "frozen" => frozen);
        }
    }

    /// Whether its processes get the processors only when nobody else wants them. Kernels before 5.15 do not know that: there
    /// this does nothing.
    pub fn set_idle(&self, idle: bool) {
        let directory = match &self.layout {
            LayoutGroup::V2(group) => Some(group.path()),
            LayoutGroup::V1(group) => group.cpu(),
        };
        if let Some(directory) = directory {
            // As with freezing; and what cannot be set aside is in the way, and no worse.
            let _ = fs::write(directory.join("cpu.idle"), if idle { "1" } else { "0" });
        }
    }

    /// Memory charged to it now, in bytes.
    #[must_use]
    pub fn memory_bytes(&self) -> u64 {
        match &self.layout {
            LayoutGroup::V2(group) => group.memory_bytes(),
            LayoutGroup::V1(group) => group.memory_bytes(),
        }
        .unwrap_or(0)
    }

    /// Processes and threads in it; none when that cannot be read.
    pub(super) fn n_tasks(&self) -> u64 {
        let directory = match &self.layout {
            LayoutGroup::V2(group) => group.path(),
            LayoutGroup::V1(group) => group.pids(),
        };
        read_number(&directory.join("pids.current")).unwrap_or(0)
    }

    /// What lists the processes in it.
    pub(super) fn members_file(&self) -> PathBuf {
        let directory = match &self.layout {
            LayoutGroup::V2(group) => group.path(),
            LayoutGroup::V1(group) => group.pids(),
        };
        directory.join("cgroup.procs")
    }

    /// Its processes; none when that cannot be read.
    pub(super) fn pids(&self) -> Vec<i32> {
        let text = fs::read_to_string(self.members_file()).unwrap_or_default();
        text.lines().filter_map(|line| line.parse().ok()).collect()
    }

    /// How the kernel is told to take back what it can of its memory.
    pub(super) fn means_of_reclaim(&self) -> Means {
        match &self.layout {
            LayoutGroup::V2(group) => Means::Reclaim { group: group.path().to_owned() },
            LayoutGroup::V1(group) => Means::ForceEmpty { group: group.memory().to_owned() },
        }
    }

    /// How many of its processes the kernel has killed for want of memory.
    #[must_use]
    pub fn n_oom_kills(&self) -> u64 {
        match &self.layout {
            LayoutGroup::V2(group) => group.n_oom_kills(),
            LayoutGroup::V1(group) => group.n_oom_kills(),
        }
        .unwrap_or(0)
    }

    /// What it lies in.
    #[must_use]
    pub fn nest(&self) -> Option<&Arc<Nest>> {
        self.nest.as_ref()
    }

    /// The limits as they are now.
    #[must_use]
    pub fn limits(&self) -> Limits {
        self.limits
    }

    fn unified(&self) -> Option<&Path> {
        match &self.layout {
            LayoutGroup::V2(group) => Some(group.path()),
            LayoutGroup::V1(group) => group.unified(),
        }
    }

    fn directories(&self) -> Vec<&Path> {
        match &self.layout {
            LayoutGroup::V2(group) => vec![group.path()],
            LayoutGroup::V1(group) => group.directories(),
        }
    }

    /// Removes it; `false` while processes are still in it.
    ///
    /// # Errors
    /// When it cannot be removed for any other reason.
    pub fn try_remove(&self) -> Result<bool> {
        for path in self.directories() {
            match fs::remove_dir(path) {
                Ok(()) => {}
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) if error.raw_os_error() == Some(libc::EBUSY) => return Ok(false),
                Err(source) => return Err(CgroupError::Remove { path: path.into(), source }),
            }
        }
        debug!(self.log, "removed a cgroup");
        Ok(true)
    }
}

/// How long a sweep waits for killed processes to be gone. Killed processes end in well under a
/// millisecond; one in an uninterruptible wait for a disk may take seconds.
pub const SWEEP_PATIENCE: Duration = Duration::from_secs(10);

/// Children first: a group with groups in it cannot be removed. Others may remove groups at the same time (the
/// reaper, at shutdown), or have made one a moment ago.
fn sweep_tree(path: &Path) -> Result<usize> {
    let deadline = Instant::now() + SWEEP_PATIENCE;
    let mut n_found = 1;
    loop {
        let entries = match fs::read_dir(path) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(n_found),
            Err(source) => return Err(CgroupError::Read { path: path.into(), source }),
        };
        for entry in entries.flatten() {
            if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                n_found += sweep_tree(&entry.path())?;
            }
        }
        kill_all(path);
        match fs::remove_dir(path) {
            Ok(()) => return Ok(n_found),
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(n_found),
            Err(error) if error.raw_os_error() == Some(libc::EBUSY) && Instant::now() < deadline => {
                thread::sleep(Duration::from_millis(1));
            }
            Err(source) => return Err(CgroupError::Remove { path: path.into(), source }),
        }
    }
}

fn kill_all(path: &Path) {
    // Frozen processes of version 1 do not die before they are thawed; ours are frozen by version 2 only.
    let kill = fs::OpenOptions::new().write(true).open(path.join("cgroup.kill"));
    if kill.is_ok_and(|mut file| file.write_all(b"1").is_ok()) {
        return;
    }
    for line in fs::read_to_string(path.join("cgroup.procs")).unwrap_or_default().lines() {
        if let Ok(pid) = line.parse() {
            let _ =
                nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), nix::sys::signal::Signal::SIGKILL);
        }
    }
}

/// Where hierarchies are mounted, from `/proc/self/mounts`.
#[derive(Debug)]
struct Mounts {
    unified: Option<PathBuf>,
    /// Mount point and controllers.
    v1: Vec<(PathBuf, Vec<String>)>,
}

impl Mounts {
    fn read() -> Result<Self> {
        let path = Path::new("/proc/self/mounts");
        let text =
            fs::read_to_string(path).map_err(|source| CgroupError::Read { path: path.into(), source })?;
        Ok(Self::parse(&text))
    }

    fn parse(text: &str) -> Self {
        let mut mounts = Self { unified: None, v1: Vec::new() };
        for line in text.lines() {
            let mut words = line.split(' ').skip(1);
            let (Some(point), Some(kind), Some(options)) = (words.next(), words.next(), words.next()) else {
                continue;
            };
            match kind {
                "cgroup2" => mounts.unified = mounts.unified.or_else(|| Some(point.into())),
                "cgroup" => mounts.v1.push((point.into(), options.split(',').map(str::to_owned).collect())),
                _ => {}
            }
        }
        mounts
    }

    fn points(&self) -> impl Iterator<Item = &Path> {
        self.unified.iter().map(PathBuf::as_path).chain(self.v1.iter().map(|(point, _)| point.as_path()))
    }

    /// The version 2 hierarchy, if it has the controllers that matter.
    fn unified_with_controllers(&self) -> Option<PathBuf> {
        let root = self.unified.as_ref()?;
        let controllers = fs::read_to_string(root.join("cgroup.controllers")).ok()?;
        let has = |wanted| controllers.split_whitespace().any(|name| name == wanted);
        (has("memory") && has("pids")).then(|| root.clone())
    }

    fn v1_with(&self, controller: &str) -> Option<&Path> {
        self.v1
            .iter()
            .find(|(_, names)| names.iter().any(|name| name == controller))
            .map(|(point, _)| point.as_path())
    }
}

fn write(path: PathBuf, value: &str) -> Result<()> {
    fs::write(&path, value).map_err(|source| CgroupError::Write { path, value: value.to_owned(), source })
}

fn read_number(path: &Path) -> Option<u64> {
    fs::read_to_string(path).ok()?.trim().parse().ok()
}

/// The number behind a key in a file of `key number` lines.
fn read_key(path: &Path, key: &str) -> Option<u64> {
    let text = fs::read_to_string(path).ok()?;
    text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(' ')?.trim().parse().ok())
}

fn create_directory(path: &Path) -> Result<()> {
    match fs::create_dir(path) {
        Ok(()) => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        Err(source) => Err(CgroupError::Create { path: path.into(), source }),
    }
}

/// Open for writing, to be passed to a process that will put itself in.
fn open_procs(directory: &Path) -> Result<OwnedFd> {
    let path = directory.join("cgroup.procs");
    match fs::OpenOptions::new().write(true).open(&path) {
        Ok(file) => Ok(file.into()),
        Err(source) => Err(CgroupError::Read { path, source }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_layouts_are_found_in_the_mount_table() {
        let mounts = Mounts::parse(
            "tmpfs /sys/fs/cgroup tmpfs rw 0 0\ncgroup /sys/fs/cgroup/cpu,cpuacct cgroup rw,nosuid,cpu,cpuacct 0 0\n\
             cgroup /sys/fs/cgroup/memory cgroup rw,memory 0 0\ncgroup2 /sys/fs/cgroup/unified cgroup2 rw 0 0\n",
        );
        assert_eq!(mounts.v1_with("memory"), Some(Path::new("/sys/fs/cgroup/memory")));
        assert_eq!(mounts.v1_with("cpu"), Some(Path::new("/sys/fs/cgroup/cpu,cpuacct")));
        assert_eq!(mounts.v1_with("pids"), None);
        assert_eq!(mounts.unified, Some("/sys/fs/cgroup/unified".into()));
    }

    #[test]
    fn a_group_that_goes_away_during_a_sweep_is_as_good_as_swept() {
        let directory = tempfile::tempdir().unwrap();
        let root = directory.path().join("root");
        fs::create_dir_all(root.join("a/b")).unwrap();
        assert_eq!(sweep_tree(&root).unwrap(), 3);
        assert!(!root.exists());
        sweep_tree(&root).unwrap();
    }

    #[test]
    fn a_key_is_read_whole() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("memory.events");
        fs::write(&path, "low 0\noom 4\noom_kill 7\n").unwrap();
        assert_eq!(read_key(&path, "oom_kill"), Some(7));
        assert_eq!(read_key(&path, "oom"), Some(4));
        assert_eq!(read_key(&path, "high"), None);
    }
}
