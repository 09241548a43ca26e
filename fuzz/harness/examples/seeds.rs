//! Writes the corpus that a fuzzer begins with: what clients really do, in the form each target reads.
//!
//!     cargo run -p fuzz-harness --example seeds -- fuzz/corpus

use std::fs;
use std::path::Path;

fn main() -> std::io::Result<()> {
    let corpus = std::env::args().nth(1).unwrap_or_else(|| "fuzz/corpus".to_owned());
    for (target, seeds) in [
        ("vhost_ioctl", vhost()),
        ("vhost_net_ioctl", vhost_net()),
        ("iotlb_message", iotlb()),
        ("fuse_request", fuse()),
        ("vfio_device", vfio_device()),
        ("vfio_ioctl", vfio()),
        ("migration_stream", migration()),
        ("iommufd", iommufd()),
        ("rings", rings()),
        ("net_card", net_card()),
        ("create_text", texts()),
    ] {
        let directory = Path::new(&corpus).join(target);
        fs::create_dir_all(&directory)?;
        for (number, seed) in seeds.into_iter().enumerate() {
            fs::write(directory.join(format!("seed-{number:02}")), seed)?;
        }
    }
    Ok(())
}

/// Step 0: command `nr`, the `which`th of that number.
fn ioctl(nr: u8, which: u8, argument: &[u8]) -> Vec<u8> {
    [&[0, nr, which], argument].concat()
}

/// Kind of card, and steps.
fn migration() -> Vec<Vec<u8>> {
    const STOP: [u8; 2] = [1, 1];
    const RUN: [u8; 2] = [1, 2];
    let resume = [11];
    let all = [3, 0xff, 0xff];
    let part = [3, 100, 0];
    let log = [&[9][..], &[0, 16, 0, 0, 0, 0, 0, 0, 1]].concat();
    let mut seeds = Vec::new();
    for kind in 0..4u8 {
        seeds.push([&[kind][..], &resume, &part, &part, &all, &STOP, &RUN].concat());
        seeds.push([&[kind][..], &resume, &part, &STOP, &[7], &resume, &all, &STOP].concat());
        for number in [0u8, 3, 9, 20] {
            let changed = [&[4, number, 0][..], &[0xff, 0xff, 1, 0, 0, 0, 0, 0]].concat();
            seeds.push([&[kind][..], &resume, &changed, &STOP, &RUN].concat());
        }
    }
    // PRE_COPY, read, STOP_COPY, read to the end, and back.
    seeds.push([&[0, 0, 6, 6, 20, 0][..], &[1, 3, 6, 0xff, 0xff], &RUN].concat());
    seeds.push([&[0][..], &resume, &[5, 2, b'{', b'}'], &STOP, &[8, 0], &[7]].concat());
    seeds.push([&[2][..], &log, &[10, 0, 1, 0, 0, 16, 0, 0, 0, 0, 0], &STOP].concat());
    seeds
}

fn pair(first: u32, second: u32) -> Vec<u8> {
    [first.to_le_bytes(), second.to_le_bytes()].concat()
}

