//! A web server with one file of known content, inside a network namespace.

use super::{LabError, LabResult, Netns};
use std::io::{BufRead, BufReader, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

/// Serves `/data`, so many MiB that no two places of look alike.
#[derive(Debug)]
pub struct HttpServer {
    sha256: String,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<LabResult<()>>>,
}

impl HttpServer {
    /// Listens on `address` (`1.2.3.4:80`) inside `netns`.
    pub fn start(netns: &Netns, address: &str, mebibytes: usize) -> LabResult<Self> {
        let data = data(mebibytes << 20);
        let sha256 = sha256_of(&data)?;
        let stop = Arc::new(AtomicBool::new(false));
        let (ready, is_ready) = std::sync::mpsc::channel();
        let (stopped, what, address) = (Arc::clone(&stop), format!("listen on {address}"), address.to_owned());
        let thread = netns.thread(move || {
            let listener = TcpListener::bind(&address).map_err(LabError::io(what))?;
            listener.set_nonblocking(true).map_err(LabError::io("listen"))?;
            let _ = ready.send(());
            serve(&listener, &stopped, &data);
            Ok(())
        });
        if is_ready.recv().is_err() {
            let end = thread.join().map_err(|_| LabError::Wrong("the web server panicked".into()))?;
            return Err(end.err().unwrap_or_else(|| LabError::Wrong("the web server ended".into())));
        }
        Ok(Self { sha256, stop, thread: Some(thread) })
    }

    /// The checksum of the file, in hex.
    pub fn sha256(&self) -> &str {
        &self.sha256
    }
}

impl Drop for HttpServer {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn serve(listener: &TcpListener, stop: &AtomicBool, data: &[u8]) {
    while !stop.load(Ordering::Relaxed) {
        match listener.accept() {
            // a client that goes away is its own affair: the guest's checksum tells
            Ok((stream, _)) => drop(answer(&stream, data)),
            Err(_) => thread::sleep(Duration::from_millis(20)),
        }
    }
}

fn answer(mut stream: &TcpStream, data: &[u8]) -> std::io::Result<()> {
    stream.set_nonblocking(false)?;
    stream.set_read_timeout(Some(Duration::from_secs(10)))?;
    stream.set_write_timeout(Some(Duration::from_secs(60)))?;
    let mut request = BufReader::new(stream);
    let mut line = String::new();
    while request.read_line(&mut line)? > 2 {
        line.clear();
    }
    write!(stream, "HTTP/1.0 200 OK\r\nContent-Length: {}\r\n\r\n", data.len())?;
    stream.write_all(data)?;
    stream.shutdown(Shutdown::Write)
}

/// The words of a xorshift generator: the same on every machine, never repeating within a file.
fn data(len: usize) -> Vec<u8> {
    let mut state: u64 = 0x9e37_79b9_7f4a_7c15;
    let mut data = Vec::with_capacity(len + 8);
    while data.len() < len {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        data.extend_from_slice(&state.to_le_bytes());
    }
    data.truncate(len);
    data
}

/// The SHA-256 of `data` in hex, as `sha256sum` says it.
pub fn sha256_of(data: &[u8]) -> LabResult<String> {
    let sum = || -> std::io::Result<String> {
        let mut child = Command::new("sha256sum").stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
        if let Some(mut stdin) = child.stdin.take() {
            stdin.write_all(data)?;
        }
        Ok(String::from_utf8_lossy(&child.wait_with_output()?.stdout).into_owned())
    };
    let line = sum().map_err(LabError::io("sha256sum"))?;
    let word = line.split_whitespace().next().map(str::to_owned);
    word.ok_or_else(|| LabError::Wrong("sha256sum said nothing".into()))
}
