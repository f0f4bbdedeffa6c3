//! Whether the worker's address is free, asked before anything is created for it.

use std::io;
use std::net::{TcpListener, ToSocketAddrs};

#[derive(Debug, thiserror::Error)]
pub(super) enum PortError {
    #[error("port {port} is taken: something else listens on {host}:{port}; choose another with {hint}")]
    Taken { host: String, port: u16, hint: &'static str },
    #[error("cannot listen on {host}:{port}: {source}")]
    Unusable { host: String, port: u16, source: io::Error },
}

/// Bind and let go. The worker's own bind decides in the end; this one only comes first.
pub(super) fn check_free(host: &str, port: u16, hint: &'static str) -> Result<(), PortError> {
    let unusable = |source| PortError::Unusable { host: host.to_owned(), port, source };
    let mut last = None;
    let mut n_free = 0;
    for address in (host, port).to_socket_addrs().map_err(unusable)? {
        match TcpListener::bind(address) {
            Ok(_) => n_free += 1,
            Err(error) if error.kind() == io::ErrorKind::AddrInUse => {
                return Err(PortError::Taken { host: host.to_owned(), port, hint });
            }
            // `localhost` is often ::1 too, on machines where IPv6 is off.
            Err(error) => last = Some(error),
        }
    }
    match last {
        Some(error) if n_free == 0 => Err(unusable(error)),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_taken_port_is_said_with_a_way_out() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let error = check_free("localhost", port, "-o worker_port=N").unwrap_err();
        assert_eq!(
            error.to_string(),
            format!(
                "port {port} is taken: something else listens on localhost:{port}; choose another with -o worker_port=N"
            )
        );
        drop(listener);
        check_free("localhost", port, "").unwrap();
    }
}
