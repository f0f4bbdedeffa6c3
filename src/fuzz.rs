//! Where bytes of strangers come in, one function per door, for the targets in `integration/fuzz`.
//!
//! Each gives whatever it gets to the code that reads it in the worker, and asserts what must be so of what was
//! taken. Built for fuzzing, and for the test that the corpus still passes; no program has this in it.

use std::path::Path;
use std::sync::LazyLock;

use flate2::Crc;

use crate::config::{Config, Document};
use crate::frame::{HEADER_BYTES, Header, ResponseHead};
use crate::packages;
use crate::registry::{self, FunctionYaml};
use crate::{http, sandbox};

/// What a sandbox or a zygote says: a frame, its head, a message of the control socket. And what a client says over a
/// WebSocket.
///
/// # Panics
/// When something was taken that is not as promised.
pub fn frames(bytes: &[u8]) {
    if let Some((first, rest)) = bytes.split_first_chunk::<HEADER_BYTES>()
        && let Ok(header) = Header::decode(first)
    {
        assert_eq!(header.encode(), *first, "a header has one spelling");
        assert_eq!(header.n_body() + usize::from(header.n_head), header.n_payload as usize);
        if let Ok(head) = ResponseHead::parse(rest) {
            assert!((100..1000).contains(&head.status));
            assert!(head.headers().all(|(name, value)| !name.contains(&b'\n') && !value.contains(&b'\n')));
        }
    }
    sandbox::fuzz_control_message(bytes);
    http::fuzz_socket(bytes);
}

/// What a function prints.
///
/// # Panics
/// When something was taken that is not as promised.
pub fn logs(bytes: &[u8]) {
    let text = sandbox::fuzz_log_lines(bytes);
    assert!(!text.chars().any(|c| c.is_control() && !matches!(c, '\n' | '\t')), "nothing steers a terminal");
}

/// An upload: as it came, and, so that not all of the work goes into finding valid checksums, wrapped into a valid gzip.
///
/// # Panics
/// When something was taken that is not as promised.
pub fn archive(bytes: &[u8]) {
    registry::fuzz_archive(bytes);
    registry::fuzz_archive(&stored(bytes));
}

/// A gzip file of blocks that are stored as they are (RFC 1952, RFC 1951): an encoder would take most of the time.
fn stored(bytes: &[u8]) -> Vec<u8> {
    let mut gz = vec![0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 255];
    for block in bytes.chunks(usize::from(u16::MAX)) {
        let n = block.len() as u16;
        gz.push(0);
        gz.extend(n.to_le_bytes());
        gz.extend((!n).to_le_bytes());
        gz.extend(block);
    }
    // An empty last block.
    gz.extend([1, 0, 0, 255, 255]);
    let mut crc = Crc::new();
    crc.update(bytes);
    gz.extend(crc.sum().to_le_bytes());
    gz.extend((bytes.len() as u32).to_le_bytes());
    gz
}

/// Settings: `config.json` and what `-o` makes of it, a drawn tree of zygotes, a function's `ol.yaml` and `.env`.
///
/// # Panics
/// When something was taken that is not as promised.
pub fn settings(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    if let Ok(value) = crate::json::read(text) {
        drop(Config::from_json(&value, Path::new("config.json"), Path::new("/ol")));
        // A text would be the name of a file.
        if value.is_object() {
            drop(packages::tree_file::read(&value));
        }
    }
    // The same each time: to make it anew would be most of the work.
    static DEFAULTS: LazyLock<Document> = LazyLock::new(|| {
        Document::made(Config::default_for(Path::new("/ol"), None), Path::new("config.json"))
    });
    if let Ok(document) = DEFAULTS.with_options(text) {
        drop(Config::from_document(&document, Path::new("/ol")));
    }
    if let Ok(mut function) = FunctionYaml::parse(text).map(|yaml| yaml.config) {
        function.add_variables(registry::fuzz_env_file(text));
        assert!(
            function
                .environment
                .iter()
                .all(|(name, value)| !name.contains(['=', '\0']) && !value.contains('\0'))
        );
    }
    registry::fuzz_env_file(text);
}

