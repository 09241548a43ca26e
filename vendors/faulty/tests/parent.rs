//! What the bus sees of the parent.

use faulty::Faulty;
use virtio_mdev_api::{CreateRequest, Device, DeviceLink, Parent, VirtioMdev};

fn request() -> CreateRequest {
    let uuid = uuid::Uuid::new_v4();
    let link = DeviceLink::new(uuid.to_string());
    CreateRequest {
        uuid,
        type_name: "net".to_owned(),
        parameters: Default::default(),
        doorbell_pages: false,
        owner: None,
        link,
    }
}

fn device(parent: &Faulty) -> Box<dyn VirtioMdev> {
    match parent.create(request()) {
        Ok(Device::Virtio(device)) => device,
        Ok(_) => panic!("no virtio device"),
        Err(refusal) => panic!("{refusal}"),
    }
}

#[test]
fn instances_have_their_faults_beside_a_network_cards_attributes() {
    let mut device = device(&Faulty::new("faulty0", 2));
    let names: Vec<_> = device.attributes().into_iter().map(|attribute| attribute.name).collect();
    assert!(names.iter().any(|name| name == "mac") && names.iter().any(|name| name == "faults/lose_call"), "{names:?}");
    device.store_attribute("faults/lose_call", "2").unwrap();
    assert_eq!(device.show_attribute("faults/lose_call").unwrap(), "2");
    assert!(device.store_attribute("mac", "2").is_err());
}

#[test]
fn faults_of_one_instance_are_not_anothers() {
    let parent = Faulty::new("faulty0", 2);
    let (mut one, mut other) = (device(&parent), device(&parent));
    one.store_attribute("faults/torn_config", "1").unwrap();
    let read = |device: &mut Box<dyn VirtioMdev>| {
        let mut mac = [[0; 6]; 2];
        mac.iter_mut().for_each(|mac| device.read_config(0, mac));
        one_of(mac)
    };
    let healthy = one.show_attribute("mac").unwrap();
    assert_ne!(read(&mut one), healthy);
    assert_eq!(read(&mut other), other.show_attribute("mac").unwrap());
}

/// The address in words, of two reads that agree.
fn one_of([first, second]: [[u8; 6]; 2]) -> String {
    assert_eq!(first, second);
    first.map(|byte| format!("{byte:02x}")).join(":")
}

#[test]
fn there_are_as_many_as_there_is_room_for() {
    let parent = Faulty::new("faulty0", 1);
    let held = device(&parent);
    assert_eq!(parent.available("net"), 0);
    assert_eq!(parent.create(request()).err().unwrap().errno(), nix::errno::Errno::ENOSPC);
    drop(held);
    assert_eq!(parent.available("net"), 1);
}
