//! A zip directory, as far as `torch.save` writes one: entries stored without compression, found in place.
//!
//! Our own reader, because the tensors are to be slices of the memory map, in the browser too, and because it
//! decompresses nothing. Format: PKWARE APPNOTE 6.3.10, sections 4.3.7 (local header) to 4.3.16 (end records).

use crate::error::{Result, bail, ensure};
use crate::weights::{Bytes, store::printable};
use std::{collections::BTreeMap, ops::Range};

const LOCAL: u32 = 0x0403_4b50;
const CENTRAL: u32 = 0x0201_4b50;
const END: u32 = 0x0605_4b50;
const END64: u32 = 0x0606_4b50;
const END64_LOCATOR: u32 = 0x0706_4b50;
/// A checkpoint has one entry a tensor and a few more.
const MAX_ENTRIES: usize = 200_000;

/// The stored entries of an archive: the byte range of each in the file, by name.
pub(super) struct Archive {
    entries: BTreeMap<String, Range<usize>>,
}

impl Archive {
    /// Reads the directory of `file`.
    ///
    /// # Errors
    /// `Weights` if it is not a whole zip archive, or holds compressed, encrypted, doubled or misplaced entries.
    pub(super) fn read(file: &[u8]) -> Result<Self> {
        let Some(directory) = find_directory(file)? else {
            bail!(Weights, "the zip directory at the end is missing: truncated, or not a PyTorch file");
        };
        let mut entries = BTreeMap::new();
        let mut at = directory.start;
        while at < directory.end {
            let record = Record::read(file, at, directory.end)?;
            let name = printable(&record.name);
            ensure!(entries.len() < MAX_ENTRIES, Weights, "more than {MAX_ENTRIES} entries in the archive");
            // Torch stores; a folder has no bytes.
            ensure!(record.flags & 1 == 0, Weights, "archive entry {name} is encrypted");
            ensure!(
                record.method == 0 && record.packed == record.size,
                Weights,
                "archive entry {name} is compressed; torch.save stores entries as they are. Unpack and save it again"
            );
            let data = record.data(file)?;
            at = record.next;
            if entries.insert(record.name, data).is_some() {
                bail!(Weights, "two archive entries are called {name}");
            }
        }
        Ok(Self { entries })
    }

    /// The bytes of the entry `name`, without a copy.
    pub(super) fn get(&self, file: &Bytes, name: &str) -> Option<Bytes> {
        self.entries.get(name).and_then(|range| file.slice(range.clone()))
    }

    /// The folder that holds `data.pkl`: torch names it after the file.
    pub(super) fn root(&self) -> Result<&str> {
        let mut roots = self.entries.keys().filter_map(|name| name.strip_suffix("/data.pkl"));
        match (roots.next(), roots.next()) {
            (Some(root), None) => Ok(root),
            (None, _) => bail!(Weights, "the archive holds no data.pkl: a zip file, but not one of torch.save"),
            _ => bail!(Weights, "the archive holds more than one data.pkl"),
        }
    }
}

/// The range of the central directory, by the end record, in its 64-bit form where there is one.
fn find_directory(file: &[u8]) -> Result<Option<Range<usize>>> {
    // 22 bytes and a comment of at most 65535, searched from the end.
    let Some(last) = file.len().checked_sub(22) else { return Ok(None) };
    let Some(end) = (last.saturating_sub(0xffff)..=last)
        .rev()
        .find(|&at| u32_at(file, at) == Some(END) && u16_at(file, at + 20).map(|n| at + 22 + n) == Some(file.len()))
    else {
        return Ok(None);
    };
    let field = |at| u32_at(file, at).map(u64::from);
    let (mut size, mut start) = (field(end + 12), field(end + 16));
    let locator = end.checked_sub(20).filter(|&at| u32_at(file, at) == Some(END64_LOCATOR));
    if let Some(locator) = locator {
        let end64 = u64_at(file, locator + 8).and_then(|at| usize::try_from(at).ok());
        let end64 = end64.filter(|&at| u32_at(file, at) == Some(END64));
        let Some(end64) = end64 else { bail!(Weights, "the archive's 64-bit end record is not where it should be") };
        (size, start) = (u64_at(file, add(end64, 40)?), u64_at(file, add(end64, 48)?));
    }
    let range = start.zip(size).and_then(|(start, size)| Some(start..start.checked_add(size)?));
    match range {
        Some(range) if range.end <= end as u64 => Ok(Some(range.start as usize..range.end as usize)),
        _ => bail!(Weights, "the archive's directory would lie outside the file: damaged"),
    }
}