/// The files that name packages: `requirements.txt`, `packages.txt`, and each of their lines.
///
/// # Panics
/// When something was taken that is not as promised.
pub fn packages(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    for line in registry::fuzz_requirements(text) {
        assert!(!line.contains('\n'), "{line:?}");
        // The name becomes the name of a directory.
        if let Some(name) = packages::fuzz_line(&line) {
            assert!(packages::normalise(&name).as_deref() == Some(&name), "{name:?} has another normal form");
            assert!(!name.contains(['/', '.']) && !name.is_empty(), "{name:?}");
        }
    }
}

/// The path of a request: which function is meant, and what is left for it.
///
/// # Panics
/// When something was taken that is not as promised.
pub fn paths(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    if let Some((name, below)) = http::fuzz_path(text) {
        assert!(!name.as_str().starts_with('.') && !name.as_str().contains(['/', '\\', '%', '\0']), "{name}");
        assert!(below.starts_with('/'));
        assert!(text.ends_with(below) || below == "/", "what is left is left as it was");
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use rand::rngs::StdRng;
    use rand::{Rng, SeedableRng};

    use super::*;

    /// How often each file of the corpus is spoilt: all of it takes some seconds.
    const N_SPOILT: usize = 500;

    type Door = fn(&[u8]);

    fn doors() -> [(&'static str, Door); 6] {
        [
            ("frames", frames),
            ("logs", logs),
            ("archive", archive),
            ("settings", settings),
            ("packages", packages),
            ("paths", paths),
        ]
    }

    fn corpus(name: &str) -> Vec<Vec<u8>> {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("integration/fuzz/corpus").join(name);
        let files: Vec<_> =
            fs::read_dir(folder).unwrap().flatten().map(|file| fs::read(file.path()).unwrap()).collect();
        assert!(!files.is_empty(), "nothing for {name}");
        files
    }

    /// Some bytes changed, doubled, or taken away; or the beginning of this one with the end of another.
    fn spoilt(mut bytes: Vec<u8>, other: &[u8], random: &mut StdRng) -> Vec<u8> {
        for _ in 0..random.random_range(1..4) {
            let (from, to) = (random.random_range(0..=bytes.len()), random.random_range(0..=bytes.len()));
            let (from, to) = (from.min(to), from.max(to));
            match random.random_range(0..5) {
                0 => bytes[from..to].iter_mut().take(4).for_each(|byte| *byte = random.random()),
                1 => drop(bytes.drain(from..to)),
                2 => bytes = [&bytes[..to], &bytes[from..]].concat(),
                3 => bytes.truncate(to),
                _ => bytes = [&bytes[..from], &other[from.min(other.len())..]].concat(),
            }
        }
        bytes
    }

    #[test]
    fn what_the_fuzzers_have_found_and_where_they_begin_is_taken_without_a_crash() {
        for (name, door) in doors() {
            corpus(name).iter().for_each(|bytes| door(bytes));
        }
    }

    #[test]
    fn what_is_stored_is_unpacked_as_it_was() {
        use std::io::Read;

        for bytes in [Vec::new(), b"x".to_vec(), (0..=255).cycle().take(100_000).collect()] {
            let mut unpacked = Vec::new();
            flate2::read::GzDecoder::new(&stored(&bytes)[..]).read_to_end(&mut unpacked).unwrap();
            assert_eq!(unpacked, bytes);
        }
    }

    #[test]
    fn bytes_that_are_near_to_decent_ones_crash_nobody() {
        // The same ones each time: chance is for `make fuzz`.
        let mut random = StdRng::seed_from_u64(7);
        for (name, door) in doors() {
            let all = corpus(name);
            for (bytes, other) in all.iter().zip(all.iter().cycle().skip(1)) {
                for _ in 0..N_SPOILT {
                    door(&spoilt(bytes.clone(), other, &mut random));
                }
            }
        }
    }
}
