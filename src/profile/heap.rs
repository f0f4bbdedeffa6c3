//! Where the worker's own memory goes: which stacks have asked for what is in use.
//!
//! Like that of Go's runtime it is kept all the time, from notes that [`sampling`] takes, so that nobody has to have begun
//! anything when a worker is found to be large.

use std::collections::HashMap;
use std::sync::{Mutex, TryLockError};
use std::time::{SystemTime, UNIX_EPOCH};

use pprof::protos::{Function, Line, Location, Profile, Sample, ValueType};

use super::{ProfileError, packed, sampling};

/// What is fuzzed has the allocator that its sanitizers know.
#[cfg(not(fuzzing))]
#[global_allocator]
static ALLOCATOR: sampling::Sampling = sampling::Sampling;

/// Each takes some time and memory for its symbols, and nobody needs two.
static TAKING: Mutex<()> = Mutex::new(());

/// The profile of this process's memory. A clone is the same.
#[derive(Debug, Clone)]
pub struct HeapProfiler(());

impl HeapProfiler {
    /// From now on there are notes; they end with the process.
    #[must_use]
    pub fn start() -> Self {
        sampling::switch_on();
        Self(())
    }

    /// What is in use now, in the form of Go's tools: `pprof`, gzipped. Blocks for as long as symbols are looked up.
    ///
    /// # Errors
    /// When another one is being taken.
    pub fn take(&self) -> Result<Vec<u8>, ProfileError> {
        let _taking = match TAKING.try_lock() {
            Ok(taking) => taking,
            Err(TryLockError::Poisoned(taking)) => taking.into_inner(),
            Err(TryLockError::WouldBlock) => return Err(ProfileError::Taking),
        };
        let mut book = Book::default();
        for (stack, in_use) in sampling::in_use() {
            book.add(&stack, in_use);
        }
        packed(&book.close())
    }
}

/// A profile that is being written: texts and places stand in it once, and are referred to by number.
#[derive(Default)]
struct Book {
    profile: Profile,
    texts: HashMap<String, i64>,
    functions: HashMap<(i64, i64), u64>,
    locations: HashMap<usize, (u64, bool)>,
}

impl Book {
    fn add(&mut self, stack: &[usize], in_use: sampling::InUse) {
        let places: Vec<_> = stack.iter().map(|&address| self.location(address)).collect();
        // Of no interest is how the stack came to be noted.
        let start = places.iter().rposition(|(_, is_ours)| *is_ours).map_or(0, |at| at + 1);
        self.profile.sample.push(Sample {
            location_id: places[start..].iter().map(|(id, _)| *id).collect(),
            value: vec![in_use.n.round() as i64, in_use.bytes.round() as i64],
            ..Sample::default()
        });
    }

    fn close(mut self) -> Profile {
        let mut kind = |ty: &str, unit: &str| ValueType { ty: self.text(ty), unit: self.text(unit) };
        let (n, bytes, period) =
            (kind("inuse_objects", "count"), kind("inuse_space", "bytes"), kind("space", "bytes"));
        let default = bytes.ty;
        let mut profile = self.profile;
        profile.sample_type = vec![n, bytes];
        profile.default_sample_type = default;
        profile.period_type = Some(period);
        profile.period = sampling::BYTES_PER_NOTE as i64;
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        profile.time_nanos = i64::try_from(now.as_nanos()).unwrap_or(i64::MAX);
        let mut texts: Vec<_> = self.texts.into_iter().collect();
        texts.sort_by_key(|(_, at)| *at);
        // The first one is the empty one, by definition.
        profile.string_table =
            std::iter::once(String::new()).chain(texts.into_iter().map(|(text, _)| text)).collect();
        profile
    }

    fn text(&mut self, text: &str) -> i64 {
        let next = self.texts.len() as i64 + 1;
        *self.texts.entry(text.to_owned()).or_insert(next)
    }

