//! A network card with several queue pairs, and a driver that commands anything: what the card answers, what it says of
//! itself, and which frames from outside come in on which pair is compared with a plain model.

mod model;
mod wire;

use crate::Input;
use model::{Frame, MODES, Model, PROTOCOLS};
use std::sync::Arc;
use std::time::{Duration, Instant};
use virtio_mdev_api::DeviceLink;
use virtio_mdev_api::features::{REQUIRED, VIRTIO_F_RING_PACKED};
use virtio_net::features::{CONTROL, RECEPTION, SEVERAL_PAIRS, VIRTIO_NET_F_GUEST_ANNOUNCE, VIRTIO_NET_F_MQ};
use virtio_net::testing::Station;
use virtio_net::{Doorbell, LinkState, Mac, NetDevice, NetParameters, Pool, PoolOptions};
use virtqueue::testing::Driver;
use wire::{End, Wire};

/// Queue pairs of the card.
const PAIRS: u16 = 3;
/// Where a ring's buffers begin, seen from the ring, and room for a command there; its answer is behind it.
const BUFFERS: u64 = 0x8000;
const ROOM: usize = 0xf000;
/// Descriptors that a command may be in.
const PIECES: usize = 14;
/// A machine that fuzzes is busy.
const PATIENCE: Duration = Duration::from_secs(60);
/// What can be negotiated besides what every card has.
const FEATURES: u64 = CONTROL | RECEPTION | VIRTIO_NET_F_MQ | VIRTIO_NET_F_GUEST_ANNOUNCE | VIRTIO_F_RING_PACKED;
/// Addresses that stations, groups and nobody have.
const ADDRESSES: [[u8; 6]; 6] =
    [[2, 0, 0, 0, 0, 1], [2, 0, 0, 0, 0, 2], [0x33, 0x33, 0, 0, 0, 1], [1, 0, 0x5e, 0, 0, 1], [0xff; 6], [0; 6]];

const OK: u8 = 0;
const ERR: u8 = 1;
const ANNOUNCE: u8 = 2;

/// Runs one input: what is negotiated, and steps.
pub fn run(bytes: &[u8]) {
    let mut input = Input::new(bytes);
    let mut card = Card::new(input.word());
    while input.more() {
        card.step(&mut input);
    }
}

struct Card {
    choice: u32,
    station: Station,
    link: DeviceLink,
    ends: Vec<Arc<End>>,
    model: Model,
    control: usize,
    /// Frames that the driver did not want.
    filtered: u64,
}

impl Card {
    /// Bit n of `choice` says whether the nth feature is negotiated.
    fn new(choice: u32) -> Self {
        let link = DeviceLink::new("fuzzed");
        let parameters = NetParameters {
            mac: Mac::from(ADDRESSES[0]),
            mtu: 1500,
            pairs: PAIRS,
            queue_size: 16,
            features: REQUIRED | FEATURES,
            speed: None,
            duplex: None,
            ring_group: false,
            doorbell: Doorbell::EventFd,
        };
        let ends: Vec<_> = (0..PAIRS).map(|_| Arc::new(End::new())).collect();
        let ports = ends.iter().map(|end| Wire(Arc::clone(end))).collect();
        let pool = Pool::new("card", PoolOptions::default());
        let link_state = Arc::new(LinkState::new(link.clone()));
        let device = NetDevice::new(&parameters, link.clone(), link_state, ports, Box::new(()), &pool);
        let features = bits(FEATURES)
            .enumerate()
            .fold(REQUIRED, |features, (n, bit)| if choice >> n & 1 == 0 { features | bit } else { features });
        // Without a control queue its features are none, and its ring is no queue of the card.
        let features = if features & CONTROL == CONTROL { features } else { features | CONTROL };
        let station = Station::start(Box::new(device.expect("a card")), features);
        let control = if features & SEVERAL_PAIRS == 0 { 2 } else { 2 * usize::from(PAIRS) };
        let model = Model::new(features, PAIRS, ADDRESSES[0]);
        let mut card = Self { choice, station, link, ends, model, control, filtered: 0 };
        card.post();
        card
    }

