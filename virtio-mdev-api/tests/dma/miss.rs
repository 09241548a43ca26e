use crate::memory::{RW, Window, shared};
use crate::{PAGE, reader};
use parking_lot::Mutex;
use std::sync::Arc;
use virtio_mdev_api::dma::{AccessError, AddressSpace, Limits, Lookup, MissHandler, Permissions, Reader};

#[derive(Default)]
struct Asked(Mutex<Vec<(u64, Permissions)>>);

impl MissHandler for Asked {
    fn miss(&self, iova: u64, access: Permissions) -> bool {
        self.0.lock().push((iova, access));
        true
    }
}

fn space() -> (Arc<AddressSpace>, Arc<Asked>) {
    let asked = Arc::new(Asked::default());
    (AddressSpace::with_miss_handler(Limits::default(), Arc::clone(&asked) as Arc<dyn MissHandler>), asked)
}

#[test]
fn a_miss_is_pending_and_told_once() {
    let (space, asked) = space();
    let mut reader = reader(&space);
    for _ in 0..3 {
        let burst = reader.enter();
        assert!(matches!(burst.view().lookup(0x1234, 8, Permissions::READ), Lookup::Pending));
        assert_eq!(burst.view().read(0x1240, &mut [0; 4]), Err(AccessError::Pending { iova: 0x1240 }));
    }
    assert_eq!(*asked.0.lock(), [(0x1234, Permissions::READ)]);
    assert!(matches!(reader.enter().view().lookup(0x1234, 8, Permissions::WRITE), Lookup::Pending));
    assert_eq!(asked.0.lock().len(), 2);
}

#[test]
fn an_answer_resumes_and_a_later_miss_is_told_again() {
    let (space, asked) = space();
    let window = Window::new(0x1000);
    let mut reader = reader(&space);
    let before = reader.enter().generation();
    assert!(matches!(reader.enter().view().lookup(PAGE, 1, RW), Lookup::Pending));
    space.map(shared(&window, PAGE, PAGE, 0, RW)).unwrap();
    assert_ne!(space.generation(), before);
    assert!(matches!(reader.enter().view().lookup(PAGE, 1, RW), Lookup::Hit(_)));
    space.unmap(PAGE, PAGE);
    assert!(matches!(reader.enter().view().lookup(PAGE, 1, RW), Lookup::Pending));
    assert_eq!(asked.0.lock().len(), 2);
}

#[test]
fn a_miss_in_an_outdated_burst_is_not_told_and_hides_no_later_one() {
    let (space, asked) = space();
    let window = Window::new(0x1000);
    let (mut early, mut late) = (reader(&space), reader(&space));
    let outdated = early.enter();
    space.map(shared(&window, PAGE, PAGE, 0, RW)).unwrap();
    assert!(matches!(outdated.view().lookup(PAGE, 1, RW), Lookup::Pending));
    assert!(asked.0.lock().is_empty());
    drop(outdated);
    space.unmap(PAGE, PAGE);
    assert!(matches!(late.enter().view().lookup(PAGE, 1, RW), Lookup::Pending));
    assert_eq!(asked.0.lock().len(), 1);
}

#[test]
fn memory_that_forbids_the_access_is_a_fault_not_a_miss() {
    let (space, asked) = space();
    let window = Window::new(0x1000);
    space.map(shared(&window, PAGE, PAGE, 0, Permissions::READ)).unwrap();
    let mut reader = reader(&space);
    assert!(matches!(reader.enter().view().lookup(PAGE, 1, RW), Lookup::Fault));
    assert!(asked.0.lock().is_empty());
}

#[test]
fn an_unmap_makes_what_was_asked_for_obsolete_and_whoever_waits_asks_again() {
    let (space, asked) = space();
    let mut reader = reader(&space);
    assert!(matches!(reader.enter().view().lookup(PAGE, 1, RW), Lookup::Pending));
    let before = space.generation();
    // Nothing is mapped there, and somebody waits.
    space.unmap(0, u64::MAX);
    assert!(space.generation() > before, "nobody looks again");
    assert!(matches!(reader.enter().view().lookup(PAGE, 1, RW), Lookup::Pending));
    assert_eq!(asked.0.lock().len(), 2);
    let before = space.generation();
    space.unmap(8 * PAGE, 9 * PAGE);
    assert_eq!(space.generation(), before, "nobody waits for that");
}

#[test]
fn a_space_can_begin_and_end_to_ask() {
    let (asked, window) = (Arc::new(Asked::default()), Window::new(0x1000));
    let space = AddressSpace::new(Limits::default());
    let mut reader = reader(&space);
    assert!(matches!(reader.enter().view().lookup(PAGE, 1, RW), Lookup::Fault));
    space.set_miss_handler(Some(Arc::clone(&asked) as Arc<dyn MissHandler>));
    assert!(matches!(reader.enter().view().lookup(PAGE, 1, RW), Lookup::Pending));
    space.map(shared(&window, PAGE, PAGE, 0, RW)).unwrap();
    assert!(matches!(reader.enter().view().lookup(PAGE, 1, RW), Lookup::Hit(_)));
    space.set_miss_handler(None);
    assert!(matches!(reader.enter().view().lookup(0, 1, RW), Lookup::Fault));
    assert_eq!(asked.0.lock().len(), 1);
}

#[derive(Default)]
struct Full(std::sync::atomic::AtomicU32);

impl MissHandler for Full {
    fn miss(&self, _iova: u64, _access: Permissions) -> bool {
        self.0.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        false
    }
}

#[test]
fn a_miss_that_was_not_noted_is_told_again() {
    let full = Arc::new(Full::default());
    let space = AddressSpace::with_miss_handler(Limits::default(), Arc::clone(&full) as Arc<dyn MissHandler>);
    let mut reader = reader(&space);
    for turn in 1..4 {
        assert!(matches!(reader.enter().view().lookup(PAGE, 1, RW), Lookup::Pending));
        assert_eq!(full.0.load(std::sync::atomic::Ordering::Relaxed), turn);
    }
}

/// Looks at an address while what was asked for beside it becomes obsolete.
#[derive(Default)]
struct Neighbour {
    asked: Asked,
    reader: Mutex<Option<Reader>>,
    /// The version it looked at.
    looked: Mutex<Option<u64>>,
}

const NEIGHBOUR: u64 = PAGE + 0x900;

impl MissHandler for Neighbour {
    fn miss(&self, iova: u64, access: Permissions) -> bool {
        self.asked.miss(iova, access)
    }

    fn obsolete(&self, _first: u64, _last: u64) {
        if let Some(mut reader) = self.reader.lock().take() {
            let burst = reader.enter();
            assert!(matches!(burst.view().lookup(NEIGHBOUR, 1, RW), Lookup::Pending));
            *self.looked.lock() = Some(burst.generation());
        }
    }
}

#[test]
fn who_misses_the_rest_of_a_page_while_a_part_is_mapped_is_told_of_or_looks_again() {
    let neighbour = Arc::new(Neighbour::default());
    let space = AddressSpace::with_miss_handler(Limits::NONE, Arc::clone(&neighbour) as Arc<dyn MissHandler>);
    assert!(matches!(reader(&space).enter().view().lookup(PAGE, 1, RW), Lookup::Pending));
    *neighbour.reader.lock() = Some(reader(&space));
    space.map(shared(&Window::new(0x1000), PAGE, 0x800, 0, RW)).unwrap();
    let looks_again = neighbour.looked.lock().unwrap() != space.generation();
    let told = neighbour.asked.0.lock().contains(&(NEIGHBOUR, RW));
    assert!(looks_again || told, "it waits for what nobody was asked for");
}
