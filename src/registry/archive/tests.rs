//! Archives that a stranger might send: each is refused by its own sentence, and writes nothing that stays.

use std::fs;
use std::io::Write;
use std::path::Path;

use flate2::Compression;
use flate2::write::GzEncoder;
use proptest::prelude::*;
use tar::{Builder, EntryType, Header};

use super::super::content::{Bounds, Contents};
use super::*;

const BOUNDS: Bounds = Bounds { bytes: 18 * 1024 * 1024, n_entries: 200, depth: 8 };

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut gzip = GzEncoder::new(Vec::new(), Compression::fast());
    gzip.write_all(bytes).unwrap();
    gzip.finish().unwrap()
}

/// One entry, with a header that no library would write.
fn entry(name: &[u8], kind: EntryType, mode: u32, content: &[u8]) -> Vec<u8> {
    let mut header = Header::new_gnu();
    header.as_mut_bytes()[..name.len()].copy_from_slice(name);
    header.set_entry_type(kind);
    header.set_mode(mode);
    header.set_size(content.len() as u64);
    header.set_mtime(1_600_000_000);
    header.set_cksum();
    let mut bytes = header.as_bytes().to_vec();
    bytes.extend_from_slice(content);
    bytes.resize(bytes.len().next_multiple_of(512), 0);
    bytes
}

fn file(name: &[u8]) -> Vec<u8> {
    entry(name, EntryType::Regular, 0o644, b"x")
}

fn link(name: &[u8], kind: EntryType, target: &str) -> Vec<u8> {
    let mut header = Header::new_gnu();
    header.as_mut_bytes()[..name.len()].copy_from_slice(name);
    header.set_entry_type(kind);
    header.set_mode(0o777);
    header.set_size(0);
    header.set_link_name_literal(target).unwrap();
    header.set_cksum();
    header.as_bytes().to_vec()
}

fn pax(kind: EntryType, records: &[(&str, &str)]) -> Vec<u8> {
    let mut content = Vec::new();
    for (key, value) in records {
        let rest = key.len() + value.len() + 3;
        let mut length = rest + 1;
        while length != rest + length.to_string().len() {
            length += 1;
        }
        content.extend_from_slice(format!("{length} {key}={value}\n").as_bytes());
    }
    entry(b"PaxHeader", kind, 0o644, &content)
}

fn packed(entries: &[Vec<u8>]) -> Vec<u8> {
    gzip(&[entries.concat(), vec![0; 1024]].concat())
}

/// Unpack to a directory next to one that must stay untouched.
fn unpack_to(dir: &Path, bytes: &[u8]) -> Result<Contents, ArchiveError> {
    let place = dir.join("place");
    fs::create_dir(&place).unwrap();
    let mut target = Target::writing(&place, BOUNDS).unwrap();
    unpack(bytes, bytes.len() as u64, BOUNDS.bytes, BOUNDS.n_entries, &mut target)?;
    Ok(target.finish())
}

