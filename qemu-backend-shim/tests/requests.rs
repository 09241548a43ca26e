//! What a front end's requests make of the instance, call by call.

mod support;

use std::io::Read;

use nix::errno::Errno;
use support::*;
use vhost::VhostBackend;
use vhost::vhost_user::VhostUserFrontend;
use vmm_sys_util::eventfd::EventFd;

/// The features a [`Guest`] ends up with: what the instance offers, its ACCESS_PLATFORM included.
const FEATURES: &str = "features 0x300008000";

fn start_calls(bases: [u16; 2], enables: [u8; 2]) -> Vec<String> {
    let ring = |i: usize, kick: &str| {
        let at = GPA + 0x1_0000 * i as u64;
        vec![
            format!("num {i} 256"),
            format!("base {i} {}", bases[i]),
            format!("addr {i} {at:#x} {:#x} {:#x}", at + 0x1000, at + 0x2000),
            format!("kick {i} {kick}"),
            format!("call {i} fd"),
            format!("err {i} -1"),
        ]
    };
    [
        vec!["status 0x3".into(), FEATURES.into(), "status 0xb".into()],
        ring(0, "fd"),
        ring(1, "fd"),
        vec![format!("enable 0 {}", enables[0]), format!("enable 1 {}", enables[1]), "status 0xf".into()],
    ]
    .concat()
}

#[test]
fn the_device_starts_once_both_rings_are_set_up_and_one_is_enabled() {
    let server = Server::start();
    let mut guest = Guest::connect(&server);
    guest.share_memory();
    assert_eq!(server.instance.take_calls(), ["map 0x100000000+0x200000"]);
    guest.set_up_rings([0, 0]);
    assert_eq!(server.instance.take_calls(), [] as [&str; 0]);
    guest.enable_rings();
    assert_eq!(server.instance.take_calls(), [start_calls([0, 0], [1, 0]), vec!["enable 1 1".into()]].concat());
}

#[test]
fn rings_enabled_before_they_are_set_up_start_the_device_with_the_last_kick() {
    let server = Server::start();
    let mut guest = Guest::connect(&server);
    guest.enable_rings();
    guest.frontend.set_vring_enable(1, false).unwrap();
    guest.enable_rings();
    guest.share_memory();
    guest.set_up_rings([3, 4]);
    let calls = server.instance.take_calls();
    let mut expected = start_calls([3, 4], [1, 1]);
    // ring 1's call comes after its kick, and so to a running device
    let at = expected.iter().position(|c| c == "call 1 fd").unwrap();
    expected[at] = "call 1 -1".into();
    assert_eq!(calls[1..], [expected, vec!["call 1 fd".into()]].concat());
}

#[test]
fn access_platform_and_the_control_queue_are_not_offered() {
    let server = Server::start();
    server.instance.record().features = !PROTOCOL_FEATURES;
    let frontend = vhost::vhost_user::Frontend::from_stream(server.connect(), 2);
    let offered = frontend.get_features().unwrap();
    assert_eq!(offered & (VERSION_1 | MRG_RXBUF | PROTOCOL_FEATURES), VERSION_1 | MRG_RXBUF | PROTOCOL_FEATURES);
    assert_eq!(offered & (ACCESS_PLATFORM | 1 << 26 | 1 << 17 | 1 << 22 | 1 << 38), 0);
}

#[test]
fn one_queue_pair_is_offered() {
    let server = Server::start();
    let mut guest = Guest::connect(&server);
    assert_eq!(guest.frontend.get_queue_num().unwrap(), 1);
    assert_eq!(guest.frontend.get_max_mem_slots().unwrap(), 509);
}

#[test]
fn features_the_instance_takes_back_are_an_error_and_leave_it_reset() {
    let server = Server::start();
    server.instance.record().refuse_features = true;
    let mut guest = Guest::connect(&server);
    guest.share_memory();
    guest.set_up_rings([0, 0]);
    assert!(guest.frontend.set_vring_enable(0, true).is_err());
    server.instance.eventually("reset", |r| r.status == 0 && r.maps.is_empty());
    assert!(!server.instance.take_calls().contains(&"status 0xf".into()));
}

