//! Lets the installer run, and looks at what it writes meanwhile.

use std::path::Path;
use std::time::Duration;

use super::super::storage::{Staging, Usage};
use super::InstallerSpec;
use super::end::{End, Said};
use crate::sandbox::launcher::InstallerSandbox;

/// How often what a run has written is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(200);
/// A tree of more than this is looked at half as often: it takes as long to look through as it is large.
const LARGE_TREE: usize = 2_000;
/// Room that a run leaves on the disk.
pub(super) const FREE_BYTES_MIN: u64 = 256 << 20;
/// Files that can still be made on it then: as many as an ext4 has on so much room.
pub(super) const FREE_FILES_MIN: u64 = 16_384;

/// Until it has ended, or has to be ended.
pub(super) async fn watch(
    sandbox: &mut InstallerSandbox,
    request: &[u8],
    spec: &InstallerSpec,
    staging: &Staging,
) -> End {
    let mut run = Box::pin(sandbox.run(request));
    let deadline = tokio::time::sleep(spec.runtime);
    tokio::pin!(deadline);
    let mut pause = LOOK_EVERY;
    loop {
        tokio::select! {
            said = &mut run => {
                return match said.map(|bytes| serde_json::from_slice::<Said>(&bytes)) {
                    Ok(Ok(said)) => End::Said(said),
                    Ok(Err(_)) => End::Died("it has said something that is no answer".into()),
                    Err(text) => End::Died(text),
                };
            }
            () = &mut deadline => return End::Late,
            () = tokio::time::sleep(pause) => {
                let usage = staging.measure();
                if let Some(end) = too_much(&usage, spec.bytes_max).or_else(|| no_room(&staging.work())) {
                    return end;
                }
                pause = if usage.n_entries > LARGE_TREE { 2 * LOOK_EVERY } else { LOOK_EVERY };
            }
        }
    }
}

fn too_much(usage: &Usage, bytes_max: u64) -> Option<End> {
    // What was not looked through to the end may be larger than it seems.
    match usage.excess {
        Some(excess) => Some(End::TooMuch(excess)),
        None => (usage.bytes > bytes_max).then_some(End::Large),
    }
}

/// Of the disk, since files that have lost their names are not seen.
fn no_room(work: &Path) -> Option<End> {
    let disk = rustix::fs::statvfs(work).ok()?;
    if disk.f_bavail * disk.f_frsize < FREE_BYTES_MIN {
        return Some(End::DiskFull);
    }
    // Some file systems make inodes as they are needed, and have no number of them.
    (disk.f_files > 0 && disk.f_favail < FREE_FILES_MIN).then_some(End::NoInodes)
}
