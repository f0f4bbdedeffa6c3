//! The root file system of all sandboxes, put together once by the shim while it is still root.
//!
//! A small tmpfs with, for the default base: the machine's `/usr` bound read-only, the links beside it
//! (`/bin` and the like), an `/etc` of our own making, device nodes, the runtime, and empty
//! directories to mount on. Sandboxes get a copy of this mount table (some ten entries) and put their
//! own `/proc`, `/tmp` and `/handler` over it: cheap, because the table is short. From the machine's own
//! table with a thousand entries the same takes 1 ms (measured).

use std::fs::{self, Permissions};
use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sys::stat::{Mode, SFlag, makedev, mknod};

use rustix::fs::CWD;
use rustix::mount::{MoveMountFlags, OpenTreeFlags, move_mount, open_tree};

use super::wire::{BaseSpec, ShimSpec};
use super::{runtime_files, sys};

/// What could not be done, and to what.
#[derive(Debug, thiserror::Error)]
#[error("cannot {what} {}: {source}", path.display())]
pub(super) struct BaseError {
    what: &'static str,
    path: PathBuf,
    source: io::Error,
}

type Result<T> = std::result::Result<T, BaseError>;

trait Context<T> {
    fn context(self, what: &'static str, path: &Path) -> Result<T>;
}

impl<T, E: Into<io::Error>> Context<T> for std::result::Result<T, E> {
    fn context(self, what: &'static str, path: &Path) -> Result<T> {
        self.map_err(|error| BaseError { what, path: path.into(), source: error.into() })
    }
}

/// Directories that are there in every base, to mount on or because programs expect them.
const DIRECTORIES: [&str; 12] =
    ["proc", "sys", "dev", "tmp", "handler", "packages", "runtime", "run", "var", "home", "root", "mnt"];
/// Never taken from a base directory: these are ours.
const OURS: [&str; 11] =
    ["proc", "sys", "dev", "tmp", "handler", "packages", "runtime", "run", "host", "mnt", "root"];
/// Files of the machine's `/etc` that hold nothing private and that the standard library or a C library reads.
const ETC_COPIED: [&str; 9] = [
    "ld.so.cache",
    "localtime",
    "timezone",
    "mime.types",
    "services",
    "protocols",
    "gai.conf",
    "os-release",
    "debian_version",
];
/// Directories of the machine's `/etc` that are bound read-only: certificates to check servers by.
const ETC_BOUND: [&str; 3] = ["ssl/certs", "pki/tls/certs", "pki/ca-trust/extracted"];

/// Size of the tmpfs that holds the tree itself: some links, small files and the runtime, below 1 MiB.
const TREE_OPTIONS: &str = "size=8m,mode=755";

/// Builds the tree and moves this process into it; the machine's own tree is out of reach afterwards.
/// The caller is in a mount namespace of its own.
pub(super) fn enter(spec: &ShimSpec) -> Result<()> {
    let root = &spec.mount_point;
    // Nothing that is mounted here may show outside, nor the other way round.
    change(None, Path::new("/"), None, MsFlags::MS_REC | MsFlags::MS_PRIVATE, None)
        .context("make private", Path::new("/"))?;
    change(Some("tmpfs"), root, Some("tmpfs"), MsFlags::MS_NOSUID, Some(TREE_OPTIONS))
        .context("mount a tmpfs on", root)?;
    match &spec.base {
        BaseSpec::Host => host_tree(root)?,
        BaseSpec::Directory(directory) => directory_tree(directory, root)?,
    }
    for name in DIRECTORIES {
        make_directory(&root.join(name))?;
    }
    resolver(spec, root)?;
    writable_links(root)?;
    devices(&root.join("dev"))?;
    runtime_files::write_to(&root.join("runtime")).context("write the runtime to", &root.join("runtime"))?;
    bind_read_only(&spec.packages, &root.join("packages"))?;
    // The whole machine's view for now; every pid namespace puts its own over it. It must be there because the
    // kernel lets a user namespace mount a /proc only where one is visible already.
    let proc = root.join("proc");
    let quiet = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
    change(Some("proc"), &proc, Some("proc"), quiet, None).context("mount proc on", &proc)?;
    // Read-only from here on; device nodes still work, and `noexec` must not be set for the runtime's sake.
    let lock = MsFlags::MS_REMOUNT | MsFlags::MS_RDONLY | MsFlags::MS_NOSUID;
    change(None, root, None, lock, Some(TREE_OPTIONS)).context("make read-only", root)?;
    // The old root goes below the new one on the same directory, and is then taken away.
    std::env::set_current_dir(root).context("enter", root)?;
    nix::unistd::pivot_root(".", ".").context("pivot into", root)?;
    umount2(".", MntFlags::MNT_DETACH).context("detach the old root from", root)?;
    std::env::set_current_dir("/").context("enter", Path::new("/"))
}

fn change(
    source: Option<&str>,
    target: &Path,
    kind: Option<&str>,
    flags: MsFlags,
    options: Option<&str>,
) -> nix::Result<()> {
    mount(source, target, kind, flags, options)
}

/// The machine's own `/usr`.
fn host_tree(root: &Path) -> Result<()> {
    let usr = root.join("usr");
    make_directory(&usr)?;
    bind_read_only(Path::new("/usr"), &usr)?;
    for name in ["bin", "sbin", "lib", "lib32", "lib64", "libx32"] {
        adopt(&Path::new("/").join(name), &root.join(name))?;
    }
    let etc = root.join("etc");
    make_directory(&etc)?;
    own_etc(&etc)
}

/// A root file system somebody unpacked: its directories bound, its links copied.
fn directory_tree(directory: &Path, root: &Path) -> Result<()> {
    let entries = fs::read_dir(directory).context("read", directory)?;
    for entry in entries {
        let entry = entry.context("read", directory)?;
        if !OURS.iter().any(|name| entry.file_name() == *name) {
            adopt(&entry.path(), &root.join(entry.file_name()))?;
        }
    }
    let etc = root.join("etc");
    if !etc.is_dir() {
        make_directory(&etc)?;
        own_etc(&etc)?;
    }
    Ok(())
}

/// Gives the new tree what stands at `from`: a link is copied, a directory bound. Files are left out.
fn adopt(from: &Path, to: &Path) -> Result<()> {
    let Ok(metadata) = fs::symlink_metadata(from) else { return Ok(()) };
    if metadata.is_symlink() {
        let target = fs::read_link(from).context("read the link", from)?;
        symlink(target, to).context("make the link", to)
    } else if metadata.is_dir() {
        make_directory(to)?;
        bind_read_only(from, to)
    } else {
        Ok(())
    }
}

/// An `/etc` that names nobody: the machine's own is not for functions to read.
fn own_etc(etc: &Path) -> Result<()> {
    let files = [
        (
            "passwd",
            "root:x:0:0:root:/root:/bin/sh\nsandbox:x:1000:1000:sandbox:/tmp:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/false\n",
        ),
        ("group", "root:x:0:\nsandbox:x:1000:\nnogroup:x:65534:\n"),
        ("hosts", "127.0.0.1 localhost sandbox\n::1 localhost ip6-localhost ip6-loopback\n"),
        (
            "nsswitch.conf",
            "passwd: files\ngroup: files\nhosts: files dns\nservices: files\nprotocols: files\n",
        ),
        ("hostname", "sandbox\n"),
        ("host.conf", "multi on\n"),
    ];
    for (name, text) in files {
        write_file(&etc.join(name), text.as_bytes())?;
    }
    for name in ETC_COPIED {
        if let Ok(bytes) = fs::read(Path::new("/etc").join(name)) {
            write_file(&etc.join(name), &bytes)?;
        }
    }
    for name in ETC_BOUND {
        let from = Path::new("/etc").join(name);
        if from.is_dir() {
            let to = etc.join(name);
            fs::create_dir_all(&to).context("make the directory", &to)?;
            bind_read_only(&from, &to)?;
        }
    }
    // Debian's links to the programs chosen among several.
    let alternatives = Path::new("/etc/alternatives");
    if alternatives.is_dir() {
        make_directory(&etc.join("alternatives"))?;
        bind_read_only(alternatives, &etc.join("alternatives"))?;
    }
    Ok(())
}

/// The servers that a sandbox with a network asks for names.
fn resolver(spec: &ShimSpec, root: &Path) -> Result<()> {
    let text: String = spec.dns.iter().map(|server| format!("nameserver {server}\n")).collect();
    let ours = root.join("run/resolv.conf");
    write_file(&ours, text.as_bytes())?;
    let theirs = root.join("etc/resolv.conf");
    match fs::symlink_metadata(&theirs) {
        Ok(metadata) if metadata.is_file() => bind_read_only(&ours, &theirs),
        // A link of an image's own, or an /etc that lacks the file and cannot be written: names stay unresolved
        // there unless the image brings its own way.
        Ok(_) => Ok(()),
        Err(_) => match symlink("/run/resolv.conf", &theirs) {
            Err(error) if error.kind() == io::ErrorKind::ReadOnlyFilesystem => Ok(()),
            result => result.context("make the link", &theirs),
        },
    }
}

/// One writable place, `/tmp`, under the names by which programs and OpenLambda's functions know it.
fn writable_links(root: &Path) -> Result<()> {
    for (name, target) in [("host", "/tmp"), ("dev/shm", "/tmp"), ("var/tmp", "/tmp"), ("run/lock", "/tmp")] {
        let link = root.join(name);
        if fs::symlink_metadata(&link).is_err() {
            match symlink(target, &link) {
                // `/var` of a base directory: it has its own.
                Err(error) if error.kind() == io::ErrorKind::ReadOnlyFilesystem => {}
                result => result.context("make the link", &link)?,
            }
        }
    }
    Ok(())
}

fn devices(dev: &Path) -> Result<()> {
    for (name, minor) in [("null", 3), ("zero", 5), ("full", 7), ("random", 8), ("urandom", 9)] {
        let path = dev.join(name);
        let mode = Mode::from_bits_truncate(0o666);
        mknod(&path, SFlag::S_IFCHR, mode, makedev(1, minor)).context("make the device", &path)?;
        // The umask has taken bits off.
        fs::set_permissions(&path, Permissions::from_mode(0o666)).context("set the mode of", &path)?;
    }
    for (name, target) in [
        ("fd", "/proc/self/fd"),
        ("stdin", "/proc/self/fd/0"),
        ("stdout", "/proc/self/fd/1"),
        ("stderr", "/proc/self/fd/2"),
    ] {
        symlink(target, dev.join(name)).context("make the link", &dev.join(name))?;
    }
    Ok(())
}

fn make_directory(path: &Path) -> Result<()> {
    match fs::create_dir(path) {
        Ok(()) => {}
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => return Ok(()),
        Err(error) => return Err(error).context("make the directory", path),
    }
    fs::set_permissions(path, Permissions::from_mode(0o755)).context("set the mode of", path)
}

fn write_file(path: &Path, bytes: &[u8]) -> Result<()> {
    fs::write(path, bytes).context("write", path)?;
    fs::set_permissions(path, Permissions::from_mode(0o644)).context("set the mode of", path)
}

/// With everything mounted below it; and without devices and set-uid programs, whatever the machine allows there.
fn bind_read_only(from: &Path, to: &Path) -> Result<()> {
    let flags =
        OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC | OpenTreeFlags::AT_RECURSIVE;
    let tree = open_tree(CWD, from, flags).context("open the tree", from)?;
    sys::make_read_only(tree.as_fd()).context("make read-only", from)?;
    move_mount(&tree, "", CWD, to, MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH).context("mount on", to)
}
