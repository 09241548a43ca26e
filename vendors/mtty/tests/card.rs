//! The card as a client of the contract sees it.

mod common;

use common::{Card, FAST, card, create, request};
use mtty::Mtty;
use nix::errno::Errno;
use std::sync::Barrier;
use virtio_mdev_api::Parent;
use virtio_mdev_api::vfio::{IrqAction, IrqData, flags};

const IER: u64 = 1;
const IIR: u64 = 2;
const MCR: u64 = 4;

#[test]
fn a_card_is_a_pci_function_with_a_bar_a_port() {
    for (kind, ports) in [("1", 1), ("2", 2)] {
        let card = card(kind);
        let shape = card.session.shape();
        assert_eq!(shape.flags, flags::VFIO_DEVICE_FLAGS_PCI);
        assert!(shape.resettable);
        let sizes: Vec<_> = shape.regions.iter().map(|region| region.size).collect();
        assert_eq!(sizes, [8, if ports == 2 { 8 } else { 0 }, 0, 0, 0, 0, 0, 256, 0]);
        let counts: Vec<_> = shape.irqs.iter().map(|irq| irq.count).collect();
        assert_eq!(counts, [1, 1, 0, 0, 1]);
        assert_eq!(card.read(7, 0, 4), [0x48, 0x43, 0x53, 0x32]);
        assert_eq!(
            card.session.read(2, 0, &mut [0]).unwrap_err().to_string(),
            "1 bytes at 0x0 of region 2 cannot be read"
        );
    }
}

#[test]
fn what_is_sent_comes_back_through_the_plug_on_each_port_for_itself() {
    let card = card("2");
    for port in [0, 1] {
        card.start(port);
        card.send(port, &(0..16).collect::<Vec<_>>());
    }
    for port in [0, 1] {
        assert_eq!(card.received(port), (0..16).collect::<Vec<u8>>());
    }
}

#[test]
fn the_17th_byte_overruns_and_automatic_flow_control_keeps_it_back() {
    let card = card("1");
    card.start(0);
    card.send(0, &[0; 17]);
    assert_eq!(card.read(0, 5, 1)[0] & 0x02, 0x02);
    assert_eq!(card.received(0).len(), 16);
    card.write(0, MCR, &[0x23]);
    card.send(0, &(0..24).collect::<Vec<_>>());
    assert_eq!(card.received(0), (0..24).collect::<Vec<u8>>());
    assert_eq!(card.read(0, 5, 1)[0] & 0x02, 0);
}

#[test]
fn intx_is_a_line_that_masks_itself_and_is_told_again_while_it_is_up() {
    let card = card("2");
    let intx = card.trigger(0);
    card.start(1);
    card.write(1, IER, &[1]);
    card.send(1, b"ab");
    assert_eq!(intx.drain(), Ok(Some(1)), "two bytes, one interrupt");
    assert_eq!(card.read(7, 6, 1), [0x08], "the interrupt shows in the status");
    card.unmask();
    assert_eq!(intx.drain(), Ok(Some(1)));
    assert_eq!(card.received(1), b"ab");
    assert_eq!(card.read(7, 6, 1), [0]);
    card.unmask();
    assert_eq!(intx.drain(), Ok(None));
}

#[test]
fn intx_that_is_disabled_in_the_command_register_is_silent_until_it_is_not() {
    let card = card("1");
    let intx = card.trigger(0);
    card.write(7, 4, &[0x01, 0x04]);
    card.start(0);
    card.write(0, IER, &[2]);
    assert_eq!(intx.drain(), Ok(None));
    card.write(7, 4, &[0x01, 0x00]);
    assert_eq!(intx.drain(), Ok(Some(1)));
}

#[test]
fn msi_takes_the_place_of_intx_and_is_an_edge() {
    let card = card("1");
    let (intx, msi) = (card.trigger(0), card.trigger(1));
    card.start(0);
    card.write(0, IER, &[1]);
    card.send(0, b"a");
    card.send(0, b"b");
    assert_eq!((intx.drain(), msi.drain()), (Ok(None), Ok(Some(1))));
    assert_eq!(card.received(0), b"ab");
    card.send(0, b"c");
    assert_eq!(msi.drain(), Ok(Some(1)));
    card.set_irqs(1, IrqAction::Trigger, IrqData::None(0));
    assert_eq!(intx.drain(), Ok(Some(1)), "the line is up still");
}

