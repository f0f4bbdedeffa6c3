//! What installs: `uv`, where one is found, else the pip of the sandboxes' Python.

use std::fs;
use std::path::{Path, PathBuf};

use super::InstallerSpec;

/// Where `uv` is looked for after `PATH`, which `sudo` and service managers cut short.
const PLACES: [&str; 4] = ["/usr/local/bin", "/usr/bin", "/opt/uv/bin", "/root/.local/bin"];

/// What installs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Tool {
    Uv,
    Pip,
}

/// Which it is, and where on the machine, if it is not in the base.
///
/// # Errors
/// In words, when there is nothing that could install.
pub(super) fn find(spec: &InstallerSpec) -> Result<(Tool, Option<PathBuf>), String> {
    let asked = spec.tool.as_str();
    if !asked.is_empty() && asked != "pip" {
        let path = PathBuf::from(asked);
        return match fs::canonicalize(&path) {
            Ok(found) if is_program(&found) => Ok((Tool::Uv, Some(found))),
            _ => Err(format!("the configured installer, {asked}, is no program")),
        };
    }
    if asked.is_empty() {
        let path = std::env::var_os("PATH").unwrap_or_default();
        let directories = std::env::split_paths(&path).chain(PLACES.map(PathBuf::from));
        let uv =
            directories.map(|directory| directory.join("uv")).filter_map(|path| fs::canonicalize(path).ok());
        if let Some(found) = uv.into_iter().find(|path| is_program(path)) {
            return Ok((Tool::Uv, Some(found)));
        }
    }
    if has_pip(spec.base.as_deref().unwrap_or(Path::new("/"))) {
        return Ok((Tool::Pip, None));
    }
    Err("there is neither uv (in PATH, /usr/local/bin, /usr/bin, /opt/uv/bin or /root/.local/bin) nor pip (of the sandboxes' Python); \
         ./quickstart/deps.sh brings uv"
        .into())
}

/// Not a script, whose interpreter may not be in the base.
fn is_program(path: &Path) -> bool {
    use std::io::Read;
    let mut magic = [0; 4];
    fs::File::open(path).and_then(|mut file| file.read_exact(&mut magic)).is_ok() && magic == *b"\x7fELF"
}

fn has_pip(base: &Path) -> bool {
    ["usr/lib", "usr/local/lib"].iter().any(|lib| {
        let pythons = fs::read_dir(base.join(lib)).into_iter().flatten().flatten();
        let pythons = pythons.filter(|entry| entry.file_name().to_string_lossy().starts_with("python3"));
        pythons
            .flat_map(|entry| ["dist-packages/pip", "site-packages/pip"].map(|pip| entry.path().join(pip)))
            .any(|pip| pip.is_dir())
    })
}
