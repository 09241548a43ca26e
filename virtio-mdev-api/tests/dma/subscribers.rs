use crate::memory::{RW, Window, shared};
use crate::{PAGE, reader};
use nix::errno::Errno;
use parking_lot::Mutex;
use std::sync::Arc;
use virtio_mdev_api::HasErrno;
use virtio_mdev_api::dma::{AddressSpace, Limits, MapError, Region, Subscriber};

#[derive(Debug, Clone, PartialEq, Eq)]
enum Saw {
    Map(u64),
    Unmap(u64, u64),
    Replace(Vec<u64>, Vec<u64>),
    Published(u64),
}

struct Follower {
    name: &'static str,
    limits: Limits,
    refuses: Option<u64>,
    saw: Mutex<Vec<Saw>>,
}

impl Follower {
    fn new(name: &'static str, refuses: Option<u64>) -> Arc<Self> {
        Arc::new(Self { name, limits: Limits::NONE, refuses, saw: Mutex::default() })
    }

    fn take(&self) -> Vec<Saw> {
        std::mem::take(&mut self.saw.lock())
    }
}

impl Subscriber for Follower {
    fn name(&self) -> String {
        self.name.into()
    }

    fn limits(&self) -> Limits {
        self.limits
    }

    fn map(&self, region: &Region) -> Result<(), Errno> {
        if self.refuses == Some(region.iova) {
            return Err(Errno::ENOMEM);
        }
        self.saw.lock().push(Saw::Map(region.iova));
        Ok(())
    }

    fn unmap(&self, iova: u64, len: u64) {
        self.saw.lock().push(Saw::Unmap(iova, len));
    }

    fn replace(&self, removed: &[Region], added: &[Region]) -> Result<(), Errno> {
        let addresses = |regions: &[Region]| regions.iter().map(|region| region.iova).collect::<Vec<_>>();
        if self.refuses.is_some_and(|iova| addresses(added).contains(&iova)) {
            return Err(Errno::ENOMEM);
        }
        self.saw.lock().push(Saw::Replace(addresses(removed), addresses(added)));
        Ok(())
    }

    fn published(&self, generation: u64) {
        self.saw.lock().push(Saw::Published(generation));
    }
}

#[test]
fn a_refusal_reaches_the_client_and_undoes_what_others_agreed_to() {
    let window = Window::new(0x1000);
    let space = AddressSpace::new(Limits::default());
    let (first, second) = (Follower::new("first", None), Follower::new("second", Some(2 * PAGE)));
    let _first = space.subscribe(Arc::clone(&first) as Arc<dyn Subscriber>).unwrap();
    let _second = space.subscribe(Arc::clone(&second) as Arc<dyn Subscriber>).unwrap();
    let page = |n: u64| shared(&window, n * PAGE, PAGE, 0, RW);
    let refused = space.map_all(vec![page(1), page(2), page(3)]).unwrap_err();
    assert_eq!(refused, MapError::Refused { by: "second".into(), iova: 2 * PAGE, errno: Errno::ENOMEM });
    assert_eq!(refused.errno(), Errno::ENOMEM);
    let undone = [Saw::Map(PAGE), Saw::Map(2 * PAGE), Saw::Unmap(2 * PAGE, PAGE), Saw::Unmap(PAGE, PAGE)];
    assert_eq!(first.take(), undone);
    assert_eq!(second.take(), [Saw::Map(PAGE), Saw::Unmap(PAGE, PAGE)]);
    assert!(space.regions().is_empty());
}

#[test]
fn a_replacement_that_one_refuses_changes_nothing_for_anybody() {
    let window = Window::new(0x4000);
    let space = AddressSpace::new(Limits::default());
    let (first, second) = (Follower::new("first", None), Follower::new("second", Some(3 * PAGE)));
    let _first = space.subscribe(Arc::clone(&first) as Arc<dyn Subscriber>).unwrap();
    let _second = space.subscribe(Arc::clone(&second) as Arc<dyn Subscriber>).unwrap();
    let page = |n: u64| shared(&window, n * PAGE, PAGE, 0, RW);
    space.map(page(1)).unwrap();
    let (generation, _) = (space.generation(), (first.take(), second.take()));
    let refused = space.replace(&[(PAGE, PAGE)], vec![page(1), page(3)]).unwrap_err();
    assert_eq!(refused, MapError::ReplaceRefused { by: "second".into(), errno: Errno::ENOMEM });
    let (there, back) = (vec![PAGE], vec![PAGE, 3 * PAGE]);
    assert_eq!(first.take(), [Saw::Replace(there.clone(), back.clone()), Saw::Replace(back, there)]);
    assert_eq!((space.generation(), space.regions().len()), (generation, 1));
    let taken = space.replace(&[(PAGE, PAGE)], vec![page(1), page(2)]).unwrap();
    assert_eq!((taken.regions, space.regions().len()), (1, 2));
    let told = [Saw::Replace(vec![PAGE], vec![PAGE, 2 * PAGE]), Saw::Published(space.generation())];
    assert_eq!((first.take(), second.take()), (told.to_vec(), told.to_vec()));
}

