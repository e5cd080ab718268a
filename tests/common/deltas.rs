//! Deltas of VMware's disks as public readers describe them: COWD and seSparse, with the descriptor that names them.
#![allow(
    clippy::unwrap_used,
    clippy::cast_possible_truncation,
    clippy::indexing_slicing,
    dead_code,
    unreachable_pub,
    reason = "this is test code"
)]

/// A descriptor as a host writes it.
pub fn descriptor(cid: &str, parent: Option<(&str, &str)>, extents: &[String]) -> String {
    let (parent_cid, hint) = match parent {
        Some((cid, name)) => (cid, format!("parentFileNameHint=\"{name}\"\n")),
        None => ("ffffffff", String::new()),
    };
    format!(
        "# Disk DescriptorFile\nversion=1\nencoding=\"UTF-8\"\nCID={cid}\nparentCID={parent_cid}\ncreateType=\"vmfs\"\n\
         {hint}\n# Extent description\n{}\n\n# The Disk Data Base\n#DDB\n\nddb.adapterType = \"lsilogic\"\n",
        extents.join("\n")
    )
}

pub fn put(file: &mut Vec<u8>, at: usize, bytes: &[u8]) {
    if file.len() < at + bytes.len() {
        file.resize(at + bytes.len(), 0);
    }
    file[at..at + bytes.len()].copy_from_slice(bytes);
}

/// A COWD extent of `sectors` sectors that holds the grains (of one sector) given.
pub fn cowd(sectors: u32, grains: &[(u32, [u8; 512])]) -> Vec<u8> {
    let mut file = Vec::new();
    let tables = sectors.div_ceil(4096);
    put(&mut file, 0, b"COWD");
    for (i, value) in [1, 3, sectors, 1, 4, tables].into_iter().enumerate() {
        put(&mut file, 4 + i * 4, &u32::to_le_bytes(value));
    }
    put(&mut file, 4 * 512, &vec![0; (tables as usize * 4).next_multiple_of(512)]);
    for (sector, bytes) in grains {
        let entry = 4 * 512 + (sector / 4096) as usize * 4;
        let mut table = u32::from_le_bytes(file[entry..entry + 4].try_into().unwrap());
        if table == 0 {
            table = (file.len() / 512) as u32;
            put(&mut file, entry, &table.to_le_bytes());
            put(&mut file, table as usize * 512, &[0; 16384]);
        }
        let grain = (file.len() / 512) as u32;
        put(&mut file, table as usize * 512 + (sector % 4096) as usize * 4, &grain.to_le_bytes());
        put(&mut file, grain as usize * 512, bytes);
    }
    file
}

/// What an seSparse grain is.
pub enum Grain {
    Unmapped,
    Zero,
    Bytes(u8),
}

/// An seSparse extent of `sectors` sectors with grains of 4 KiB.
pub fn sesparse(sectors: u64, grains: &[(usize, Grain)]) -> Vec<u8> {
    let tables = sectors.div_ceil(8 * 4096) as usize;
    let (directory, tables_at) = (8, 16);
    let grains_at = tables_at + tables * 64;
    let mut file = Vec::new();
    for (at, value) in [
        (0, 0xcafe_babe_u64),
        (8, 0x2_0000_0001),
        (16, sectors),
        (24, 8),
        (32, 64),
        (80, 1),
        (88, 1),
        (128, directory as u64),
        (136, 1),
        (144, tables_at as u64),
        (152, tables as u64 * 64),
        (192, grains_at as u64),
        (200, 1024),
    ] {
        put(&mut file, at, &value.to_le_bytes());
    }
    put(&mut file, 512, &0xcafe_cafe_u64.to_le_bytes());
    put(&mut file, grains_at * 512 - 1, &[0]);
    let mut stored = 0_u64;
    for (number, grain) in grains {
        let table = number / 4096;
        put(&mut file, directory * 512 + table * 8, &(0x1000_0000_0000_0000 | table as u64).to_le_bytes());
        let entry: u64 = match grain {
            Grain::Unmapped => 1 << 60,
            Grain::Zero => 2 << 60,
            Grain::Bytes(byte) => {
                put(&mut file, grains_at * 512 + stored as usize * 4096, &[*byte; 4096]);
                stored += 1;
                (3 << 60) | (((stored - 1) & 0xfff) << 48) | ((stored - 1) >> 12)
            }
        };
        put(&mut file, tables_at * 512 + table * 32768 + number % 4096 * 8, &entry.to_le_bytes());
    }
    file
}
