//! Capture files, for clients that read and write frames that way.

use super::{LabError, LabResult};
use std::fs;
use std::path::Path;

const MAGIC: u32 = 0xa1b2_c3d4;
const ETHERNET: u32 = 1;
const SNAPLEN: u32 = 65_535;
const FILE_HEADER: usize = 24;
const RECORD_HEADER: usize = 16;

/// Writes frames as a capture file.
pub fn write_pcap(path: &Path, frames: &[Vec<u8>]) -> LabResult<()> {
    let mut bytes = Vec::new();
    for word in [MAGIC, 0x0004_0002, 0, 0, SNAPLEN, ETHERNET] {
        bytes.extend(word.to_le_bytes());
    }
    for frame in frames {
        let len = u32::try_from(frame.len()).map_err(|_| LabError::Wrong("a frame of 4 GiB".into()))?;
        for word in [0, 0, len, len] {
            bytes.extend(word.to_le_bytes());
        }
        bytes.extend(frame);
    }
    fs::write(path, bytes).map_err(LabError::path("write", path))
}

/// Reads the frames of a capture file. A record cut short at the end is an error.
pub fn read_pcap(path: &Path) -> LabResult<Vec<Vec<u8>>> {
    let bytes = fs::read(path).map_err(LabError::path("read", path))?;
    let broken = || LabError::Wrong(format!("{} is no whole capture file", path.display()));
    let mut rest = bytes.get(FILE_HEADER..).ok_or_else(broken)?;
    let mut frames = Vec::new();
    while !rest.is_empty() {
        let (header, after) = rest.split_at_checked(RECORD_HEADER).ok_or_else(broken)?;
        let len: [u8; 4] = header[8..12].try_into().map_err(|_| broken())?;
        let len = usize::try_from(u32::from_le_bytes(len)).map_err(|_| broken())?;
        let (frame, after) = after.split_at_checked(len).ok_or_else(broken)?;
        frames.push(frame.to_vec());
        rest = after;
    }
    Ok(frames)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_survive_a_capture_file_and_a_cut_one_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x.pcap");
        let frames = vec![vec![1; 60], Vec::new(), (0..=255).collect()];
        write_pcap(&path, &frames).unwrap();
        assert_eq!(read_pcap(&path).unwrap(), frames);
        let bytes = fs::read(&path).unwrap();
        fs::write(&path, &bytes[..bytes.len() - 1]).unwrap();
        assert!(read_pcap(&path).is_err());
    }
}