fn vhost() -> Vec<Vec<u8>> {
    let start = [9, 0];
    // A frame of 64 bytes out of queue 1, into a buffer of queue 0.
    let post = [10, 0, 0, 1, 0x40, 0, 6, 2, 0];
    let send = [10, 1, 0, 1, 0x42, 72, 0, 0, 0];
    let wait = [12];
    let run = [&start[..], &post, &send, &wait].concat();
    let suspend = ioctl(0x7d, 0, &[]);
    let resume = ioctl(0x7e, 0, &[]);
    let base = ioctl(0x12, 1, &pair(0, 0));
    let getters: Vec<u8> = [0x00, 0x26, 0x70, 0x71, 0x76, 0x78, 0x79, 0x7a, 0x80, 0x81]
        .into_iter()
        .flat_map(|nr| ioctl(nr, 1, &[0; 16]).into_iter().take(3 + 8))
        .collect();
    let config =
        [ioctl(0x73, 0, &pair(0, 8)), ioctl(0x74, 0, &pair(0, 6)), ioctl(0x77, 0, &11u32.to_le_bytes())].concat();
    // Where the log is, and what of it changes.
    let log = |page: u8, how: u8| [17, page, how];
    let owner = ioctl(0x01, 0, &[]);
    let read = [16, 73];
    let map = |page: u8, pages: u8| [6, 2, 0, 2, page, pages, page, 3];
    let mut seeds = Vec::new();
    for kind in 0..4u8 {
        let of = |parts: &[&[u8]]| [&[kind], &parts.concat()[..]].concat();
        seeds.push(of(&[&run]));
        seeds.push(of(&[&run, &suspend, &base, &resume, &post, &send, &wait, &ioctl(0x72, 0, &[0]), &run]));
        seeds.push(of(&[&getters, &config, &ioctl(0x25, 0, &0x1ffu64.to_le_bytes())]));
        seeds.push(of(&[&[14, 0, 14, 1, 0], &[9, 1], &post, &send, &wait, &[14, 2], &wait]));
        seeds.push(of(&[&run, &[15], &run, &[13], &suspend, &[13, 8, 1]]));
        // A log of what is written, halfway another one, and one that is not the client's.
        seeds.push(of(&[&start, &log(0x80, 0), &post, &send, &wait, &log(0x90, 1), &post, &send, &wait, &log(254, 2)]));
        let rings = [[17, 0x80, 4, 0x12], [17, 0x80, 0x14, 255]].concat();
        seeds.push(of(&[&log(0x80, 0), &start, &rings, &post, &send, &wait, &log(0x80, 2), &post, &send, &wait]));
        // A client that maps when it is asked for: the rings first, then buffers.
        seeds.push(of(&[
            &owner,
            &[16, 0, 9, 1],
            &read,
            &map(0x10, 8),
            &post,
            &send,
            &wait,
            &read,
            &map(0, 7),
            &wait,
            &read,
        ]));
        let group = ioctl(0x7c, 0, &pair(1, 1));
        let groups = [ioctl(0x7b, 0, &pair(0, 0)), ioctl(0x7f, 0, &pair(2, 0)), ioctl(0x81, 0, &[0; 4])].concat();
        let persist = ioctl(0x25, 0, &0x1fau64.to_le_bytes());
        let other = [6, 2, 1, 2, 0, 31, 0, 3];
        seeds.push(of(&[&owner, &persist, &groups, &group, &other, &run, &ioctl(0x72, 0, &[0]), &run]));
    }
    seeds
}

fn vhost_net() -> Vec<Vec<u8>> {
    let post = [9, 0, 0, 1, 0x20, 0, 6, 2, 0];
    let send = [9, 1, 0, 1, 0x22, 72, 0, 0, 0];
    let stop = [11, 0, 0, 0, 11, 0, 0, 1];
    let base = ioctl(0x12, 1, &pair(1, 0));
    let run = [&[8, 0], &post[..], &send, &send].concat();
    let arrays = [ioctl(0x83, 1, &pair(2, 0)), ioctl(0x83, 0, &pair(1, 0)), ioctl(0x26, 0, &[0; 8])].concat();
    let tables = [&[8, 1, 6, 2][..], &[0, 2, 2, 0, 2, 2, 4, 0], &[6, 0], &[6, 1, 0, 31, 16, 0]].concat();
    vec![
        [&run[..], &stop, &base, &run].concat(),
        [&run[..], &ioctl(0x02, 0, &[]), &run].concat(),
        [&arrays[..], &tables, &post, &send].concat(),
        [&run[..], &[10], &send, &base, &[10]].concat(),
        [&[8, 6], &post[..], &send, &[8, 7], &post, &send, &ioctl(0x04, 0, &[0xff; 8]), &send].concat(),
    ]
}

fn iotlb() -> Vec<Vec<u8>> {
    let message = |request: u8, page: u8, pages: u8| vec![0, 2, 0, request, page, pages, 2, page];
    // In address space 1.
    let other = |request: u8, page: u8, pages: u8| vec![0, 2, 1, request, page, pages, 2, page];
    let update = |page, pages| message(0, page, pages);
    let invalidate = |page, pages| message(2, page, pages);
    let (begin, end) = (message(3, 0, 0), message(4, 0, 0));
    let whole = {
        let mut bytes = [2u32.to_le_bytes(), 0u32.to_le_bytes()].concat();
        [0u64, 0x1000, 0x10_0000].iter().for_each(|word| bytes.extend(word.to_le_bytes()));
        bytes.extend([3, 2, 0, 0, 0, 0, 0, 0]);
        bytes
    };
    let raw = [&[4, 40], &whole[..]].concat();
    let bodies = [
        [update(0, 4), update(4, 4), invalidate(2, 1), update(0, 8), invalidate(0, 0)].concat(),
        [update(0, 4), begin.clone(), invalidate(0, 4), update(0, 2), update(2, 2), end.clone()].concat(),
        [begin.clone(), update(8, 1), vec![7, 0], update(9, 1), end.clone(), invalidate(8, 2)].concat(),
        [raw.clone(), vec![7, 1], raw.clone(), vec![7, 1], vec![6, 0x3e, 0, 0], raw].concat(),
        [
            vec![6, 0x3e, 0, 0],
            update(0, 4),
            other(0, 0, 4),
            other(3, 0, 0),
            other(0, 8, 1),
            update(8, 1),
            other(4, 0, 0),
        ]
        .concat(),
        [update(1, 1), begin, update(1, 1), update(2, 3), invalidate(3, 1), update(3, 1), end.clone(), end].concat(),
    ];
    bodies.iter().flat_map(|body| [0, 1].map(|memory| [&[memory], &body[..]].concat())).collect()
}