    /// A buffer for every pair, which is as many as the next frame takes.
    fn post(&mut self) {
        (0..self.pairs()).for_each(|pair| self.station.post(pair));
    }

    /// Pairs that the driver has queues of.
    fn pairs(&self) -> usize {
        self.control / 2
    }

    fn step(&mut self, input: &mut Input<'_>) {
        match input.byte() % 16 {
            0..=9 => {
                let command = command(input);
                self.command(&command, input);
            }
            10..=13 => self.frame(input),
            14 => {
                let state = self.station.device.save_state().expect("a state");
                self.station.device.restore_state(&state).expect("the state of a card like it");
                self.model.restored();
            }
            _ if input.flag() => self.break_rules(input.byte()),
            _ => self.restart(),
        }
        self.look();
    }

    /// Gives the card a command, in as many descriptors as the input says.
    fn command(&mut self, command: &[u8], input: &mut Input<'_>) {
        let command = &command[..command.len().min(ROOM)];
        let (piece, room) = (usize::from(input.byte()), u32::from(input.byte() % 3) + 1);
        let piece = piece.max(command.len().div_ceil(PIECES)).max(1);
        let (ring, at) = self.ring();
        ring.ram.write(at, command);
        let answer = at + ROOM as u64;
        ring.ram.write(answer, &[0xff; 4]);
        let mut chain: Vec<_> = (at..)
            .step_by(piece)
            .zip(command.chunks(piece))
            .map(|(at, piece)| (at, u32::try_from(piece.len()).expect("a piece"), false))
            .collect();
        chain.push((answer, room, true));
        ring.add(&chain);
        self.station.kick(self.control);
        let mut used = None;
        wait_for("an answer", || {
            used = self.station.rings[self.control].take_used();
            used.is_some()
        });
        assert_eq!(used.map(|(_, written)| written), Some(1));
        let found = self.station.rings[self.control].ram.read(answer, 4);
        let expected = if self.model.obey(command) { OK } else { ERR };
        assert_eq!(found, [expected, 0xff, 0xff, 0xff], "{:02x?}", &command[..command.len().min(64)]);
    }

    fn ring(&mut self) -> (&mut Driver, u64) {
        let ring = &mut self.station.rings[self.control];
        let at = ring.desc + BUFFERS;
        (ring, at)
    }

    /// A frame comes in at a port: the driver gets it where it wants it, or does not.
    fn frame(&mut self, input: &mut Input<'_>) {
        let port = u16::from(input.byte()) % u16::try_from(self.pairs()).expect("few pairs");
        let frame = Frame {
            to: ADDRESSES[usize::from(input.byte()) % ADDRESSES.len()],
            vlan: input.flag().then(|| input.half()),
            protocol: PROTOCOLS[usize::from(input.byte()) % PROTOCOLS.len()],
            flow: input.byte(),
        };
        let bytes = frame.bytes();
        self.ends[usize::from(port)].put(bytes.clone());
        match self.model.receiver(&frame, port) {
            Some(pair) => {
                let pair = usize::from(pair);
                let mut found = None;
                wait_for(&format!("a frame on pair {pair}"), || {
                    found = self.station.receive(pair);
                    found.is_some()
                });
                assert_eq!(found, Some(bytes));
                self.station.post(pair);
            }
            None => {
                self.filtered += 1;
                wait_for("a frame that is not wanted", || self.count("rx_filtered") == self.filtered);
            }
        }
        let mut others = 0..self.pairs();
        assert!(others.all(|pair| self.station.rings[2 * pair].take_used().is_none()), "nobody sent this frame");
    }

    fn count(&mut self, name: &str) -> u64 {
        let shown = self.station.device.show_attribute(&format!("statistics/{name}"));
        shown.expect("a counter").parse().expect("a number")
    }

