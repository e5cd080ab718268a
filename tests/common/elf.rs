//! A reader of object files that shares nothing with what writes them: the bytes that a symbol stands for.

use anyhow::{Context, Result, ensure};

fn number(file: &[u8], at: usize, len: usize) -> Result<u64> {
    let bytes = file.get(at..at + len).with_context(|| format!("the file ends before {at:#x}"))?;
    Ok(bytes.iter().rev().fold(0, |sum, byte| sum << 8 | u64::from(*byte)))
}

fn text(file: &[u8], at: u64) -> Result<&[u8]> {
    let rest = file.get(usize::try_from(at)?..).context("a name behind the end")?;
    Ok(rest.split(|byte| *byte == 0).next().unwrap_or_default())
}

/// Code of the function `name` in a relocatable file of 64 bits.
pub fn code_of<'f>(file: &'f [u8], name: &str) -> Result<&'f [u8]> {
    ensure!(file.starts_with(b"\x7fELF\x02\x01\x01") && number(file, 16, 2)? == 1, "no relocatable ELF of 64 bits");
    let (table, count) = (usize::try_from(number(file, 40, 8)?)?, number(file, 60, 2)?);
    let header = |index: u64| table + 64 * index as usize;
    let names = number(file, header(number(file, 62, 2)?) + 24, 8)?;
    let section = |wanted: &[u8]| -> Result<u64> {
        for index in 1..count {
            if text(file, names + number(file, header(index), 4)?)? == wanted {
                return Ok(index);
            }
        }
        anyhow::bail!("no section {}", String::from_utf8_lossy(wanted))
    };
    ensure!(section(b".text")? > 0);
    let symbols = header(section(b".symtab")?);
    let (begin, len) = (number(file, symbols + 24, 8)?, number(file, symbols + 32, 8)?);
    let strings = number(file, header(number(file, symbols + 40, 4)?) + 24, 8)?;
    for at in (begin..begin + len).step_by(24) {
        let at = usize::try_from(at)?;
        if text(file, strings + number(file, at, 4)?)? == name.as_bytes() {
            let (home, value, size) = (number(file, at + 6, 2)?, number(file, at + 8, 8)?, number(file, at + 16, 8)?);
            ensure!(home > 0 && home < count, "{name} is in section {home}");
            ensure!(value + size <= number(file, header(home) + 32, 8)?, "{name} ends behind its section");
            let from = usize::try_from(number(file, header(home) + 24, 8)? + value)?;
            return file.get(from..from + size as usize).context("a function behind the end");
        }
    }
    anyhow::bail!("no symbol {name}")
}
