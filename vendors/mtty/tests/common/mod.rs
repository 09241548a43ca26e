//! A card in its session, and a client of it.

#![allow(dead_code)] // Each test uses its part.

use mtty::Mtty;
use std::time::Duration;
use uuid::Uuid;
use virtio_mdev_api::executor::DEFAULT_DEADLINE;
use virtio_mdev_api::notify::EventFd;
use virtio_mdev_api::vfio::{IrqAction, IrqChange, IrqData, VfioMdev, VfioSession};
use virtio_mdev_api::{CreateRequest, Device, DeviceLink, Engine, Parent, Refusal};

/// Long enough for a thread to do what it should not.
pub const FAST: Duration = Duration::from_millis(20);

pub fn request(kind: &str, parameters: &[(&str, &str)]) -> CreateRequest {
    CreateRequest {
        uuid: Uuid::nil(),
        type_name: kind.to_owned(),
        parameters: parameters.iter().map(|&(key, value)| (key.to_owned(), value.to_owned())).collect(),
        doorbell_pages: false,
        owner: None,
        link: DeviceLink::new("a card"),
    }
}

pub fn create(parent: &Mtty, kind: &str, parameters: &[(&str, &str)]) -> Result<Box<dyn VfioMdev>, Refusal> {
    match parent.create(request(kind, parameters))? {
        Device::Vfio(device) => Ok(device),
        _ => panic!("a virtio device"),
    }
}

/// A card that a client has open.
pub struct Card {
    pub session: VfioSession,
}

/// A card whose ports are plugged into themselves.
pub fn card(kind: &str) -> Card {
    card_with(kind, &[])
}

pub fn card_with(kind: &str, parameters: &[(&str, &str)]) -> Card {
    let device = create(&Mtty::new("m", 2), kind, parameters).unwrap();
    let (shape, movable) = (device.shape(), device.movable());
    let session = VfioSession::new(device, shape, movable, DeviceLink::new("a card"), DEFAULT_DEADLINE);
    session.open().unwrap();
    Card { session }
}

impl Card {
    pub fn read(&self, region: u32, offset: u64, len: usize) -> Vec<u8> {
        let mut out = vec![0; len];
        self.session.read(region, offset, &mut out).unwrap();
        out
    }

    pub fn write(&self, region: u32, offset: u64, data: &[u8]) {
        self.session.write(region, offset, data).unwrap();
    }

    /// What a driver does first: FIFOs on, trigger level 8, eight bits a character, RTS and DTR up.
    pub fn start(&self, port: u32) {
        for (at, value) in [(2, 0x87), (3, 0x03), (4, 0x03)] {
            self.write(port, at, &[value]);
        }
        self.read(port, 6, 1);
    }

    /// Writes the transmitter a byte after the other.
    pub fn send(&self, port: u32, bytes: &[u8]) {
        bytes.iter().for_each(|byte| self.write(port, 0, &[*byte]));
    }

    /// All that there is to read.
    pub fn received(&self, port: u32) -> Vec<u8> {
        let mut bytes = Vec::new();
        while self.read(port, 5, 1)[0] & 1 != 0 {
            bytes.extend(self.read(port, 0, 1));
        }
        bytes
    }

    pub fn set_irqs(&self, index: u32, action: IrqAction, data: IrqData) {
        self.session.set_irqs(&IrqChange { index, start: 0, action, data }).unwrap();
    }

    /// A new eventfd for the one interrupt of `index`.
    pub fn trigger(&self, index: u32) -> EventFd {
        let call = EventFd::new().unwrap();
        self.set_irqs(index, IrqAction::Trigger, IrqData::EventFd(vec![Some(call.clone())]));
        call
    }

    pub fn unmask(&self) {
        self.set_irqs(0, IrqAction::Unmask, IrqData::None(1));
    }

    pub fn attribute(&self, name: &str) -> String {
        self.session.show_attribute(name).unwrap()
    }
}
