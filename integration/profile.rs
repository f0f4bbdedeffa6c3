//! Profiles of the worker itself, and what a shell needs to complete the command line.

use crate::support::{Expect, Program, Worker, requires};

/// What gzipped data begins with.
const GZIP: [u8; 2] = [0x1f, 0x8b];

#[test]
fn a_profile_of_the_worker_is_taken_by_command_and_kept_at_its_end() {
    requires!(Root);
    let worker = Worker::start();
    let file = worker.place().join("here.prof");
    let stop = || worker.ol("pprof cpu-stop").arg("-o").arg(&file).run();
    let refused = stop();
    assert_ne!(refused.code, Some(0));
    assert!(refused.stderr.contains("not started"), "{}", refused.stderr);
    worker.ol("pprof cpu-start").succeed();
    let again = worker.ol("pprof cpu-start").run();
    assert!(again.stderr.contains("Already started cpu profiling"), "{}", again.stderr);
    assert_eq!(worker.get("/pprof/cpu-start").expect(400), "Already started cpu profiling\n");
    // It serves as ever meanwhile.
    worker.install_f("echo", "def f(event): return event\n");
    for n in 0..200 {
        assert_eq!(worker.call("echo", n.to_string()).ok(), n);
    }
    assert_eq!(stop().code, Some(0));
    assert!(std::fs::read(&file).expect("it was written").starts_with(&GZIP));

    worker.get("/pprof/cpu-start").expect(200);
    let kept = worker.worker_dir().join("cpu.buf.prof");
    let mut worker = worker;
    worker.ol("worker down").succeed();
    assert!(worker.wait_for_end().success());
    assert!(std::fs::read(kept).expect("it was written").starts_with(&GZIP));
    worker.start_again();
    worker.request("POST", "/pprof/cpu-start", &[("origin", "http://evil.example")], "").expect(403);
    worker.finish();
}

#[test]
fn bash_completes_the_command_line() {
    requires!(Program("bash"));
    let script = Program::ol().words("completion bash").succeed();
    let program = Program::at("bash").arg("-c").arg(format!(
        "{script}\nCOMP_WORDS=(ol worker ''); COMP_CWORD=2; _ol ol '' worker; echo \"${{COMPREPLY[@]}}\""
    ));
    let words = program.succeed();
    for word in ["init", "up", "down", "status", "force-cleanup"] {
        assert!(words.split_whitespace().any(|found| found == word), "{word}: {words}");
    }
    assert_eq!(Program::ol().words("completion tcl").run().code, Some(64));
}