#[test]
fn a_replacement_that_does_not_fit_is_put_to_nobody() {
    let window = Window::new(0x4000);
    let space = AddressSpace::new(Limits { max_entries: 2, ..Limits::default() });
    let follower = Follower::new("follower", None);
    let page = |n: u64| shared(&window, n * PAGE, PAGE, 0, RW);
    space.map_all(vec![page(1), page(2)]).unwrap();
    let _guard = space.subscribe(Arc::clone(&follower) as Arc<dyn Subscriber>).unwrap();
    follower.take();
    let refused = |removed: u64, added: &[u64]| {
        let added = added.iter().map(|n| page(*n)).collect();
        space.replace(&[(removed * PAGE, removed * PAGE)], added).unwrap_err().errno()
    };
    assert_eq!(refused(1, &[2]), Errno::EEXIST);
    assert_eq!(refused(1, &[3, 3]), Errno::EEXIST);
    assert_eq!(refused(1, &[3, 4]), Errno::ENOSPC);
    assert_eq!((follower.take(), space.regions().len()), (vec![], 2));
}

#[test]
fn a_newcomer_gets_what_is_mapped_and_then_every_change() {
    let window = Window::new(0x1000);
    let space = AddressSpace::new(Limits::default());
    space.map(shared(&window, PAGE, PAGE, 0, RW)).unwrap();
    let follower = Follower::new("late", None);
    let guard = space.subscribe(Arc::clone(&follower) as Arc<dyn Subscriber>).unwrap();
    assert_eq!(follower.take(), [Saw::Map(PAGE)]);
    space.map(shared(&window, 2 * PAGE, PAGE, 0, RW)).unwrap();
    assert_eq!(follower.take(), [Saw::Map(2 * PAGE), Saw::Published(space.generation())]);
    space.unmap(PAGE, PAGE);
    assert_eq!(follower.take(), [Saw::Unmap(PAGE, PAGE), Saw::Published(space.generation())]);
    drop(guard);
    assert_eq!(follower.take(), [Saw::Unmap(2 * PAGE, PAGE)]);
    space.unmap_all();
    assert_eq!(follower.take(), []);
}

#[test]
fn a_newcomer_that_refuses_what_is_mapped_does_not_take_part() {
    let window = Window::new(0x1000);
    let space = AddressSpace::new(Limits::default());
    space.map(shared(&window, PAGE, PAGE, 0, RW)).unwrap();
    space.map(shared(&window, 2 * PAGE, PAGE, 0, RW)).unwrap();
    let follower = Follower::new("late", Some(2 * PAGE));
    let refused = space.subscribe(Arc::clone(&follower) as Arc<dyn Subscriber>).err();
    assert_eq!(refused.map(|error| error.errno()), Some(Errno::ENOMEM));
    assert_eq!(follower.take(), [Saw::Map(PAGE), Saw::Unmap(PAGE, PAGE)]);
    space.unmap_all();
    assert_eq!(follower.take(), []);
}

#[test]
fn limits_are_those_of_all_while_they_take_part() {
    let window = Window::new(0x1000);
    let space = AddressSpace::new(Limits::default());
    let mut follower = Follower::new("narrow", None);
    let narrow = Limits { first: 0x1_0000, last: 0xf_ffff, page_sizes: !0xffff, max_entries: 1 };
    Arc::get_mut(&mut follower).unwrap().limits = narrow;
    let guard = space.subscribe(Arc::clone(&follower) as Arc<dyn Subscriber>).unwrap();
    assert_eq!(space.limits(), narrow);
    assert_eq!(space.map(shared(&window, 0x2000, 0x1000, 0, RW)).unwrap_err().errno(), Errno::EINVAL);
    drop(guard);
    assert_eq!(space.limits(), Limits::default());
    space.map(shared(&window, 0x2000, 0x1000, 0, RW)).unwrap();
    let refused = space.subscribe(follower).err();
    assert_eq!(refused.map(|error| error.errno()), Some(Errno::EINVAL));
    assert_eq!(space.limits(), Limits::default());
}

#[test]
fn a_subscriber_lets_go_only_after_readers_did() {
    struct Checks {
        space: Arc<AddressSpace>,
        left: Arc<std::sync::atomic::AtomicBool>,
    }
    impl Subscriber for Checks {
        fn name(&self) -> String {
            "checks".into()
        }
        fn limits(&self) -> Limits {
            Limits::NONE
        }
        fn map(&self, _region: &Region) -> Result<(), Errno> {
            assert!(self.space.regions().is_empty(), "asked before publication");
            Ok(())
        }
        fn unmap(&self, _iova: u64, _len: u64) {
            assert!(self.space.regions().is_empty(), "told after it was unpublished");
            assert!(self.left.load(std::sync::atomic::Ordering::SeqCst), "told after the last reader left");
        }
        fn replace(&self, _removed: &[Region], _added: &[Region]) -> Result<(), Errno> {
            unreachable!("nothing is replaced")
        }
    }
    let window = Window::new(0x1000);
    let space = AddressSpace::new(Limits::default());
    let left = Arc::new(std::sync::atomic::AtomicBool::new(false));
    let checks = Checks { space: Arc::clone(&space), left: Arc::clone(&left) };
    let _guard = space.subscribe(Arc::new(checks)).unwrap();
    space.map(shared(&window, PAGE, PAGE, 0, RW)).unwrap();
    let mut reader = reader(&space);
    let burst = reader.enter();
    std::thread::scope(|scope| {
        let unmap = scope.spawn(|| space.unmap_all());
        std::thread::sleep(std::time::Duration::from_millis(20));
        left.store(true, std::sync::atomic::Ordering::SeqCst);
        drop(burst);
        assert_eq!(unmap.join().unwrap().regions, 1);
    });
}
