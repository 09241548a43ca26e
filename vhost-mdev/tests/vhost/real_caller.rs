//! The same file served to a real caller: this very process.

use crate::lab::*;
use devnode::{Caller, Ioctl, OpenFile};
use nix::errno::Errno;
use nix::sys::eventfd::{EfdFlags, EventFd};
use std::os::fd::{AsFd, AsRawFd};
use std::sync::Arc;
use vhost_mdev::VhostFile;
use virtio_mdev_api::dma::{Lookup, Permissions};

fn opened() -> (Lab, Arc<VhostFile>, Caller) {
    let lab = Lab::new();
    lab.file.release();
    let caller = Caller::current();
    let file = lab.node.open_file(&caller).unwrap();
    file.serve(&caller, &Ioctl { cmd: SET_OWNER, arg: 0, input: &[] }).unwrap();
    (lab, file, caller)
}

#[test]
fn config_goes_to_the_callers_memory() {
    let (_lab, file, caller) = opened();
    let mut buffer = [pair(2, 4), vec![0; 4]].concat();
    let arg = u64::try_from(buffer.as_mut_ptr().expose_provenance()).unwrap();
    file.serve(&caller, &Ioctl { cmd: GET_CONFIG, arg, input: &[] }).unwrap();
    assert_eq!(std::hint::black_box(&buffer)[8..], [2, 3, 4, 5]);
}

#[test]
fn f27_the_callers_descriptors_are_told_apart() {
    let (lab, file, caller) = opened();
    let kick = EventFd::from_flags(EfdFlags::EFD_CLOEXEC).unwrap();
    let (pipe, _writer) = nix::unistd::pipe().unwrap();
    let set = |fd: i32| {
        let input = pair(0, fd.cast_unsigned());
        file.serve(&caller, &Ioctl { cmd: SET_VRING_KICK, arg: 0, input: &input }).err()
    };
    assert_eq!(set(kick.as_fd().as_raw_fd()), None);
    assert_eq!(set(pipe.as_raw_fd()), Some(Errno::EINVAL));
    assert_eq!(set(i32::MAX), Some(Errno::EBADF));
    lab.session.set_features(virtio_mdev_api::features::REQUIRED).unwrap();
    lab.session.set_queue_enabled(0, true).unwrap();
    lab.session.set_status(0xf).unwrap();
    kick.write(3).unwrap();
    let given = lab.seen.lock().running[&0].kick.clone().unwrap();
    assert_eq!(given.drain(), Ok(Some(3)));
}

#[test]
fn the_callers_private_memory_is_reached_where_it_was_mapped() {
    let (lab, file, caller) = opened();
    let mut page = vec![0u8; 0x3000];
    let at = page.as_mut_ptr().expose_provenance().next_multiple_of(0x1000);
    let inside = at - page.as_ptr().addr();
    page[inside..inside + 5].copy_from_slice(b"hello");
    let uaddr = u64::try_from(at).unwrap();
    file.serve_write(&caller, &message(2, 0, [0x8000, 0x1000, uaddr], 3, 2)).unwrap();
    lab.session.set_features(virtio_mdev_api::features::REQUIRED).unwrap();
    lab.session.set_queue_enabled(0, true).unwrap();
    lab.session.set_status(0xf).unwrap();
    let space = lab.queue_space();
    let mut reader = space.reader("test", Arc::new(|_: &str| {}));
    let burst = reader.enter();
    let mut read = [0; 5];
    burst.view().read(0x8000, &mut read).unwrap();
    assert_eq!(&read, b"hello");
    assert!(matches!(burst.view().lookup(0x9000, 1, Permissions::READ), Lookup::Fault));
}
