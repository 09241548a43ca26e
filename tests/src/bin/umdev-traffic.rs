//! `umdev-traffic`: the guest's half of a measurement of its network. It serves port 5000 until its machine ends.
//!
//! The first byte of a TCP connection says what it is for: `i`, bytes into the guest, which are counted and the count sent
//! back when no more come; `o`, bytes out of it for as long as somebody reads them; `r`, each byte is answered by one.
//! Datagrams are sent back.

use std::io::{self, Read, Write};
use std::net::{TcpListener, TcpStream, UdpSocket};
use std::process::ExitCode;
use std::thread;

const PORT: u16 = 5000;
const BLOCK: usize = 128 << 10;

fn main() -> ExitCode {
    match serve() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("umdev-traffic: {error}");
            ExitCode::FAILURE
        }
    }
}

fn serve() -> io::Result<()> {
    let datagrams = UdpSocket::bind(("0.0.0.0", PORT))?;
    let listener = TcpListener::bind(("0.0.0.0", PORT))?;
    println!("lab: traffic {PORT}");
    thread::spawn(move || echo(&datagrams));
    loop {
        let (stream, _) = listener.accept()?;
        // How a connection ends is its peer's to say.
        thread::spawn(move || answer(stream));
    }
}

fn echo(datagrams: &UdpSocket) {
    let mut buffer = [0; 2048];
    loop {
        if let Ok((len, from)) = datagrams.recv_from(&mut buffer) {
            let _ = datagrams.send_to(&buffer[..len], from);
        }
    }
}

fn answer(mut stream: TcpStream) -> io::Result<()> {
    let mut what = [0];
    stream.read_exact(&mut what)?;
    let mut block = vec![0; BLOCK];
    match what[0] {
        b'i' => {
            let mut count = 0_u64;
            loop {
                match stream.read(&mut block)? {
                    0 => return stream.write_all(&count.to_le_bytes()),
                    read => count += read as u64,
                }
            }
        }
        b'o' => loop {
            stream.write_all(&block)?;
        },
        _ => {
            stream.set_nodelay(true)?;
            loop {
                stream.read_exact(&mut what)?;
                stream.write_all(&what)?;
            }
        }
    }
}
