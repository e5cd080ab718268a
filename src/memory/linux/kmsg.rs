//! `linux.kmsg`: the kernel's own log.
//!
//! Source: `kernel/printk/printk_ringbuffer.c`, since Linux 5.10; older rings are not read. Times are seconds since boot.

use super::super::cells::some_text;
use super::super::{MemoryError, Outcome};
use super::{Ask, Kernel, Object};
use crate::report::{Cell, Column, Rows};

const FACILITIES: [&str; 12] =
    ["kern", "user", "mail", "daemon", "auth", "syslog", "lpr", "news", "uucp", "cron", "authpriv", "ftp"];
const LEVELS: [&str; 8] = ["emerg", "alert", "crit", "err", "warn", "notice", "info", "debug"];

/// After so many records in a row that do not read, the rest is not looked for.
const LOST: u32 = 1 << 16;

/// Its columns.
pub const COLUMNS: &[Column] =
    &[Column("facility"), Column("level"), Column("timestamp"), Column("caller"), Column("line")];

/// See the module.
pub fn run(kernel: &Kernel, ask: &Ask, rows: &mut dyn Rows) -> Outcome<()> {
    let at = kernel.space.u64(kernel.symbol("prb")?)?;
    let ring = Ring::new(kernel.object("printk_ringbuffer", at)?)?;
    let (mut lost, mut in_a_row) = (0_u64, 0);
    let count = ring.head.wrapping_sub(ring.tail).wrapping_add(1) & ring.ids;
    for n in 0..count.min(ring.slots) {
        match ring.record(ring.tail.wrapping_add(n) & ring.ids) {
            Ok(Some(list)) => {
                for row in list {
                    rows.row(row)?;
                }
            }
            Ok(None) => {}
            Err(_) => {
                lost += 1;
                in_a_row += 1;
                if in_a_row > LOST {
                    break;
                }
                continue;
            }
        }
        in_a_row = 0;
    }
    if lost > 0 {
        ask.note(format!("{lost} records of the kernel's log do not read"));
    }
    Ok(())
}

struct Ring<'k> {
    descs: Object<'k>,
    infos: Object<'k>,
    data: u64,
    size: u64,
    slots: u64,
    head: u64,
    tail: u64,
    /// The two highest bits of an identifier are its state.
    ids: u64,
}

impl<'k> Ring<'k> {
    fn new(ring: Object<'k>) -> Outcome<Self> {
        // No kernel is built with more than 32 MiB of text (`LOG_BUF_SHIFT`), nor with more records than bytes of it.
        let bits = |path| match ring.u64(path) {
            Ok(bits @ 0..=25) => Ok(1_u64 << bits),
            Ok(_) => Err(MemoryError::corrupt("the kernel's log", ring.at, "it claims a size that is none")),
            Err(error) => Err(error),
        };
        Ok(Self {
            descs: ring.follow("desc_ring.descs")?,
            infos: ring.follow("desc_ring.infos")?,
            data: ring.u64("text_data_ring.data")?,
            size: bits("text_data_ring.size_bits")?,
            slots: bits("desc_ring.count_bits")?,
            head: ring.u64("desc_ring.head_id.counter")?,
            tail: ring.u64("desc_ring.tail_id.counter")?,
            ids: u64::MAX >> 2,
        })
    }

    /// The lines of one record; none if it was given back or is not complete.
    fn record(&self, id: u64) -> Outcome<Option<Vec<Vec<Cell>>>> {
        let slot = id & (self.slots - 1);
        let (desc, info) = (self.descs.element(slot), self.infos.element(slot));
        let state = desc.u64("state_var.counter")?;
        // Committed or final.
        if state & self.ids != id || !matches!(state >> 62, 1 | 2) {
            return Ok(None);
        }
        let (begin, next) = (desc.u64("text_blk_lpos.begin")?, desc.u64("text_blk_lpos.next")?);
        if begin & 1 == 1 && next & 1 == 1 {
            return Ok(None);
        }
        // A block that would cross the end stands at the begin.
        let same = begin / self.size == next.wrapping_sub(1) / self.size;
        let at = if same { begin & (self.size - 1) } else { 0 };
        let len = info.u64("text_len")? as usize;
        let bytes = self.descs.kernel.space.vec(self.data.wrapping_add(at).wrapping_add(8), len.min(64 << 10))?;
        let nanoseconds = info.u64("ts_nsec")?;
        let time = format!("{}.{:06}", nanoseconds / 1_000_000_000, nanoseconds % 1_000_000_000 / 1000);
        let (facility, level) = (info.u64("facility")? as usize, info.u64("level")? as usize);
        let caller = info.u64("caller_id").unwrap_or(0);
        let caller = match caller >> 31 {
            1 => format!("CPU({})", caller & 0x7fff_ffff),
            _ => format!("Task({caller})"),
        };
        let text = String::from_utf8_lossy(&bytes);
        let named = |names: &[&str], n: usize| names.get(n).map_or_else(|| n.to_string(), |name| (*name).to_owned());
        let row = |line: &str| {
            vec![
                Cell::Text(named(&FACILITIES, facility)),
                Cell::Text(named(&LEVELS, level)),
                Cell::text(&time),
                some_text(Some(caller.clone())),
                Cell::text(line),
            ]
        };
        let mut rows: Vec<Vec<Cell>> = text.lines().map(row).collect();
        // What the record says of its device, in the form of /dev/kmsg.
        for (path, name) in [("dev_info.subsystem", "SUBSYSTEM"), ("dev_info.device", "DEVICE")] {
            let told = info.text(path).unwrap_or_default();
            if !told.is_empty() {
                rows.push(row(&format!(" {name}={told}")));
            }
        }
        Ok(Some(rows))
    }
}
