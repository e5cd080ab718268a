use super::super::Kallsyms;
use super::*;

/// A table of `n` symbols in either order, as `scripts/kallsyms.c` writes them: each name is a letter, an `f`, and its
/// number, one token a character.
struct Sample {
    bytes: Vec<u8>,
    hit: usize,
}

const BASE: u64 = 0xffff_ffff_8100_0000;

fn sample(n: usize, new_order: bool, form: Form, seqs: bool) -> Sample {
    let mut bytes = vec![0x5a; 64];
    let align = |bytes: &mut Vec<u8>| bytes.resize(bytes.len().next_multiple_of(8), 0);
    let addresses = |bytes: &mut Vec<u8>| {
        let begin = bytes.len() as u64;
        for i in 0..n as u64 {
            let address = BASE + 16 * i;
            match form {
                Form::BasePercpu => bytes.extend((-1 - (16 * i) as i32).to_le_bytes()),
                Form::Base => bytes.extend((16 * i as u32).to_le_bytes()),
                Form::Relative => {
                    let place = KERNEL + begin + 4 * i;
                    bytes.extend((address.wrapping_sub(place) as i32).to_le_bytes());
                }
                Form::Full => bytes.extend(address.to_le_bytes()),
            }
        }
        align(bytes);
        if matches!(form, Form::BasePercpu | Form::Base) {
            bytes.extend(BASE.to_le_bytes());
        }
    };
    if !new_order {
        addresses(&mut bytes);
    }
    bytes.extend((n as u64).to_le_bytes());
    let (begin, mut markers) = (bytes.len(), Vec::new());
    for i in 0..n {
        if i % STEP == 0 {
            markers.push((bytes.len() - begin) as u32);
        }
        // Every thousandth name is so long that its length takes two bytes.
        let name = if i % 1000 == 7 { format!("Tf{i:0>200}") } else { format!("Tf{i}") };
        if name.len() < 0x80 {
            bytes.push(name.len() as u8);
        } else {
            bytes.extend([(name.len() & 0x7f) as u8 | 0x80, (name.len() >> 7) as u8]);
        }
        bytes.extend(name.bytes());
    }
    align(&mut bytes);
    bytes.extend(markers.iter().flat_map(|marker: &u32| marker.to_le_bytes()));
    align(&mut bytes);
    if seqs {
        bytes.extend((0..n).flat_map(|i| [(i >> 16) as u8, (i >> 8) as u8, i as u8]));
        align(&mut bytes);
    }
    let (table, mut index, mut hit) = (bytes.len(), Vec::new(), 0);
    for token in 0..=255_u8 {
        if token == b'0' {
            hit = bytes.len();
        }
        index.push((bytes.len() - table) as u16);
        // NUL cannot stand in a name.
        bytes.extend([token.max(1), 0]);
    }
    align(&mut bytes);
    bytes.extend(index.iter().flat_map(|offset: &u16| offset.to_le_bytes()));
    align(&mut bytes);
    if new_order {
        addresses(&mut bytes);
    }
    bytes.extend([0x5a; 64]);
    Sample { bytes, hit }
}

const KERNEL: u64 = 0xffff_ffff_8200_0000;

#[test]
fn every_order_and_form_is_read() {
    for (new_order, form, seqs) in [
        (false, Form::BasePercpu, false),
        (false, Form::BasePercpu, true),
        (true, Form::BasePercpu, false),
        (true, Form::Base, false),
        (false, Form::Base, true),
        (true, Form::Relative, false),
        (false, Form::Full, false),
    ] {
        let sample = sample(30_001, new_order, form, seqs);
        let read = Kallsyms::parse(&sample.bytes, sample.hit, |at| Some(KERNEL + at as u64));
        let read = read.unwrap_or_else(|why| panic!("{new_order} {form:?} {seqs}: {why}"));
        assert_eq!((read.len(), read.form()), (30_001, form));
        assert_eq!(read.address("f12345"), Some(BASE + 16 * 12345));
        assert_eq!(read.address(&format!("f{:0>200}", 7)), Some(BASE + 16 * 7));
        assert_eq!(read.at(BASE + 16 * 500 + 9).map(|symbol| symbol.name), Some("f500"));
        assert_eq!(read.at(BASE - 1), None);
    }
}

#[test]
fn a_torn_table_is_refused_and_none_panics() {
    let sample = sample(26_000, false, Form::BasePercpu, true);
    let parse = |bytes: &[u8]| Kallsyms::parse(bytes, sample.hit, |_| None);
    let middle = sample.bytes.len() / 3;
    for at in (0..sample.bytes.len()).step_by(sample.bytes.len() / 40) {
        let _ = parse(&sample.bytes[..at]);
        let mut changed = sample.bytes.clone();
        changed[at] = changed[at].wrapping_add(1);
        let _ = parse(&changed);
    }
    let mut torn = sample.bytes.clone();
    // Lengths in the midst of the names: the markers no longer agree.
    torn[middle..middle + 64].fill(0x03);
    assert!(parse(&torn).is_err());
}