#[test]
fn who_comes_to_an_interrupt_that_is_up_hears_of_it() {
    let card = card("1");
    card.start(0);
    card.write(0, IER, &[2]);
    let msi = card.trigger(1);
    assert_eq!(msi.drain(), Ok(Some(1)));
    assert_eq!(card.read(0, IIR, 1), [0xc2]);
}

#[test]
fn a_reset_and_a_new_client_find_the_card_as_after_its_creation() {
    let card = card("1");
    card.start(0);
    card.send(0, b"abc");
    card.write(7, 0x10, &0xc150_u32.to_le_bytes());
    card.session.reset().unwrap();
    let fresh = common::card("1");
    assert_eq!(card.read(7, 0, 256), fresh.read(7, 0, 256));
    assert_eq!(card.read(0, 0, 8), fresh.read(0, 0, 8));
    card.start(0);
    card.send(0, b"abc");
    card.session.close();
    card.session.open().unwrap();
    assert_eq!(card.read(0, 0, 8), fresh.read(0, 0, 8));
}

#[test]
fn both_types_share_the_ports_and_what_is_left_of_them_is_what_is_available() {
    let parent = Mtty::new("m", 5);
    let available = || (parent.available("1"), parent.available("2"));
    assert_eq!(available(), (5, 2));
    let one = create(&parent, "2", &[]).unwrap();
    let two = create(&parent, "2", &[]).unwrap();
    assert_eq!(available(), (1, 0));
    let refused = create(&parent, "2", &[]).map(drop).unwrap_err();
    assert_eq!((refused.errno(), refused.reason()), (Errno::ENOSPC, "2 ports wanted, 1 of 5 are left"));
    drop(create(&parent, "1", &[]).unwrap());
    drop((one, two));
    assert_eq!(available(), (5, 2));
}

#[test]
fn of_two_that_race_for_the_last_ports_one_gets_them() {
    let parent = Mtty::new("m", 3);
    let barrier = Barrier::new(4);
    for _ in 0..50 {
        let made: Vec<_> = std::thread::scope(|scope| {
            let race = |kind: &'static str| {
                let (parent, barrier) = (&parent, &barrier);
                scope.spawn(move || {
                    barrier.wait();
                    create(parent, kind, &[])
                })
            };
            let racers = ["2", "2", "2", "2"].map(race);
            racers.into_iter().filter_map(|racer| racer.join().unwrap().ok()).collect()
        });
        assert_eq!((made.len(), parent.available("1")), (1, 1));
    }
}

#[test]
fn parameters_that_nobody_knows_are_refused_and_take_no_port() {
    let parent = Mtty::new("m", 1);
    for (key, value) in [("backend", "tcp"), ("speed", "9600")] {
        let refused = create(&parent, "1", &[(key, value)]).map(drop).unwrap_err();
        assert_eq!(refused.errno(), Errno::EINVAL, "{key}={value}");
    }
    assert_eq!(parent.create(request("3", &[])).map(drop).unwrap_err().errno(), Errno::EINVAL);
    assert_eq!(parent.available("1"), 1);
}

#[test]
fn a_stopped_card_raises_no_interrupt_until_it_runs() {
    let card: Card = card("1");
    let intx = card.trigger(0);
    card.start(0);
    card.session.stop().unwrap();
    card.write(0, IER, &[2]);
    card.send(0, b"a");
    std::thread::sleep(FAST);
    assert_eq!(intx.drain(), Ok(None));
    assert_eq!(card.read(0, 5, 1)[0] & 0x61, 0, "the byte stands still");
    card.session.run().unwrap();
    assert_eq!(intx.drain(), Ok(Some(1)));
    assert_eq!(card.received(0), b"a");
}
