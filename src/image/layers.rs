//! stub
use std::os::unix::ffi::OsStringExt;
use std::path::PathBuf;
pub(super) fn path_from(bytes: &[u8]) -> PathBuf {
    PathBuf::from(std::ffi::OsString::from_vec(bytes.to_owned()))
}