/// One record of the central directory.
struct Record {
    name: String,
    flags: usize,
    method: usize,
    packed: u64,
    size: u64,
    local: u64,
    next: usize,
}

impl Record {
    fn read(file: &[u8], at: usize, end: usize) -> Result<Self> {
        let parsed = (|| {
            if u32_at(file, at)? != CENTRAL {
                return None;
            }
            let lengths = [u16_at(file, at + 28)?, u16_at(file, at + 30)?, u16_at(file, at + 32)?];
            let name_end = at + 46 + lengths[0];
            let next = name_end + lengths[1] + lengths[2];
            if next > end {
                return None;
            }
            let mut record = Self {
                name: std::str::from_utf8(file.get(at + 46..name_end)?).ok()?.to_owned(),
                flags: u16_at(file, at + 8)?,
                method: u16_at(file, at + 10)?,
                packed: u32_at(file, at + 20)?.into(),
                size: u32_at(file, at + 24)?.into(),
                local: u32_at(file, at + 42)?.into(),
                next,
            };
            record.widen(file.get(name_end..name_end + lengths[1])?)?;
            Some(record)
        })();
        match parsed {
            Some(record) => Ok(record),
            None => bail!(Weights, "the archive's directory is damaged at byte {at}"),
        }
    }

    /// Takes the 64-bit values from the extra field 1, where the 32-bit ones are all ones (section 4.5.3).
    fn widen(&mut self, mut extra: &[u8]) -> Option<()> {
        while extra.len() >= 4 {
            let (id, len) = (u16_at(extra, 0)?, u16_at(extra, 2)?);
            let mut field = extra.get(4..4 + len)?;
            if id == 1 {
                for value in [&mut self.size, &mut self.packed, &mut self.local] {
                    if *value == u64::from(u32::MAX) {
                        *value = u64_at(field, 0)?;
                        field = &field[8..];
                    }
                }
            }
            extra = &extra[4 + len..];
        }
        Some(())
    }

    /// Where the bytes lie: behind the local header, whose own name and extra field have other lengths.
    fn data(&self, file: &[u8]) -> Result<Range<usize>> {
        let range = (|| {
            let local = usize::try_from(self.local).ok()?;
            if u32_at(file, local)? != LOCAL {
                return None;
            }
            let start = local + 30 + u16_at(file, local + 26)? + u16_at(file, local + 28)?;
            let end = start.checked_add(usize::try_from(self.size).ok()?)?;
            (end <= file.len()).then_some(start..end)
        })();
        match range {
            Some(range) => Ok(range),
            None => bail!(Weights, "archive entry {} is not inside the file: damaged", printable(&self.name)),
        }
    }
}

fn add(a: usize, b: usize) -> Result<usize> {
    match a.checked_add(b) {
        Some(sum) => Ok(sum),
        None => bail!(Weights, "an offset in the archive overflows"),
    }
}

fn u16_at(bytes: &[u8], at: usize) -> Option<usize> {
    array_at(bytes, at).map(|b| u16::from_le_bytes(b).into())
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    array_at(bytes, at).map(u32::from_le_bytes)
}

fn u64_at(bytes: &[u8], at: usize) -> Option<u64> {
    array_at(bytes, at).map(u64::from_le_bytes)
}

fn array_at<const N: usize>(bytes: &[u8], at: usize) -> Option<[u8; N]> {
    bytes.get(at..)?.first_chunk().copied()
}
