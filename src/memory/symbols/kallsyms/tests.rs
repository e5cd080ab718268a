use super::super::Kallsyms;
use super::*;

/// A table of `n` symbols in either order, as `scripts/kallsyms.c` writes them: each name is a letter, an `f`, and its
/// number, one token a character.
struct Sample {
    bytes: Vec<u8>,
    hit: usize,
}

const BASE: u64 = 0xffff_ffff_8100_0000;

/// Where a table begins, what follows what, and what is there at all.
#[derive(Debug, Clone, Copy)]
struct Shape {
    new_order: bool,
    form: Form,
    seqs: bool,
    aligned: usize,
}

fn sample(n: usize, shape: Shape) -> Sample {
    let Shape { new_order, form, seqs, aligned } = shape;
    let mut bytes = vec![0x5a; 64];
    let align = |bytes: &mut Vec<u8>| bytes.resize(bytes.len().next_multiple_of(aligned), 0);
    let sequence = |bytes: &mut Vec<u8>| {
        bytes.extend((0..n).flat_map(|i| [(i >> 16) as u8, (i >> 8) as u8, i as u8]));
        bytes.resize(bytes.len().next_multiple_of(aligned), 0);
    };
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
                Form::Full | Form::Listed => bytes.extend(address.to_le_bytes()),
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
    bytes.extend((n as u32).to_le_bytes());
    align(&mut bytes);
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
    // The newest kernels have it behind the offsets.
    if seqs && aligned == 8 {
        sequence(&mut bytes);
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
    if seqs && aligned == 4 {
        sequence(&mut bytes);
    }
    bytes.extend([0x5a; 64]);
    Sample { bytes, hit }
}

const KERNEL: u64 = 0xffff_ffff_8200_0000;

#[test]
fn every_order_and_form_is_read() {
    for (new_order, form, seqs, aligned) in [
        (false, Form::BasePercpu, false, 8),
        (false, Form::BasePercpu, true, 8),
        (true, Form::BasePercpu, false, 8),
        (true, Form::Base, false, 8),
        (false, Form::Base, true, 8),
        (true, Form::Relative, false, 8),
        (true, Form::Relative, true, 8),
        (true, Form::Relative, true, 4),
        (false, Form::Full, false, 8),
    ] {
        // Names of one length more each: the token table's index ends at a multiple of eight, and not.
        for n in 30_001..30_003 {
            let shape = Shape { new_order, form, seqs, aligned };
            let sample = sample(n, shape);
            let read = Kallsyms::parse(&*sample.bytes, sample.hit, KERNEL);
            let read = read.unwrap_or_else(|why| panic!("{shape:?}: {why}"));
            assert_eq!((read.len(), read.form()), (n, form));
            assert_eq!(read.address("f12345"), Some(BASE + 16 * 12345));
            assert_eq!(read.address(&format!("f{:0>200}", 7)), Some(BASE + 16 * 7));
            assert_eq!(read.at(BASE + 16 * 500 + 9).map(|symbol| symbol.name), Some("f500"));
            assert_eq!(read.at(BASE - 1), None);
            let moved = read.moved(0x20_0000);
            assert_eq!(moved.address("f12345"), Some(BASE + 0x20_0000 + 16 * 12345));
        }
    }
}

#[test]
fn a_torn_table_is_refused_and_none_panics() {
    for (form, new_order, aligned) in [(Form::BasePercpu, false, 8), (Form::Relative, true, 4)] {
        let sample = sample(26_000, Shape { new_order, form, seqs: true, aligned });
        let parse = |bytes: &[u8]| Kallsyms::parse(bytes, sample.hit, 0);
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
}