    /// The place that a call returns to, and whether that is in the allocator.
    fn location(&mut self, address: usize) -> (u64, bool) {
        if let Some(&found) = self.locations.get(&address) {
            return found;
        }
        let id = self.locations.len() as u64 + 1;
        let (mut line, mut is_ours) = (Vec::new(), false);
        // The call itself is before the address that it returns to.
        backtrace::resolve(std::ptr::without_provenance_mut(address.saturating_sub(1)), |symbol| {
            let name = symbol.name().map_or_else(|| "?".to_owned(), |name| format!("{name:#}"));
            is_ours |= name.contains("profile::sampling::");
            let file = symbol.filename().map(|path| path.to_string_lossy().into_owned()).unwrap_or_default();
            let function_id = self.function(&name, &file);
            line.push(Line { function_id, line: symbol.lineno().map_or(0, i64::from) });
        });
        self.profile.location.push(Location { id, address: address as u64, line, ..Location::default() });
        self.locations.insert(address, (id, is_ours));
        (id, is_ours)
    }

    fn function(&mut self, name: &str, file: &str) -> u64 {
        let key = (self.text(name), self.text(file));
        let next = self.functions.len() as u64 + 1;
        *self.functions.entry(key).or_insert_with(|| {
            let (name, filename) = key;
            self.profile.function.push(Function { id: next, name, filename, ..Function::default() });
            next
        })
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use pprof::protos::Message;

    use super::*;

    #[inline(never)]
    fn somebody_who_keeps_much() -> Vec<Vec<u8>> {
        (0..8).map(|_| vec![1; 8 << 20]).collect()
    }

    #[inline(never)]
    fn somebody_who_keeps_little(n: usize) -> Vec<Box<[u8; 4096]>> {
        (0..n).map(|_| Box::new([1; 4096])).collect()
    }

    /// What is in use, in objects and in bytes, of stacks in which there is such a function.
    fn of(packed: &[u8], function: &str) -> (i64, i64) {
        let mut bytes = Vec::new();
        flate2::read::GzDecoder::new(packed).read_to_end(&mut bytes).unwrap();
        let profile = Profile::decode(&bytes[..]).unwrap();
        let text = |at: i64| profile.string_table[usize::try_from(at).unwrap()].as_str();
        let kinds: Vec<_> = profile.sample_type.iter().map(|kind| (text(kind.ty), text(kind.unit))).collect();
        assert_eq!(kinds, [("inuse_objects", "count"), ("inuse_space", "bytes")]);
        assert!(!profile.function.iter().any(|one| text(one.name).contains("sampling::stack") && {
            let places = profile
                .location
                .iter()
                .filter(|place| place.line.iter().any(|line| line.function_id == one.id));
            places
                .into_iter()
                .any(|place| profile.sample.iter().any(|sample| sample.location_id.contains(&place.id)))
        }));
        let functions = profile.function.iter().filter(|one| text(one.name).contains(function));
        let functions: Vec<_> = functions.map(|one| one.id).collect();
        let is_meant =
            |location: &&Location| location.line.iter().any(|line| functions.contains(&line.function_id));
        let locations: Vec<_> = profile.location.iter().filter(is_meant).map(|one| one.id).collect();
        let samples = profile.sample.iter();
        let meant = samples.filter(|sample| sample.location_id.iter().any(|id| locations.contains(id)));
        meant.fold((0, 0), |(n, bytes), sample| (n + sample.value[0], bytes + sample.value[1]))
    }

    #[test]
    fn a_profile_of_the_memory_says_who_has_what_is_in_use() {
        let profiler = HeapProfiler::start();
        let kept = std::hint::black_box(somebody_who_keeps_much());
        // Each is so large that it is certainly noted, and counts as what it is.
        let (n, bytes) = of(&profiler.take().unwrap(), "somebody_who_keeps_much");
        assert_eq!((n, bytes >> 20), (8, 64));
        drop(kept);
        assert_eq!(of(&profiler.take().unwrap(), "somebody_who_keeps_much"), (0, 0));
        // Small ones are estimated: of 64 MB, some 128 are noted. Six standard deviations.
        let kept = std::hint::black_box(somebody_who_keeps_little(1 << 14));
        let (n, bytes) = of(&profiler.take().unwrap(), "somebody_who_keeps_little");
        let (n, bytes) = (n as f64 / f64::from(1 << 14), bytes as f64 / f64::from(64 << 20));
        assert!((n - 1.0).abs() < 0.53 && (bytes - 1.0).abs() < 0.53, "{n} {bytes}");
        // Given back by another thread.
        std::thread::spawn(move || drop(kept)).join().unwrap();
        assert_eq!(of(&profiler.take().unwrap(), "somebody_who_keeps_little"), (0, 0));
    }
}