    /// A chain that is no command. There is another card after it: nobody tells this one's line that it was reset.
    fn break_rules(&mut self, len: u8) {
        let (ring, at) = self.ring();
        ring.add(&[(at, u32::from(len) + 1, false)]);
        self.station.kick(self.control);
        wait_for("a device that needs a reset", || self.link.needs_reset());
        self.station.reset();
        *self = Self::new(self.choice);
    }

    /// Another driver begins. The address stays.
    fn restart(&mut self) {
        self.station.restart();
        self.model = Model::new(self.model.features, PAIRS, self.model.own);
        self.post();
    }

    /// What the card says of itself.
    fn look(&mut self) {
        let mut config = [0; 10];
        self.station.device.read_config(0, &mut config);
        assert_eq!(config[..6], self.model.own);
        assert_eq!(config[6], 1 | if self.model.announce { ANNOUNCE } else { 0 });
        assert_eq!(config[8], 3);
        assert_eq!(self.station.device.show_attribute("pairs_enabled"), Ok(self.model.enabled.to_string()));
        assert!(!self.link.needs_reset(), "{:?}", self.link.last_fault());
    }
}

/// A command: mostly one that there is.
fn command(input: &mut Input<'_>) -> Vec<u8> {
    let address = |input: &mut Input<'_>| ADDRESSES[usize::from(input.byte()) % ADDRESSES.len()];
    match input.byte() % 12 {
        0..=2 => vec![0, input.byte() % (MODES + 1), input.byte() % 3],
        3 => {
            let mut bytes = vec![1, 0];
            for _ in 0..2 {
                let count = u32::from(input.byte() % 70);
                bytes.extend(count.to_le_bytes());
                let first = input.byte();
                (0..count).for_each(|n| bytes.extend(nth_address(first, n)));
            }
            bytes.truncate(bytes.len() - usize::from(input.byte() / 250));
            bytes
        }
        4 => [&[1, 1][..], &address(input)].concat(),
        5 | 6 => [&[2, input.byte() % 3][..], &(input.half() % 4100).to_le_bytes()].concat(),
        7 => vec![3, input.byte() % 2],
        8 => [&[4, 0][..], &(u16::from(input.byte()) % (PAIRS + 2)).to_le_bytes()].concat(),
        9 | 10 => rss(input),
        _ => input.blob().to_vec(),
    }
}

/// One of those there are, or of a lot of others.
fn nth_address(first: u8, n: u32) -> [u8; 6] {
    match usize::from(first) + n as usize {
        known if known < ADDRESSES.len() => ADDRESSES[known],
        _ => [first & 1, 0, 0, 0, 1, u8::try_from(n).unwrap_or(0)],
    }
}

/// VIRTIO_NET_CTRL_MQ_RSS_CONFIG, mostly a sound one.
fn rss(input: &mut Input<'_>) -> Vec<u8> {
    let mut bytes = vec![4, 1];
    bytes.extend(u32::from(input.byte() & 0x7f).to_le_bytes());
    let mask = if input.byte() < 8 { input.half() } else { (1 << (input.byte() % 9)) - 1 };
    let pair = |input: &mut Input<'_>| u16::from(input.byte() % 64) % (PAIRS + u16::from(input.byte() == 255));
    bytes.extend(mask.to_le_bytes());
    bytes.extend(pair(input).to_le_bytes());
    for _ in 0..=u32::from(mask.min(300)) {
        bytes.extend(pair(input).to_le_bytes());
    }
    bytes.extend((u16::from(input.byte()) % (PAIRS + 2)).to_le_bytes());
    let key = input.byte() % 42;
    bytes.push(key);
    let written = usize::from(key) + usize::from(input.byte() == 255);
    bytes.extend(input.filled(written));
    bytes
}

/// The bits of a number, from the lowest on.
fn bits(number: u64) -> impl Iterator<Item = u64> {
    (0..u64::BITS).map(|bit| 1 << bit).filter(move |bit| number & bit != 0)
}

fn wait_for(what: &str, mut done: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !done() {
        assert!(begun.elapsed() < PATIENCE, "{what} did not come");
        // Its thread has the processor meanwhile.
        std::thread::sleep(Duration::from_micros(20));
    }
}
