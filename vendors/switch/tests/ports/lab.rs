//! A switch, guests at its ports, and a clock that stands still.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};
use switch::{Clock, Switch, SwitchOptions};
use uuid::Uuid;
use virtio_mdev_api::features::REQUIRED;
use virtio_mdev_api::{CreateRequest, Device, DeviceLink, Parent, VirtioMdev};
use virtio_net::testing::Guest;

pub const BROADCAST: [u8; 6] = [0xff; 6];
const RING: u16 = 64;
const PATIENCE: Duration = Duration::from_secs(10);

/// Nanoseconds, as the test says.
#[derive(Default)]
pub struct Hand(AtomicU64);

impl Clock for Hand {
    fn now(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// The switch.
pub struct Lab {
    pub switch: Switch,
    clock: Arc<Hand>,
    ports: u8,
}

/// A guest at a port.
pub struct Port {
    pub guest: Guest,
    pub mac: [u8; 6],
    pub name: String,
}

/// The address of station `n`, which is port `n`'s where there are so many.
pub fn mac(n: u8) -> [u8; 6] {
    [2, 0, 0, 0, 0, n]
}

/// A frame without tag; `mark` tells it from others.
pub fn frame(to: [u8; 6], from: [u8; 6], mark: u8) -> Vec<u8> {
    [&to[..], &from, &[0x88, 0xb5], &[mark; 46]].concat()
}

/// The same with tags, the outer one first.
pub fn tagged(to: [u8; 6], from: [u8; 6], tags: &[u16], mark: u8) -> Vec<u8> {
    let plain = frame(to, from, mark);
    let tags: Vec<u8> = tags.iter().flat_map(|tci| [[0x81, 0], tci.to_be_bytes()].concat()).collect();
    [&plain[..12], &tags, &plain[12..]].concat()
}

impl Lab {
    pub fn new() -> Self {
        Self::with(&SwitchOptions::default())
    }

    pub fn with(options: &SwitchOptions) -> Self {
        let clock = Arc::new(Hand::default());
        let switch = Switch::with_clock("sw0", options, Arc::clone(&clock) as Arc<dyn Clock>).unwrap();
        Self { switch, clock, ports: 0 }
    }

    /// Lets time pass.
    pub fn pass_ms(&self, ms: u64) {
        self.clock.0.fetch_add(ms * 1_000_000, Ordering::Relaxed);
    }

    /// A card that no guest has yet.
    pub fn card(&mut self, kind: &str, parameters: &[(&str, &str)]) -> (Box<dyn VirtioMdev>, DeviceLink, Uuid) {
        self.ports += 1;
        let uuid = Uuid::from_u128(self.ports.into());
        let address = format!("02:00:00:00:00:{:02x}", self.ports);
        let own = [("mac", &*address)];
        let all = own.iter().chain(parameters).map(|(key, value)| ((*key).to_owned(), (*value).to_owned()));
        let link = DeviceLink::new("test");
        let request = CreateRequest {
            uuid,
            type_name: kind.to_owned(),
            parameters: all.collect(),
            doorbell_pages: false,
            owner: None,
            link: link.clone(),
        };
        match self.switch.create(request).unwrap() {
            Device::Virtio(device) => (device, link, uuid),
            _ => panic!("not a virtio device"),
        }
    }

    /// A guest whose ring is full of buffers, with these features besides those required.
    pub fn guest(&mut self, kind: &str, features: u64, parameters: &[(&str, &str)]) -> Port {
        let (device, _, uuid) = self.card(kind, parameters);
        let mut guest = Guest::new(device, REQUIRED | features, RING);
        guest.start();
        guest.post(RING);
        Port { guest, mac: mac(self.ports), name: uuid.to_string() }
    }

    /// Ports of VLAN 1.
    pub fn access<const N: usize>(&mut self) -> [Port; N] {
        std::array::from_fn(|_| self.guest("access", 0, &[]))
    }

    pub fn fdb(&self) -> String {
        self.switch.show_attribute(None, "fdb").unwrap()
    }
}

impl Port {
    /// Sends, when there is room.
    pub fn send(&mut self, frame: &[u8]) {
        let begun = Instant::now();
        while !self.guest.send(frame) {
            assert!(begun.elapsed() < PATIENCE, "nothing is taken out of the ring");
            std::thread::sleep(Duration::from_micros(100));
        }
    }

    /// Sends to all stations in its VLAN.
    pub fn call(&mut self, mark: u8) {
        self.send(&frame(BROADCAST, self.mac, mark));
    }

    /// The next frame, without its header.
    pub fn wait(&mut self) -> Vec<u8> {
        let (_, frame) = self.guest.wait();
        self.guest.post(1);
        frame
    }

    /// Waits until the switch has taken all that was sent, and looked at the clock for the last time on its account.
    pub fn settle(&mut self) {
        let begun = Instant::now();
        while self.guest.tx.outstanding() > 0 {
            assert!(begun.elapsed() < PATIENCE, "something is not taken out of the ring");
            if self.guest.tx.take_used().is_none() {
                std::thread::sleep(Duration::from_micros(100));
            }
        }
    }

    /// The mark of the next frame, which is an untagged one.
    pub fn mark(&mut self) -> u8 {
        let frame = self.wait();
        assert_eq!(frame[12..14], [0x88, 0xb5], "{frame:02x?}");
        frame[14]
    }

    pub fn show(&mut self, name: &str) -> String {
        self.guest.device.show_attribute(name).unwrap()
    }

    pub fn count(&mut self, name: &str) -> u64 {
        self.show(&format!("statistics/{name}")).parse().unwrap()
    }

    /// Waits until so much was counted.
    pub fn wait_count(&mut self, name: &str, count: u64) {
        let begun = Instant::now();
        while self.count(name) != count {
            assert!(begun.elapsed() < PATIENCE, "{name} is {}, not {count}", self.count(name));
            std::thread::sleep(Duration::from_micros(100));
        }
    }

    pub fn set(&mut self, name: &str, value: &str) {
        self.guest.device.store_attribute(name, value).unwrap();
    }
}
