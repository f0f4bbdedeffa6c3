//! Profiles of the worker itself, and what a shell needs to complete the command line.

use std::io::Read;

use pprof::protos::{Message, Profile};
use serde_json::json;

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

/// Bytes in use of stacks in which a function's name holds this, and of all.
fn in_use(packed: &[u8], name: &str) -> (i64, i64) {
    let mut bytes = Vec::new();
    flate2::read::GzDecoder::new(packed).read_to_end(&mut bytes).expect("it is gzipped");
    let profile = Profile::decode(&bytes[..]).expect("it is a profile");
    let text = |at: i64| profile.string_table[at as usize].as_str();
    assert_eq!(
        (text(profile.sample_type[1].ty), text(profile.sample_type[1].unit)),
        ("inuse_space", "bytes")
    );
    let named: Vec<_> =
        profile.function.iter().filter(|one| text(one.name).contains(name)).map(|one| one.id).collect();
    let has_named = |id: &u64| {
        profile
            .location
            .iter()
            .any(|one| one.id == *id && one.line.iter().any(|line| named.contains(&line.function_id)))
    };
    let sum = |is_meant: &dyn Fn(&pprof::protos::Sample) -> bool| {
        profile.sample.iter().filter(|sample| is_meant(sample)).map(|sample| sample.value[1]).sum()
    };
    (sum(&|sample| sample.location_id.iter().any(has_named)), sum(&|_| true))
}

#[test]
fn a_profile_of_the_workers_memory_says_what_holds_the_bodies_that_wait() {
    requires!(Root);
    let worker = Worker::with_config(json!({ "limits": { "max_instances": 1 } })).start();
    worker.install_f("slow", "import time\ndef f(event):\n    time.sleep(1000 if event == 'long' else 0)\n");
    let long = worker.call_aside("slow", json!("long"));
    worker.lambda_until("it is busy", "slow", |row| row["busy"] == 1);
    // Bodies that wait in the queue do so in the worker's memory. 40 MB of them: one stack is noted for each half megabyte.
    let body = json!("x".repeat(200_000));
    let waiting: Vec<_> = (0..200).map(|_| worker.call_aside("slow", body.clone())).collect();
    worker.lambda_until("they wait", "slow", |row| row["queue"] == 200);
    let file = worker.place().join("here.prof");
    assert!(worker.ol("pprof mem").arg("-o").arg(&file).succeed().contains("bytes written to"));
    let (of_calls, all) = in_use(&std::fs::read(&file).expect("it was written"), "openlambda::http::");
    assert!(of_calls > 20_000_000 && all >= of_calls, "{of_calls} of {all} bytes");
    assert!(worker.get("/pprof/mem").body.starts_with(&GZIP));
    worker.request("POST", "/pprof/mem", &[("origin", "http://evil.example")], "").expect(403);
    drop((long, waiting));
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
