//! The owner of SIGBUS.
//!
//! A client can truncate the file behind a window at any time; touching the page that went away raises SIGBUS here.
//! The handler finds the window in a fixed table, puts an anonymous page in place of what is gone, marks the window,
//! and the access goes on with zeros. A SIGBUS elsewhere goes to whoever owned the signal before.
#![allow(unsafe_code)]
// UNSAFETY: a signal handler, and mappings placed over mappings.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicUsize, Ordering};

/// Windows the table has room for; above it a mapping is refused.
const SLOTS: usize = 32 * 1024;

/// After so many pages the rest of the window goes at once: every single page costs a mapping, of which the whole
/// process has only `vm.max_map_count`.
const PAGES_EACH: u32 = 16;

struct Slot {
    used: AtomicBool,
    /// First byte; 0 while the slot guards nothing.
    start: AtomicUsize,
    end: AtomicUsize,
    page: AtomicUsize,
    faults: AtomicU32,
}

static TABLE: [Slot; SLOTS] = [const {
    Slot {
        used: AtomicBool::new(false),
        start: AtomicUsize::new(0),
        end: AtomicUsize::new(0),
        page: AtomicUsize::new(0),
        faults: AtomicU32::new(0),
    }
}; SLOTS];

/// Slots from here on were never used.
static HIGH_WATER: AtomicUsize = AtomicUsize::new(0);

/// A place in the table: while it lives, faults in its range are survived.
#[derive(Debug)]
pub(crate) struct Guard(usize);

impl Guard {
    /// Guards `[start, start + len)`, whose pages have `page` bytes. None when the table is full.
    pub fn new(start: usize, len: usize, page: usize) -> Option<Self> {
        install();
        let index = TABLE.iter().position(|slot| !slot.used.swap(true, Ordering::AcqRel))?;
        HIGH_WATER.fetch_max(index + 1, Ordering::AcqRel);
        let slot = &TABLE[index];
        slot.faults.store(0, Ordering::Release);
        slot.page.store(page, Ordering::Release);
        slot.end.store(start + len, Ordering::Release);
        slot.start.store(start, Ordering::Release);
        Some(Self(index))
    }

    /// How many faults happened in the range.
    pub fn faults(&self) -> &'static AtomicU32 {
        &TABLE[self.0].faults
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        let slot = &TABLE[self.0];
        slot.start.store(0, Ordering::Release);
        slot.end.store(0, Ordering::Release);
        slot.used.store(false, Ordering::Release);
    }
}

/// Puts anonymous zero pages in place of `[start, start + len)`.
///
/// # Safety
/// The range is whole pages of a mapping of ours that stays mapped, and that nobody holds references into.
pub(crate) unsafe fn replace(start: usize, len: usize) -> bool {
    let flags = libc::MAP_FIXED | libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE;
    let at = std::ptr::with_exposed_provenance_mut(start);
    // SAFETY: the caller's promise: only a mapping of ours is replaced.
    unsafe { libc::mmap(at, len, libc::PROT_READ | libc::PROT_WRITE, flags, -1, 0) != libc::MAP_FAILED }
}

/// Whose SIGBUS it was before; known before the handler can run, and only read by it.
static PREVIOUS: OnceLock<libc::sigaction> = OnceLock::new();

fn install() {
    static ONCE: OnceLock<()> = OnceLock::new();
    ONCE.get_or_init(|| {
        let handler: extern "C" fn(i32, *mut libc::siginfo_t, *mut libc::c_void) = on_sigbus;
        // SAFETY: an all-zero sigaction is a valid one.
        let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
        action.sa_sigaction = handler as *const () as usize;
        action.sa_flags = libc::SA_SIGINFO | libc::SA_ONSTACK | libc::SA_NODEFER;
        // SAFETY: as above.
        let mut previous: libc::sigaction = unsafe { std::mem::zeroed() };
        // SAFETY: only asks.
        let result = unsafe { libc::sigaction(libc::SIGBUS, std::ptr::null(), &raw mut previous) };
        assert_eq!(result, 0, "SIGBUS has an action");
        PREVIOUS.get_or_init(|| previous);
        // SAFETY: `action` is complete and the handler is async-signal-safe.
        let result = unsafe { libc::sigaction(libc::SIGBUS, &raw const action, std::ptr::null_mut()) };
        assert_eq!(result, 0, "SIGBUS can be handled");
    });
}

/// Async-signal-safe: atomics, mmap, sigaction.
extern "C" fn on_sigbus(signal: i32, info: *mut libc::siginfo_t, context: *mut libc::c_void) {
    // SAFETY: errno is this thread's own; the interrupted code must find it as it was.
    let errno = unsafe { libc::__errno_location() };
    // SAFETY: as above.
    let saved = unsafe { *errno };
    // SAFETY: SA_SIGINFO: the kernel passes a valid siginfo.
    let details = unsafe { &*info };
    // SAFETY: the address is set for SIGBUS.
    let addr = unsafe { details.si_addr() }.addr();
    if !survive(addr) {
        chain(signal, info, context);
    }
    // SAFETY: as above.
    unsafe { *errno = saved };
}