#[test]
fn kick_and_call_eventfds_are_the_front_ends_own() {
    let server = Server::start();
    let guest = Guest::started(&server);
    for ring in 0..2 {
        server.instance.signal(&format!("call {ring}"));
        assert_eq!(guest.calls[ring].read().unwrap(), 1);
        server.instance.signal(&format!("kick {ring}"));
        assert_eq!(guest.kicks[ring].read().unwrap(), 1);
    }
}

#[test]
fn another_call_eventfd_takes_effect_at_once_while_the_ring_runs() {
    let server = Server::start();
    let guest = Guest::started(&server);
    let masked = EventFd::new(0).unwrap();
    guest.frontend.set_vring_call(0, &masked).unwrap();
    server.instance.signal("call 0");
    assert_eq!(masked.read().unwrap(), 1);
    assert!(guest.calls[0].read().is_err());
    guest.frontend.set_vring_err(1, &masked).unwrap();
    assert!(server.instance.holds("err 1"));
}

#[test]
fn get_vring_base_answers_the_instances_index_and_a_restart_goes_on_from_there() {
    let server = Server::start();
    let mut guest = Guest::started(&server);
    server.instance.record().bases = [Ok(17), Ok(65535)];
    server.instance.take_calls();
    assert_eq!(guest.frontend.get_vring_base(0).unwrap(), 17);
    assert_eq!(guest.frontend.get_vring_base(1).unwrap(), 65535);
    assert_eq!(server.instance.take_calls(), ["suspend", "get base 0", "get base 1", "status 0x0"]);
    guest.set_up_rings([17, 65535]);
    assert_eq!(server.instance.record().status, 0xf);
    assert!(server.instance.take_calls().contains(&"base 1 65535".into()));
}

#[test]
fn an_instance_without_suspend_is_stopped_by_disabling_its_rings() {
    let server = Server::start();
    server.instance.record().backend_features = 0;
    let guest = Guest::started(&server);
    server.instance.take_calls();
    guest.frontend.get_vring_base(0).unwrap();
    assert_eq!(server.instance.take_calls(), ["enable 0 0", "enable 1 0", "get base 0", "get base 1", "status 0x0"]);
}

#[test]
fn one_ring_can_be_stopped_and_set_up_again_while_the_other_keeps_its_place() {
    let server = Server::start();
    let mut guest = Guest::started(&server);
    server.instance.record().bases = [Ok(5), Ok(9)];
    assert_eq!(guest.frontend.get_vring_base(0).unwrap(), 5);
    server.instance.take_calls();
    guest.set_up_ring(0, 0);
    let calls = server.instance.take_calls();
    assert!(calls.contains(&"base 0 0".into()) && calls.contains(&"base 1 9".into()), "{calls:?}");
    assert_eq!(server.instance.record().status, 0xf);
}

#[test]
fn an_index_that_cannot_be_read_is_never_made_up() {
    let server = Server::start();
    let guest = Guest::started(&server);
    server.instance.record().bases[1] = Err(Errno::EOPNOTSUPP);
    assert!(guest.frontend.get_vring_base(0).is_err());
    server.instance.eventually("the connection is torn down", |r| r.maps.is_empty());
}

#[test]
fn ring_enables_pass_through_while_the_device_runs() {
    let server = Server::start();
    let mut guest = Guest::started(&server);
    server.instance.take_calls();
    guest.frontend.set_vring_enable(0, false).unwrap();
    guest.frontend.set_vring_enable(0, true).unwrap();
    assert_eq!(server.instance.take_calls(), ["enable 0 0", "enable 0 1"]);
}

