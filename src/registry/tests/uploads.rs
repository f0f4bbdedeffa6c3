//! Upload, download and delete.

use super::*;

fn upload(scene: &Scene, name: &str, bytes: &[u8]) -> Result<Replaced, UploadError> {
    let mut upload = Upload::begin(&scene.registry, name.parse().unwrap())?;
    for chunk in bytes.chunks(1000) {
        upload.write(chunk)?;
    }
    upload.commit()
}

#[test]
fn an_upload_is_served_and_replaces_what_was_there() {
    let scene = Scene::new();
    assert_eq!(upload(&scene, "hi", &tar_gz(&[("./f.py", "1")])).unwrap(), Replaced::Nothing);
    assert_eq!(upload(&scene, "hi", &tar_gz(&[("f.py", "2")])).unwrap(), Replaced::Archive);
    assert_eq!(fs::read_to_string(scene.loaded("hi").dir().join("f.py")).unwrap(), "2");
    fs::remove_file(scene.path("hi.tar.gz")).unwrap();
    scene.put(&[("hi/f.py", "folder"), ("hi/sub/x", "")]);
    assert_eq!(upload(&scene, "hi", &tar_gz(&[("f.py", "3")])).unwrap(), Replaced::Folder);
    assert_eq!(scene.in_registry(), ["hi.tar.gz"]);
    fs::remove_file(scene.path("hi.tar.gz")).unwrap();
    scene.put(&[("hi.py", "file"), ("hi2.py", "another's")]);
    assert_eq!(upload(&scene, "hi", &tar_gz(&[("f.py", "4")])).unwrap(), Replaced::File);
    assert_eq!(fs::read_to_string(scene.loaded("hi").dir().join("f.py")).unwrap(), "4");
    assert_eq!(scene.in_registry(), ["hi.tar.gz", "hi2.py"]);
    assert_eq!(fs::metadata(scene.path("hi.tar.gz")).unwrap().permissions().mode() & 0o777, 0o644);
}

#[test]
fn what_is_refused_leaves_the_registry_as_it_was() {
    let scene = Scene::with(json!({ "max_code_mb": 1 }));
    scene.put(&[("hi/f.py", "old")]);
    let too_much: Vec<u8> =
        std::iter::successors(Some(1_u32), |n| Some(n.wrapping_mul(1_664_525).wrapping_add(1)))
            .flat_map(u32::to_le_bytes)
            .take(2 * 1024 * 1024)
            .collect();
    let whole = tar_gz(&[("f.py", "x")]);
    for (bytes, words) in [
        (b"not an archive at all".to_vec(), "gzip"),
        (Vec::new(), "is empty"),
        (whole[..whole.len() - 9].to_vec(), "cut off"),
        (tar_gz(&[("g.py", "x")]), "no f.py"),
        (tar_gz(&[("hi/f.py", "x")]), "'hi'"),
        (tar_gz(&[("f.py", "x"), ("ol.yaml", "nope: 1")]), "nope"),
        (too_much, "at most 1 MiB"),
    ] {
        let text = upload(&scene, "hi", &bytes).unwrap_err().to_string();
        assert!(text.contains(words), "{text}");
        assert_eq!(scene.in_registry(), ["hi"]);
        assert!(scene.generations().is_empty());
    }
    assert!(matches!(upload(&scene, "a.tar.gz", &whole), Err(UploadError::Name(_))));
    assert_eq!(fs::read_to_string(scene.loaded("hi").dir().join("f.py")).unwrap(), "old");
}

#[test]
fn an_upload_that_is_given_up_leaves_nothing() {
    let scene = Scene::new();
    let mut upload = Upload::begin(&scene.registry, "hi".parse().unwrap()).unwrap();
    upload.write(b"half").unwrap();
    LocalRegistry::open(&scene.worker, Logger::root(Discard, o!())).unwrap();
    assert_eq!(scene.in_registry().len(), 1, "an upload that is under way is not swept");
    drop(upload);
    assert!(scene.in_registry().is_empty());
}

