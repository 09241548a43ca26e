//! Code written for rust-vmm runs on the address space.

use crate::memory::{Private, RW, Window, remote, shared};
use crate::reader;
use virtio_mdev_api::dma::{AddressSpace, Limits, Permissions};
use virtio_queue::{Queue, QueueT};
use vm_memory::{Bytes, GuestAddress, GuestMemory};

#[test]
fn bytes_go_across_regions_in_place() {
    let window = Window::new(0x2000);
    let space = AddressSpace::new(Limits::default());
    space.map(shared(&window, 0x1000, 0x1000, 0x1000, RW)).unwrap();
    space.map(shared(&window, 0x2000, 0x1000, 0, RW)).unwrap();
    let mut reader = reader(&space);
    let burst = reader.enter();
    let memory = burst.snapshot();
    memory.write_slice(b"across the border", GuestAddress(0x1ff8)).unwrap();
    assert_eq!(&window.bytes::<8>(0x1ff8), b"across t");
    assert_eq!(&window.bytes::<9>(0), b"he border");
    let mut back = [0; 17];
    memory.read_slice(&mut back, GuestAddress(0x1ff8)).unwrap();
    assert_eq!(&back, b"across the border");
}

#[test]
fn what_cannot_be_reached_in_place_is_an_error() {
    let window = Window::new(0x1000);
    let client = Private::new(0x1000);
    let space = AddressSpace::new(Limits::default());
    space.map(shared(&window, 0x1000, 0x1000, 0, Permissions::READ)).unwrap();
    space.map(remote(&client, 0x2000, 0x1000, RW)).unwrap();
    let mut reader = reader(&space);
    let burst = reader.enter();
    let memory = burst.snapshot();
    assert!(memory.check_range(GuestAddress(0x1000), 0x1000, vm_memory::Permissions::Read));
    assert!(!memory.check_range(GuestAddress(0x1000), 0x1000, vm_memory::Permissions::ReadWrite));
    assert!(!memory.check_range(GuestAddress(0x1000), 0x1001, vm_memory::Permissions::Read));
    assert!(memory.write_obj(1u8, GuestAddress(0x1000)).is_err());
    assert!(memory.read_obj::<u8>(GuestAddress(0x2000)).is_err());
    assert!(memory.read_obj::<u8>(GuestAddress(0x3000)).is_err());
    assert!(memory.read_obj::<u16>(GuestAddress(u64::MAX)).is_err());
}

#[test]
fn a_queue_of_virtio_queue_finds_its_chain() {
    let window = Window::new(0x4000);
    let space = AddressSpace::new(Limits::default());
    space.map(shared(&window, 0x10_0000, 0x4000, 0, RW)).unwrap();
    let mut reader = reader(&space);
    let burst = reader.enter();
    let memory = burst.snapshot();
    let at = |offset: u64| GuestAddress(0x10_0000 + offset);
    // One descriptor, 64 bytes at 0x103000, readable, made available.
    memory.write_obj(0x10_3000u64.to_le(), at(0)).unwrap();
    memory.write_obj(64u32.to_le(), at(8)).unwrap();
    memory.write_obj(0u16.to_le(), at(0x1000 + 4)).unwrap();
    memory.write_obj(1u16.to_le(), at(0x1000 + 2)).unwrap();
    memory.write_slice(b"frame", at(0x3000)).unwrap();
    let mut queue = Queue::new(4).unwrap();
    queue.set_size(4);
    queue.set_desc_table_address(Some(0x10_0000), Some(0));
    queue.set_avail_ring_address(Some(0x10_1000), Some(0));
    queue.set_used_ring_address(Some(0x10_2000), Some(0));
    queue.set_ready(true);
    assert!(queue.is_valid(memory));
    let mut chain = queue.pop_descriptor_chain(memory).unwrap();
    let descriptor = chain.next().unwrap();
    assert_eq!((descriptor.addr(), descriptor.len()), (at(0x3000), 64));
    queue.add_used(memory, 0, 5).unwrap();
    assert_eq!(window.bytes::<2>(0x2002), 1u16.to_le_bytes());
}
