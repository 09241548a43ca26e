//! A network card that sends everything back, for the kernel's own vhost-vdpa: behind VDUSE, the kernel asks this
//! program what another would ask a card's registers. It is what the kernel's rules are read off from.
//!
//! It takes split rings, and no feature beyond those that a network card behind VDUSE must have.

mod abi;
mod memory;
mod ring;

use crate::driver::{CallResult, DriverError, sys};
use abi::*;
use memory::Memory;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use ring::Queue;
use std::fs::{File, OpenOptions};
use std::io::{Read, Write};
use std::os::fd::AsFd;

const RX: usize = 0;
const TX: usize = 1;
/// Bytes of the virtio-net header with VIRTIO_F_VERSION_1, and where its num_buffers is (virtio 1.3 §5.1.6.1).
const HEADER: usize = 12;
const NUM_BUFFERS: usize = 10;
/// MAC address, status (VIRTIO_NET_S_LINK_UP), queue pairs, MTU (virtio 1.3 §5.1.4).
const CONFIG: [u8; 12] = [0x52, 0x54, 0, 0x12, 0x34, 0x56, 1, 0, 1, 0, 0xdc, 0x05];

/// The card.
#[derive(Debug)]
pub struct Card {
    file: File,
    memory: Memory,
    queues: [Option<Queue>; 2],
    status: u8,
}

impl Card {
    /// A new card, `/dev/vduse/<name>`. It becomes a vDPA device when a device of this name is added to `vduse`.
    pub fn create(name: &str) -> CallResult<Self> {
        let open = |path: &str| {
            OpenOptions::new().read(true).write(true).open(path).map_err(DriverError::io(format!("open {path}")))
        };
        let control = open("/dev/vduse/control")?;
        let call = |file: &File, cmd, argument: &mut [u8]| {
            sys::ioctl(file, cmd, argument).map_err(DriverError::call(format!("{cmd:#x}")))
        };
        call(&control, VDUSE_SET_API_VERSION, &mut 0u64.to_ne_bytes())?;
        call(&control, VDUSE_CREATE_DEV, &mut new_device(name, OFFERED, &CONFIG))?;
        let file = open(&format!("/dev/vduse/{name}"))?;
        for index in [RX, TX] {
            call(&file, VDUSE_VQ_SETUP, &mut new_queue(index, QUEUE_SIZE))?;
        }
        Ok(Self { file, memory: Memory::default(), queues: [None, None], status: 0 })
    }

    /// Serves until the device is taken away.
    pub fn serve(&mut self) -> CallResult<()> {
        loop {
            let mut fds = vec![PollFd::new(self.file.as_fd(), PollFlags::POLLIN)];
            fds.extend(self.queues.iter().flatten().map(|queue| PollFd::new(queue.kick().as_fd(), PollFlags::POLLIN)));
            poll(&mut fds, PollTimeout::NONE).map_err(DriverError::call("poll"))?;
            if fds[0].any() == Some(true) {
                self.answer()?;
            }
            self.queues.iter().flatten().for_each(Queue::kicked);
            self.exchange()?;
        }
    }

    /// One question of the kernel's.
    fn answer(&mut self) -> CallResult<()> {
        let mut request = [0; MESSAGE];
        self.file.read_exact(&mut request).map_err(DriverError::io("read"))?;
        let Request { kind, id } = Request::of(&request);
        let (mut done, mut payload) = (true, [0; 8]);
        match kind {
            VDUSE_GET_VQ_STATE => payload = vq_state(&request, |index| self.stands_at(index))?,
            VDUSE_SET_STATUS => done = self.set_status(request[PAYLOAD])?,
            VDUSE_UPDATE_IOTLB => self.memory.forget(word(&request, PAYLOAD), word(&request, PAYLOAD + 8)),
            _ => done = false,
        }
        self.file.write_all(&response(id, done, payload)).map_err(DriverError::io("write"))
    }

    fn stands_at(&self, index: u32) -> CallResult<u16> {
        let queue = usize::try_from(index).ok().and_then(|index| self.queues.get(index)?.as_ref());
        match queue {
            Some(queue) => Ok(queue.available()),
            None => Ok(VqInfo::get(&self.file, index)?.base),
        }
    }

    /// Whether the status is taken.
    fn set_status(&mut self, status: u8) -> CallResult<bool> {
        let set = status & !self.status;
        if status == 0 {
            self.queues = [None, None];
            self.memory.forget(0, u64::MAX);
        }
        if set & FEATURES_OK != 0 {
            let mut bytes = [0; 8];
            sys::ioctl(&self.file, VDUSE_DEV_GET_FEATURES, &mut bytes).map_err(DriverError::call("features"))?;
            let accepted = u64::from_ne_bytes(bytes);
            if accepted & !OFFERED != 0 || accepted & REQUIRED != REQUIRED {
                return Ok(false);
            }
        }
        self.status = status;
        if set & DRIVER_OK != 0 {
            for index in [RX, TX] {
                let info = VqInfo::get(&self.file, u32::try_from(index).expect("two queues"))?;
                self.queues[index] = info.ready.then(|| Queue::start(&self.file, &info)).transpose()?;
            }
            // What was made available before comes without a kick.
            self.exchange()?;
        }
        Ok(true)
    }

    /// Sends back what was sent, as far as there are buffers for it.
    fn exchange(&mut self) -> CallResult<()> {
        let Self { file, memory, queues: [Some(rx), Some(tx)], .. } = self else { return Ok(()) };
        let mut moved = false;
        while let (Some(sent), Some(buffer)) = (tx.next(file, memory), rx.next(file, memory)) {
            let mut frame = sent.read(file, memory);
            if frame.len() >= HEADER {
                frame[NUM_BUFFERS..HEADER].copy_from_slice(&1u16.to_le_bytes());
            }
            let len = buffer.write(file, memory, &frame);
            rx.used(file, memory, &buffer, len);
            tx.used(file, memory, &sent, 0);
            moved = true;
        }
        if moved {
            for index in [RX, TX] {
                let mut number = u32::try_from(index).expect("two queues").to_ne_bytes();
                sys::ioctl(&*file, VDUSE_VQ_INJECT_IRQ, &mut number).map_err(DriverError::call("interrupt"))?;
            }
        }
        Ok(())
    }
}
