use super::*;

const DATA: u64 = 0;
const IER: u64 = 1;
const IIR: u64 = 2;
const FCR: u64 = 2;
const LCR: u64 = 3;
const MCR: u64 = 4;
const LSR: u64 = 5;
const MSR: u64 = 6;
const SCR: u64 = 7;

/// FIFOs on, eight bits a character, trigger level 8, RTS and DTR up.
fn ready() -> Uart {
    let mut uart = Uart::new(PEER_READY);
    [(FCR, 0x87), (LCR, 0x03), (MCR, 0x03)].iter().for_each(|(at, value)| uart.write(*at, *value));
    uart
}

fn send_all(uart: &mut Uart) -> Vec<u8> {
    let sent: Vec<_> = uart.to_send().collect();
    uart.sent(sent.len());
    sent
}

#[test]
fn registers_keep_the_bits_they_have() {
    let mut uart = Uart::new(0);
    for (at, kept) in [(IER, 0x0f), (LCR, 0xff), (MCR, 0x3f), (SCR, 0xff)] {
        uart.write(at, 0xff);
        assert_eq!(uart.read(at), kept, "register {at}");
        uart.write(LCR, 0);
    }
    uart.write(MCR, 0);
    uart.write(LSR, 0xff);
    uart.write(MSR, 0xff);
    assert_eq!(uart.read(LSR), 0x60);
}

#[test]
fn the_divisor_is_behind_dlab() {
    let mut uart = ready();
    uart.write(LCR, 0x83);
    uart.write(DATA, 0x0c);
    uart.write(IER, 0x01);
    assert_eq!((uart.read(DATA), uart.read(IER)), (0x0c, 0x01));
    uart.write(LCR, 0x03);
    assert_eq!(uart.read(IER), 0);
    assert_eq!(uart.next_to_send(), None);
}

#[test]
fn sixteen_bytes_wait_to_be_sent_and_the_transmitter_is_empty_when_all_are() {
    let mut uart = ready();
    (0..20).for_each(|byte| uart.write(DATA, byte));
    assert_eq!(uart.read(LSR) & 0x60, 0);
    uart.sent(15);
    assert_eq!(uart.read(LSR) & 0x60, 0);
    assert_eq!(send_all(&mut uart), [15]);
    assert_eq!(uart.read(LSR) & 0x60, 0x60);
}

#[test]
fn a_character_has_as_many_bits_as_line_control_says() {
    let mut uart = ready();
    for (lcr, character) in [(0, 0x1f), (1, 0x3f), (2, 0x7f), (3, 0xff)] {
        uart.write(LCR, lcr);
        uart.write(DATA, 0xff);
        assert_eq!(send_all(&mut uart), [character]);
    }
}

#[test]
fn data_interrupts_at_the_trigger_level_and_below_it_as_a_time_out() {
    let mut uart = ready();
    uart.write(IER, 0x01);
    uart.receive(1);
    assert_eq!(uart.read(IIR), 0xcc);
    (2..=8).for_each(|byte| uart.receive(byte));
    assert_eq!(uart.read(IIR), 0xc4);
    assert_eq!(uart.read(DATA), 1);
    assert_eq!(uart.read(IIR), 0xcc);
    assert_eq!((2..=8).map(|_| uart.read(DATA)).collect::<Vec<_>>(), [2, 3, 4, 5, 6, 7, 8]);
    assert_eq!(uart.read(IIR), 0xc1);
    assert!(!uart.interrupts());
}

#[test]
fn trigger_levels_are_1_4_8_and_14_and_1_without_fifos() {
    for (fcr, level) in [(0x01, 1), (0x41, 4), (0x81, 8), (0xc1, 14), (0x00, 1), (0xc0, 1)] {
        let mut uart = ready();
        uart.write(FCR, fcr);
        uart.write(IER, 0x01);
        let arrived = (1..).find(|_| {
            uart.receive(0);
            uart.read(IIR) & 0x0f == 0x04
        });
        assert_eq!(arrived, Some(level), "FCR {fcr:#x}");
    }
}

