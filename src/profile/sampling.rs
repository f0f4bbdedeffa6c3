//! The allocator: the system's, which now and then notes who has asked for memory, once it is told to.
//!
//! ```text
//!   alloc ─▶ System ─▶ so many bytes less until the next note ── below zero ─▶ the stack, by address, in LIVE
//!   dealloc ─▶ is there a note in this address's slot? ── yes ─▶ LIVE forgets the address ─▶ System
//! ```
//!
//! As in Go's runtime and in tcmalloc: on average once in [`BYTES_PER_NOTE`], by chance, so that no pattern of allocations is
//! passed over. Switched off, it costs a look at a flag. Why not another allocator: `docs/decisions/0019-heap-profiles.md`.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::collections::HashMap;
use std::hash::{BuildHasherDefault, DefaultHasher};
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// What is asked for between two notes, on average: as in Go. A note takes some 10 µs, so a worker that allocates 100 MB in a second spends
/// 2 ms of it on notes.
pub(super) const BYTES_PER_NOTE: f64 = 524_288.0;
/// Of a stack, from its end: that of a call through the HTTP server has some forty.
const FRAMES_MAX: usize = 96;
/// Notes of memory in use: at the average rate these are 32 GB. What comes then is not noted.
const NOTES_MAX: usize = 1 << 16;
/// What tells nearly always that an address has no note, without a lock: 16 KiB, of which a worker that has 200 MB in use
/// fills one part in forty.
const N_SLOTS: usize = 1 << 14;

/// The allocator of all programs of this crate.
#[derive(Debug)]
pub(super) struct Sampling;

/// Who has asked for memory that is in use.
#[derive(Debug)]
struct Note {
    bytes: usize,
    /// Return addresses, the innermost first.
    stack: Box<[usize]>,
}

/// What is estimated of one stack.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub(super) struct InUse {
    pub(super) n: f64,
    pub(super) bytes: f64,
}

type Notes = HashMap<usize, Note, BuildHasherDefault<DefaultHasher>>;

static IS_ON: AtomicBool = AtomicBool::new(false);
static LIVE: Mutex<Notes> = Mutex::new(HashMap::with_hasher(BuildHasherDefault::new()));
/// How many notes there are of the addresses of each slot. One that is full stays so: then it says nothing.
static SLOTS: [AtomicU8; N_SLOTS] = [const { AtomicU8::new(0) }; N_SLOTS];
/// What threads begin their chance with.
static SEED: AtomicU64 = AtomicU64::new(0x9e37_79b9_7f4a_7c15);

/// What a thread has of its own. Without a destructor, so that it is there when others of the thread's have theirs.
struct Thread {
    /// Bytes until the next note.
    left: Cell<i64>,
    /// Zero: it has not begun yet.
    random: Cell<u64>,
    /// It is at work here: what it asks for meanwhile has no note.
    is_inside: Cell<bool>,
}

thread_local! {
    static THREAD: Thread =
        const { Thread { left: Cell::new(0), random: Cell::new(0), is_inside: Cell::new(false) } };
}

/// Notes are taken from now on.
pub(super) fn switch_on() {
    IS_ON.store(true, Ordering::Relaxed);
}

/// What is in use, by stack. Of memory from before it was switched on there is nothing.
pub(super) fn in_use() -> HashMap<Box<[usize]>, InUse> {
    inside(|_| {
        let mut found: HashMap<Box<[usize]>, InUse> = HashMap::new();
        for note in notes().values() {
            let one = found.entry(note.stack.clone()).or_default();
            // Of allocations of a size, as many as this stand for one that was noted.
            let weight = 1.0 / -(-(note.bytes as f64) / BYTES_PER_NOTE).exp_m1();
            one.n += weight;
            one.bytes += weight * note.bytes as f64;
        }
        found
    })
    .unwrap_or_default()
}

fn notes() -> MutexGuard<'static, Notes> {
    // Nothing panics that holds it.
    LIVE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Does something for which this thread's own allocations are not noted. `None`: it is doing so already.
fn inside<T>(act: impl FnOnce(&Thread) -> T) -> Option<T> {
    THREAD.with(|thread| {
        if thread.is_inside.replace(true) {
            return None;
        }
        let done = act(thread);
        thread.is_inside.set(false);
        Some(done)
    })
}

// Not inlined: there are so many calls that the program would grow by 2 MB, for a nanosecond of each.
// SAFETY: the system's allocator does all of it; what is noted beside does not touch the memory.
unsafe impl GlobalAlloc for Sampling {
    #[inline(never)]
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // SAFETY: what the caller has promised is what the system wants.
        let pointer = unsafe { System.alloc(layout) };
        taken(pointer, layout.size());
        pointer
    }

    #[inline(never)]
    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        // SAFETY: as above.
        let pointer = unsafe { System.alloc_zeroed(layout) };
        taken(pointer, layout.size());
        pointer
    }

    #[inline(never)]
    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // Before: a moment later the address may be somebody else's.
        given(pointer);
        // SAFETY: as above.
        unsafe { System.dealloc(pointer, layout) };
    }

    #[inline(never)]
    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, new_size: usize) -> *mut u8 {
        given(pointer);
        // SAFETY: as above. If it fails, the old memory is in use still, and its note is lost, which is no harm.
        let pointer = unsafe { System.realloc(pointer, layout, new_size) };
        taken(pointer, new_size);
        pointer
    }
}

