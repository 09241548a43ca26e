//! What many front ends leave behind in the process: nothing. Alone in its binary, because descriptors are counted for the whole process.

mod support;

use support::*;

fn descriptors() -> usize {
    std::fs::read_dir("/proc/self/fd").unwrap().count()
}

fn mappings_of_memory() -> usize {
    std::fs::read_to_string("/proc/self/maps").unwrap().lines().filter(|line| line.ends_with("(deleted)")).count()
}

#[test]
fn a_hundred_front_ends_leave_no_descriptor_and_no_mapping() {
    let server = Server::start();
    let round = |misbehave: bool| {
        let guest = Guest::started(&server);
        let before = server.instance.record().maps.len();
        assert_eq!(before, 1);
        if misbehave {
            let files = [&guest.memory; 8];
            // eight descriptors with a message that takes none
            send(&server.connect(), &message(1, 0, &[]), &files);
        }
        drop(guest);
        server.instance.eventually("clean", |r| r.maps.is_empty() && r.eventfds.is_empty());
    };
    (0..5).for_each(|_| round(true));
    let (fds, maps) = (descriptors(), mappings_of_memory());
    (0..100).for_each(|i| round(i % 2 == 0));
    eventually("as many descriptors as before", || descriptors() <= fds);
    eventually("as many mappings as before", || mappings_of_memory() <= maps);
}
