//! The registers an analyzer starts from, out of the text of `info registers -a`, the only place where QEMU tells them
//! for every accelerator.

use serde_json::{Map, Value, json};

/// Most CPUs accepted.
const CPUS_MAX: usize = 4096;

/// For each CPU its number and the control, table and instruction registers as hex strings; the text stays beside them
/// for everything else. Unknown architectures give the text alone.
pub(super) fn parse(text: &str) -> Value {
    let mut cpus: Vec<Map<String, Value>> = Vec::new();
    for line in text.lines() {
        if let Some(number) = line.trim().strip_prefix("CPU#") {
            if cpus.len() >= CPUS_MAX {
                break;
            }
            cpus.push(Map::from_iter([("cpu".to_owned(), json!(number.trim().parse::<u32>().ok()))]));
        } else if let Some(cpu) = cpus.last_mut() {
            registers_of_line(line, cpu);
        }
    }
    json!({ "cpus": cpus, "text": text })
}

fn registers_of_line(line: &str, cpu: &mut Map<String, Value>) {
    // Tables: `GDT=     fffffe0000001000 0000007f`: base, limit.
    for (label, name) in [("GDT=", "gdtr"), ("IDT=", "idtr")] {
        if let Some(rest) = line.strip_prefix(label) {
            let mut words = rest.split_whitespace();
            cpu.insert(format!("{name}_base"), hex(words.next()));
            cpu.insert(format!("{name}_limit"), hex(words.next()));
            return;
        }
    }
    for word in line.split_whitespace() {
        let Some((label, value)) = word.split_once('=') else { continue };
        let name = match label {
            "CR0" | "CR2" | "CR3" | "CR4" | "EFER" | "RIP" | "EIP" | "RSP" | "ESP" | "PC" | "SP" | "PSTATE" => {
                label.to_ascii_lowercase()
            }
            _ => continue,
        };
        cpu.insert(name, hex(Some(value)));
    }
}

/// A register as a hex string; absent when it is not a number.
fn hex(word: Option<&str>) -> Value {
    word.and_then(|w| u64::from_str_radix(w, 16).ok()).map_or(Value::Null, |n| json!(format!("{n:#018x}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn control_registers_of_each_cpu_are_found() {
        let text = "\r\nCPU#0\r\nRIP=ffffffff81e0 RFL=00000246 [---Z-P-] CPL=0\r\nGDT=     fffffe0000001000 0000007f\r\n\
                    IDT=     fffffe0000000000 00000fff\r\nCR0=80050033 CR2=00007f CR3=0000000004a0c000 CR4=003506f0\r\n\
                    EFER=0000000000000d01\r\n\r\nCPU#1\r\nCR3=0000000004a0e000\r\n";
        let parsed = parse(text);
        assert_eq!(parsed["cpus"][0]["cr3"], "0x0000000004a0c000");
        assert_eq!(parsed["cpus"][0]["idtr_base"], "0xfffffe0000000000");
        assert_eq!(parsed["cpus"][0]["cr4"], "0x00000000003506f0");
        assert_eq!(parsed["cpus"][1]["cr3"], "0x0000000004a0e000");
        assert_eq!(parsed["cpus"][1]["cpu"], 1);
        assert_eq!(parse("nothing")["cpus"], json!([]));
    }
}
