//! Images as `docker save` and OCI tools lay them out, made here, and what must not get out of them.

use std::os::unix::fs::{PermissionsExt, symlink};

use flate2::Compression;
use flate2::write::GzEncoder;
use serde_json::json;
use sha2::{Digest, Sha256};
use tar::{Builder, EntryType, Header};

use super::*;

struct Scene {
    dir: tempfile::TempDir,
    ol: PathBuf,
}

impl Scene {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let ol = dir.path().join("ol");
        fs::create_dir(&ol).unwrap();
        Self { dir, ol }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn prepare(&self, image: &Path) -> Result<Descriptor, ImageError> {
        prepare(&self.ol, Some(image), None)
    }

    fn refused(&self, image: &Path) -> String {
        let error = self.prepare(image).expect_err("it is refused").to_string();
        assert_eq!(fs::read_dir(&self.ol).unwrap().count(), 0, "nothing is left: {error}");
        error
    }

    fn read(&self, inside: &str) -> String {
        fs::read_to_string(self.ol.join("lambda").join(inside)).unwrap()
    }

    fn has(&self, inside: &str) -> bool {
        self.ol.join("lambda").join(inside).symlink_metadata().is_ok()
    }
}

/// Names and contents.
type Files = Vec<(String, Vec<u8>)>;

#[derive(Default)]
struct Layer(Vec<u8>);

impl Layer {
    fn put(mut self, name: &str, kind: EntryType, mode: u32, content: &str) -> Self {
        let mut header = Header::new_gnu();
        header.as_mut_bytes()[..name.len()].copy_from_slice(name.as_bytes());
        header.set_entry_type(kind);
        header.set_mode(mode);
        let bytes = if kind == EntryType::Regular { content.as_bytes() } else { &[] };
        if matches!(kind, EntryType::Symlink | EntryType::Link) {
            header.set_link_name_literal(content).unwrap();
        }
        header.set_size(bytes.len() as u64);
        header.set_cksum();
        self.0.extend_from_slice(header.as_bytes());
        self.0.extend_from_slice(bytes);
        self.0.resize(self.0.len().next_multiple_of(512), 0);
        self
    }

    fn file(self, name: &str, content: &str) -> Self {
        self.put(name, EntryType::Regular, 0o644, content)
    }

    fn link(self, name: &str, target: &str) -> Self {
        self.put(name, EntryType::Symlink, 0o777, target)
    }

    fn python() -> Self {
        Self::default()
            .put("usr/bin/", EntryType::Directory, 0o755, "")
            .put("usr/bin/python3.11", EntryType::Regular, 0o755, "elf")
            .link("usr/bin/python3", "python3.11")
    }

    fn bytes(mut self) -> Vec<u8> {
        self.0.resize(self.0.len() + 1024, 0);
        self.0
    }
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut gzip = GzEncoder::new(Vec::new(), Compression::fast());
    gzip.write_all(bytes).unwrap();
    gzip.finish().unwrap()
}

fn tar_of(files: &[(String, Vec<u8>)]) -> Vec<u8> {
    let mut tar = Builder::new(Vec::new());
    for (name, bytes) in files {
        let mut header = Header::new_gnu();
        header.set_size(bytes.len() as u64);
        header.set_mode(0o644);
        tar.append_data(&mut header, name, bytes.as_slice()).unwrap();
    }
    tar.into_inner().unwrap()
}

fn docker(layers: Vec<Vec<u8>>) -> Files {
    let names: Vec<_> = (0..layers.len()).map(|n| format!("{n}/layer.tar")).collect();
    let manifest = json!([{ "Config": "c.json", "RepoTags": ["x:1"], "Layers": names }]);
    let config = json!({ "os": "linux", "architecture": architecture(), "rootfs": {} });
    let mut files = vec![("manifest.json".to_owned(), manifest.to_string().into_bytes())];
    files.push(("c.json".to_owned(), config.to_string().into_bytes()));
    files.extend(names.into_iter().zip(layers));
    files
}

fn docker_archive(scene: &Scene, layers: Vec<Vec<u8>>) -> PathBuf {
    let path = scene.path("image.tar");
    fs::write(&path, tar_of(&docker(layers))).unwrap();
    path
}

fn architecture() -> &'static str {
    if cfg!(target_arch = "aarch64") { "arm64" } else { "amd64" }
}

