//! Native functions: programs in C, compiled here, that are run anew for each call.

use std::fs;
use std::path::Path;

use nix::sys::signal::Signal;
use serde_json::json;

use crate::support::{Archive, Expect, Program, Worker, patience, replace_file, requires, until};

/// What most of these programs do with their answers.
const ANSWER: &str = r#"
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

static void answer(const char *format, ...) {
    FILE *file = fopen("/tmp/output", "w");
    va_list values;
    va_start(values, format);
    if (!file || vfprintf(file, format, values) < 0 || fclose(file)) abort();
    va_end(values);
}
"#;

/// It does what its argument says.
const OBEDIENT: &str = r#"
int main(int argc, char **argv) {
    const char *order = argv[1];
    if (!strncmp(order, "say ", 4)) answer("%s", order + 4);
    if (!strncmp(order, "exit ", 5)) { answer("not this"); return atoi(order + 5); }
    if (!strncmp(order, "signal ", 7)) { answer("not this"); kill(getpid(), atoi(order + 7)); pause(); }
    if (!strcmp(order, "link out")) return symlink("/etc/hostname", "/tmp/output");
    if (!strcmp(order, "link nowhere")) return symlink("/tmp/no/where", "/tmp/output");
    if (!strcmp(order, "fifo")) return mkfifo("/tmp/output", 0666);
    if (!strcmp(order, "directory")) return mkdir("/tmp/output", 0777) || mkdir("/tmp/output/inside", 0777);
    if (!strcmp(order, "closed")) { answer("secret"); return chmod("/tmp/output", 0); }
    if (!strcmp(order, "holes")) return truncate("/tmp/output", 0), close(creat("/tmp/output", 0666)), truncate("/tmp/output", 10LL << 30);
    if (!strcmp(order, "long")) {
        FILE *file = fopen("/tmp/output", "w");
        for (int n = 0; n < 2000000; n++) fprintf(file, "%07d\n", n);
        return fclose(file);
    }
    if (!strcmp(order, "memory")) {
        for (;;) memset(malloc(1 << 20), 1, 1 << 20);
    }
    return 0;
}
"#;

/// The file `f.bin` that this source makes.
fn compiled(worker: &Worker, source: &str, flags: &str) -> Vec<u8> {
    let (from, to) = (worker.place().join("f.c"), worker.place().join("f.bin"));
    fs::write(&from, source).unwrap();
    Program::at("cc").words("-O1 -w -o").arg(&to).arg(&from).words(flags).succeed();
    let program = fs::read(&to).unwrap();
    fs::remove_file(from).unwrap();
    fs::remove_file(to).unwrap();
    program
}

fn install(worker: &Worker, name: &str, program: &[u8], yaml: &str) {
    let archive = Archive::new().file("f.bin", 0o755, program).file("ol.yaml", 0o644, yaml);
    let reply = worker.upload(name, archive.packed());
    assert_eq!(reply.status.as_u16(), 201, "{}", reply.text());
}

/// A worker with the obedient program as `native`.
fn obedient(worker: Worker) -> Worker {
    let program = compiled(&worker, &format!("{ANSWER}{OBEDIENT}"), "");
    install(&worker, "native", &program, "{}");
    worker
}

