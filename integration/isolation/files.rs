//! Files: the machine's are out of reach, and nothing but `/tmp` can be changed.

use std::fs::{self, Permissions};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;

use openlambda::selftest::attempts::FIXED_FILES;
use serde_json::json;

use crate::probes::{FILES, SUSPECT, Stage, all_end_in};
use crate::support::{Expect, requires};

#[test]
fn the_files_of_the_machine_and_of_the_worker_are_out_of_reach() {
    requires!(Root);
    let stage = Stage::of(FILES);
    let worker = stage.worker();
    stage.cast("other", FILES);
    worker.call("other", json!({"do": "touch", "paths": ["/tmp/x"]})).ok();
    let secret = worker.place().join("secret");
    fs::write(&secret, "for everybody on this machine").unwrap();
    // No mode of a file or directory keeps it away, only that there is no path to it.
    fs::set_permissions(worker.place().path(), Permissions::from_mode(0o755)).unwrap();

    let mut candidates = vec![secret, worker.ol_dir().to_owned(), worker.registry(), worker.worker_dir()];
    candidates.extend(["config.json", "worker.out"].map(|name| worker.ol_dir().join(name)));
    candidates.extend(["logs", "generations"].map(|name| worker.worker_dir().join(name)));
    candidates.extend(
        [
            "/etc/shadow",
            "/etc/ssh",
            "/etc/fstab",
            "/var/log",
            "/var/lib",
            "/boot",
            "/proc/kcore",
            "/dev/kmsg",
            "/dev/mem",
        ]
        .map(Into::into),
    );
    candidates.extend(
        ["/sys/kernel", "/sys/fs/cgroup", "/run/openlambda", "/run/lock/x", "/dev/vda", "/srv"]
            .map(Into::into),
    );
    // What is not here cannot be missing there.
    candidates.retain(|path| path.exists());
    assert!(candidates.len() > 12, "{candidates:?}");
    let said = stage.ask(json!({"do": "read", "paths": candidates}));
    all_end_in(&said, &["ENOENT", "EACCES"]);

    let empty = ["/root", "/home", "/sys", "/mnt", "/tmp"];
    let said = stage.ask(json!({"do": "names", "paths": empty}));
    assert!(empty.iter().all(|path| said[path] == json!([])), "{said}");
    // By its locks workers tell each other what they need: nobody else may have one.
    let said = stage.ask(json!({"do": "names", "paths": ["/packages"]}));
    assert_eq!(said["/packages"], json!([".in-use"]));
    all_end_in(&stage.ask(json!({"do": "read", "paths": ["/packages/.in-use"]})), &["EACCES"]);
    let said = stage.ask(json!({"do": "names", "paths": ["/handler", "/dev"]}));
    assert_eq!(said["handler"], json!(null));
    assert_eq!(said["/handler"], json!(["f.py", "raw.py"]));
    let devices = ["fd", "full", "null", "random", "shm", "stderr", "stdin", "stdout", "urandom", "zero"];
    assert_eq!(said["/dev"], json!(devices));

    // The users of the machine are nobody's business either.
    let users = stage.ask(json!({"do": "text", "paths": ["/etc/passwd"]}))["/etc/passwd"].to_string();
    assert!(users.contains("sandbox:") && !users.contains("daemon:"), "{users}");
    assert!(fs::read_to_string("/etc/passwd").unwrap().contains("daemon:"));
    stage.finish();
}

#[test]
fn nothing_but_tmp_can_be_changed() {
    requires!(Root);
    let stage = Stage::of(FILES);
    let python = Path::new("/usr/bin/python3");
    let before = fs::metadata(python).unwrap();
    assert_eq!(stage.ask(json!({"do": "create", "paths": ["/"]})), json!({"/": []}));
    let said = stage.ask(json!({"do": "tamper", "paths": FIXED_FILES}));
    all_end_in(
        &said,
        &[
            "EROFS",
            "EACCES",
            "EPERM",
            "EISDIR",
            "ENOENT",
            "EBUSY",
            "EXDEV",
            "EINVAL",
            "EOPNOTSUPP",
            "ELOOP",
            "ENOTDIR",
        ],
    );
    for path in FIXED_FILES {
        let outcome = said[*path].as_str().unwrap();
        assert!(
            ["EROFS", "EACCES", "EPERM"].iter().any(|refusal| outcome.contains(refusal)),
            "{path}: {outcome}"
        );
    }
    // The same attempts where they may succeed.
    let mine = json!(["/tmp/mine", "/dev/shm/mine too", "/host/and this", "/var/tmp/all one"]);
    let touched = stage.ask(json!({"do": "touch", "paths": mine}));
    let tampered = stage.ask(json!({"do": "tamper", "paths": mine}));
    for path in mine.as_array().unwrap() {
        let path = path.as_str().unwrap();
        assert_eq!((&touched[path], &tampered[path]), (&json!("ok"), &json!("ok")), "{path}");
    }
    let after = fs::metadata(python).unwrap();
    assert_eq!((after.mtime(), after.mode(), after.ino()), (before.mtime(), before.mode(), before.ino()));
    stage.finish();
}

#[test]
fn a_link_in_a_functions_folder_leads_nowhere() {
    requires!(Root);
    let stage = Stage::of(FILES);
    let folder = stage.worker().registry().join("linked");
    fs::create_dir(&folder).unwrap();
    std::os::unix::fs::symlink("/etc/shadow", folder.join("leak")).unwrap();
    fs::write(folder.join("f.py"), FILES.replace("from raw import attempt", "attempt = print")).unwrap();
    let refused =
        stage.worker().call("linked", json!({"do": "text", "paths": ["/handler/leak"]})).expect(500);
    assert!(refused.contains("'leak' is a symbolic link"), "{refused}");
    fs::remove_file(folder.join("leak")).unwrap();
    stage.worker().lambda_until("it is served without it", "linked", |_| {
        stage.worker().call("linked", json!({"do": "names", "paths": ["/handler"]})).status.as_u16() == 200
    });
    assert!(stage.worker().lambda(SUSPECT).is_object());
    stage.finish();
}