#[inline]
fn taken(pointer: *mut u8, bytes: usize) {
    if IS_ON.load(Ordering::Relaxed) {
        THREAD.with(|thread| {
            // No size is beyond isize::MAX.
            let left = thread.left.get().saturating_sub(bytes as i64);
            thread.left.set(left);
            if left < 0 {
                note(pointer as usize, bytes);
            }
        });
    }
}

#[inline]
fn given(pointer: *mut u8) {
    let address = pointer as usize;
    if IS_ON.load(Ordering::Relaxed) && slot(address).load(Ordering::Relaxed) != 0 {
        forget(address);
    }
}

/// Neighbours have slots far from each other; what all addresses have in common at their end does not count.
fn slot(address: usize) -> &'static AtomicU8 {
    let hash = (address as u64 >> 4).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    &SLOTS[(hash >> 50) as usize % N_SLOTS]
}

#[cold]
#[inline(never)]
fn note(address: usize, bytes: usize) {
    inside(|thread| {
        let is_first = thread.random.get() == 0;
        let gap = thread.gap();
        // A thread that has only begun is where it would be had it been counted before.
        thread.left.set(if is_first { gap.saturating_add(thread.left.get()) } else { gap });
        if address == 0 || (is_first && thread.left.get() >= 0) {
            return;
        }
        if is_first {
            thread.left.set(thread.gap());
        }
        let stack = stack();
        let mut notes = notes();
        if notes.len() < NOTES_MAX && notes.insert(address, Note { bytes, stack }).is_none() {
            let _ = slot(address).fetch_update(Ordering::Relaxed, Ordering::Relaxed, |n| n.checked_add(1));
        }
    });
}

#[cold]
#[inline(never)]
fn forget(address: usize) {
    inside(|_| {
        let found = notes().remove(&address);
        if found.is_some() {
            let less = |n: u8| if n == u8::MAX { None } else { n.checked_sub(1) };
            let _ = slot(address).fetch_update(Ordering::Relaxed, Ordering::Relaxed, less);
        }
    });
}

fn stack() -> Box<[usize]> {
    let (mut frames, mut n) = ([0; FRAMES_MAX], 0);
    let each = |frame: &backtrace::Frame| {
        frames[n] = frame.ip() as usize;
        n += 1;
        n < FRAMES_MAX
    };
    // SAFETY: what others of this crate would have to be kept from is looking up symbols, which this does not do. With its lock,
    // threads would wait here while somebody looks up those of a profile.
    unsafe { backtrace::trace_unsynchronized(each) };
    frames[..n].into()
}

impl Thread {
    /// Bytes until another note: by chance, so that each byte is as likely as every other one to be the next.
    fn gap(&self) -> i64 {
        let mut x = self.random.get();
        while x == 0 {
            x = SEED.fetch_add(0x9e37_79b9_7f4a_7c15, Ordering::Relaxed);
        }
        // Marsaglia's xorshift.
        x ^= x << 13;
        x ^= x >> 7;
        x ^= x << 17;
        self.random.set(x);
        let chance = ((x >> 11) + 1) as f64 / (1_u64 << 53) as f64;
        (-chance.ln() * BYTES_PER_NOTE) as i64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gaps_are_as_long_as_they_should_be_on_average() {
        let thread = Thread { left: Cell::new(0), random: Cell::new(0), is_inside: Cell::new(false) };
        let n = 100_000;
        let mean = (0..n).map(|_| thread.gap() as f64).sum::<f64>() / f64::from(n);
        // Ten standard deviations.
        assert!((mean / BYTES_PER_NOTE - 1.0).abs() < 0.032, "{mean}");
    }

    #[test]
    fn a_slot_that_is_full_stays_so_and_others_count() {
        // Addresses that nobody is given: user space ends far below.
        let addresses: Vec<usize> = (1..).map(|n| usize::MAX - 16 * n).take(300).collect();
        let one = slot(addresses[0]);
        assert!(
            addresses
                .iter()
                .map(|address| slot(*address) as *const _)
                .collect::<std::collections::HashSet<_>>()
                .len()
                > 250
        );
        let add = |n: u8| n.checked_add(1);
        for _ in 0..300 {
            let _ = one.fetch_update(Ordering::Relaxed, Ordering::Relaxed, add);
        }
        assert_eq!(one.load(Ordering::Relaxed), u8::MAX);
        forget(addresses[0]);
        assert_eq!(one.load(Ordering::Relaxed), u8::MAX);
    }
}