#[test]
fn a_changed_memory_table_replaces_what_changed_and_the_rings_go_on_where_they_were() {
    let server = Server::start();
    let mut guest = Guest::connect(&server);
    let other = memory(0x4000);
    let gone = region(0, 0x2000, 0x1000, 0, &other);
    guest.frontend.set_mem_table(&[guest.region(), gone]).unwrap();
    guest.set_up_rings([0, 0]);
    guest.enable_rings();
    server.instance.record().bases = [Ok(7), Ok(8)];
    server.instance.take_calls();

    let came = region(0x10000, 0x4000, 0x10000, 0, &other);
    guest.frontend.set_mem_table(&[guest.region(), came]).unwrap();
    let stop = ["suspend", "get base 0", "get base 1", "status 0x0", "unmap 0x0+0x2000", "map 0x10000+0x4000"];
    let expected = [stop.map(String::from).to_vec(), start_calls([7, 8], [1, 1])].concat();
    assert_eq!(server.instance.take_calls(), expected);
}

#[test]
fn the_same_memory_table_again_and_an_added_region_do_not_stop_the_device() {
    let server = Server::start();
    let mut guest = Guest::started(&server);
    server.instance.take_calls();
    guest.share_memory();
    let more = memory(0x1000);
    guest.frontend.add_mem_region(&region(0, 0x1000, 0x1000, 0, &more)).unwrap();
    assert_eq!(server.instance.take_calls(), ["map 0x0+0x1000"]);
}

#[test]
fn the_same_range_in_another_file_is_another_region() {
    let server = Server::start();
    let mut guest = Guest::started(&server);
    server.instance.take_calls();
    guest.memory = memory(SIZE);
    guest.share_memory();
    let calls = server.instance.take_calls();
    assert!(calls.contains(&"unmap 0x100000000+0x200000".into()), "{calls:?}");
    assert_eq!(server.instance.record().status, 0xf);
}

#[test]
fn memory_removed_and_added_again_while_running_resumes_the_rings_after_it_settled() {
    let server = Server::start();
    let mut guest = Guest::started(&server);
    server.instance.record().bases = [Ok(21), Ok(22)];
    guest.frontend.remove_mem_region(&guest.region()).unwrap();
    let half = SIZE / 2;
    guest.frontend.add_mem_region(&region(GPA, half, UADDR, 0, &guest.memory)).unwrap();
    guest.frontend.add_mem_region(&region(GPA + half, half, UADDR + half, half, &guest.memory)).unwrap();
    server.instance.eventually("the device runs again", |r| r.status == 0xf);
    let calls = server.instance.take_calls();
    assert!(calls.contains(&"base 0 21".into()) && calls.contains(&"base 1 22".into()), "{calls:?}");
    assert_eq!(server.instance.record().maps.len(), 2);
}

#[test]
fn rings_resume_after_other_memory_was_removed() {
    let server = Server::start();
    let mut guest = Guest::started(&server);
    let other = memory(0x1000);
    let other = region(0, 0x1000, 0x1000, 0, &other);
    guest.frontend.add_mem_region(&other).unwrap();
    guest.frontend.remove_mem_region(&other).unwrap();
    assert!(server.instance.take_calls().contains(&"suspend".into()));
    server.instance.eventually("the device runs again", |r| r.status == 0xf);
}

#[test]
fn rings_whose_memory_went_away_stay_stopped_and_come_back_with_it() {
    let server = Server::start();
    let mut guest = Guest::started(&server);
    guest.frontend.remove_mem_region(&guest.region()).unwrap();
    std::thread::sleep(std::time::Duration::from_millis(100));
    assert_eq!(server.instance.record().status, 0);
    guest.frontend.add_mem_region(&guest.region()).unwrap();
    server.instance.eventually("the device runs again", |r| r.status == 0xf);
}

