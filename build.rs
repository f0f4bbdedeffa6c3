//! Compiles the native half of the Python runtime (`src/sandbox/native/`) to a shared object,
//! which the worker carries inside and lays into every base.
//!
//! Cargo cannot build a shared object for another crate to embed, so the compiler is called directly.
//! The module is `no_std` and links nothing: its symbols come from the interpreter and the C library
//! that it is loaded into, so that it works in a glibc and in a musl base.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

const NATIVE: &str = "src/sandbox/native";
const PYTHON: &str = "src/sandbox/runtime/python";

fn main() {
    native_module();
    python_files();
}

/// A list of the runtime's Python files, so that a new file is carried without being named anywhere.
fn python_files() {
    println!("cargo::rerun-if-changed={PYTHON}");
    let root = env::current_dir().expect("cargo runs build scripts in the package's directory").join(PYTHON);
    let mut found = Vec::new();
    collect(&root, &root, &mut found);
    found.sort();
    let mut code = String::from("const PYTHON_FILES: &[(&str, &[u8])] = &[\n");
    for name in found {
        let path = root.join(&name);
        code += &format!(
            "    ({name:?}, include_bytes!({:?})),\n",
            path.to_str().expect("a path of ours is UTF-8")
        );
    }
    code += "];\n";
    let out = PathBuf::from(env::var_os("OUT_DIR").expect("cargo sets OUT_DIR")).join("python_files.rs");
    fs::write(out, code).expect("OUT_DIR can be written to");
}

fn collect(root: &Path, directory: &Path, found: &mut Vec<String>) {
    for entry in fs::read_dir(directory).expect("the runtime's directory can be read") {
        let path = entry.expect("the runtime's directory can be read").path();
        let name = path
            .strip_prefix(root)
            .expect("it lies below")
            .to_str()
            .expect("a path of ours is UTF-8")
            .to_owned();
        if path.is_dir() && name != "tests" && !name.contains("__pycache__") {
            collect(root, &path, found);
        } else if name.ends_with(".py") {
            found.push(name);
        }
    }
}

fn native_module() {
    println!("cargo::rerun-if-changed={NATIVE}");
    let out = PathBuf::from(env::var_os("OUT_DIR").expect("cargo sets OUT_DIR")).join("_ol.so");
    let mut command = Command::new(env::var_os("RUSTC").expect("cargo sets RUSTC"));
    command
        .args(["--edition", "2024", "--crate-type", "cdylib", "--crate-name", "_ol", "-D", "warnings"])
        .args(["-C", "panic=abort", "-C", "opt-level=2", "-C", "strip=symbols", "-C", "relocation-model=pic"])
        .args([
            "-C",
            "link-arg=-nostdlib",
            "-C",
            "link-arg=-nostartfiles",
            "-C",
            "link-arg=-Wl,-z,relro,-z,now",
        ])
        .args(["--target", &env::var("TARGET").expect("cargo sets TARGET")])
        .arg("-o")
        .arg(&out)
        .arg(Path::new(NATIVE).join("module.rs"));
    let status = command.status().expect("rustc can be started: cargo just did");
    assert!(status.success(), "rustc could not compile {NATIVE}");
}