fn survive(addr: usize) -> bool {
    for slot in &TABLE[..HIGH_WATER.load(Ordering::Acquire)] {
        let start = slot.start.load(Ordering::Acquire);
        let end = slot.end.load(Ordering::Acquire);
        if start == 0 || addr < start || addr >= end {
            continue;
        }
        let page = slot.page.load(Ordering::Acquire);
        let at = addr - addr % page;
        let many = slot.faults.fetch_add(1, Ordering::AcqRel) >= PAGES_EACH;
        let len = if many { end - at } else { page };
        // SAFETY: the slot is in use, so its window is mapped, and the range lies in it.
        let replaced = unsafe { replace(at, len) };
        // At the limit of mappings none can be split, but the whole window can still be replaced.
        // SAFETY: as above.
        return replaced || unsafe { replace(start, end - start) };
    }
    false
}

fn chain(signal: i32, info: *mut libc::siginfo_t, context: *mut libc::c_void) {
    let Some(previous) = PREVIOUS.get() else { return };
    match previous.sa_sigaction {
        libc::SIG_DFL | libc::SIG_IGN => {
            // The access is repeated when the handler returns, and then the default action comes.
            // SAFETY: an all-zero sigaction is SIG_DFL.
            let default: libc::sigaction = unsafe { std::mem::zeroed() };
            // SAFETY: a complete action.
            unsafe { libc::sigaction(signal, &raw const default, std::ptr::null_mut()) };
        }
        handler if previous.sa_flags & libc::SA_SIGINFO != 0 => {
            // SAFETY: an action with SA_SIGINFO holds a function of this type.
            let handler: extern "C" fn(i32, *mut libc::siginfo_t, *mut libc::c_void) =
                unsafe { std::mem::transmute(handler) };
            handler(signal, info, context);
        }
        handler => {
            // SAFETY: an action without SA_SIGINFO holds a function of this type.
            let handler: extern "C" fn(i32) = unsafe { std::mem::transmute(handler) };
            handler(signal);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use nix::sys::wait::{WaitStatus, waitpid};
    use nix::unistd::{ForkResult, fork};

    const PAGE: usize = 4096;

    /// Uses up the mappings until none can be split any more: neighbours differ, so none is joined with another.
    fn exhaust() {
        let (flags, mut last) = (libc::MAP_PRIVATE | libc::MAP_ANONYMOUS, libc::MAP_FAILED);
        for prot in [libc::PROT_READ, libc::PROT_NONE].into_iter().cycle() {
            // SAFETY: a new mapping at an address the kernel chooses.
            let made = unsafe { libc::mmap(std::ptr::null_mut(), PAGE, prot, flags, -1, 0) };
            if made == libc::MAP_FAILED {
                break;
            }
            last = made;
        }
        // New mappings are let go one further than splits.
        // SAFETY: the last mapping made here; nobody uses it.
        unsafe { libc::munmap(last, PAGE) };
    }

    #[test]
    fn u3_a_fault_is_survived_when_there_are_no_more_mappings() {
        let file = nix::sys::memfd::memfd_create(c"t", nix::sys::memfd::MFdFlags::empty()).unwrap();
        nix::unistd::ftruncate(&file, 8 * 4096).unwrap();
        let len = std::num::NonZeroUsize::new(8 * PAGE).unwrap();
        let (prot, flags) = (nix::sys::mman::ProtFlags::PROT_READ, nix::sys::mman::MapFlags::MAP_SHARED);
        // SAFETY: a new mapping at an address the kernel chooses.
        let start = unsafe { nix::sys::mman::mmap(None, len, prot, flags, &file, 0) }.unwrap();
        let guard = Guard::new(start.as_ptr().expose_provenance(), 8 * PAGE, PAGE).unwrap();
        nix::unistd::ftruncate(&file, 0).unwrap();
        // SAFETY: the child calls nothing but mmap, munmap and _exit, and reads memory.
        match unsafe { fork() }.unwrap() {
            ForkResult::Child => {
                exhaust();
                // SAFETY: within the mapping.
                let byte = unsafe { start.as_ptr().cast::<u8>().wrapping_add(3 * PAGE).read_volatile() };
                // SAFETY: ends the child at once.
                unsafe { libc::_exit(i32::from(byte != 0 || guard.faults().load(Ordering::Acquire) == 0)) }
            }
            ForkResult::Parent { child } => {
                assert_eq!(waitpid(child, None), Ok(WaitStatus::Exited(child, 0)));
            }
        }
    }
}
