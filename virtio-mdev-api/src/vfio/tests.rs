use super::flags::*;
use super::*;
use crate::executor::VendorFault;
use crate::notify::EventFd;
use crate::{Condition, DeviceLink, Engine, HasErrno};
use parking_lot::Mutex;
use std::time::Duration;

const DEADLINE: Duration = Duration::from_millis(300);
/// To print where something panicked takes a while, the first time.
const PATIENT: Duration = Duration::from_secs(20);

/// A device of one region of 16 bytes, whose writes say what happens.
#[derive(Default)]
struct Recorder {
    calls: Arc<Mutex<Vec<&'static str>>>,
    interrupts: Option<Arc<Interrupts>>,
    link: Option<DeviceLink>,
}

impl VfioMdev for Recorder {
    fn shape(&self) -> DeviceShape {
        DeviceShape {
            flags: VFIO_DEVICE_FLAGS_PLATFORM,
            resettable: true,
            regions: vec![
                RegionShape { size: 16, readable: true, writable: true },
                RegionShape { size: 16, readable: true, writable: false },
            ],
            irqs: vec![IrqShape { count: 1, flags: VFIO_IRQ_INFO_EVENTFD }],
        }
    }

    fn movable(&self) -> Option<Movable> {
        Some(Movable { identity: b"recorder 1".to_vec(), size: 4 })
    }

    fn open(&mut self, opened: Opened) -> Result<(), Refusal> {
        self.calls.lock().push("open");
        self.interrupts = Some(opened.interrupts);
        Ok(())
    }

    fn release(&mut self) {
        self.calls.lock().push("release");
        self.interrupts = None;
    }

    fn set_memory(&mut self, memory: Option<Arc<AddressSpace>>) -> Result<(), Refusal> {
        self.calls.lock().push(if memory.is_some() { "memory" } else { "no memory" });
        Ok(())
    }

    fn read(&mut self, _region: u32, offset: u64, out: &mut [u8]) -> Result<(), Refusal> {
        out.fill(offset.to_le_bytes()[0]);
        Ok(())
    }

    fn write(&mut self, _region: u32, _offset: u64, data: &[u8]) -> Result<(), Refusal> {
        match data[0] {
            1 => self.interrupts.as_ref().unwrap().raise(0, 0),
            2 => std::thread::sleep(DEADLINE * 3),
            3 => panic!("told to"),
            4 => self.link.as_ref().unwrap().fault(None, "told to"),
            _ => return Err(Refusal::new(Errno::EDOM, "no such thing")),
        }
        Ok(())
    }

    fn reset(&mut self) -> Result<(), Refusal> {
        self.calls.lock().push("reset");
        Ok(())
    }
}

/// The same as a PCI function.
struct Pci(Recorder);

impl VfioMdev for Pci {
    fn shape(&self) -> DeviceShape {
        DeviceShape { flags: VFIO_DEVICE_FLAGS_PCI, ..self.0.shape() }
    }

    fn open(&mut self, opened: Opened) -> Result<(), Refusal> {
        self.0.open(opened)
    }

    fn release(&mut self) {
        self.0.release();
    }

    fn read(&mut self, region: u32, offset: u64, out: &mut [u8]) -> Result<(), Refusal> {
        self.0.read(region, offset, out)
    }

    fn write(&mut self, region: u32, offset: u64, data: &[u8]) -> Result<(), Refusal> {
        self.0.write(region, offset, data)
    }

    fn irqs_changed(&mut self, _index: u32) {
        self.0.calls.lock().push("irqs_changed");
    }
}

#[test]
fn the_client_of_a_pci_function_is_asked_to_let_go_by_an_interrupt_of_its_own() {
    let device = Pci(Recorder::default());
    let (calls, shape, call) = (Arc::clone(&device.0.calls), device.shape(), EventFd::new().unwrap());
    let session = VfioSession::new(Box::new(device), shape, None, DeviceLink::new("test"), DEADLINE);
    assert_eq!(session.shape().irqs[4], IrqShape { count: 1, flags: VFIO_IRQ_INFO_EVENTFD | VFIO_IRQ_INFO_NORESIZE });
    session.open().unwrap();
    session.ask();
    let data = IrqData::EventFd(vec![Some(call.clone())]);
    session.set_irqs(&IrqChange { index: 4, start: 0, action: IrqAction::Trigger, data }).unwrap();
    assert_eq!(call.drain(), Ok(None));
    session.ask();
    assert_eq!(call.drain(), Ok(Some(1)));
    assert_eq!(*calls.lock(), ["open"], "the interrupt is not the vendor's");
}

