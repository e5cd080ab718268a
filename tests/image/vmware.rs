//! VMware's memory, written as public parsers describe it.

use std::fs;

use crate::kit;
use crate::memory::{self, PAGE, with};
use crate::vmsn::{cpu_tags, regions, vmsn};

fn stored(ranges: &[(u64, Vec<u8>)]) -> Vec<u8> {
    ranges.iter().flat_map(|(_, bytes)| bytes.clone()).collect()
}

/// Damaged files, for the folder of damaged samples: with memory inside, since a sample is one file.
pub(crate) fn damaged() -> Vec<(&'static str, &'static str, Vec<u8>)> {
    let small = vec![(0x1000, kit::content(PAGE)), (0x10_0000, kit::content(PAGE))];
    let (tags, memory) = (regions(&small), stored(&small));
    let good = vmsn(0xbed2_bed2, &cpu_tags(), &tags, Some((&memory, 63)));
    let find = |name: &[u8], nth: usize| {
        let all: Vec<_> = (0..good.len() - name.len()).filter(|&at| good[at..].starts_with(name)).collect();
        all[nth] + name.len()
    };
    let sample = |name: &'static str, bytes: Vec<u8>| ("vmware", name, bytes);
    vec![
        sample("truncated.vmsn", good[..good.len() - 5000].to_vec()),
        sample("truncated-groups.vmsn", good[..100].to_vec()),
        sample("huge-groups.vmsn", with(&good, 8, &[0xff; 4])),
        sample("group-outside.vmsn", with(&good, 92 + 64, &memory::le(&[1 << 50]))),
        sample("overlapping-regions.vmsn", with(&good, find(b"regionPPN", 1) + 4, &1_u32.to_le_bytes())),
        sample("region-outside.vmsn", with(&good, find(b"regionPageNum", 1) + 4, &0xfff_u32.to_le_bytes())),
        sample("huge-region.vmsn", with(&good, find(b"regionSize", 0) + 4, &[0xff; 4])),
        sample("regions-missing.vmsn", with(&good, find(b"regionsCount", 0), &[9])),
        sample("block-outside.vmsn", with(&good, find(b"Memory", 0) + 8, &memory::le(&[1 << 40]))),
        sample("compressed.vmsn", vmsn(0xbed2_bed2, &cpu_tags(), &tags, Some((&memory, 62)))),
        sample("without-memory.vmsn", vmsn(0xbed3_bed3, &cpu_tags(), &tags, None)),
    ]
}

#[test]
fn memory_beside_its_metadata_is_read_from_either() {
    for (ending, magic) in [("vmsn", 0xbed3_bed3), ("vmss", 0xbed2_bed2), ("vmss", 0xbad1_bad1)] {
        let folder = tempfile::tempdir().unwrap();
        let ranges = memory::ranges();
        let (meta, vmem) =
            (folder.path().join(format!("vm-Snapshot1.{ending}")), folder.path().join("vm-Snapshot1.vmem"));
        fs::write(&vmem, stored(&ranges)).unwrap();
        fs::write(&meta, vmsn(magic, &cpu_tags(), &regions(&ranges), None)).unwrap();
        for path in [&meta, &vmem] {
            let image = memory::open(path, "vmware");
            memory::holds(&image, &ranges);
            let cpus = &image.machine().unwrap().cpus;
            assert_eq!(cpus.len(), 1);
            assert_eq!((cpus[0].cr0, cpus[0].cr3, cpus[0].cr4), (Some(0x8005_0033), Some(0x1ad_000), Some(0x6f0)));
            assert_eq!((cpus[0].rip, cpus[0].idt), (Some(0xffff_8000), Some(0xffff_fe00_0000_0000)));
            assert_eq!(image.layers()[0].files.len(), 1);
            assert!(image.layers()[0].odd.is_empty(), "{:?}", image.layers()[0].odd);
        }
        let mut longer = stored(&ranges);
        longer.resize(longer.len() + PAGE, 0);
        fs::write(&vmem, longer).unwrap();
        let image = memory::open(&vmem, "vmware");
        assert!(image.layers()[0].odd[0].contains("belong together"), "{:?}", image.layers()[0].odd);
    }
}

#[test]
fn memory_inside_the_metadata_is_read() {
    let ranges = memory::ranges();
    let file = vmsn(0xbed2_bed2, &cpu_tags(), &regions(&ranges), Some((&stored(&ranges), 63)));
    let (_folder, path) = memory::file("vm.vmss", &file);
    memory::holds(&memory::open(&path, "vmware"), &ranges);
    let memory_at = file.len() - stored(&ranges).len() - 200;
    assert!(kit::survives(&path, 0..memory_at) > 100);

    let one = vec![(0, kit::content(9 * PAGE))];
    let (_folder, path) = memory::file("vm.vmss", &vmsn(0xbed2_bed2, &cpu_tags(), &[], Some((&stored(&one), 63))));
    memory::holds(&memory::open(&path, "vmware"), &one);
}

#[test]
fn what_is_missing_beside_a_file_is_said() {
    let content = kit::content(16 * PAGE);
    let (folder, path) = memory::file("alone.vmem", &content);
    let image = memory::open(&path, "vmware");
    kit::holds(&image, &content);
    assert_eq!(image.layers()[0].odd, ["no .vmsn or .vmss beside it: the address map is assumed"]);

    let meta = folder.path().join("other.vmsn");
    fs::write(&meta, vmsn(0xbed3_bed3, &cpu_tags(), &regions(&memory::ranges()), None)).unwrap();
    let error = kit::explore(&meta).unwrap_err().to_string();
    assert!(error.contains("no other.vmem beside it") && error.contains("alone.vmem"), "{error}");
    fs::remove_file(path).unwrap();
    let error = kit::explore(&meta).unwrap_err().to_string();
    assert!(error.contains("taken without memory"), "{error}");
}
