//! The search: depth first, and a child process for each step. `fork` is how a node is cloned that holds what can't be
//! (half a handshake, a key inside a foreign library): the child has a copy of everything, takes one step, and goes on from
//! there. What all processes share is a table of the states that have been seen.
#![allow(unsafe_code)] // fork, waitpid, mmap: for a test of one thread

use std::{
    io::Write as _,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::atomic::{AtomicBool, AtomicI64, AtomicU64, AtomicUsize, Ordering::Relaxed},
};

use super::world::{Choice, World};

const SEEN: usize = 1 << 22;
const IDLE: usize = 1 << 20;
const WORDS: usize = 1 << 14;
/// Slots that are tried for one entry.
const PROBES: usize = 256;

/// Memory that all processes of a search see. All zero is where it begins.
#[repr(C)]
struct Shared {
    states: AtomicU64,
    transitions: AtomicU64,
    idle_steps: AtomicU64,
    known: AtomicU64,
    skipped: AtomicU64,
    healed: AtomicU64,
    heal_every: AtomicU64,
    workers: AtomicI64,
    over: AtomicBool,
    late: AtomicBool,
    said: AtomicUsize,
    words: [std::sync::atomic::AtomicU8; WORDS],
    seen: [AtomicU64; SEEN],
    idle: [AtomicU64; IDLE],
}

/// What a search to one depth has found.
#[derive(Debug, Clone)]
pub(super) struct Found {
    pub states: u64,
    pub transitions: u64,
    /// Steps that changed nothing, or led where the search had been.
    pub pruned: u64,
    /// States at the end that were left to the network alone, to see that packets pass again.
    pub healed: u64,
    pub seconds: f64,
    /// The time was over before all was seen.
    pub late: bool,
    /// What must not be, and the steps that led there.
    pub fault: Option<String>,
}

struct Arena(*mut Shared);

impl Arena {
    fn new() -> Self {
        let (length, flags) = (size_of::<Shared>(), libc::MAP_SHARED | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE);
        // SAFETY: a new mapping of no file, where the kernel likes; nothing else refers to it.
        let at = unsafe { libc::mmap(std::ptr::null_mut(), length, libc::PROT_READ | libc::PROT_WRITE, flags, -1, 0) };
        assert_ne!(at, libc::MAP_FAILED, "{}", std::io::Error::last_os_error());
        Self(at.cast())
    }

    fn shared(&self) -> &Shared {
        // SAFETY: the mapping is as long as a `Shared`, page-aligned, zeroed, and lives as long as `self`; all of it is atomics,
        // for which any bits are a value and any process may write.
        unsafe { &*self.0 }
    }
}

impl Drop for Arena {
    fn drop(&mut self) {
        // SAFETY: this is the mapping that `new` has made, and no reference outlives `self`.
        unsafe { libc::munmap(self.0.cast(), size_of::<Shared>()) };
    }
}

impl Shared {
    /// Whether there is more to see from this state with `left` steps left than has been seen.
    fn enter(&self, state: u64, left: u32) -> bool {
        let (key, value) = (state & !0xff, state & !0xff | u64::from(left.min(254) + 1));
        for i in 0..PROBES {
            let slot = &self.seen[((state >> 20) as usize).wrapping_add(i) % SEEN];
            let there = slot.load(Relaxed);
            if there == 0 {
                match slot.compare_exchange(0, value, Relaxed, Relaxed) {
                    Ok(_) => {
                        self.states.fetch_add(1, Relaxed);
                        return true;
                    }
                    Err(other) if other & !0xff == key => return other < value,
                    Err(_) => {}
                }
            } else if there & !0xff == key {
                return slot.fetch_max(value, Relaxed) < value;
            }
        }
        self.report("the table of states is full");
        false
    }

    fn is_idle(&self, key: u64) -> bool {
        let slots = (0..PROBES).map(|i| self.idle[(key as usize).wrapping_add(i) % IDLE].load(Relaxed));
        slots.take_while(|there| *there != 0).any(|there| there == key)
    }

    fn set_idle(&self, key: u64) {
        for i in 0..PROBES {
            match self.idle[(key as usize).wrapping_add(i) % IDLE].compare_exchange(0, key, Relaxed, Relaxed) {
                Ok(_) => return,
                Err(there) if there == key => return,
                Err(_) => {}
            }
        }
    }

    fn report(&self, words: &str) {
        if self.over.swap(true, Relaxed) {
            return;
        }
        let bytes = &words.as_bytes()[..words.len().min(WORDS)];
        bytes.iter().zip(&self.words).for_each(|(byte, at)| at.store(*byte, Relaxed));
        self.said.store(bytes.len(), Relaxed);
    }

    fn reported(&self) -> Option<String> {
        let bytes: Vec<u8> = self.words[..self.said.load(Relaxed)].iter().map(|b| b.load(Relaxed)).collect();
        self.over.load(Relaxed).then(|| String::from_utf8_lossy(&bytes).into_owned())
    }
}

fn wait_for(child: libc::pid_t, flags: i32) -> libc::pid_t {
    let mut status = 0;
    // SAFETY: `status` is ours; the children are.
    unsafe { libc::waitpid(child, &raw mut status, flags) }
}

