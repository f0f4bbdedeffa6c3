//! System calls: what reaches beyond the sandbox is refused before the kernel looks at it.

use serde_json::json;

use crate::probes::{APPETITE, RAW, SYSCALLS, Stage, all_end_in, outcomes};
use crate::support::{Expect, Program, Worker, patience, requires};

#[test]
fn system_calls_that_reach_beyond_the_sandbox_are_refused() {
    requires!(Root);
    let stage = Stage::of(SYSCALLS);
    let said = stage.ask(json!({}));
    // One number means another call elsewhere; there, the list of the unit tests has to do.
    if cfg!(target_arch = "x86_64") {
        all_end_in(&said["calls"], &["EPERM"]);
        assert_eq!(said["other_tables"], json!({"x32": "ENOSYS", "i386": "signal 31"}));
    }
    all_end_in(&said["unshare"], &["EPERM"]);
    all_end_in(&said["clone"], &["refused"]);
    all_end_in(&said["setns"], &["EPERM"]);
    all_end_in(&said["terminal"], &["EPERM"]);
    assert_eq!((&said["clone3"], &said["clone_parent"]), (&json!("ENOSYS"), &json!("refused")));
    all_end_in(&said["huge_pages"], &["EPERM"]);
    assert_eq!(said["devices"], json!({"character": "EPERM", "block": "EPERM", "pipe": "ok"}));
    if cfg!(target_arch = "x86_64") {
        all_end_in(&said["uncounted"], &["EPERM"]);
    }
    assert_eq!(said["watch"], "EPERM", "what others do with shared files cannot be watched");
    // What programs need goes through, and so do the probe's own ways of asking.
    assert_eq!(said["plain_clone"], "ok");
    assert_eq!(said["allowed"], json!({"getpid": "ok", "memfd_create": "ok", "unknown": "ENOSYS"}));
    for (name, outcome) in outcomes(&said["sockets"]) {
        let expected = match name {
            "stream" | "datagram" | "local" => "ok",
            "raw" | "dccp" | "old_packet" | "reliable" => "ESOCKTNOSUPPORT",
            "ping" => "EACCES",
            "sctp" | "udp_stream" => "EPROTONOSUPPORT",
            _ => "EAFNOSUPPORT",
        };
        assert_eq!(outcome, expected, "a socket of {name}");
    }
    stage.finish();
}

#[test]
fn the_filter_is_what_refuses_them() {
    requires!(Root);
    let runtime = json!({"runtime_sec": patience(60).as_secs()});
    let without = json!({"limits": runtime, "features": {"enable_seccomp": false}});
    let stage = Stage::with_config(SYSCALLS, without);
    let said = stage.ask(json!({}));
    // The probe can tell a filter from the kernel: without one, the kernel finds fault with the arguments instead,
    // and does some of it.
    let not_eperm = outcomes(&said["calls"]).into_iter().filter(|(_, outcome)| *outcome != "EPERM").count();
    assert!(not_eperm > 20, "{}", said["calls"]);
    assert_eq!((&said["clone_parent"], &said["watch"]), (&json!("ok"), &json!("ok")));
    for name in ["socket_filter", "cork", "send_more", "sendmsg_more", "sendmmsg_more"] {
        assert_eq!(said["uncounted"][name], "ok", "{name}");
    }
    // The walls behind the filter stand without it: no capability, no device.
    for name in [
        "mount",
        "pivot_root",
        "chroot",
        "swapon",
        "init_module",
        "settimeofday",
        "reboot",
        "open_by_handle_at",
    ] {
        if name != "settimeofday" {
            let outcome = said["calls"][name].as_str().unwrap();
            assert!(
                ["EPERM", "ENOENT", "EFAULT", "EBADF", "EINVAL", "ENOSYS"].contains(&outcome),
                "{name}: {outcome}"
            );
        }
    }
    assert_eq!(said["devices"]["block"], "EPERM");
    for name in ["NEWNS", "NEWNET", "NEWPID", "NEWUTS", "NEWIPC"] {
        assert_eq!(said["unshare"][name], "EPERM", "{name}");
    }
    stage.finish();
}

#[test]
fn a_function_cannot_use_up_what_the_kernel_counts_by_user() {
    requires!(Root, Program("python3"));
    let stage = Stage::of(APPETITE);
    let said = stage.ask(json!({"of": "queues", "n": 1}));
    assert_eq!((&said["n"], &said["error"]), (&json!(0), &json!("EPERM")));
    let said = stage.ask(json!({"of": "timers", "n": 1_000_000}));
    assert!((1..=256).contains(&said["n"].as_u64().unwrap()), "{said}");
    let locked = stage.ask(json!({"of": "locked", "mb": 16})).as_u64().unwrap();
    assert!((1..=64 << 10).contains(&locked), "{locked}");
    // And so does the machine's root.
    let timer =
        "import ctypes; t = ctypes.c_int(); exit(ctypes.CDLL(None).syscall(222, 1, None, ctypes.byref(t)))";
    if cfg!(target_arch = "x86_64") {
        Program::at("python3").arg("-c").arg(timer).succeed();
    }
    stage.finish();
}

#[test]
fn sandboxes_do_not_share_what_the_worker_may_have_of_it() {
    requires!(Root, Program("prlimit"));
    // Little for the worker, unless it asks for more, so that two sandboxes would be enough to have all of it.
    let little = "prlimit --pid $$ --sigpending=300: --memlock=98304:";
    let worker = Worker::with_config(json!({})).after(little).start();
    for name in ["one", "other"] {
        worker.install(name, &[("f.py", APPETITE), ("raw.py", RAW)]);
    }
    for event in [json!({"of": "timers", "n": 1_000_000}), json!({"of": "locked", "mb": 16})] {
        let had = worker.call("one", event.clone()).ok();
        // It holds them still; everybody else gets as many.
        assert_eq!(worker.call("other", event.clone()).ok(), had, "{event}");
    }
    worker.finish();
}