fn fuse() -> Vec<Vec<u8>> {
    const WHO: u8 = 0x03;
    let made = |opcode: u8, node: u8, unique: u8, rest: &[u8]| [&[1, opcode, node, unique, WHO], rest].concat();
    let blob = |bytes: &[u8]| [&[u8::try_from(bytes.len()).unwrap_or(u8::MAX)], bytes].concat();
    let init = [7u32, 38, 0x2_0000, u32::MAX].map(u32::to_le_bytes).concat();
    let init = made(26, 0, 2, &blob(&init));
    let lookup = |node, name: &str| made(1, node, 4, &blob(format!("{name}\0").as_bytes()));
    let open = |node| made(14, node, 6, &blob(&2u32.to_le_bytes()));
    let read = |handle: u8| made(15, 3, 8, &[handle, 0, 16, 0]);
    // One that waits, and somebody who polls.
    let wait = |handle: u8, unique: u8| made(15, 6, unique, &[handle, 0, 16, 1]);
    let poll = |handle: u8| {
        made(40, 6, 22, &blob(&[&[handle, 0, 0, 0, 0, 0, 0, 0, 9, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0x45][..]].concat()))
    };
    let write = |handle: u8, text: &[u8]| made(16, 3, 10, &[&[handle, 0], &blob(text)[..]].concat());
    let ioctl = |handle: u8, cmd: u32, argument: &[u8]| {
        made(39, 6, 12, &[&[handle], &cmd.to_le_bytes()[..], &[0], &blob(argument)].concat())
    };
    let release = |handle: u8| made(18, 6, 14, &blob(&u64::from(handle).to_le_bytes()));
    let walk = [init.clone(), lookup(1, "dir"), lookup(2, "vhost"), lookup(2, "no"), lookup(2, "..")].concat();
    let list =
        [made(27, 2, 6, &[0]), made(28, 2, 8, &[0, 0, 64, 0]), made(28, 2, 8, &[0, 4, 5, 0]), made(29, 2, 8, &[0])];
    let attribute = [open(3), write(1, b"value\n"), read(1), write(1, &[0xff]), read(1), release(1)].concat();
    let message = {
        let mut bytes = [2u32.to_le_bytes(), 0u32.to_le_bytes()].concat();
        bytes.extend([0; 24]);
        bytes.extend([3, 3, 0, 0, 0, 0, 0, 0]);
        bytes
    };
    let vhost = [
        open(6),
        ioctl(1, 0xaf01, &[]),
        ioctl(1, 0x8008_af00, &[]),
        ioctl(1, 0x4008_af20, &pair(0, 1)),
        ioctl(1, 0x4001_af72, &[1]),
        ioctl(1, 0x8008_af73, &pair(0, 8)),
        write(1, &message),
        wait(1, 30),
        poll(1),
        wait(1, 32),
        made(36, 0, 34, &blob(&[32, 0, 0, 0, 0, 0, 0, 0])),
        open(6),
        release(1),
        open(6),
    ]
    .concat();
    // Memory of every kind that a process has.
    let update = |mapping: u64| {
        let mut bytes = [2u32.to_le_bytes(), 0u32.to_le_bytes()].concat();
        [mapping << 12, 0x1000, mapping << 12].iter().for_each(|word| bytes.extend(word.to_le_bytes()));
        bytes.extend([if mapping.is_multiple_of(2) { 1 } else { 3 }, 2, 0, 0, 0, 0, 0, 0]);
        write(1, &bytes)
    };
    let maps = [open(6), ioctl(1, 0xaf01, &[]), (0..44).flat_map(update).collect(), write(1, &message)].concat();
    let net = [
        open(9),
        ioctl(1, 0xaf01, &[]),
        ioctl(1, 0x8008_af00, &[]),
        ioctl(1, 0x4008_af03, &pair(1, 0)),
        ioctl(1, 0x4008_af30, &pair(0, 1)),
        release(1),
    ]
    .concat();
    let vfio =
        [open(7), open(8), ioctl(1, 0x3b64, &[]), ioctl(2, 0x3b67, &pair(8, 0)), ioctl(1, 0x3b70, &[0; 16])].concat();
    let silent: Vec<u8> =
        [2u8, 42, 36, 41].into_iter().flat_map(|opcode| made(opcode, 1, 16, &blob(&[6, 0, 0]))).collect();
    let others: Vec<u8> = (3..48u8)
        .filter(|opcode| ![15, 16, 28, 39].contains(opcode))
        .flat_map(|op| made(op, 3, 20, &blob(b"x\0")))
        .collect();
    let raw = [&[0, 1, 48][..], &[0; 4], &17u32.to_le_bytes()[..], &[9; 40]].concat();
    let lies = [0, 0, 44].iter().copied().chain([7; 44]).collect();
    vec![walk, [init, list.concat()].concat(), attribute, vhost, vfio, silent, others, raw, lies, maps, net]
}