fn refused(bytes: &[u8]) -> String {
    let dir = tempfile::tempdir().unwrap();
    let error = unpack_to(dir.path(), bytes).expect_err("it is refused").to_string();
    let beside: Vec<_> = fs::read_dir(dir.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(beside, ["place"], "nothing is written beside");
    error
}

fn assert_refused(entries: &[Vec<u8>], words: &str) {
    let text = refused(&packed(entries));
    assert!(text.contains(words), "'{text}' should say '{words}'");
}

#[test]
fn an_ordinary_archive_is_unpacked() {
    let dir = tempfile::tempdir().unwrap();
    let long = format!("{}/x.py", "d".repeat(150));
    let entries = [
        pax(EntryType::XGlobalHeader, &[("comment", "0123")]),
        entry(b"./", EntryType::Directory, 0o755, b""),
        entry(b"./f.py", EntryType::Regular, 0o600, b"code"),
        entry(b"lib/", EntryType::Directory, 0o700, b""),
        entry(b"lib/run", EntryType::Regular, 0o700, b""),
        pax(EntryType::XHeader, &[("path", "\u{fc}.py"), ("mtime", "1.5")]),
        file(b"short"),
        entry(b"././@LongLink", EntryType::GNULongName, 0o644, format!("{long}\0").as_bytes()),
        file(b"cut"),
    ];
    let contents = unpack_to(dir.path(), &packed(&entries)).unwrap();
    assert_eq!(contents.n_entries(), 6);
    let place = dir.path().join("place");
    assert_eq!(fs::read_to_string(place.join("f.py")).unwrap(), "code");
    assert!(place.join("\u{fc}.py").is_file() && place.join(long).is_file());
}

#[test]
fn what_tar_itself_writes_is_taken() {
    let dir = tempfile::tempdir().unwrap();
    let from = dir.path().join("from");
    fs::create_dir_all(from.join("a").join("n".repeat(200))).unwrap();
    fs::write(from.join("a").join("n".repeat(200)).join("x"), "1").unwrap();
    for format in ["gnu", "pax", "ustar"] {
        let path = dir.path().join(format!("{format}.tar.gz"));
        let mut tar = std::process::Command::new("tar");
        tar.arg("-C").arg(&from).arg(format!("--format={format}")).arg("-czf").arg(&path).arg(".");
        if !tar.stderr(std::process::Stdio::null()).status().unwrap().success() {
            continue; // ustar cannot hold such a name
        }
        let bytes = fs::read(&path).unwrap();
        unpack_to(dir.path(), &bytes).unwrap_or_else(|error| panic!("{format}: {error}"));
        fs::remove_dir_all(dir.path().join("place")).unwrap();
    }
}

#[test]
fn paths_that_lead_out_are_refused() {
    assert_refused(&[file(b"../x")], "'../x' has '..' in its path");
    assert_refused(&[file(b"a/../../x")], "'..'");
    assert_refused(&[file(b"/etc/x")], "absolute");
    assert_refused(&[file(b"")], "empty name");
    assert_refused(&[pax(EntryType::XHeader, &[("path", "../x")]), file(b"ok")], "'..'");
    assert_refused(&[entry(b"L", EntryType::GNULongName, 0, b"/etc/x\0"), file(b"ok")], "absolute");
    assert_refused(&[entry(b"L", EntryType::GNULongName, 0, b"a\0b\0"), file(b"ok")], "NUL");
    assert_refused(&[entry(b"../d", EntryType::Directory, 0o755, b"")], "'..'");
    assert_refused(&[file(b"./")], "is a directory with content");
}

#[test]
fn links_and_devices_are_refused() {
    for kind in [EntryType::Symlink, EntryType::Link] {
        assert_refused(&[link(b"l", kind, "/etc"), file(b"l/x")], "link");
        assert_refused(&[link(b"l", kind, "f.py")], "link");
    }
    assert_refused(&[pax(EntryType::XHeader, &[("linkpath", "/etc")]), file(b"l")], "symbolic link");
    assert_refused(
        &[entry(b"K", EntryType::GNULongLink, 0, b"/etc\0"), link(b"l", EntryType::Symlink, "x")],
        "symbolic link",
    );
    assert_refused(&[link(b"d", EntryType::Char, "")], "is a device");
    assert_refused(&[link(b"d", EntryType::Block, "")], "is a device");
    assert_refused(&[link(b"d", EntryType::Fifo, "")], "is a named pipe");
    assert_refused(&[link(b"d", EntryType::new(b'Z'), "")], "unknown kind");
}

#[test]
fn special_bits_are_refused() {
    for mode in [0o4755, 0o2755, 0o1755] {
        assert_refused(&[entry(b"run", EntryType::Regular, mode, b"")], "setuid, setgid or sticky");
        assert_refused(&[entry(b"d/", EntryType::Directory, mode, b"")], "setuid, setgid or sticky");
    }
}

#[test]
fn names_that_come_twice_are_refused() {
    assert_refused(&[file(b"f.py"), file(b"f.py")], "'f.py' is there twice");
    assert_refused(&[file(b"f.py"), file(b"./f.py")], "twice");
    assert_refused(&[file(b"a"), entry(b"a/", EntryType::Directory, 0o755, b"")], "below a file");
    assert_refused(&[file(b"a"), file(b"a/b")], "below a file");
    assert_refused(&[file(b"a/b"), file(b"a")], "twice");
    let directory = entry(b"a/", EntryType::Directory, 0o755, b"");
    assert_refused(&[directory.clone(), directory], "twice");
}

#[test]
fn tricks_with_extension_headers_are_refused() {
    assert_refused(
        &[pax(EntryType::XHeader, &[("size", "0")]), file(b"a")],
        "its size in an extension header",
    );
    assert_refused(&[pax(EntryType::XHeader, &[("path", "a"), ("path", "b")]), file(b"c")], "two names");
    assert_refused(
        &[pax(EntryType::XHeader, &[("path", "a")]), pax(EntryType::XHeader, &[("path", "b")]), file(b"c")],
        "two names",
    );
    assert_refused(
        &[
            entry(b"L", EntryType::GNULongName, 0, b"a\0"),
            pax(EntryType::XHeader, &[("path", "b")]),
            file(b"c"),
        ],
        "two names",
    );
    assert_refused(&[pax(EntryType::XGlobalHeader, &[("path", "a")]), file(b"b")], "every entry");
    assert_refused(&[pax(EntryType::XGlobalHeader, &[("size", "1")]), file(b"b")], "its size");
    assert_refused(&[pax(EntryType::XHeader, &[("GNU.sparse.major", "1")]), file(b"a")], "sparse");
    assert_refused(&[entry(b"s", EntryType::GNUSparse, 0o644, b"")], "sparse");
    assert_refused(&[entry(b"x", EntryType::XHeader, 0, b"nonsense"), file(b"a")], "cannot be read");
    assert_refused(
        &[entry(b"L", EntryType::GNULongName, 0, &[b'a'; 70_000]), file(b"a")],
        "longer than any path",
    );
    assert_refused(&[entry(b"L", EntryType::GNULongName, 0, b"a\0")], "cut off");
}

#[test]
fn more_than_the_bounds_is_refused() {
    let many: Vec<_> = (0..=BOUNDS.n_entries).map(|n| file(n.to_string().as_bytes())).collect();
    assert_refused(&many, "more than 200 files");
    let noise: Vec<u8> =
        std::iter::successors(Some(1_u32), |n| Some(n.wrapping_mul(1_664_525).wrapping_add(1_013_904_223)))
            .map(|n| (n >> 24) as u8)
            .take(19 * 1024 * 1024)
            .collect();
    assert_refused(&[entry(b"big", EntryType::Regular, 0o644, &noise)], "larger than 18 MiB");
    assert_refused(&[file(b"a/b/c/d/e/f/g/h/i/j")], "directories deep");
    assert_refused(
        &[entry(b"bomb", EntryType::Regular, 0o644, &vec![0; 17 * 1024 * 1024])],
        "packed more than 100 times",
    );
    let padding = vec![0_u8; 17 * 1024 * 1024];
    assert!(refused(&gzip(&[file(b"a"), padding].concat())).contains("packed more than"));
}

#[test]
fn a_size_that_is_a_lie_is_refused() {
    let mut bytes = file(b"a");
    let mut header = Header::from_byte_slice(&bytes[..512]).clone();
    header.set_size(1 << 40);
    header.set_cksum();
    bytes[..512].copy_from_slice(header.as_bytes());
    assert_refused(&[bytes], "cut off");
    let mut negative = file(b"a");
    negative[124..136].fill(0xff);
    assert!(!refused(&packed(&[negative])).is_empty());
}

#[test]
fn what_is_cut_off_is_refused_wherever() {
    let whole = packed(&[entry(b"f.py", EntryType::Regular, 0o644, &[7; 3000]), file(b"g")]);
    for length in 0..whole.len() {
        let text = refused(&whole[..length]);
        let words = ["is empty", "is not a gzip file", "was not uploaded completely"];
        assert!(words.iter().any(|words| text.contains(words)), "{length}: {text}");
    }
    assert!(refused(&gzip(&file(b"f.py"))).contains("tar archive in it is cut off"), "without an end");
    assert!(refused(&gzip(&file(b"f.py")[..700])).contains("tar archive in it is cut off"));
}

#[test]
fn each_kind_of_no_archive_is_told_what_it_is_and_what_to_do() {
    let whole = packed(&[entry(b"f.py", EntryType::Regular, 0o644, &[7; 3000])]);
    for (bytes, text) in [
        (Vec::new(), "is empty; send a file that `tar -czf` has made (with curl: --data-binary @FILE)"),
        (b"def f(event): return event\n".to_vec(), "is not a gzip file; make it with `tar -czf`"),
        (
            gzip(b"def f(event): return event\n"),
            "is a gzip file, but what is packed in it is no tar archive; make it with `tar -czf`",
        ),
        (
            gzip(&[b'x'; 100_000]),
            "is a gzip file, but what is packed in it is no tar archive; make it with `tar -czf`",
        ),
        (gzip(b""), "is a gzip file, but what is packed in it is no tar archive; make it with `tar -czf`"),
        (whole[..whole.len() / 2].to_vec(), "is cut off; it was not uploaded completely. Send it again"),
        (
            gzip(&file(b"f.py")[..600]),
            "is a whole gzip file, but the tar archive in it is cut off; pack it again with `tar -czf`",
        ),
        (
            [whole.clone(), vec![b'x'; 1000]].concat(),
            "has something after its end; pack the files again with `tar -czf`, into a new file",
        ),
        (packed(&[]), "has no files in it; pack those of the function, with `tar -czf FILE -C FOLDER .`"),
        (
            packed(&[entry(b"./", EntryType::Directory, 0o755, b"")]),
            "has no files in it; pack those of the function, with `tar -czf FILE -C FOLDER .`",
        ),
    ] {
        assert_eq!(refused(&bytes), text);
    }
    // As `curl -d @FILE` sends it: without its line ends.
    let mut mangled = whole.clone();
    mangled.truncate(whole.len() - 20);
    mangled.extend_from_slice(&[0xff; 20]);
    let text = refused(&mangled);
    assert!(text.starts_with("is damaged: ") && text.contains("--data-binary"), "{text}");
}

#[test]
fn something_after_the_end_is_refused() {
    let whole = packed(&[file(b"f.py")]);
    assert!(
        refused(&[whole.clone(), b"garbage, and quite a bit of it".to_vec()].concat())
            .contains("after its end")
    );
    assert!(refused(&[whole.clone(), packed(&[file(b"g.py")])].concat()).contains("after its end"));
    assert!(
        refused(&gzip(&[file(b"f.py"), vec![0; 1024], file(b"hidden")].concat())).contains("after its end")
    );
    let dir = tempfile::tempdir().unwrap();
    unpack_to(dir.path(), &[whole, gzip(&[0; 8192])].concat()).expect("two gzip members and zeros are fine");
}

#[test]
fn damage_is_found() {
    assert!(refused(b"PK\x03\x04 a zip file, which is longer than a header").contains("not a gzip file"));
    let plain = [file(b"f.py"), vec![0; 1024]].concat();
    assert!(refused(&plain).contains("not a gzip file"));
    let mut wrong_sum = packed(&[file(b"f.py")]);
    let at = wrong_sum.len() - 6;
    wrong_sum[at] ^= 1;
    assert!(refused(&wrong_sum).contains("damaged"));
    let mut wrong_header = file(b"f.py");
    wrong_header[0] ^= 1;
    assert!(refused(&packed(&[wrong_header])).contains("damaged"));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn no_name_leads_out(name in prop::collection::vec(prop::sample::select(b"ab./".to_vec()), 1..20)) {
        let dir = tempfile::tempdir().unwrap();
        let taken = unpack_to(dir.path(), &packed(&[file(&name)])).is_ok();
        let names: Vec<_> = fs::read_dir(dir.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        prop_assert_eq!(names, ["place"]);
        prop_assert_eq!(taken, fs::read_dir(dir.path().join("place")).unwrap().next().is_some());
    }

    #[test]
    fn any_damage_is_survived(at in 0_usize..2048, with in any::<u8>()) {
        let mut bytes = [file(b"f.py"), pax(EntryType::XHeader, &[("path", "a/b")]), file(b"g")].concat();
        bytes.resize(bytes.len() + 1024, 0);
        let at = at % bytes.len();
        bytes[at] = with;
        let dir = tempfile::tempdir().unwrap();
        let _ = unpack_to(dir.path(), &gzip(&bytes));
        let names: Vec<_> = fs::read_dir(dir.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        prop_assert_eq!(names, ["place"]);
    }
}

#[test]
fn the_builder_of_the_tar_crate_is_understood() {
    let mut tar = Builder::new(Vec::new());
    let mut header = Header::new_ustar();
    header.set_size(3);
    header.set_mode(0o644);
    tar.append_data(&mut header, "f.py", &b"abc"[..]).unwrap();
    let dir = tempfile::tempdir().unwrap();
    unpack_to(dir.path(), &gzip(&tar.into_inner().unwrap())).unwrap();
}