#[test]
fn a_program_answers_with_its_output_linked_statically_or_not() {
    requires!(Root, Program("cc"));
    let worker = Worker::start();
    let code = r#"
int main(int argc, char **argv) {
    char directory[100];
    answer("{\"n\": %d, \"program\": \"%s\", \"body\": %s, \"log\": \"%s\", \"word\": \"%s\", \"at\": \"%s\"}", argc, argv[0],
        *argv[1] ? argv[1] : "null", getenv("RUST_LOG"), getenv("WORD"), getcwd(directory, sizeof directory));
    return 0;
}
"#;
    for flags in ["", "-static"] {
        let program = compiled(&worker, &format!("{ANSWER}{code}"), flags);
        install(&worker, "native", &program, "environment: {WORD: given}");
        let said = |body| json!({"n": 2, "program": "/handler/f.bin", "body": body, "log": "debug", "word": "given", "at": "/handler"});
        let reply = worker.call("native", r#"{"é": [1, "\u0000"]}"#);
        assert_eq!(reply.header("content-type"), Some("application/json"));
        let sandbox = reply.sandbox();
        assert_eq!(reply.ok(), said(json!({"é": [1, "\0"]})), "{flags}");
        let again = worker.call("native", "2");
        assert_eq!(again.sandbox(), sandbox, "it is warm");
        assert_eq!(again.ok(), said(json!(2)));
        // Any method: the body is all that it gets.
        assert_eq!(worker.get("/run/native/some/path?x=y").ok(), said(json!(null)));
        assert_eq!(worker.request("PUT", "/run/native", &[], "3").ok(), said(json!(3)));
    }
    install(
        &worker,
        "native",
        &compiled(&worker, &format!("{ANSWER}{code}"), ""),
        "environment: {RUST_LOG: warn}",
    );
    assert_eq!(worker.call("native", "1").ok()["log"], "warn");
    worker.finish();
}

#[test]
fn how_a_program_has_ended_is_answered_and_nothing_of_the_call_before() {
    requires!(Root, Program("cc"));
    let worker = obedient(Worker::start());
    let first = worker.call("native", "say \"this\"");
    let sandbox = first.sandbox();
    assert_eq!(first.ok(), json!("this"));
    let empty = worker.call("native", "nothing");
    assert_eq!((empty.header("content-type"), empty.sandbox()), (None, sandbox));
    assert_eq!(empty.expect(200), "");
    for (order, answer) in [
        ("exit 3", "Function failed with error_code: 3"),
        ("exit 101", "Function failed with error_code: 101"),
        ("signal 11", "Function failed with signal: 11"),
        ("signal 9", "Function failed with signal: 9"),
    ] {
        let reply = worker.call("native", order);
        assert_eq!(reply.header("content-type"), Some("text/plain; charset=utf-8"));
        assert_eq!(reply.sandbox(), sandbox, "the sandbox stays");
        assert_eq!(reply.expect(500), answer);
        assert_eq!(worker.call("native", "nothing").expect(200), "", "after {order}");
    }
    let lambda = worker.lambda("native");
    assert_eq!((&lambda["invocations"], &lambda["errors"]), (&json!(10), &json!(4)), "{lambda}");
    worker.finish();
}

#[test]
fn a_body_that_is_too_long_for_an_argument_is_refused_and_says_so() {
    requires!(Root, Program("cc"));
    let worker = Worker::start();
    let code = "int main(int argc, char **argv) { answer(\"%zu\", strlen(argv[1])); return 0; }";
    install(&worker, "native", &compiled(&worker, &format!("{ANSWER}{code}"), ""), "{}");
    // execve(2): 32 pages, with the NUL.
    let most = 32 * nix::unistd::sysconf(nix::unistd::SysconfVar::PAGE_SIZE).unwrap().unwrap() as usize - 1;
    assert_eq!(worker.call("native", "x".repeat(most)).ok(), json!(most));
    // One that is read before, and one that is streamed to the sandbox.
    for length in [most + 1, 5 << 20] {
        let text = worker.call("native", "x".repeat(length)).expect(413);
        assert_eq!(
            text,
            format!(
                "the request body is too long: f.bin gets it as an argument, which has at most {most} bytes\n"
            )
        );
        assert_eq!(worker.call("native", "x").ok(), json!(1));
    }
    assert!(worker.call("native", "a\0b").expect(400).contains("NUL byte"));
    assert!(worker.call("native", vec![b'a', 0xff]).expect(400).contains("not UTF-8"));
    worker.finish();
}

#[test]
fn nothing_but_a_plain_file_is_an_answer_however_the_program_puts_it() {
    requires!(Root, Program("cc"));
    let worker = obedient(Worker::start());
    for (order, why) in [
        ("link out", "it is a symbolic link"),
        ("link nowhere", "it is a symbolic link"),
        ("fifo", "it is not a plain file"),
        ("directory", "it is not a plain file"),
        ("closed", "Permission denied"),
        ("holes", "it has 10737418240 bytes, which is more than there is room for in /tmp"),
    ] {
        let text = worker.call("native", order).expect(500);
        assert_eq!(text, format!("/tmp/output cannot be read: {why}\n"), "{order}");
        assert_eq!(worker.call("native", "say 1").ok(), json!(1), "after {order}");
    }
    // A third of what the sandbox may have: it is there once, and not once more for being sent.
    let long = worker.call("native", "long");
    let text = long.expect(200);
    assert_eq!(text.len(), 16_000_000);
    assert!(text.lines().enumerate().all(|(n, line)| line.parse() == Ok(n)));
    assert_eq!(worker.call("native", "nothing").expect(200), "");
    worker.finish();
}

#[test]
fn a_program_that_takes_too_long_is_ended_with_all_its_processes() {
    requires!(Root, Program("cc"));
    let worker = Worker::with_config(json!({"limits": {"runtime_sec": patience(2).as_secs()}})).start();
    let code = r#"
int main(int argc, char **argv) {
    if (!strcmp(argv[1], "quick")) { answer("1"); return 0; }
    if (!fork()) { setsid(); for (;;); }
    if (!fork()) { signal(SIGTERM, SIG_IGN); for (;;) pause(); }
    printf("%s, I wait\n", argv[1]);
    fflush(stdout);
    for (;;) pause();
}
"#;
    install(&worker, "native", &compiled(&worker, &format!("{ANSWER}{code}"), ""), "{}");
    let call = worker.call_aside("native", "first");
    let sandbox = worker.sandbox_that_said("native", "first, I wait");
    let processes = worker.sandbox_processes(sandbox);
    // Its init, its interpreter, the program and its two children.
    assert!(processes.len() >= 5, "{processes:?}");
    let text = call.join().unwrap().unwrap().expect(504);
    assert!(text.contains("runtime_sec") && text.contains("its sandbox was ended"), "{text}");
    until("its processes are gone", || processes.iter().all(|process| !process.is_alive()));

    let mut connection = worker.connect();
    connection.announce("POST", "/run/native", 6);
    connection.send(b"second");
    let sandbox = worker.sandbox_that_said("native", "second, I wait");
    let processes = worker.sandbox_processes(sandbox);
    connection.abandon();
    until("its processes are gone", || processes.iter().all(|process| !process.is_alive()));
    assert_eq!(worker.call("native", "quick").ok(), json!(1));
    worker.finish();
}

#[test]
fn what_a_program_prints_is_in_the_functions_log_with_its_call() {
    requires!(Root, Program("cc"));
    let worker = Worker::start();
    let code = r#"
int main(int argc, char **argv) {
    printf("said %s\nhalf", argv[1]);
    fprintf(stderr, "complained %s\n", argv[1]);
    if (!strcmp(argv[1], "much")) for (int n = 0; n < 20000; n++) printf("line %d of many, of some length\n", n);
    return 0;
}
"#;
    install(&worker, "native", &compiled(&worker, &format!("{ANSWER}{code}"), ""), "{}");
    let ids = ["one", "two"].map(|body| {
        let reply = worker.call("native", body);
        let id = reply.header("x-ol-invocation").unwrap().to_owned();
        assert_eq!(reply.expect(200), "");
        id
    });
    assert_ne!(ids[0], ids[1]);
    for (id, word) in ids.iter().zip(["one", "two"]) {
        for line in
            [format!("{id} o said {word}"), format!("{id} o half"), format!("{id} e complained {word}")]
        {
            worker.logged("native", &line);
        }
    }
    assert_eq!(worker.call("native", "much").expect(200), "");
    worker.logged("native", "line 19999 of many");
    assert_eq!(worker.function_log("native").matches(" of many, of some length").count(), 20_000);
    worker.finish();
}

#[test]
fn a_program_is_as_confined_as_python_is() {
    requires!(Root, Program("cc"));
    let worker = Worker::start();
    let code = r#"
static void status(FILE *to, const char *name) {
    char line[200];
    FILE *from = fopen("/proc/self/status", "r");
    while (fgets(line, sizeof line, from))
        if (!strncmp(line, name, strlen(name)) && line[strlen(name)] == ':') fprintf(to, "\"%s\": \"%s\", ", name, strtok(strchr(line, '\t') + 1, "\t\n"));
    fclose(from);
}
int main(int argc, char **argv) {
    FILE *file = fopen("/tmp/aside", "w");
    fprintf(file, "{\"fds\": \"");
    for (int fd = 0; fd < 100; fd++)
        if (fd != fileno(file) && fcntl(fd, F_GETFD) >= 0) fprintf(file, "%d ", fd);
    fprintf(file, "\", ");
    const char *names[] = {"NoNewPrivs", "Seccomp", "CapEff", "CapBnd", "SigIgn", "SigBlk", "Uid", 0};
    for (int n = 0; names[n]; n++) status(file, names[n]);
    fprintf(file, "\"unshare\": %d, ", unshare(CLONE_NEWUSER) ? errno : 0);
    fprintf(file, "\"code\": %d, ", open("/handler/f.bin", O_WRONLY) < 0 ? errno : 0);
    struct sockaddr_in worker = {AF_INET, htons(PORT), {htonl(INADDR_LOOPBACK)}};
    fprintf(file, "\"worker\": %d, ", connect(socket(AF_INET, SOCK_STREAM, 0), (void *)&worker, sizeof worker) ? errno : 0);
    fprintf(file, "\"proxy\": %d, ", access("/host/proxy.sock", F_OK) ? errno : 0);
    int n = 0;
    while (n < 50) {
        int pid = fork();
        if (!pid) for (;;) pause();
        if (pid < 0) break;
        n++;
    }
    fprintf(file, "\"forks\": %d}", n);
    signal(SIGTERM, SIG_IGN);
    fclose(file);
    rename("/tmp/aside", "/tmp/output");
    // All others of the sandbox that it may end.
    DIR *all = opendir("/proc");
    for (struct dirent *one; (one = readdir(all));) {
        int pid = atoi(one->d_name);
        char path[300], name[20] = "";
        snprintf(path, sizeof path, "/proc/%d/comm", pid);
        FILE *comm = pid ? fopen(path, "r") : 0;
        if (comm && fgets(name, sizeof name, comm) && !strcmp(name, "f.bin\n") && pid != getpid()) kill(pid, SIGKILL);
    }
    return 0;
}
"#;
    let code = code.replace("PORT", &worker.port().to_string());
    let program = compiled(&worker, &format!("{ANSWER}{code}"), "");
    install(&worker, "native", &program, "limits: {procs: 10}");
    for _ in 0..3 {
        let said = worker.call("native", "").ok();
        assert_eq!(said["fds"], "0 1 2 ", "{said}");
        assert_eq!((&said["NoNewPrivs"], &said["Seccomp"]), (&json!("1"), &json!("2")), "{said}");
        for empty in ["CapEff", "CapBnd", "SigBlk"] {
            assert_eq!(said[empty], "0".repeat(16), "{empty}: {said}");
        }
        // 32 and 33 are the C library's own, which ignores them in what it starts.
        let ignored = u64::from_str_radix(said["SigIgn"].as_str().unwrap(), 16).unwrap();
        assert_eq!(ignored & !(0b11 << 31), 0, "{said}");
        assert_ne!(said["Uid"], "0", "{said}");
        assert_eq!(said["unshare"], nix::libc::EPERM, "{said}");
        assert_ne!(said["code"], 0, "its code can be written to: {said}");
        assert_ne!(said["worker"], 0, "the worker can be reached: {said}");
        assert_eq!(said["proxy"], nix::libc::ENOENT, "{said}");
        let n_forks = said["forks"].as_u64().unwrap();
        assert!((1..10).contains(&n_forks), "{said}");
    }
    worker.finish();
}

#[test]
fn a_program_that_eats_memory_harms_nobody_else() {
    requires!(Root, Program("cc"));
    let worker = obedient(Worker::start());
    let reply = worker.call("native", "memory");
    match reply.status.as_u16() {
        // The kernel has ended the whole sandbox (cgroup v2), or the program alone.
        502 => assert!(reply.text().contains("out of memory"), "{}", reply.text()),
        _ => assert_eq!(reply.expect(500), "Function failed with signal: 9"),
    }
    assert_eq!(worker.call("native", "say 1").ok(), json!(1));
    worker.finish();
}

#[test]
fn a_new_program_is_live_at_once_and_the_old_one_ends_its_call() {
    requires!(Root, Program("cc"));
    let worker = Worker::start();
    let code = r#"
int main(int argc, char **argv) {
    if (!strcmp(argv[1], "wait")) { puts("running"); fflush(stdout); sleep(2); }
    answer("%d", VERSION);
    return 0;
}
"#;
    let version = |n: u32| compiled(&worker, &format!("{ANSWER}{code}"), &format!("-DVERSION={n}"));
    let folder = worker.registry().join("native");
    // Copied in, as people do: without the bit that says that it can be executed.
    fs::create_dir(&folder).unwrap();
    fs::write(folder.join("f.bin"), version(1)).unwrap();
    until("it is there", || worker.call("native", "").status.as_u16() == 200);
    let running = worker.call_aside("native", "wait");
    worker.logged("native", "running");
    for n in 2..5 {
        replace_file(&folder.join("f.bin"), version(n));
        until("the new one answers", || worker.call("native", "").ok() == json!(n));
    }
    assert_eq!(running.join().unwrap().unwrap().ok(), json!(1));
    // From a program to Python, and back.
    replace_file(&folder.join("f.py"), "def f(event): return 'python'");
    until("f.py comes first", || worker.call("native", "").text() == "\"python\"");
    fs::remove_file(folder.join("f.py")).unwrap();
    until("the program is back", || worker.call("native", "").text() == "4");
    assert_eq!(worker.lambda("native")["errors"], 0);
    worker.finish();
}

#[test]
fn a_folder_with_only_a_program_is_installed_by_command() {
    requires!(Root, Program("cc"));
    let worker = Worker::start();
    let folder = worker.place().join("greeter");
    fs::create_dir(&folder).unwrap();
    let code = "int main(int argc, char **argv) { answer(\"\\\"hello, %s\\\"\", argv[1]); return 0; }";
    fs::write(folder.join("f.bin"), compiled(&worker, &format!("{ANSWER}{code}"), "")).unwrap();
    let said = worker.ol("admin install").arg(&folder).succeed();
    assert!(said.starts_with("Installed greeter. To call it:\n"), "{said}");
    assert_eq!(worker.call("greeter", "you").ok(), json!("hello, you"));
    assert_eq!(worker.ol("admin invoke greeter 1").succeed(), "\"hello, 1\"\n");
    worker.finish();
}

#[test]
fn what_is_no_program_for_this_machine_is_refused_with_what_to_mend() {
    requires!(Root, Program("cc"));
    let worker = obedient(Worker::start());
    let own = compiled(&worker, "int main() { return 0; }", "");
    let mut foreign = own.clone();
    foreign[18] ^= 0xff;
    for (program, words) in [
        (foreign, "f.bin is a program for another kind of processor"),
        (b"\xcf\xfa\xed\xfe and so on".to_vec(), "f.bin is neither a program for Linux (ELF) nor a script"),
    ] {
        install(&worker, "native", &program, "{}");
        let text = worker.call("native", "say 1").expect(500);
        assert!(text.contains(words), "{text}");
        let said = worker.lambda_until("it is rejected", "native", |lambda| lambda["state"] == "rejected");
        assert!(said["message"].as_str().unwrap().contains(words), "{said}");
    }
    // Found out only when it is run.
    let lost = own.windows(5).position(|bytes| bytes == b"/lib6").expect("it names its loader");
    let mut loaderless = own.clone();
    loaderless[lost + 1] = b'n';
    install(&worker, "native", &loaderless, "{}");
    let text = worker.call("native", "1").expect(500);
    assert!(text.starts_with("f.bin cannot be started: the loader or interpreter that it names"), "{text}");
    install(&worker, "native", &own, "{}");
    assert_eq!(worker.call("native", "1").expect(200), "");
    // A script is a program as well.
    install(&worker, "native", b"#!/bin/sh\nprintf '[\"%s\"]' \"$1\" > /tmp/output\n", "{}");
    assert_eq!(worker.call("native", "text").ok(), json!(["text"]));
    worker.finish();
}

#[test]
fn fresh_sandboxes_the_freezer_and_a_takeover_are_the_same_for_programs() {
    requires!(Root, Program("cc"));
    let mut worker = Worker::with_config(json!({"freeze_after_ms": 50})).start();
    let code = r#"
int main(int argc, char **argv) {
    int is_fresh = access("/tmp/mark", F_OK) != 0;
    close(creat("/tmp/mark", 0600));
    if (!strcmp(argv[1], "wait")) { puts("running"); fflush(stdout); sleep(2); }
    answer("%d", is_fresh);
    return 0;
}
"#;
    let program = compiled(&worker, &format!("{ANSWER}{code}"), "");
    install(&worker, "fresh", &program, "reuse-sandbox: false");
    install(&worker, "kept", &program, "{}");
    let n_zygotes = worker.zygote_processes().len();
    for _ in 0..20 {
        assert_eq!(worker.call("fresh", "").ok(), json!(1));
    }
    assert_eq!(worker.zygote_processes().len(), n_zygotes, "there is nothing to fork it from");
    assert_eq!(worker.lambda("fresh")["message"], "");

    let first = worker.call("kept", "");
    let sandbox = first.sandbox();
    assert_eq!(first.ok(), json!(1));
    worker.lambda_until("it is frozen", "kept", |lambda| lambda["frozen"] == 1);
    let thawed = worker.call("kept", "");
    assert_eq!(thawed.sandbox(), sandbox);
    assert_eq!(thawed.ok(), json!(0));
    // One that is killed while it waits is replaced, as any is.
    worker.sandbox_processes(sandbox).iter().for_each(|process| process.signal(Signal::SIGKILL));
    until("another one answers", || {
        let reply = worker.call("kept", "");
        reply.status.as_u16() == 200 && reply.sandbox() != sandbox
    });

    let running = worker.call_aside("kept", "wait");
    worker.logged("kept", "running");
    let old = worker.take_over(&[]);
    assert_eq!(worker.call("fresh", "").ok(), json!(1));
    assert_eq!(worker.call("kept", "").ok(), json!(1), "the successor has sandboxes of its own");
    assert_eq!(running.join().unwrap().unwrap().expect(200), "0");
    old.ends(&worker);
    worker.finish();
}

#[test]
fn the_program_in_the_documents_does_what_they_say() {
    requires!(Root, Program("cc"), Program("curl"));
    let document = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/FUNCTIONS.md");
    let text = fs::read_to_string(document).unwrap();
    let (_, rest) = text.split_once("\n```c\n").expect("the document has a program in C");
    let (source, rest) = rest.split_once("```\n").expect("which has an end");
    let (_, rest) = rest.split_once("```\n").expect("and lines for a shell");
    let (shell, _) = rest.split_once("\n```").expect("which have an end");
    let worker = Worker::start();
    let folder = worker.place().join("greet");
    fs::create_dir(&folder).unwrap();
    fs::write(folder.join("f.c"), source).unwrap();
    let lines: Vec<&str> = shell.lines().collect();
    let [compile, install, call, answer] = lines[..] else { panic!("{shell}") };
    let compile = compile.strip_prefix("$ ").expect("it is a command");
    assert_eq!(install, "$ ol admin install -p myworker greet");
    assert!(call.starts_with("$ curl -X POST localhost:5000/run/greet "), "{call}");
    Program::at("sh").arg("-ec").arg(compile).within(&folder.join("..")).succeed();
    worker.ol("admin install").arg(&folder).succeed();
    let call =
        call.trim_start_matches("$ ").replace("localhost:5000", &format!("localhost:{}", worker.port()));
    assert_eq!(Program::at("sh").arg("-ec").arg(format!("{call} --silent")).succeed(), answer);
    worker.finish();
}