fn blob(bytes: Vec<u8>) -> (String, (String, Vec<u8>)) {
    let hex: String = Sha256::digest(&bytes).iter().map(|byte| format!("{byte:02x}")).collect();
    (format!("sha256:{hex}"), (format!("blobs/sha256/{hex}"), bytes))
}

/// An OCI layout with an index of two platforms, of which only this machine's is there.
fn oci(layers: Vec<(&str, Vec<u8>)>) -> Files {
    let mut files = vec![("oci-layout".to_owned(), br#"{"imageLayoutVersion":"1.0.0"}"#.to_vec())];
    let mut described = Vec::new();
    for (media_type, bytes) in layers {
        let (digest, file) = blob(bytes);
        described.push(json!({ "mediaType": format!("application/vnd.oci.image.layer.v1.{media_type}"), "digest": digest, "size": 1 }));
        files.push(file);
    }
    let (manifest, file) = blob(json!({ "schemaVersion": 2, "layers": described }).to_string().into_bytes());
    files.push(file);
    let inner = json!({ "schemaVersion": 2, "manifests": [
        { "mediaType": "m", "digest": format!("sha256:{}", "0".repeat(64)), "platform": { "os": "linux", "architecture": "s390x" } },
        { "mediaType": "m", "digest": manifest, "platform": { "os": "linux", "architecture": architecture() } },
    ]});
    let (inner, file) = blob(inner.to_string().into_bytes());
    files.push(file);
    let index = json!({ "schemaVersion": 2, "manifests": [{ "mediaType": "i", "digest": inner }] });
    files.push(("index.json".to_owned(), index.to_string().into_bytes()));
    files
}

fn as_directory(scene: &Scene, files: &[(String, Vec<u8>)]) -> PathBuf {
    let root = scene.path("layout");
    for (name, bytes) in files {
        let path = root.join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, bytes).unwrap();
    }
    root
}

#[test]
fn a_file_tree_is_used_where_it_is() {
    let scene = Scene::new();
    let tree = scene.path("tree");
    fs::create_dir_all(tree.join("usr/local/bin")).unwrap();
    fs::write(tree.join("usr/local/bin/python3.12"), "").unwrap();
    fs::set_permissions(tree.join("usr/local/bin/python3.12"), fs::Permissions::from_mode(0o755)).unwrap();
    symlink("/usr/local/bin/python3.12", tree.join("usr/local/bin/python3")).unwrap();
    let descriptor = scene.prepare(&tree).unwrap();
    assert_eq!(descriptor.base, Base::Directory(tree.canonicalize().unwrap()));
    assert_eq!(descriptor.python, Python { path: "usr/local/bin/python3.12".into(), minor: 12 });
    assert_eq!(Descriptor::load(&scene.ol, None).unwrap(), Some(descriptor));
}

#[test]
fn without_an_image_the_base_is_the_machine_itself() {
    let scene = Scene::new();
    match prepare(&scene.ol, None, None) {
        Ok(descriptor) => {
            assert_eq!(descriptor.base, Base::Host);
            assert!(descriptor.python.path.starts_with("usr"), "{descriptor:?}");
        }
        Err(error) => assert!(
            matches!(error, ImageError::NoPython { .. }),
            "this machine has no Python in /usr: {error}"
        ),
    }
}

#[test]
fn a_python_beside_usr_is_none_of_the_machine() {
    let root = tempfile::tempdir().unwrap();
    for dir in ["usr/bin", "opt/bin"] {
        fs::create_dir_all(root.path().join(dir)).unwrap();
    }
    fs::write(root.path().join("opt/bin/python3.12"), "").unwrap();
    fs::set_permissions(root.path().join("opt/bin/python3.12"), fs::Permissions::from_mode(0o755)).unwrap();
    symlink("/opt/bin/python3.12", root.path().join("usr/bin/python3")).unwrap();
    let text = python::find(root.path(), None, true).unwrap_err().to_string();
    assert!(text.contains("not below /usr"), "{text}");
    assert_eq!(python::find(root.path(), None, false).unwrap().minor, 12);
}

#[test]
fn what_a_killed_init_left_is_swept() {
    let scene = Scene::new();
    fs::create_dir_all(scene.ol.join(".lambda-abc/usr")).unwrap();
    fs::write(scene.ol.join(".base-abc"), "{").unwrap();
    scene.refused(Path::new("nothing"));
}

#[test]
fn before_init_there_is_no_descriptor() {
    let scene = Scene::new();
    assert_eq!(Descriptor::load(&scene.ol, None).unwrap(), None);
    fs::write(scene.ol.join(DESCRIPTOR), "{").unwrap();
    assert!(Descriptor::load(&scene.ol, None).unwrap_err().to_string().contains("ol worker init"));
}

#[test]
fn a_docker_archive_is_unpacked() {
    let scene = Scene::new();
    let image = docker_archive(
        &scene,
        vec![
            Layer::python().file("etc/a", "1").file("etc/b", "1").file("d/x", "1").file("d/y", "1").bytes(),
            gzip(
                &Layer::default()
                    .file("etc/.wh.a", "")
                    .file("etc/b", "2")
                    .file("d/new", "2")
                    .file("d/.wh..wh..opq", "")
                    .bytes(),
            ),
        ],
    );
    let descriptor = scene.prepare(&image).unwrap();
    assert_eq!(descriptor.base.root(), scene.ol.join("lambda"));
    assert_eq!(descriptor.python.minor, 11);
    assert!(!scene.has("etc/a") && !scene.has("etc/.wh.a"));
    assert_eq!(scene.read("etc/b"), "2");
    assert!(!scene.has("d/x") && !scene.has("d/y"), "an opaque directory hides what is below");
    assert_eq!(scene.read("d/new"), "2", "and not what its own layer brings, in whatever order");
    let mode =
        |path: &str| fs::metadata(scene.ol.join("lambda").join(path)).unwrap().permissions().mode() & 0o7777;
    assert_eq!((mode(""), mode("usr/bin")), (0o755, 0o755));
}

#[test]
fn a_compressed_docker_archive_with_linked_layers_is_unpacked() {
    let scene = Scene::new();
    let mut tar = Builder::new(tar_of(&docker(vec![Layer::python().bytes()])));
    // As old versions of docker wrote it: the same layer twice, the second a link.
    let manifest = json!([{ "Config": "none", "Layers": ["0/layer.tar", "1/layer.tar"] }]).to_string();
    let mut bytes = Layer::default().link("1/layer.tar", "../0/layer.tar").0;
    bytes.extend(tar_of(&[
        ("manifest.json".to_owned(), manifest.into_bytes()),
        ("0/layer.tar".to_owned(), Layer::python().bytes()),
    ]));
    tar.finish().unwrap();
    let image = scene.path("image.tar.gz");
    fs::write(&image, gzip(&bytes)).unwrap();
    scene.prepare(&image).unwrap();
    assert!(scene.has("usr/bin/python3"));
}

#[test]
fn an_oci_layout_is_unpacked_from_a_directory_and_from_a_tar() {
    let files = oci(vec![
        ("tar", Layer::python().bytes()),
        ("tar+gzip", gzip(&Layer::default().file("a", "gzip").bytes())),
        ("tar+zstd", zstd::encode_all(Layer::default().file("b", "zstd").bytes().as_slice(), 1).unwrap()),
    ]);
    let scene = Scene::new();
    scene.prepare(&as_directory(&scene, &files)).unwrap();
    assert_eq!((scene.read("a"), scene.read("b")), ("gzip".to_owned(), "zstd".to_owned()));
    let scene = Scene::new();
    fs::write(scene.path("oci.tar"), tar_of(&files)).unwrap();
    scene.prepare(&scene.path("oci.tar")).unwrap();
    assert_eq!(scene.read("b"), "zstd");
}

#[test]
fn a_new_image_takes_the_place_of_the_old_one_only_when_it_is_whole() {
    let scene = Scene::new();
    scene.prepare(&docker_archive(&scene, vec![Layer::python().file("a", "1").bytes()])).unwrap();
    let broken = docker_archive(&scene, vec![Layer::python().file("a", "2").file("../x", "").bytes()]);
    scene.prepare(&broken).unwrap_err();
    assert_eq!(scene.read("a"), "1");
    scene.prepare(&docker_archive(&scene, vec![Layer::python().file("b", "3").bytes()])).unwrap();
    assert!(!scene.has("a") && scene.has("b"));
    let mut left: Vec<_> = fs::read_dir(&scene.ol).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    left.sort();
    assert_eq!(left, ["base.json", "lambda"]);
}

#[test]
fn links_of_a_layer_stay_inside() {
    let scene = Scene::new();
    let outside = scene.path("outside");
    fs::create_dir(&outside).unwrap();
    fs::write(outside.join("victim"), "safe").unwrap();
    let out = outside.to_str().unwrap();
    let inside = out.trim_start_matches('/');
    let image = docker_archive(
        &scene,
        vec![
            Layer::python()
                .put(&format!("{inside}/"), EntryType::Directory, 0o755, "")
                .link("abs", out)
                .link("up", "../../../../../../../../..")
                .file("abs/victim", "changed")
                .file("up/through", "x")
                .link("victim", &format!("{out}/victim"))
                .file("victim", "replaced")
                .bytes(),
            Layer::default().file("abs/.wh..wh..opq", "").file("up/.wh.through", "").bytes(),
        ],
    );
    scene.prepare(&image).unwrap();
    assert_eq!(fs::read_to_string(outside.join("victim")).unwrap(), "safe");
    assert_eq!(fs::read_dir(&outside).unwrap().count(), 1);
    assert!(!scene.has("through") && !scene.has(&format!("{inside}/victim")), "both went inside of the tree");
    assert_eq!(scene.read("victim"), "replaced", "a link is replaced, not followed");
}

#[test]
fn hard_links_lead_to_files_of_the_image_only() {
    let scene = Scene::new();
    fs::write(scene.path("secret"), "secret").unwrap();
    let secret = scene.path("secret");
    let image = docker_archive(
        &scene,
        vec![
            Layer::python()
                .file("a", "1")
                .put("b", EntryType::Link, 0o644, "a")
                .put("a", EntryType::Link, 0o644, "b")
                .bytes(),
        ],
    );
    scene.prepare(&image).unwrap();
    assert_eq!(scene.read("b"), "1");
    for target in [secret.to_str().unwrap(), "../secret", "../../secret", "nothing", "usr", "/"] {
        let scene = Scene::new();
        let image = docker_archive(
            &scene,
            vec![Layer::python().put("stolen", EntryType::Link, 0o644, target).bytes()],
        );
        assert!(scene.refused(&image).contains("'stolen'"), "{target}");
    }
}

#[test]
fn long_names_and_long_links_are_understood() {
    let scene = Scene::new();
    let long = format!("{}/{}", "d".repeat(120), "f".repeat(120));
    let mut tar = Builder::new(Vec::new());
    let mut header = Header::new_gnu();
    header.set_size(1);
    header.set_mode(0o644);
    tar.append_data(&mut header, &long, &b"1"[..]).unwrap();
    let mut header = Header::new_gnu();
    header.set_entry_type(EntryType::Symlink);
    header.set_size(0);
    tar.append_link(&mut header, "link", &long).unwrap();
    let mut header = Header::new_ustar();
    header.set_size(1);
    header.set_mode(0o644);
    tar.append_pax_extensions([("path", "by-pax".as_bytes()), ("mtime", b"1.5")]).unwrap();
    tar.append_data(&mut header, "cut", &b"2"[..]).unwrap();
    let image = docker_archive(&scene, vec![Layer::python().bytes(), tar.into_inner().unwrap()]);
    scene.prepare(&image).unwrap();
    assert_eq!(
        (scene.read(&long), scene.read("link"), scene.read("by-pax")),
        ("1".into(), "1".into(), "2".into())
    );
    assert!(!scene.has("cut"));
}

#[test]
fn bits_and_nodes_that_do_harm_are_left_out() {
    let scene = Scene::new();
    let image = docker_archive(
        &scene,
        vec![
            Layer::python()
                .put("usr/bin/su", EntryType::Regular, 0o6777, "x")
                .put("dev/sda", EntryType::Block, 0o666, "")
                .put("dev/null", EntryType::Char, 0o666, "")
                .put("pipe", EntryType::Fifo, 0o666, "")
                .put("tmp", EntryType::Directory, 0o1777, "")
                .bytes(),
        ],
    );
    scene.prepare(&image).unwrap();
    let mode =
        |path: &str| fs::metadata(scene.ol.join("lambda").join(path)).unwrap().permissions().mode() & 0o7777;
    assert_eq!((mode("usr/bin/su"), mode("tmp")), (0o755, 0o755));
    assert!(!scene.has("dev/sda") && !scene.has("dev/null") && !scene.has("pipe"));
}

#[test]
fn layers_that_make_no_sense_are_refused() {
    for (layer, words) in [
        (Layer::python().file("../x", ""), "'..'"),
        (Layer::python().file("f", "").file("f/x", ""), "below a file"),
        (Layer::python().link("gone", "nowhere").file("gone/x", ""), "leads nowhere"),
        (Layer::python().link("a", "b").link("b", "a").file("a/x", ""), "circles"),
        (Layer::python().file("d/.wh.", ""), "deletes nothing"),
        (Layer::python().file("d/.wh...", ""), "deletes nothing"),
        (Layer::python().put("s", EntryType::GNUSparse, 0o644, ""), "unknown kind"),
        (Layer::python().put("l", EntryType::Symlink, 0o777, ""), "link to nothing"),
        (Layer::python().put("L", EntryType::GNULongName, 0, "").file("f", ""), "has no name"),
        (Layer::python().put("odd", EntryType::new(b'Z'), 0o644, ""), "unknown kind"),
    ] {
        let scene = Scene::new();
        let text = scene.refused(&docker_archive(&scene, vec![layer.bytes()]));
        assert!(text.contains(words) && text.contains("layer 1"), "{text}");
    }
}

#[test]
fn an_image_without_a_usable_python_is_refused() {
    let old = Layer::default()
        .put("usr/bin/python3.7", EntryType::Regular, 0o755, "")
        .link("usr/bin/python3", "python3.7");
    let outside = Layer::default().link("usr/bin/python3", "../../../../../../../../../bin/sh");
    for (layer, words) in [
        (Layer::default().file("etc/x", ""), "no Python 3.8"),
        (old, "Python 3.7"),
        (outside, "no Python"),
        (Layer::default().link("usr/bin/python3", "python3"), "no Python"),
        (Layer::default().file("usr/bin/python3.11", "not executable"), "no Python"),
    ] {
        let scene = Scene::new();
        let text = scene.refused(&docker_archive(&scene, vec![layer.bytes()]));
        assert!(text.contains(words), "{text}");
    }
}

#[test]
fn a_python_without_a_number_is_known_by_its_library() {
    let scene = Scene::new();
    let layer = Layer::default()
        .put("opt/py/bin/python", EntryType::Regular, 0o755, "")
        .file("opt/py/lib/python3.13/os.py", "");
    let image = docker_archive(&scene, vec![layer.bytes()]);
    let descriptor = prepare(&scene.ol, Some(&image), Some(Path::new("opt/py/bin/python"))).unwrap();
    assert_eq!(descriptor.python, Python { path: "opt/py/bin/python".into(), minor: 13 });
}

#[test]
fn the_interpreter_that_is_asked_for_later_is_used_or_refused() {
    let scene = Scene::new();
    let executable = |layer: Layer, path| layer.put(path, EntryType::Regular, 0o755, "");
    let layer = ["usr/bin/python3.11", "usr/bin/python3.12", "usr/bin/python3.7", "usr/bin/true"]
        .into_iter()
        .fold(Layer::default(), executable)
        .link("usr/bin/python3", "python3.11")
        .file("usr/lib/python3.11/os.py", "");
    let image = docker_archive(&scene, vec![layer.bytes()]);
    assert_eq!(scene.prepare(&image).unwrap().python.minor, 11);
    let asked = |python: Option<&str>| Descriptor::load(&scene.ol, python.map(Path::new)).map(Option::unwrap);
    let newer = Python { path: "usr/bin/python3.12".into(), minor: 12 };
    assert_eq!(asked(Some("usr/bin/python3.12")).unwrap().python, newer);
    assert_eq!(asked(None).unwrap().python.minor, 11);
    for (python, words) in [
        ("nope", "python: is /nope, and"),
        ("usr/bin", "python: is /usr/bin, and"),
        ("usr/bin/true", "only usr/bin/true, of which the version is unknown"),
        ("usr/bin/python3.7", "only usr/bin/python3.7 (Python 3.7)"),
    ] {
        let text = asked(Some(python)).unwrap_err().to_string();
        assert!(text.contains(words) && text.contains("inside of the base"), "{text}");
    }
    // What is written down does not name one that it was once; in files of earlier versions it counts for nothing.
    let path = scene.ol.join(DESCRIPTOR);
    let mut kept: serde_json::Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    assert_eq!(kept.as_object().unwrap().keys().collect::<Vec<_>>(), ["base", "image"]);
    kept["python"] = json!({ "path": "usr/bin/python3.7", "minor": 7 });
    fs::write(&path, kept.to_string()).unwrap();
    assert_eq!(asked(None).unwrap().python.minor, 11);
    assert_eq!(
        asked(Some("usr/bin/python3.12")).unwrap().interpreter(),
        scene.ol.join("lambda/usr/bin/python3.12")
    );
}

#[test]
fn what_is_no_image_is_refused() {
    let scene = Scene::new();
    assert!(scene.refused(Path::new("ol-min")).contains("there is no image ol-min"));
    fs::write(scene.path("text"), "hello, this is text").unwrap();
    assert!(scene.refused(&scene.path("text")).contains("is not an image"));
    fs::write(scene.path("other.tar"), tar_of(&[("a".to_owned(), Vec::new())])).unwrap();
    assert!(scene.refused(&scene.path("other.tar")).contains("no manifest.json and no index.json"));
    let whole = docker(vec![Layer::python().bytes()]);
    for (manifest, words) in [
        (json!([]), "0 images"),
        (json!([{ "Layers": ["a"] }, { "Layers": ["b"] }]), "2 images"),
        (json!([{ "Layers": [] }]), "no layers"),
        (json!([{ "Layers": ["nope/layer.tar"] }]), "missing"),
        (json!([{ "Layers": ["../../etc/passwd"] }]), "missing"),
        (json!({ "a": 1 }), "manifest.json"),
    ] {
        let mut files = whole.clone();
        files[0].1 = manifest.to_string().into_bytes();
        fs::write(scene.path("image.tar"), tar_of(&files)).unwrap();
        let text = scene.refused(&scene.path("image.tar"));
        assert!(text.contains(words), "{text}");
    }
    let mut files = whole;
    files[1].1 = json!({ "os": "linux", "architecture": "s390x" }).to_string().into_bytes();
    fs::write(scene.path("image.tar"), tar_of(&files)).unwrap();
    assert!(scene.refused(&scene.path("image.tar")).contains("it has linux/s390x"));
}

#[test]
fn an_oci_layout_that_is_not_what_it_says_is_refused() {
    let whole = oci(vec![("tar", Layer::python().bytes())]);
    let tampered = |change: &dyn Fn(&mut Files)| {
        let scene = Scene::new();
        let mut files = whole.clone();
        change(&mut files);
        scene.refused(&as_directory(&scene, &files))
    };
    assert!(tampered(&|files| files[1].1.push(0)).contains("is damaged: its sha256 is"), "the layer");
    assert!(tampered(&|files| files[2].1.push(b' ')).contains("is damaged"), "the manifest");
    assert!(tampered(&|files| drop(files.remove(1))).contains("missing"));
    let index = |json: serde_json::Value| {
        tampered(&move |files: &mut Files| files.last_mut().unwrap().1 = json.to_string().into_bytes())
    };
    assert!(
        index(json!({ "manifests": [{ "digest": "sha256:../../etc/passwd" }] }))
            .contains("not a sha256 digest")
    );
    assert!(index(json!({ "manifests": [{ "digest": "md5:00" }] })).contains("not a sha256 digest"));
    let other = json!({ "digest": "sha256:0", "platform": { "os": "linux", "architecture": "s390x" } });
    assert!(index(json!({ "manifests": [other] })).contains("it has linux/s390x"));
    assert!(
        index(json!({ "layers": [{ "digest": "sha256:0", "mediaType": "application/x-encrypted" }] }))
            .contains("not understood")
    );
}

#[test]
fn a_link_in_a_layout_does_not_lead_out() {
    let scene = Scene::new();
    let layout = as_directory(&scene, &oci(vec![("tar", Layer::python().bytes())]));
    fs::rename(layout.join("index.json"), scene.path("index.json")).unwrap();
    symlink("../index.json", layout.join("index.json")).unwrap();
    assert!(scene.refused(&layout).contains("cannot read"));
}