fn vfio() -> Vec<Vec<u8>> {
    let attach = |which: u8| vec![8, which, 0];
    let set = |kind: u8| vec![9, kind];
    let map = |page: u8, pages: u8| vec![0, 0, 0, page, pages, page];
    let unmap = |page: u8, pages: u8| vec![3, 0, 0, page, pages];
    let all = vec![3, 0, 0xc2, 0, 0];
    let (unset, close) = (vec![10, 0], vec![11, 2]);
    let info = [vec![5, 0, 4, 64, 0, 0, 0], vec![7, 12, 0]].concat();
    let status = [vec![5, 0, 4, 8, 0, 0, 0], vec![6, 0x67, 0]].concat();
    let (start, stop, device) = (vec![11, 0x81, 0, 0, 0], vec![11, 0x81, 0, 0, 2], vec![11, 0x82]);
    let write = |page: u8| vec![11, 0x84, page, 0];
    let get = |page: u8, pages: u8| vec![11, 0x80, 0, 0, page, pages];
    let unmap_dirty = |page: u8, pages: u8| vec![3, 0, 0xc1, page, pages, 0];
    // SET_IOMMU reads the type that it is not given too.
    let v1 = [9, 0, 0];
    let bodies = [
        [attach(0), set(7), set(1), map(0, 4), map(4, 4), unmap(0, 4), unmap(0, 8), all.clone()].concat(),
        [attach(0), v1.to_vec(), map(0, 4), unmap(1, 1), unmap(0, 1), status.clone(), info.clone()].concat(),
        [attach(0), attach(1), set(1), map(8, 8), unset.clone(), map(16, 1), close, unset].concat(),
        [attach(0), set(1), vec![11, 0], map(0, 1), vec![11, 0], map(0, 1), info, status, all].concat(),
        [
            attach(0),
            set(1),
            map(0, 4),
            map(8, 4),
            start.clone(),
            device.clone(),
            write(1),
            write(9),
            get(0, 16),
            write(9),
        ]
        .concat(),
        [
            attach(0),
            set(1),
            device,
            start,
            map(0, 4),
            write(2),
            write(3),
            unmap_dirty(0, 4),
            map(0, 4),
            get(0, 4),
            stop,
        ]
        .concat(),
    ];
    bodies.iter().flat_map(|body| [0, 1].map(|memory| [&[memory], &body[..]].concat())).collect()
}