fn session() -> (VfioSession, Arc<Mutex<Vec<&'static str>>>) {
    session_with(DEADLINE)
}

fn session_with(deadline: Duration) -> (VfioSession, Arc<Mutex<Vec<&'static str>>>) {
    let link = DeviceLink::new("test");
    let recorder = Recorder { link: Some(link.clone()), ..Recorder::default() };
    let (calls, shape, movable) = (Arc::clone(&recorder.calls), recorder.shape(), recorder.movable());
    (VfioSession::new(Box::new(recorder), shape, movable, link, deadline), calls)
}

fn event(session: &VfioSession) -> EventFd {
    let call = EventFd::new().unwrap();
    let data = IrqData::EventFd(vec![Some(call.clone())]);
    session.set_irqs(&IrqChange { index: 0, start: 0, action: IrqAction::Trigger, data }).unwrap();
    call
}

#[test]
fn a_client_finds_the_device_reset_and_leaves_nothing_with_it() {
    let (session, calls) = session();
    session.open().unwrap();
    let call = event(&session);
    session.close();
    assert_eq!(*calls.lock(), ["reset", "open", "release", "no memory"]);
    session.open().unwrap();
    session.write(0, 0, &[1]).unwrap();
    assert_eq!(call.drain(), Ok(None), "the client that interrupts went to is gone");
}

#[test]
fn accesses_lie_within_a_region_that_has_them() {
    let (session, _) = session();
    let mut out = [0; 4];
    session.read(1, 12, &mut out).unwrap();
    assert_eq!(out, [12; 4]);
    for (region, offset) in [(0, 13), (0, u64::MAX), (2, 0), (u32::MAX, 0)] {
        assert_eq!(session.read(region, offset, &mut out).unwrap_err().errno(), Errno::EINVAL, "{region} {offset:#x}");
    }
    let refused = session.write(1, 0, &[1]).unwrap_err();
    assert_eq!(refused.to_string(), "1 bytes at 0x0 of region 1 cannot be written");
    assert_eq!(session.write(0, 0, &[9]).unwrap_err().errno(), Errno::EDOM, "the vendor's own errno");
}

#[test]
fn a_stopped_device_interrupts_when_it_runs_again_or_is_reset() {
    for end in [VfioSession::run, VfioSession::reset] {
        let (session, _) = session();
        session.open().unwrap();
        let call = event(&session);
        session.stop().unwrap();
        session.write(0, 0, &[1]).unwrap();
        assert_eq!(call.drain(), Ok(None));
        end(&session).unwrap();
        assert_eq!(call.drain(), Ok(Some(1)));
    }
}

#[test]
fn f37_a_call_that_hangs_or_panics_breaks_the_device_in_words() {
    for (deadline, what, errno, words) in [
        (DEADLINE, 2, Errno::ETIMEDOUT, "write did not return within 300ms"),
        (PATIENT, 3, Errno::EIO, "write panicked: told to"),
    ] {
        let (session, _) = session_with(deadline);
        session.open().unwrap();
        assert_eq!(session.write(0, 0, &[what]).unwrap_err().errno(), errno);
        assert_eq!((session.condition(), session.broken().as_deref()), (Condition::Broken, Some(words)));
        assert!(matches!(session.read(0, 0, &mut [0]), Err(VfioSessionError::Vendor(VendorFault::Broken(_)))));
        session.close();
        session.retire();
    }
}

#[test]
fn a_fault_shows_until_a_reset() {
    let (session, _) = session();
    session.open().unwrap();
    session.write(0, 0, &[4]).unwrap();
    assert_eq!(session.condition(), Condition::NeedsReset);
    assert_eq!(session.link().last_fault().as_deref(), Some("told to"));
    session.reset().unwrap();
    assert_eq!(session.condition(), Condition::Idle);
}

#[test]
fn f41_only_a_state_of_the_same_identity_fits() {
    let (session, _) = session();
    assert_eq!(session.accepts(b"recorder 1"), Ok(()));
    for other in [&b"recorder 2"[..], b"", &[0xff; 4096]] {
        assert_eq!(session.accepts(other).unwrap_err().errno(), Errno::EINVAL);
    }
}