#[test]
fn reset_device_keeps_memory_and_call_and_forgets_the_rest() {
    let server = Server::start();
    let mut guest = Guest::started(&server);
    server.instance.take_calls();
    guest.frontend.reset_device().unwrap();
    assert_eq!(server.instance.take_calls(), ["status 0x0"]);
    assert_eq!(server.instance.record().maps.len(), 1);
    guest.enable_rings();
    assert_eq!(server.instance.take_calls(), [] as [&str; 0]);
    guest.set_up_rings([0, 0]);
    assert_eq!(server.instance.record().status, 0xf);
}

/// QEMU's network device does so, with NEED_REPLY, and waits.
#[test]
fn set_vring_enable_before_set_features_is_answered() {
    let server = Server::start();
    let mut stream = server.connect();
    let mut reply = [0; 20];
    let mut ask = |request: u32, flags: u32, body: &[u8], answered: bool| {
        send(&stream, &message(request, flags, body), &[]);
        if answered {
            stream.read_exact(&mut reply).unwrap();
        }
        u64::from_ne_bytes(reply[12..].try_into().unwrap())
    };
    ask(1, 0, &[], true); // GET_FEATURES
    ask(15, 0, &[], true); // GET_PROTOCOL_FEATURES
    ask(16, 0, &8u64.to_ne_bytes(), false); // SET_PROTOCOL_FEATURES: REPLY_ACK
    let enable = [1u32.to_ne_bytes(), 1u32.to_ne_bytes()].concat();
    assert_eq!(ask(18, 8, &enable, true), 0);
    let no_ring = [2u32.to_ne_bytes(), 1u32.to_ne_bytes()].concat();
    assert_eq!(ask(18, 8, &no_ring, true), 1);
}

#[test]
fn the_nofd_flag_starts_a_ring_without_kick_and_unbinds_a_call() {
    let server = Server::start();
    let stream = server.connect();
    let mut guest =
        Guest { frontend: vhost::vhost_user::Frontend::from_stream(stream.try_clone().unwrap(), 2), ..guest_parts() };
    guest.frontend.set_owner().unwrap();
    guest.frontend.set_features(guest.frontend.get_features().unwrap()).unwrap();
    guest.share_memory();
    for ring in 0..2 {
        guest.set_up_ring(ring, 0);
        guest.frontend.set_vring_enable(ring, true).unwrap();
    }
    server.instance.eventually("started", |r| r.status == 0xf);
    const SET_VRING_KICK: u32 = 12;
    const SET_VRING_CALL: u32 = 13;
    const NOFD: u64 = 0x100;
    send(&stream, &message(SET_VRING_KICK, 0, &(NOFD | 1).to_ne_bytes()), &[]);
    send(&stream, &message(SET_VRING_CALL, 0, &NOFD.to_ne_bytes()), &[]);
    server.instance.eventually("both unbound", |r| !r.eventfds.iter().any(|(n, _)| n == "kick 1" || n == "call 0"));
    assert_eq!(server.instance.record().status, 0xf);
}

fn guest_parts() -> Guest {
    let (nowhere, _) = std::os::unix::net::UnixStream::pair().unwrap();
    let eventfd = || EventFd::new(0).unwrap();
    let frontend = vhost::vhost_user::Frontend::from_stream(nowhere, 2);
    Guest { frontend, memory: memory(SIZE), kicks: [eventfd(), eventfd()], calls: [eventfd(), eventfd()] }
}

#[test]
fn memory_is_mapped_where_the_region_starts_in_its_file() {
    use std::os::unix::fs::FileExt;
    let server = Server::start();
    let guest = Guest::connect(&server);
    guest.memory.write_all_at(b"here", 0x3000).unwrap();
    guest.frontend.set_mem_table(&[region(0, 0x1000, 0x1000, 0x3000, &guest.memory)]).unwrap();
    let (_, _, vaddr) = server.instance.record().maps[0];
    let process = std::fs::File::open(format!("/proc/{}/mem", std::process::id())).unwrap();
    let mut found = [0; 4];
    process.read_exact_at(&mut found, vaddr).unwrap();
    assert_eq!(&found, b"here");
}
