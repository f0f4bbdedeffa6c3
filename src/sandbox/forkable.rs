//! Whether an interpreter that is to be a zygote can be forked, looked at from outside.
//!
//! A fork has the memory of its zygote and nothing else of it: no threads, no processes, and no open files but its own. If an import
//! has made any of these, forks would not be what it has made; and memory that is mapped as shared would be the same in all of them,
//! which are to have nothing in common that changes. The runtime in there looks for some of it itself, and knows better words for it
//! (`runtime/python/sprout.py`). But code that was imported can change what that says, so the kernel has the last word.

use std::fs;
use std::io;
use std::path::PathBuf;

/// Standard input, output and error, the two sockets of the protocol, the control socket: what a zygote has been given.
const GIVEN: u32 = 6;
/// By which it hears of its forks' ends. It is opened when the zygote begins to wait for orders, which may be before this look or
/// after it.
const OWN: &str = "anon_inode:[signalfd]";
/// How much of a path is told.
const PATH_CHARS_MAX: usize = 200;
/// Where what is mapped for reading could be written to by another way: `/tmp`, and memory that has no file or none any more.
const WRITABLE: [&str; 4] = ["/tmp/", "/dev/", "/memfd:", "/SYSV"];

/// An interpreter and its init, alone in a cgroup.
#[derive(Debug)]
pub(super) struct Suspect {
    members: PathBuf,
    init: i32,
}

impl Suspect {
    /// `members` lists the processes of its cgroup.
    pub(super) fn new(members: PathBuf, init: i32) -> Self {
        Self { members, init }
    }

    /// Why it cannot be forked, if so. It must have nothing to do meanwhile. Blocks.
    pub(super) fn unforkable(&self) -> io::Result<Option<String>> {
        let others = self.others()?;
        let pid = match others[..] {
            [] => return Err(io::Error::other("its interpreter has ended")),
            [pid] => pid,
            _ => {
                return Ok(Some("its import has started a process, which is not the child of a fork".into()));
            }
        };
        let found = match fs::read_dir(format!("/proc/{pid}/task"))?.count() {
            0 | 1 => {
                open_descriptor(pid)?.or(shared_mapping(&fs::read_to_string(format!("/proc/{pid}/maps"))?))
            }
            _ => Some("its import has started threads, and a fork has none of them".into()),
        };
        // If it is there now, the pid was its own all the time.
        if self.others()? != others {
            return Err(io::Error::other("its interpreter has ended"));
        }
        Ok(found)
    }

    fn others(&self) -> io::Result<Vec<i32>> {
        let text = fs::read_to_string(&self.members)?;
        let pids = text.lines().filter_map(|line| line.parse().ok());
        Ok(pids.filter(|pid| *pid != self.init).collect())
    }
}

/// One that it was not given.
fn open_descriptor(pid: i32) -> io::Result<Option<String>> {
    let mut has_own = false;
    for entry in fs::read_dir(format!("/proc/{pid}/fd"))? {
        let entry = entry?;
        if entry.file_name().to_str().and_then(|name| name.parse().ok()).is_some_and(|fd: u32| fd < GIVEN) {
            continue;
        }
        let target = fs::read_link(entry.path())?.display().to_string();
        if target == OWN && !std::mem::replace(&mut has_own, true) {
            continue;
        }
        let what = match target.split_once(':') {
            Some((kind @ ("socket" | "pipe"), _)) => format!("a {kind}"),
            _ => target.chars().take(PATH_CHARS_MAX).collect(),
        };
        return Ok(Some(format!("its import has left {what} open, and a fork has none of its files")));
    }
    Ok(None)
}

/// Memory in `/proc/<pid>/maps` that others would see written to, or could write to.
fn shared_mapping(maps: &str) -> Option<String> {
    maps.lines().find_map(|line| {
        // Range, rights, offset, device, inode, and perhaps a path, which may have spaces.
        let mut fields = line.splitn(6, ' ');
        let rights = fields.nth(1)?;
        let path = fields.nth(3).unwrap_or("").trim_start();
        let is_fixed = !rights.contains('w')
            && path.starts_with('/')
            && !path.ends_with(" (deleted)")
            && !WRITABLE.iter().any(|place| path.starts_with(place));
        if !rights.ends_with('s') || is_fixed {
            return None;
        }
        let what: String =
            if path.is_empty() { "memory" } else { path }.chars().take(PATH_CHARS_MAX).collect();
        Some(format!("its import has mapped {what} as shared, and all forks would share it"))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_forks_would_share_is_seen_and_what_nobody_can_change_is_not() {
        let fixed = "\
55d0c4a1f000-55d0c4a20000 r-xp 00001000 08:01 1234                       /usr/bin/python3.11
55d0c5b1f000-55d0c5b20000 rw-p 00000000 00:00 0                          [heap]
7f1c00000000-7f1c00007000 r--s 00000000 08:01 5678                       /usr/lib/x86_64-linux-gnu/gconv/gconv-modules.cache
7f1c10000000-7f1c10001000 r--s 00000000 08:01 99                         /packages/a b==1/files/data
7f1c20000000-7f1c20001000 rw-p 00000000 00:00 0 
";
        assert_eq!(shared_mapping(fixed), None);
        for shared in [
            "7f1c30000000-7f1c30001000 rw-s 00000000 00:01 7                          /dev/zero (deleted)",
            "7f1c30000000-7f1c30001000 r--s 00000000 00:01 7                          /memfd:x (deleted)",
            "7f1c30000000-7f1c30001000 rw-s 00000000 08:01 7                          /handler/data",
            "7f1c30000000-7f1c30001000 r--s 00000000 00:2d 7                          /tmp/here",
            "7f1c30000000-7f1c30001000 ---s 00000000 00:01 7                          /SYSV00000001 (deleted)",
            "7f1c30000000-7f1c30001000 r--s 00000000 00:01 7                          anon_inode:[x]",
            "7f1c30000000-7f1c30001000 r--s 00000000 00:01 7 ",
        ] {
            assert!(shared_mapping(&format!("{fixed}{shared}\n")).is_some(), "{shared}");
        }
    }
}