fn vfio_device() -> Vec<Vec<u8>> {
    // Open the group, attach it with an IOMMU, have its device.
    let open = [10, 11, 1, 6, 0, 0, 0];
    let irqs = |flags: u8, index: u8, start: u8, count: u8, data: &[u8]| {
        let len = u8::try_from(data.len()).unwrap_or(0);
        [&[0, 0, flags, index, start, count, len][..], data, &[0]].concat()
    };
    // GET_INFO, GET_REGION_INFO, GET_IRQ_INFO, RESET, FEATURE of a structure of 32 bytes.
    let argument = [8, 0, 12, 32, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    let told: Vec<u8> = [7, 8, 9, 11, 17].into_iter().flat_map(|nr| [2, 0, nr, 0]).collect();
    let info = [&open[..], &argument, &told].concat();
    let access = [4, 0, 0, 0, 0, 4, 0, 1, 4, 0, 3, 8, 0, 4, 0, 0];
    let event = 9i32.to_le_bytes();
    let vectors = irqs(4 | 32, 1, 0, 2, &[event, event].concat());
    let line = [irqs(4 | 32, 0, 0, 1, &event), irqs(1 | 8, 0, 0, 1, &[]), irqs(1 | 16, 0, 0, 1, &[])].concat();
    let down = irqs(1 | 32, 1, 0, 0, &[]);
    // The group is closed before the device; two files; a stranger; the device's own node; a removal.
    let close_late = [10, 9, 0, 10];
    let second = [6, 0, 0, 0, 9, 0, 9, 0];
    let strange = [13, 4, 0, 0, 0, 0, 4, 0, 1, 13];
    let own_node = [14, 2, 1, 7, 0];
    let removal = [15, 255, 4, 0, 0, 0, 0, 4, 0, 1];
    vec![
        info,
        [&open[..], &access].concat(),
        [&open[..], &vectors, &irqs(2 | 32, 1, 0, 2, &[1, 0]), &down].concat(),
        [&open[..], &line].concat(),
        [&open[..], &access, &close_late].concat(),
        [&open[..], &second].concat(),
        [&open[..], &strange].concat(),
        [&open[..], &own_node].concat(),
        [&open[..], &vectors, &removal].concat(),
    ]
}

fn iommufd() -> Vec<Vec<u8>> {
    let alloc = vec![0];
    // Of the first IOAS; with flags, place, length, memory.
    let map = |flags: u8, page: u8, pages: u8| vec![1, 0, flags, page, pages, page];
    let copy = |to: u8, page: u8, place: u8, pages: u8| vec![4, 0, to, 0, page, place, pages];
    let unmap = |page: u8, pages: u8| vec![6, 0, 0, page, pages];
    let (all, destroy, stranger) = (vec![6, 0, 255], vec![8, 0], vec![12]);
    let device = |deed: u8, id: u8| vec![11, 0, deed, id];
    let (bind, attach, detach, close) = (device(2, 0), device(4, 0), device(6, 0), device(1, 0));
    let setup = [&alloc[..], &alloc, &bind, &attach].concat();
    let raw = |nr: u8, bytes: &[u8]| [&[9, 0, u8::try_from(bytes.len()).unwrap_or(0)], bytes, &[10, nr, 0]].concat();
    let ranges = [[32u32, 1, 1, 0], [0x10_1000, 0, 0, 0]].concat();
    let ranges: Vec<u8> = ranges.iter().flat_map(|word: &u32| word.to_le_bytes()).collect();
    let bodies = [
        [&setup[..], &map(0, 4, 4), &map(0x80, 0, 2), &copy(0, 4, 20, 2), &unmap(4, 4), &all, &detach, &close].concat(),
        [&setup[..], &map(0, 4, 4), &map(0, 8, 4), &copy(1, 6, 1, 4), &unmap(5, 2), &destroy, &close, &destroy]
            .concat(),
        [&setup[..], &stranger, &map(0, 4, 4), &attach, &destroy, &stranger, &map(0xc5, 4, 4), &copy(0, 4, 9, 1)]
            .concat(),
        [&alloc[..], &raw(6, &ranges), &device(0, 0), &bind, &device(0, 0), &bind, &device(0, 0), &bind, &attach]
            .concat(),
        [&alloc[..], &map(0, 255, 1), &map(0, 254, 1), &map(0x80, 4, 254), &map(0, 4, 255), &unmap(254, 255)].concat(),
    ];
    let mut seeds = Vec::new();
    for stretch in [0, 1] {
        seeds.extend(bodies.iter().map(|body| [&[stretch], &body[..]].concat()));
    }
    seeds
}

fn rings() -> Vec<Vec<u8>> {
    // A descriptor: slot, page, offset, length, flags, next.
    let read = [0, 0, 3, 0, 0, 20, 1, 1];
    let write = [0, 1, 3, 0x80, 0, 20, 2, 0];
    let table = [0, 0, 253, 0, 0xf2, 4, 0];
    let inner = [[3, 0, 3, 0, 0, 20, 1, 1], [3, 1, 3, 0x80, 0, 20, 2, 0]].concat();
    let (push, serve) = ([4, 0], [7]);
    let plain = [&read[..], &write, &push, &serve, &push, &serve].concat();
    let indirect = [&inner[..], &table, &push, &serve].concat();
    let gone = [&plain[..], &[9, 0], &push, &serve, &[9, 1], &serve, &[9, 2], &plain].concat();
    let mut seeds = Vec::new();
    for how in 0..16u8 {
        for body in [&plain, &indirect, &gone] {
            seeds.push([&[how, 3, 0xfe, 0xff], &body[..]].concat());
        }
    }
    // Of a packed ring, made available one after the other: page, offset, length, flags, id.
    let chain = [[4, 3, 0, 0, 20, 1, 0, 0], [4, 3, 0x80, 0, 20, 2, 1, 0]].concat();
    let inner = [[3, 0, 3, 0, 0, 20, 0, 1, 0], [3, 1, 3, 0x80, 0, 20, 2, 0, 0]].concat();
    let table = [4, 253, 0, 0xf2, 4, 2, 0];
    let plain = [&chain[..], &serve, &chain, &chain, &serve, &serve].concat();
    let indirect = [&inner[..], &table, &serve, &chain, &table, &serve].concat();
    let gone = [&plain[..], &[9, 0], &chain, &serve, &[9, 1], &serve, &[9, 2], &plain].concat();
    for how in (16..32u8).chain(48..64) {
        for body in [&plain, &indirect, &gone] {
            seeds.push([&[how, 4, 0xfe, 0x7f], &body[..]].concat());
        }
    }
    seeds
}

fn net_card() -> Vec<Vec<u8>> {
    // A command is followed by the length of its pieces and the room for its answer.
    let command = |body: &[u8]| [&[0][..], body, &[0, 0]].concat();
    let mode = |mode: u8, on: u8| command(&[0, mode, on]);
    let tables = command(&[3, 1, 1, 1, 2, 0]);
    let many = [0, 3, 69, 0, 3, 0, 0, 100, 2];
    let address = command(&[4, 1]);
    let vlan = |vlan: u8| command(&[5, 0, vlan, 0]);
    let (acknowledge, pairs) = (command(&[7, 0]), command(&[8, 3]));
    // Four entries, three transmit queues, a key of eight bytes.
    let spread = command(&[9, 0x3f, 9, 2, 1, 0, 0, 0, 1, 0, 2, 0, 0, 0, 3, 8, 0, 0x6d, 0x5a, 0x56, 0xda, 1, 2, 3, 4]);
    let nothing = command(&[11, 0]);
    let frame = |port: u8, to: u8, protocol: u8, flow: u8| vec![10, port, to, 0, protocol, flow];
    let tagged = |vlan: u8| vec![10, 0, 0, 1, vlan, 0, 0, 7];
    let frames: Vec<u8> = (0..6).flat_map(|to| frame(to, to, to % 5, to * 3)).collect();
    let bodies = [
        [mode(0, 0), frames.clone(), mode(1, 1), mode(5, 1), frames.clone(), mode(3, 1), mode(4, 1), frames.clone()],
        [mode(0, 0), tables, frames.clone(), address, frames.clone(), many.to_vec(), frames.clone(), nothing],
        [mode(0, 0), vlan(7), tagged(7), tagged(8), vlan(8), tagged(8), vec![15, 0], tagged(9)],
        [pairs, frames.clone(), spread, frames.clone(), vec![14], acknowledge, frames.clone(), vec![15, 1]],
    ];
    // All features, and without some of them.
    let choices = [0u32, 0x80, 0x04, 0x40];
    bodies.iter().flat_map(|body| choices.map(|choice| [&choice.to_le_bytes()[..], &body.concat()].concat())).collect()
}

fn texts() -> Vec<Vec<u8>> {
    const UUID: &str = "83b8f4f2-509f-382f-3c1e-e6bfe0fa1001";
    let create = ["", "\n", " mac=52:54:00:12:34:56 mtu=9000", " mtu=68 owner=0:0\n", " pairs=2 queue-size=256"];
    let others = ["1\n", "force", "52:54:00:ab:cd:ef", "tap", "loopback:lo1,capacity=4,x=", "faulty:f,capacity=1"];
    let features =
        [" features=0x300000000", " features=-VIRTIO_NET_F_MTU", " pairs=16 features=-mq mac=01:00:00:00:00:00"];
    let create = create.iter().chain(&features).map(|rest| format!("{UUID}{rest}").into_bytes());
    create.chain(others.iter().map(|text| text.as_bytes().to_vec())).collect()
}
