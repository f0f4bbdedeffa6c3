//! Names of sockets on disk that fit into a socket's address, however long their path is.
//!
//! An address has room for 108 bytes (`sun_path`, unix(7)), a path for 4,096. A socket with a longer path is named by way of an
//! open descriptor of its directory: `/proc/self/fd/N/ol.sock`. Its own name must be a short one, as all of ours are.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

/// With a zero at its end.
const SUN_PATH_BYTES: usize = 108;

/// A socket's path, as the kernel takes it. For this process only, and as long as this lives; a socket that is bound or connected
/// needs its address no more.
#[derive(Debug)]
pub struct Address {
    path: PathBuf,
    /// What the path leads through.
    _directory: Option<File>,
}

impl Address {
    /// Of the socket that is at this path, or is to be.
    ///
    /// # Errors
    /// When the path is a long one, and its directory cannot be opened.
    pub fn of(path: &Path) -> io::Result<Self> {
        let (directory, name) = match (path.parent(), path.file_name()) {
            (Some(directory), Some(name)) if path.as_os_str().len() >= SUN_PATH_BYTES => (directory, name),
            // What is no path of a socket the kernel says itself.
            _ => return Ok(Self { path: path.to_owned(), _directory: None }),
        };
        let flags = (rustix::fs::OFlags::PATH | rustix::fs::OFlags::DIRECTORY).bits().cast_signed();
        let directory = OpenOptions::new().read(true).custom_flags(flags).open(directory)?;
        let descriptor = directory.as_raw_fd();
        let path = Path::new("/proc/self/fd").join(descriptor.to_string()).join(name);
        Ok(Self { path, _directory: Some(directory) })
    }

    /// What to bind or connect to.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::{UnixListener, UnixStream};

    use super::*;

    fn is_reached(socket: &Path) {
        let listener = UnixListener::bind(Address::of(socket).unwrap().path()).unwrap();
        assert!(socket.exists(), "it is where it was to be");
        // Its descriptor is closed: the name that it was bound with leads nowhere, or elsewhere.
        let client = UnixStream::connect(Address::of(socket).unwrap().path()).unwrap();
        listener.accept().unwrap();
        drop(client);
    }

    #[test]
    fn a_socket_is_reached_however_long_its_path_is() {
        let dir = tempfile::tempdir().unwrap();
        let short = dir.path().join("s");
        assert_eq!(Address::of(&short).unwrap().path(), short);
        is_reached(&short);
        // A zero is the last byte of an address, so 107 is the longest that fits.
        for n in [106, 107, 108, 109] {
            let between = "d".repeat(n - dir.path().as_os_str().len() - "//ol.sock".len());
            std::fs::create_dir(dir.path().join(&between)).unwrap();
            let socket = dir.path().join(between).join("ol.sock");
            assert_eq!(socket.as_os_str().len(), n);
            assert_eq!(Address::of(&socket).unwrap().path() == socket, n < SUN_PATH_BYTES);
            is_reached(&socket);
        }
        let deep = (0..15).fold(dir.path().to_owned(), |deep, _| deep.join("d".repeat(250)));
        std::fs::create_dir_all(&deep).unwrap();
        is_reached(&deep.join("ol.sock"));
    }

    #[test]
    fn of_a_directory_that_is_not_there_the_kernel_says_so() {
        let path = Path::new("/nonesuch").join("x".repeat(200));
        assert_eq!(Address::of(&path).unwrap_err().kind(), io::ErrorKind::NotFound);
    }
}