#[test]
fn interrupts_are_told_by_priority_and_each_goes_by_its_own_way() {
    let mut uart = ready();
    (0..17).for_each(|byte| uart.receive(byte));
    uart.write(IER, 0x0f);
    uart.set_inputs(0);
    let identify = |uart: &mut Uart| uart.read(IIR) & 0x0f;
    assert_eq!(identify(&mut uart), 0x06);
    assert_eq!(uart.read(LSR) & 0x03, 0x03);
    assert_eq!(uart.read(LSR) & 0x03, 0x01, "an overrun is told once");
    assert_eq!(identify(&mut uart), 0x04);
    (0..16).for_each(|byte| assert_eq!(uart.read(DATA), byte));
    assert_eq!(identify(&mut uart), 0x02);
    assert_eq!(identify(&mut uart), 0x00, "an empty transmitter is told once");
    assert_eq!(uart.read(MSR), 0x0b);
    assert_eq!(uart.read(MSR), 0x00);
    assert_eq!(identify(&mut uart), 0x01);
}

#[test]
fn an_empty_transmitter_interrupts_when_it_becomes_so_and_when_it_is_enabled() {
    let mut uart = ready();
    uart.write(IER, 0x02);
    assert_eq!(uart.read(IIR), 0xc2);
    assert_eq!(uart.read(IIR), 0xc1);
    uart.write(IER, 0x02);
    assert_eq!(uart.read(IIR), 0xc1, "it was enabled already");
    uart.write(DATA, 7);
    assert!(!uart.interrupts());
    send_all(&mut uart);
    assert!(uart.interrupts());
    uart.write(IER, 0);
    uart.write(IER, 0x02);
    assert_eq!(uart.read(IIR), 0xc2);
    uart.write(DATA, 7);
    assert!(!uart.interrupts(), "writing takes it back");
}

#[test]
fn without_fifos_the_last_byte_is_kept_and_the_overrun_told() {
    let mut uart = ready();
    uart.write(FCR, 0);
    assert_eq!(uart.read(IIR), 0x01);
    uart.receive(1);
    uart.receive(2);
    assert_eq!(uart.read(LSR), 0x63);
    assert_eq!(uart.read(DATA), 2);
    assert_eq!(uart.read(LSR), 0x60);
}

#[test]
fn fifos_are_cleared_when_asked_for_and_when_they_are_switched() {
    for fcr in [0x83, 0x00] {
        let mut uart = ready();
        uart.receive(1);
        uart.write(FCR, fcr);
        assert_eq!(uart.read(LSR) & 0x01, 0, "FCR {fcr:#x}");
    }
    let mut uart = ready();
    uart.write(DATA, 1);
    uart.write(FCR, 0x85);
    assert_eq!(uart.next_to_send(), None);
    assert_eq!(uart.read(LSR) & 0x60, 0x60);
}

#[test]
fn in_loop_mode_bytes_and_lines_come_back_and_the_other_side_is_not_there() {
    let mut uart = ready();
    uart.write(MCR, 0x1a);
    assert_eq!(uart.read(MSR) & 0xf0, 0x90, "RTS is CTS, OUT2 is DCD");
    uart.write(MCR, 0x15);
    assert_eq!(uart.read(MSR) & 0xf0, 0x60, "DTR is DSR, OUT1 is RI");
    uart.write(DATA, 0x5a);
    uart.receive(1);
    assert_eq!((uart.room(), uart.next_to_send()), (0, None));
    assert_eq!(uart.read(DATA), 0x5a);
    assert_eq!(uart.read(LSR) & 0x01, 0);
    uart.write(MCR, 0x03);
    assert_eq!(uart.read(MSR) & 0xf0, 0xb0);
}

#[test]
fn bytes_are_asked_for_while_there_is_room_and_rts_is_up() {
    let mut uart = ready();
    assert_eq!(uart.room(), 16);
    (0..3).for_each(|byte| uart.receive(byte));
    assert_eq!(uart.room(), 13);
    uart.write(MCR, 0x01);
    assert_eq!(uart.room(), 0);
}

#[test]
fn automatic_flow_control_asks_up_to_the_trigger_level_and_sends_only_when_it_may() {
    let mut uart = ready();
    uart.write(MCR, 0x23);
    assert_eq!(uart.room(), 8);
    (0..8).for_each(|byte| uart.receive(byte));
    assert_eq!((uart.room(), uart.plugged_in_itself() & MSR_CTS), (0, 0));
    uart.set_inputs(MSR_DSR | MSR_DCD);
    uart.write(DATA, 1);
    assert_eq!(uart.next_to_send(), None);
    uart.set_inputs(PEER_READY);
    assert_eq!(uart.next_to_send(), Some(1));
}

#[test]
fn a_port_of_its_own_registers_is_the_same_port() {
    let mut uart = ready();
    (0..5).for_each(|byte| uart.receive(byte));
    uart.write(IER, 0x0f);
    uart.write(DATA, 9);
    assert_eq!(Uart::of(&uart.registers()), Some(uart));
}