#[test]
fn what_a_worker_has_moved_away_for_a_moment_is_not_brought_back_by_one_that_starts() {
    let scene = Scene::new();
    scene.put(&[("hi/f.py", "old"), ("hi2.py", "old")]);
    let upload = Upload::begin(&scene.registry, "hi".parse().unwrap()).unwrap();
    // As in the middle of its commit.
    let (folder, file) = (format!(".replaced-{}-hi", upload.id), format!(".replaced-py-{}-hi2", upload.id));
    fs::rename(scene.path("hi"), scene.path(&folder)).unwrap();
    fs::rename(scene.path("hi2.py"), scene.path(&file)).unwrap();
    let before = scene.in_registry();
    let start = || LocalRegistry::open_in(&scene.worker, "other", Logger::root(Discard, o!())).unwrap();
    start();
    assert_eq!(scene.in_registry(), before);
    // It is killed: nobody has the lock any more, and the file stays.
    let name = scene.path(&format!(".upload-{}", upload.id));
    let kept = scene.path("kept");
    fs::hard_link(&name, &kept).unwrap();
    drop(upload);
    fs::rename(&kept, &name).unwrap();
    start();
    assert_eq!(scene.in_registry(), ["hi", "hi2.py"]);
    // What two of them move away have different names.
    let [one, other] = [&scene.registry, &start()].map(|registry| registry.id());
    assert_ne!(one, other);
}

#[test]
fn a_download_is_what_an_upload_takes() {
    let scene = Scene::new();
    let files = [("f.py", "1"), ("lib/a.py", "2")];
    scene.put(&[("folder/f.py", "1"), ("folder/lib/a.py", "2"), ("file.py", "3")]);
    upload(&scene, "archive", &tar_gz(&files)).unwrap();
    for name in ["folder", "archive", "file"] {
        let mut download = scene.registry.download(&name.parse().unwrap()).unwrap().unwrap();
        let mut bytes = Vec::new();
        download.file.read_to_end(&mut bytes).unwrap();
        assert_eq!(bytes.len() as u64, download.bytes);
        upload(&scene, "again", &bytes).unwrap();
        assert_eq!(scene.loaded("again").version(), scene.loaded(name).version());
    }
    assert!(scene.registry.download(&"nope".parse().unwrap()).unwrap().is_none());
    assert!(scene.generations().is_empty());
}

#[test]
fn delete_removes_every_form() {
    let scene = Scene::new();
    scene.put(&[("hi/f.py", ""), ("hi.py", ""), ("other/f.py", "")]);
    fs::write(scene.path("hi.tar.gz"), "").unwrap();
    assert!(scene.registry.delete(&"hi".parse().unwrap()).unwrap());
    assert!(!scene.registry.delete(&"hi".parse().unwrap()).unwrap());
    assert_eq!(scene.in_registry(), ["other"]);
    // A folder that is called like a file of another function stays.
    scene.put(&[("other.py/f.py", "")]);
    assert!(scene.registry.delete(&"other".parse().unwrap()).unwrap());
    assert_eq!(scene.in_registry(), ["other.py"]);
    assert!(scene.registry.delete(&"other.py".parse().unwrap()).unwrap());
    assert!(scene.in_registry().is_empty());
}

#[test]
fn deleting_a_link_leaves_what_it_leads_to() {
    let scene = Scene::new();
    let outside = scene.worker.ol_dir.join("outside");
    fs::create_dir(&outside).unwrap();
    fs::write(outside.join("keep"), "").unwrap();
    symlink(&outside, scene.path("hi")).unwrap();
    assert!(scene.registry.delete(&"hi".parse().unwrap()).unwrap());
    assert!(outside.join("keep").is_file());
    symlink(&outside, scene.path("hi")).unwrap();
    assert_eq!(upload(&scene, "hi", &tar_gz(&[("f.py", "")])).unwrap(), Replaced::Folder);
    assert!(outside.join("keep").is_file());
    assert_eq!(scene.in_registry(), ["hi.tar.gz"]);
}
