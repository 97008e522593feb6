//! The files of the journal: two, written in turn, so that a write that the process did not end
//! leaves the one before it. Nothing is synced: it must outlive the process, not the machine.

use std::fs::{File, OpenOptions};
use std::io::{self, Read as _};
use std::os::unix::fs::FileExt as _;
use std::path::Path;

use flate2::Crc;

const NAMES: [&str; 2] = ["journal.0", "journal.1"];

/// What a file begins with; the last byte is the version.
const MAGIC: &[u8; 8] = b"FRHJRNL1";

/// Magic, number, length, checksum.
const HEAD_BYTES: usize = 8 + 8 + 4 + 4;

/// A journal has some KiB. A larger file is none.
const FILE_BYTES_MAX: u64 = 4 << 20;

/// Both files, open.
#[derive(Debug)]
pub struct Slots {
    files: [File; 2],
    /// The number of the next write.
    next: u64,
    buffer: Vec<u8>,
}

/// What the files had.
#[derive(Debug, PartialEq, Eq)]
pub enum Found {
    Nothing,
    /// The last write.
    Body(Vec<u8>),
    /// Files of something else.
    Alien,
}

impl Slots {
    /// Opens the files of a folder, or makes them.
    ///
    /// # Errors
    /// The folder is not there, or cannot be written.
    pub fn open(folder: &Path) -> io::Result<(Self, Found)> {
        let open = |name| {
            let mut options = OpenOptions::new();
            let options = options.read(true).write(true).create(true).truncate(false);
            options.open(folder.join(name))
        };
        let files = [open(NAMES[0])?, open(NAMES[1])?];
        let (mut newest, mut is_empty) = (None, true);
        for file in &files {
            let mut bytes = Vec::new();
            file.take(FILE_BYTES_MAX).read_to_end(&mut bytes)?;
            is_empty &= bytes.is_empty();
            newest = newest.max(decode(&bytes).map(|(number, body)| (number, body.to_vec())));
        }
        let next = newest
            .as_ref()
            .map_or(0, |(number, _)| number.wrapping_add(1));
        let found = match newest {
            Some((_, body)) => Found::Body(body),
            None if is_empty => Found::Nothing,
            None => Found::Alien,
        };
        let slots = Self {
            files,
            next,
            buffer: Vec::new(),
        };
        Ok((slots, found))
    }

    /// Writes what `body` appends, over the older file.
    ///
    /// # Errors
    /// It cannot be written; the write before it stays.
    pub fn write(&mut self, body: impl FnOnce(&mut Vec<u8>) -> io::Result<()>) -> io::Result<()> {
        self.buffer.clear();
        self.buffer.resize(HEAD_BYTES, 0);
        body(&mut self.buffer)?;
        if self.buffer.len() as u64 >= FILE_BYTES_MAX {
            return Err(io::Error::other("the journal is too large"));
        }
        encode_head(self.next, &mut self.buffer)?;
        let file = &self.files[usize::from(self.next % 2 == 1)];
        file.write_all_at(&self.buffer, 0)?;
        self.next = self.next.wrapping_add(1);
        Ok(())
    }

    /// Empties the files, so that the next process does not judge by what is old.
    pub fn clear(&self) {
        for file in &self.files {
            if let Err(error) = file.set_len(0) {
                tracing::warn!(%error, "the crash journal cannot be emptied");
            }
        }
    }
}

/// Fills the head of a file whose body is there.
fn encode_head(number: u64, file: &mut [u8]) -> io::Result<()> {
    let (head, body) = file.split_at_mut(HEAD_BYTES);
    let length = u32::try_from(body.len()).map_err(io::Error::other)?;
    head[..8].copy_from_slice(MAGIC);
    head[8..16].copy_from_slice(&number.to_le_bytes());
    head[16..20].copy_from_slice(&length.to_le_bytes());
    let sum = checksum(&head[..20], body);
    head[20..].copy_from_slice(&sum.to_le_bytes());
    Ok(())
}

/// Number and body of a file; None: it was not written to its end, or it is something else. What
/// is behind the body is of an earlier write.
fn decode(file: &[u8]) -> Option<(u64, &[u8])> {
    let (head, rest) = file.split_at_checked(HEAD_BYTES)?;
    let (head, sum) = head.split_at_checked(20)?;
    let number = u64::from_le_bytes(head.get(8..16)?.try_into().ok()?);
    let length = u32::from_le_bytes(head.get(16..20)?.try_into().ok()?);
    let body = rest.get(..usize::try_from(length).ok()?)?;
    let is_whole = head.starts_with(MAGIC) && checksum(head, body).to_le_bytes() == *sum;
    is_whole.then_some((number, body))
}

fn checksum(head: &[u8], body: &[u8]) -> u32 {
    let mut crc = Crc::new();
    crc.update(head);
    crc.update(body);
    crc.sum()
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::journal::tests::Folder;

    fn put(slots: &mut Slots, text: &str) {
        slots
            .write(|to| {
                to.extend_from_slice(text.as_bytes());
                Ok(())
            })
            .unwrap();
    }

    fn found(folder: &Folder) -> Found {
        Slots::open(&folder.0).unwrap().1
    }

    fn body(text: &str) -> Found {
        Found::Body(text.as_bytes().to_vec())
    }

    /// Leaves only the first bytes of the last write, as a process that dies in it.
    pub fn tear(folder: &Path, share: f64) {
        let read = |name: &&str| {
            let path = folder.join(name);
            let bytes = std::fs::read(&path).ok()?;
            let (number, body) = decode(&bytes)?;
            let length = HEAD_BYTES + body.len();
            Some((number, length, path, bytes))
        };
        let newest = NAMES.iter().filter_map(read).max().unwrap();
        let (_, length, path, mut bytes) = newest;
        let kept = (length as f64 * share) as usize;
        // An older write was there.
        bytes[kept.min(length - 1)..].fill(b'x');
        std::fs::write(path, bytes).unwrap();
    }

    #[test]
    fn the_last_write_is_read_also_if_it_is_shorter_than_those_before() {
        let folder = Folder::new("last");
        assert_eq!(found(&folder), Found::Nothing);
        let (mut slots, _) = Slots::open(&folder.0).unwrap();
        for text in ["a long one", "a longer one", "short", ""] {
            put(&mut slots, text);
            assert_eq!(found(&folder), body(text));
        }
        let (mut slots, _) = Slots::open(&folder.0).unwrap();
        put(&mut slots, "of the next process");
        assert_eq!(found(&folder), body("of the next process"));
    }

    #[test]
    fn a_write_that_did_not_end_leaves_the_one_before() {
        let folder = Folder::new("torn");
        for share in [0.0, 0.1, 0.5, 0.99, 1.0] {
            let (mut slots, _) = Slots::open(&folder.0).unwrap();
            put(&mut slots, "before");
            put(&mut slots, "torn");
            tear(&folder.0, share);
            assert_eq!(found(&folder), body("before"));
        }
    }

    #[test]
    fn other_files_are_none_of_it() {
        let folder = Folder::new("alien");
        std::fs::write(folder.0.join(NAMES[0]), "something else, long enough").unwrap();
        assert_eq!(found(&folder), Found::Alien);
        let (mut slots, _) = Slots::open(&folder.0).unwrap();
        put(&mut slots, "mine");
        assert_eq!(found(&folder), body("mine"));
    }
}
