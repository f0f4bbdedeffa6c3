//! Networks of a test's own: a machine, for the test, its worker and all they start, and another one beside it, for what a
//! sandbox is to reach. What a worker does to its machine's network stays in there, and goes with it.
//!
//! ```text
//! sandboxes ── machine, 10.77.0.1 ── beside ───── eth0 ── neighbour, 10.77.0.2
//! ```
//!
//! They are namespaces of threads: who is started by a thread is where the thread is.

use std::fs::File;
use std::os::fd::AsRawFd;
use std::panic::resume_unwind;
use std::thread;

use nix::sched::{CloneFlags, setns, unshare};

use super::{Program, block_on};

/// One of the two. Gone when it is dropped and nobody is in it any more.
#[derive(Debug)]
pub(crate) struct Network {
    namespace: File,
    /// The address by which the other one reaches it.
    pub(crate) address: &'static str,
}

impl Network {
    /// A machine, and its neighbour. No packet leaves them.
    pub(crate) fn machine_and_neighbour() -> (Self, Self) {
        // The client's threads outlive the test: they are made here, if they are not there yet, and not in a network that goes.
        block_on(async {});
        let (machine, neighbour) = (Self::at("10.77.0.1"), Self::at("10.77.0.2"));
        let there = format!("/proc/{}/fd/{}", std::process::id(), neighbour.namespace.as_raw_fd());
        machine.visit(|| ip(&format!("link add beside type veth peer name eth0 netns {there}")));
        machine.bring_up("beside");
        neighbour.bring_up("eth0");
        (machine, neighbour)
    }

    fn at(address: &'static str) -> Self {
        let made = thread::spawn(|| {
            unshare(CloneFlags::CLONE_NEWNET).expect("root may do that");
            ip("link set lo up");
            File::open("/proc/thread-self/ns/net").expect("the kernel shows it")
        });
        Self { namespace: made.join().expect("a network can be made"), address }
    }

    fn bring_up(&self, interface: &str) {
        self.visit(|| {
            ip(&format!("address add {}/30 dev {interface}", self.address));
            ip(&format!("link set {interface} up"));
        });
    }

    /// Does it there, on a thread of its own.
    pub(crate) fn visit<T: Send>(&self, act: impl FnOnce() -> T + Send) -> T {
        thread::scope(|scope| {
            let visitor = scope.spawn(|| {
                setns(&self.namespace, CloneFlags::CLONE_NEWNET).expect("root may do that");
                act()
            });
            visitor.join().unwrap_or_else(|panic| resume_unwind(panic))
        })
    }
}

fn ip(words: &str) {
    Program::at("ip").words(words).succeed();
}
