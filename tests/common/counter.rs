//! Reads the counter guest's marks out of a capture: `vm-fixtures/recipes/counter/counter.c` has the layout.

use std::fs::File;
use std::io::{BufReader, Read};
use std::os::unix::fs::FileExt;
use std::path::Path;

use anyhow::{Context, Result, anyhow, ensure};

const PAGE: usize = 4096;
const PAGES: usize = 16384;
/// Where the record stands on each disk.
pub const RECORD_AT: u64 = 1 << 20;

/// What a raw memory image holds of the counter guest.
#[derive(Debug)]
pub struct Memory {
    /// Random per boot, the same in memory and on the disks.
    pub run: u64,
    /// The value of every sweep page, by index.
    pub sweep: Vec<u64>,
    pub coherence: u64,
    /// The longest time in ns between two stores since the last reset, and since boot.
    pub stall: u64,
    pub worst_stall: u64,
}

impl Memory {
    /// Reads a raw image (addresses 1:1, holes as zeros) from one end to the other.
    pub fn read(image: &Path) -> Result<Self> {
        let file = File::open(image).with_context(|| format!("cannot open {}", image.display()))?;
        let mut input = BufReader::with_capacity(1 << 20, file);
        let mut sweep: Vec<Option<u64>> = vec![None; PAGES];
        let (mut runs, mut coherence, mut stall) = (Vec::new(), None, None);
        let mut page = [0; PAGE];
        while input.read_exact(&mut page).is_ok() {
            match page.first_chunk::<16>() {
                Some(b"IMPOUND-SWEEP-01") => {
                    let index = usize::try_from(u32_at(&page, 24)?)?;
                    let slot = sweep.get_mut(index).with_context(|| format!("sweep page {index} of {PAGES}"))?;
                    ensure!(slot.is_none(), "sweep page {index} is there twice");
                    *slot = Some(u64_at(&page, 32)?);
                }
                Some(b"IMPOUND-COHER-01") => coherence = Some(u64_at(&page, 32)?),
                Some(b"IMPOUND-STALL-01") => stall = Some((u64_at(&page, 32)?, u64_at(&page, 48)?)),
                _ => continue,
            }
            runs.push(u64_at(&page, 16)?);
        }
        runs.sort_unstable();
        runs.dedup();
        ensure!(runs.len() == 1, "pages of {} boots in one image", runs.len());
        let found = sweep.iter().flatten().count();
        let sweep: Option<Vec<u64>> = sweep.into_iter().collect();
        let (stall, worst_stall) = stall.context("no stall page")?;
        Ok(Self {
            run: runs.first().copied().context("no counter page at all")?,
            sweep: sweep.with_context(|| format!("only {found} of {PAGES} sweep pages"))?,
            coherence: coherence.context("no coherence page")?,
            stall,
            worst_stall,
        })
    }

    /// An error unless the sweep is of one instant: v up to some page, v - 1 from there on.
    pub fn one_instant(&self) -> Result<()> {
        let first = self.sweep.first().copied().context("no sweep pages")?;
        let step = self.sweep.iter().position(|&value| value != first).unwrap_or(self.sweep.len());
        let torn = self.sweep.iter().skip(step).position(|&value| value.checked_add(1) != Some(first));
        match torn {
            None => Ok(()),
            Some(beyond) => {
                let (low, high) = (self.sweep.iter().min(), self.sweep.iter().max());
                let steps = self.sweep.windows(2).filter(|pair| pair.first() != pair.last()).count();
                Err(anyhow!(
                    "not of one instant: values {low:?} to {high:?} in {steps} steps, step at {step}, torn {beyond} later"
                ))
            }
        }
    }

    /// An error unless memory and both disks are of the same instant: mem >= vda >= vdb and mem - vdb <= 1.
    pub fn coherent(&self, vda: &Record, vdb: &Record) -> Result<()> {
        for (name, record) in [("vda", vda), ("vdb", vdb)] {
            ensure!(record.run == self.run, "{name} is of another boot than the memory");
        }
        let (mem, vda, vdb) = (self.coherence, vda.value, vdb.value);
        ensure!(
            mem >= vda && vda >= vdb && mem.saturating_sub(vdb) <= 1,
            "not coherent: mem {mem}, vda {vda}, vdb {vdb}"
        );
        Ok(())
    }
}

/// What a raw disk image holds of the counter guest.
#[derive(Debug)]
pub struct Record {
    pub run: u64,
    pub value: u64,
}

impl Record {
    pub fn read(image: &Path) -> Result<Self> {
        let mut page = [0; PAGE];
        File::open(image)
            .and_then(|file| file.read_exact_at(&mut page, RECORD_AT))
            .with_context(|| format!("cannot read the record in {}", image.display()))?;
        ensure!(page.starts_with(b"IMPOUND-DISK--01"), "no counter record in {}", image.display());
        Ok(Self { run: u64_at(&page, 16)?, value: u64_at(&page, 32)? })
    }
}

/// The newest `stall-ms N … resets N` line of the counter guest's console.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Report {
    pub stall_us: u64,
    pub resets: u64,
    pub sweep: u64,
    pub coherence: u64,
}

impl Report {
    pub fn newest(console: &str) -> Option<Self> {
        let (whole, _unfinished) = console.rsplit_once('\n')?;
        let line = whole.lines().rev().find(|line| line.starts_with("stall-ms "))?;
        let number = |name: &str| -> Option<u64> {
            let mut words = line.split_whitespace();
            words.find(|&word| word == name)?;
            words.next()?.parse().ok()
        };
        Some(Self {
            stall_us: number("stall-us")?,
            resets: number("resets")?,
            sweep: number("sweep")?,
            coherence: number("coherence")?,
        })
    }
}

fn u64_at(page: &[u8], at: usize) -> Result<u64> {
    let bytes = page.get(at..).and_then(|rest| rest.first_chunk::<8>()).context("outside the page")?;
    Ok(u64::from_le_bytes(*bytes))
}

fn u32_at(page: &[u8], at: usize) -> Result<u32> {
    let bytes = page.get(at..).and_then(|rest| rest.first_chunk::<4>()).context("outside the page")?;
    Ok(u32::from_le_bytes(*bytes))
}
