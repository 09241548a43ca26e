//! What passes between this machine and a guest that runs `umdev-traffic`, in a while.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddrV4, TcpStream, UdpSocket};
use std::time::{Duration, Instant};
use umdev_tests::lab::{LabError, LabResult};

const PORT: u16 = 5000;
const BLOCK: usize = 128 << 10;
/// What passes before anything is measured.
const WARM_UP: Duration = Duration::from_millis(100);
/// A guest that answers nothing for so long is lost.
const LOST: Duration = Duration::from_secs(10);
/// Datagrams under way, and how long one is waited for before it counts as lost.
const WINDOW: u64 = 32;
const DATAGRAM_LOST: Duration = Duration::from_millis(100);
/// Its frame has 64 bytes, the check sequence aside that nobody sends here.
const DATAGRAM: usize = 22;

/// Kinds of traffic.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Traffic {
    /// One TCP connection, into the guest.
    Into,
    /// One TCP connection, out of it.
    OutOf,
    /// A byte each way over TCP, one after the other.
    Requests,
    /// Small UDP packets, some of them under way at a time, each sent back.
    Datagrams,
}

impl Traffic {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Into, Self::OutOf, Self::Requests, Self::Datagrams];

    /// What it is, and what is counted.
    pub fn name(self) -> &'static str {
        match self {
            Self::Into => "TCP into the guest, MB/s",
            Self::OutOf => "TCP out of the guest, MB/s",
            Self::Requests => "TCP requests of a byte, 1/s",
            Self::Datagrams => "UDP packets of 64 bytes, 32 under way, there and back, 1/s",
        }
    }

    /// How much of it passes in a second to the guest at `address`, within `time`.
    pub fn measure(self, address: Ipv4Addr, time: Duration) -> LabResult<f64> {
        let failed = || LabError::io(self.name());
        match self {
            Self::Into => into(connect(address, b'i').map_err(failed())?, time),
            Self::OutOf => out_of(connect(address, b'o').map_err(failed())?, time),
            Self::Requests => requests(connect(address, b'r').map_err(failed())?, time),
            Self::Datagrams => datagrams(address, time),
        }
        .map_err(failed())
    }
}

fn connect(address: Ipv4Addr, what: u8) -> std::io::Result<TcpStream> {
    let mut stream = TcpStream::connect_timeout(&SocketAddrV4::new(address, PORT).into(), LOST)?;
    stream.set_read_timeout(Some(LOST))?;
    stream.set_write_timeout(Some(LOST))?;
    stream.set_nodelay(true)?;
    stream.write_all(&[what])?;
    Ok(stream)
}

fn megabytes(bytes: u64) -> f64 {
    rate(bytes) / 1e6
}

fn rate(count: u64) -> f64 {
    f64::from(u32::try_from(count >> 8).unwrap_or(u32::MAX)) * 256.0
        + f64::from(u8::try_from(count & 0xff).unwrap_or(0))
}

/// Until the guest has counted the last byte.
fn into(mut stream: TcpStream, time: Duration) -> std::io::Result<f64> {
    let block = vec![0x5a; BLOCK];
    let begun = Instant::now();
    while begun.elapsed() < time {
        stream.write_all(&block)?;
    }
    stream.shutdown(Shutdown::Write)?;
    let mut count = [0; 8];
    stream.read_exact(&mut count)?;
    Ok(megabytes(u64::from_le_bytes(count)) / begun.elapsed().as_secs_f64())
}

fn out_of(mut stream: TcpStream, time: Duration) -> std::io::Result<f64> {
    let mut block = vec![0; BLOCK];
    let mut read_for = |time: Duration| {
        let (begun, mut count) = (Instant::now(), 0);
        while begun.elapsed() < time {
            count += stream.read(&mut block)? as u64;
        }
        std::io::Result::Ok(megabytes(count) / begun.elapsed().as_secs_f64())
    };
    read_for(WARM_UP)?;
    read_for(time)
}

fn requests(mut stream: TcpStream, time: Duration) -> std::io::Result<f64> {
    let mut ask_for = |time: Duration| {
        let (begun, mut count) = (Instant::now(), 0);
        while begun.elapsed() < time {
            stream.write_all(b"?")?;
            stream.read_exact(&mut [0])?;
            count += 1;
        }
        std::io::Result::Ok(rate(count) / begun.elapsed().as_secs_f64())
    };
    ask_for(WARM_UP)?;
    ask_for(time)
}

/// A datagram that is lost is replaced by another one.
fn datagrams(address: Ipv4Addr, time: Duration) -> std::io::Result<f64> {
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?;
    socket.connect((address, PORT))?;
    socket.set_read_timeout(Some(DATAGRAM_LOST))?;
    let mut buffer = [0x5a; DATAGRAM];
    let mut echo_for = |time: Duration| {
        let (begun, mut count, mut under_way) = (Instant::now(), 0, 0);
        let mut answered = begun;
        while begun.elapsed() < time {
            while under_way < WINDOW {
                socket.send(&buffer)?;
                under_way += 1;
            }
            match socket.recv(&mut buffer) {
                Ok(_) => (count, under_way, answered) = (count + 1, under_way - 1, Instant::now()),
                Err(error) if answered.elapsed() > LOST => return Err(error),
                Err(_) => under_way = 0,
            }
        }
        Ok(rate(count) / begun.elapsed().as_secs_f64())
    };
    echo_for(WARM_UP)?;
    echo_for(time)
}