/// A library of cryptography that finds its generator in a forked child makes a new one, which takes longer than all else
/// here. Siblings are alternatives of which one is real: they may draw the same numbers.
fn share_generators() {
    let maps = std::fs::read_to_string("/proc/self/smaps").unwrap_or_default();
    let mut range = None;
    for line in maps.lines() {
        let bounds = line.split(' ').next().and_then(|word| word.split_once('-'));
        let parsed =
            bounds.and_then(|(a, b)| Some((usize::from_str_radix(a, 16).ok()?, usize::from_str_radix(b, 16).ok()?)));
        range = parsed.or(range);
        let (Some((start, end)), true) = (range, line.starts_with("VmFlags:") && line.contains(" wf")) else {
            continue;
        };
        // SAFETY: changes what a fork makes of a mapping, and nothing in this process.
        unsafe { libc::madvise(start as *mut libc::c_void, end - start, libc::MADV_KEEPONFORK) };
    }
}

/// Everything that can happen in `left` steps.
fn walk(shared: &Shared, world: &mut World, left: u32, end: Option<std::time::Instant>) {
    let mut children = 0;
    let (before, marks) = (world.fingerprint(), world.marks());
    for choice in world.choices() {
        if shared.over.load(Relaxed) || shared.late.load(Relaxed) {
            break;
        }
        if end.is_some_and(|end| std::time::Instant::now() >= end) {
            shared.late.store(true, Relaxed);
            break;
        }
        let idle = world.idle_key(choice, &marks);
        if idle.is_some_and(|key| shared.is_idle(key)) {
            shared.skipped.fetch_add(1, Relaxed);
            continue;
        }
        let has_room = shared.workers.fetch_sub(1, Relaxed) > 0;
        if !has_room {
            shared.workers.fetch_add(1, Relaxed);
        }
        let _ = std::io::stdout().flush();
        // SAFETY: this process has one thread that does anything; the other one, of the test harness, waits for it and
        // holds no lock. The child ends by `_exit` and never returns to the harness.
        match unsafe { libc::fork() } {
            0 => {
                let took = catch_unwind(AssertUnwindSafe(|| step(shared, world, (choice, before, idle), left, end)));
                if took.is_err() {
                    shared.report(&format!("a panic\n  {}", world.history.join("\n  ")));
                }
                if has_room {
                    shared.workers.fetch_add(1, Relaxed);
                }
                // SAFETY: ends the child, and runs nothing that the harness has registered.
                unsafe { libc::_exit(0) }
            }
            -1 => {
                shared.report(&format!("fork: {}", std::io::Error::last_os_error()));
                break;
            }
            child if has_room => {
                children += 1;
                let _ = child;
            }
            child => {
                wait_for(child, 0);
            }
        }
        while children > 0 && wait_for(-1, libc::WNOHANG) > 0 {
            children -= 1;
        }
    }
    if children > 0 {
        // While this one waits, another may work.
        shared.workers.fetch_add(1, Relaxed);
        while wait_for(-1, 0) > 0 {}
        shared.workers.fetch_sub(1, Relaxed);
    }
}

/// In a process of its own: one step, and all that follow. `before` is what is gone on from, and `idle` what is remembered
/// if the step changes nothing.
fn step(
    shared: &Shared,
    world: &mut World,
    (choice, before, idle): (Choice, u64, Option<u64>),
    left: u32,
    end: Option<std::time::Instant>,
) {
    world.act(choice);
    shared.transitions.fetch_add(1, Relaxed);
    if let Some(fault) = world.ledger.faults.first() {
        shared.report(&format!("{fault}\n  {}", world.history.join("\n  ")));
        return;
    }
    let after = world.fingerprint();
    if after == before {
        shared.idle_steps.fetch_add(1, Relaxed);
        idle.into_iter().for_each(|key| shared.set_idle(key));
    } else if !shared.enter(after, left - 1) {
        shared.known.fetch_add(1, Relaxed);
    } else if left > 1 {
        walk(shared, world, left - 1, end);
    } else if after.is_multiple_of(shared.heal_every.load(Relaxed)) {
        shared.healed.fetch_add(1, Relaxed);
        if !world.heals() {
            shared.report(&format!("it does not heal\n  {}", world.history.join("\n  ")));
        }
    }
}

/// Searches everything that can happen in `depth` steps, with a process for each processor. Of `heal_every` states at the end, one
/// is left to the network alone.
pub(super) fn search(world: &mut World, depth: u32, heal_every: u64, end: Option<std::time::Instant>) -> Found {
    // The generator is there from its first use on.
    assert!(crate::crypto::KemSecret::generate().is_ok());
    share_generators();
    let arena = Arena::new();
    let shared = arena.shared();
    let processors = std::thread::available_parallelism().map_or(1, usize::from);
    shared.workers.store(processors as i64 - 1, Relaxed);
    shared.heal_every.store(heal_every, Relaxed);
    let begun = std::time::Instant::now();
    if let Some(fault) = world.ledger.faults.first() {
        shared.report(fault);
    } else {
        let first = world.fingerprint();
        shared.enter(first, depth);
        walk(shared, world, depth, end);
    }
    let get = |n: &AtomicU64| n.load(Relaxed);
    Found {
        states: get(&shared.states),
        transitions: get(&shared.transitions) + get(&shared.skipped),
        pruned: get(&shared.idle_steps) + get(&shared.known) + get(&shared.skipped),
        healed: get(&shared.healed),
        seconds: begun.elapsed().as_secs_f64(),
        late: shared.late.load(Relaxed),
        fault: shared.reported(),
    }
}
