//! The device: the engine, and what it does with chains. It can be made to do something wrong.

use crate::script::{Then, Work};
use std::sync::Arc;
use virtio_mdev_api::QueueState;
use virtio_mdev_api::notify::EventFd;
use virtqueue::{Chain, Halt, Io, Queue};

/// What a device may do wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wrong {
    /// Keeps what it should give up.
    CommitsInPlaceOfARewind,
    /// Gives up what it should keep.
    RewindsInPlaceOfACommit,
    /// Says one byte more than it wrote.
    SaysTooMuch,
    /// Gives two chains back in the wrong order.
    SwapsTwo,
    /// Passes over a chain, which it gives back.
    SkipsOne,
    /// Writes a byte behind the last buffer.
    WritesBeyond,
    /// Writes without saying so to whoever copies memory.
    WritesUnseen,
    /// Now and then tells nobody of what it used.
    IsSilent,
    /// Tells of what it did not use.
    IsNoisy,
    /// Does not ask for notifications, and says that it did.
    AsksNobody,
    /// Stops one chain further than it stood.
    StandsFurther,
    /// Has lost a wrap counter, or the upper half of an index, when it goes on.
    ForgetsItsTurn,
}

impl Wrong {
    pub const ALL: [Self; 12] = [
        Self::CommitsInPlaceOfARewind,
        Self::RewindsInPlaceOfACommit,
        Self::SaysTooMuch,
        Self::SwapsTwo,
        Self::SkipsOne,
        Self::WritesBeyond,
        Self::WritesUnseen,
        Self::IsSilent,
        Self::IsNoisy,
        Self::AsksNobody,
        Self::StandsFurther,
        Self::ForgetsItsTurn,
    ];
}

/// A chain as the device found it.
#[derive(Debug)]
pub struct Taken {
    /// How many were taken before it and not given up since the work began.
    pub at: usize,
    pub id: u16,
    pub bytes: Vec<u8>,
    pub readable: u64,
    pub writable: u64,
    pub written: Vec<u8>,
}

/// What came of one burst.
#[derive(Debug, Default)]
pub struct Done {
    /// In order, given up or not.
    pub taken: Vec<Taken>,
    /// Numbers in `taken` of those it gave back.
    pub committed: Vec<usize>,
    /// How many it had taken when it could not read or write all of the next.
    pub failed_at: Option<usize>,
    /// How many it had taken when it found no more.
    pub empty_at: Option<usize>,
    /// Asked for notifications: whether there was more, and how many it had taken.
    pub enabled: Option<(bool, usize)>,
    /// Notifications are unwanted since.
    pub disabled: bool,
    /// Memory was missing.
    pub halted: bool,
}

pub struct Device {
    pub queue: Queue,
    pub call: Option<EventFd>,
    pub wrong: Option<Wrong>,
    /// Counts occasions, so that a wrong device is right now and then.
    pub occasion: u32,
}

impl Device {
    fn errs(&mut self, wrong: Wrong) -> bool {
        if self.wrong != Some(wrong) {
            return false;
        }
        self.occasion += 1;
        self.occasion.is_multiple_of(2)
    }

    /// Works on the queue. Chain `n` of all that are ever given back gets bytes that say so.
    pub fn serve(&mut self, work: &Work, given: usize) -> Done {
        let mut done = Done::default();
        let mut errs: Vec<bool> = Vec::new();
        let wrong = self.wrong;
        for _ in 0..work.takes.len() + 1 {
            errs.push(wrong.is_some_and(|wrong| self.errs(wrong)));
        }
        let is = |n: usize, which: Wrong| wrong == Some(which) && errs[n];
        let result = self.queue.burst(|io| run(io, work, given, &mut done, &is));
        done.halted = result.is_err();
        if !self.errs(Wrong::IsSilent) {
            self.queue.interrupt();
        }
        if self.errs(Wrong::IsNoisy) {
            self.call.as_ref().map(EventFd::signal);
        }
        self.queue.resume();
        done
    }

    /// Where it says it stood.
    pub fn state(&mut self) -> QueueState {
        let state = self.queue.state();
        let further = self.errs(Wrong::StandsFurther);
        let forgets = self.errs(Wrong::ForgetsItsTurn);
        match state {
            QueueState::Split { avail } if further => QueueState::Split { avail: avail.wrapping_add(1) },
            QueueState::Split { avail } if forgets => QueueState::Split { avail: avail ^ 0x100 },
            QueueState::Packed { avail, avail_wrap, used, used_wrap } if further => {
                QueueState::Packed { avail: avail ^ 1, avail_wrap, used, used_wrap }
            }
            QueueState::Packed { avail, avail_wrap, used, used_wrap } if forgets => {
                QueueState::Packed { avail, avail_wrap: !avail_wrap, used, used_wrap: !used_wrap }
            }
            state => state,
        }
    }
}

