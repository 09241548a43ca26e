//! The state of a card: taken by another one, and what is no state.

mod common;

use common::{Card, card, card_with};
use nix::errno::Errno;
use proptest::prelude::*;
use virtio_mdev_api::HasErrno;

/// All that a client can see of a card and that reading does not change, and what the bytes of a state say beyond that.
fn seen(card: &Card) -> (Vec<u8>, Vec<u8>) {
    (card.read(7, 0, 256), card.session.save().unwrap())
}

/// Writes to registers that bring a card into all its states: port, register, value.
fn traffic() -> impl Strategy<Value = Vec<(u32, u64, u8)>> {
    prop::collection::vec((0..2_u32, 0..8_u64, any::<u8>()), 0..120)
}

fn busy(traffic: &[(u32, u64, u8)]) -> Card {
    let card = card("2");
    card.start(0);
    card.start(1);
    traffic.iter().for_each(|(port, at, value)| card.write(*port, *at, &[*value]));
    card.session.stop().unwrap();
    card
}

fn restored(state: &[u8]) -> Card {
    let card = card("2");
    card.session.stop().unwrap();
    card.session.restore(state).unwrap();
    card
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, ..ProptestConfig::default() })]

    #[test]
    fn f41_a_state_continues_in_another_card(traffic in traffic()) {
        let from = busy(&traffic);
        let state = from.session.save().unwrap();
        let to = restored(&state);
        prop_assert_eq!(seen(&from), seen(&to));
        from.session.run().unwrap();
        to.session.run().unwrap();
        for port in [0, 1] {
            let all = |card: &Card| (0..8).map(|at| card.read(port, at, 1)[0]).collect::<Vec<_>>();
            prop_assert_eq!(all(&from), all(&to));
            // Data, and not the divisor.
            [&from, &to].iter().for_each(|card| card.write(port, 3, &[3]));
            prop_assert_eq!(from.received(port), to.received(port));
        }
        prop_assert_eq!(seen(&from), seen(&to));
    }

    #[test]
    fn f41_bytes_that_are_no_state_leave_the_card_as_it_was(
        traffic in traffic(),
        at in any::<prop::sample::Index>(),
        flip in 1..=u8::MAX,
        len in any::<prop::sample::Index>(),
    ) {
        let card = busy(&traffic);
        let state = card.session.save().unwrap();
        let before = seen(&card);
        let cut = &state[..len.index(state.len())];
        let longer = [&state[..], &[0]].concat();
        for bad in [cut, &longer] {
            prop_assert_eq!(card.session.restore(bad).unwrap_err().errno(), Errno::EINVAL);
        }
        prop_assert_eq!(seen(&card), before.clone());
        let mut flipped = state.clone();
        flipped[at.index(state.len())] ^= flip;
        // A flipped register may be another state that a card can be in: then the card is in it.
        match card.session.restore(&flipped) {
            Ok(()) => prop_assert_eq!(seen(&restored(&flipped)), seen(&card)),
            Err(refused) => {
                prop_assert_eq!(refused.errno(), Errno::EINVAL);
                prop_assert_eq!(seen(&card), before);
            }
        }
        card.session.run().unwrap();
        card.session.reset().unwrap();
    }

    #[test]
    fn f41_any_bytes_at_all_are_taken_or_refused(bytes: Vec<u8>) {
        let card = busy(&[]);
        let before = seen(&card);
        prop_assert!(card.session.restore(&bytes).is_err());
        prop_assert_eq!(seen(&card), before);
    }
}

fn identity(card: &Card) -> Vec<u8> {
    card.session.movable().unwrap().identity.clone()
}

#[test]
fn f41_a_state_of_another_version_or_card_is_refused_in_words() {
    let card = busy(&[]);
    let state = card.session.save().unwrap();
    let with = |at: usize, value: u8| {
        let mut state = state.clone();
        state[at] = value;
        card.session.restore(&state).unwrap_err().to_string()
    };
    assert_eq!(with(0, b'x'), "the state is not one of a serial card, version 1");
    assert_eq!(with(4, 2), "the state is not one of a serial card, version 1");
    assert_eq!(with(6, 1), "the state is of a card with another number of ports");
    assert_eq!(with(8, 0), "the state has the configuration space of another card");
    // The first port: received bytes, more than fit.
    assert_eq!(with(8 + 256 + 10, 17), "the state has registers that no port can have");
    // A byte behind those that were received.
    assert_eq!(with(8 + 256 + 10 + 16, 1), "the state has registers that no port can have");
    let single = common::card("1");
    assert!(card.session.accepts(&identity(&card)).is_ok());
    let refused = card.session.accepts(&identity(&single)).unwrap_err();
    assert_eq!(refused.errno(), Errno::EINVAL);
    assert_eq!(
        refused.to_string(),
        r#"the state is of "mtty version 1 ports 1", and the device is "mtty version 1 ports 2""#
    );
}

#[test]
fn a_restored_card_that_interrupts_tells_its_client_when_it_runs() {
    let from = busy(&[(0, 1, 1), (0, 0, b'x')]);
    let to = card("2");
    to.session.stop().unwrap();
    let intx = to.trigger(0);
    to.session.restore(&from.session.save().unwrap()).unwrap();
    assert_eq!(intx.drain(), Ok(None));
    to.session.run().unwrap();
    assert_eq!(intx.drain(), Ok(Some(1)));
    assert_eq!(to.received(0), b"x");
}

#[test]
fn a_state_moves_between_cards_with_different_lines() {
    let from = busy(&[(0, 1, 8)]);
    let to = card_with("2", &[("backend", "pty")]);
    to.session.stop().unwrap();
    to.session.restore(&from.session.save().unwrap()).unwrap();
    to.session.run().unwrap();
    assert_eq!(to.read(0, 1, 1), [8]);
}
