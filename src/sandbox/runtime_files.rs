//! The Python and native files that run inside sandboxes, carried in the program.

use std::fs::{self, Permissions};
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

/// The native module, compiled by `build.rs`.
const NATIVE_MODULE: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/_ol.so"));

include!(concat!(env!("OUT_DIR"), "/python_files.rs"));

/// The script that a zygote runs.
pub(super) const ZYGOTE_SCRIPT: &str = "/runtime/zygote.py";

/// Writes them all to an existing directory, readable by everybody.
pub(crate) fn write_to(directory: &Path) -> io::Result<()> {
    for (name, bytes) in PYTHON_FILES.iter().copied().chain([("_ol.so", NATIVE_MODULE)]) {
        let path = directory.join(name);
        if let Some(parent) = path.parent() {
            fs::create_dir_all(parent)?;
        }
        fs::write(&path, bytes)?;
        fs::set_permissions(&path, Permissions::from_mode(0o644))?;
    }
    Ok(())
}