/// Bytes that say which `number` they are of, and where they are among others.
pub fn answer(number: usize, len: usize) -> Vec<u8> {
    let word = |at: usize| (number.wrapping_mul(2_654_435_761) ^ at.wrapping_mul(40_503)).to_le_bytes();
    (0..len.div_ceil(4)).flat_map(|at| word(at + 1)[1..5].to_owned()).take(len).collect()
}

fn run(
    io: &mut Io<'_>,
    work: &Work,
    given: usize,
    done: &mut Done,
    is: &dyn Fn(usize, Wrong) -> bool,
) -> Result<(), Halt> {
    let mut held: Vec<(usize, Chain, u32)> = Vec::new();
    let mut kept = 0;
    if work.disable {
        io.disable_notifications()?;
        done.disabled = true;
    }
    for (n, take) in work.takes.iter().enumerate() {
        let at = kept + held.len();
        if is(n, Wrong::SkipsOne)
            && let Some(skipped) = io.take()?
        {
            io.complete(&skipped, 0);
        }
        let Some(chain) = io.take()? else {
            done.empty_at = Some(at);
            break;
        };
        done.failed_at = Some(at);
        let (taken, written) = answer_chain(io, &chain, at, given + at, take.fill)?;
        done.failed_at = None;
        if is(n, Wrong::WritesBeyond)
            && taken.writable > 0
            && let Some(last) = io.writable_address(&chain, taken.writable - 1)
        {
            io.write_at(last + 1, &[0x5a])?;
        }
        done.taken.push(taken);
        let written = u32::try_from(written).unwrap();
        held.push((done.taken.len() - 1, chain, if is(n, Wrong::SaysTooMuch) { written + 1 } else { written }));
        let then = match take.then {
            Then::Rewind if is(n, Wrong::CommitsInPlaceOfARewind) => {
                give_back(io, &mut held, false);
                io.commit();
                // What the device believes all the same.
                Then::Rewind
            }
            Then::Commit if is(n, Wrong::RewindsInPlaceOfACommit) => {
                io.rewind();
                kept += held.len();
                done.committed.extend(held.drain(..).map(|(number, ..)| number));
                Then::Commit
            }
            then => then,
        };
        match then {
            Then::Hold => {}
            Then::Commit => {
                kept += held.len();
                done.committed.extend(held.iter().map(|(number, ..)| *number));
                give_back(io, &mut held, is(n, Wrong::SwapsTwo));
                io.commit();
            }
            Then::Rewind => {
                // Some of them may have been completed already.
                let half = held.len() / 2;
                held.truncate(half);
                give_back(io, &mut held, false);
                io.rewind();
            }
        }
    }
    if !held.is_empty() {
        io.rewind();
    }
    if work.enable {
        let asks = !is(work.takes.len(), Wrong::AsksNobody);
        done.enabled = Some((if asks { io.enable_notifications()? } else { false }, kept));
        done.disabled = false;
    }
    Ok(())
}

fn give_back(io: &mut Io<'_>, held: &mut Vec<(usize, Chain, u32)>, swap: bool) {
    if swap && held.len() > 1 {
        held.swap(0, 1);
    }
    for (_, chain, written) in held.drain(..) {
        io.complete(&chain, written);
    }
}

/// Reads all of a chain in two steps, and writes a part of it in two.
fn answer_chain(io: &Io<'_>, chain: &Chain, at: usize, number: usize, fill: u8) -> Result<(Taken, usize), Halt> {
    let len = usize::try_from(chain.readable).unwrap();
    let mut bytes = vec![0; len + 8];
    let half = len / 2;
    let mut read = io.read(chain, 0, &mut bytes[..half])?;
    read += io.read(chain, half as u64, &mut bytes[half..])?;
    bytes.truncate(read);
    let room = usize::try_from(chain.writable).unwrap();
    let written = answer(number, room * usize::from(fill) / 255);
    let (first, second) = written.split_at(written.len() / 3);
    let mut count = io.write(chain, 0, first)?;
    count += io.write(chain, first.len() as u64, second)?;
    let (&Chain { readable, writable, .. }, id) = (chain, chain.head());
    Ok((Taken { at, id, bytes, readable, writable, written }, count))
}

pub fn call() -> Option<EventFd> {
    // A model checker of memory has no eventfds that are polled.
    (!cfg!(miri)).then(|| EventFd::new().unwrap())
}

pub fn slot(call: Option<&EventFd>) -> Arc<virtio_mdev_api::notify::CallSlot> {
    let slot = virtio_mdev_api::notify::CallSlot::default();
    slot.set(call.cloned());
    Arc::new(slot)
}
