//! What `xl list -l` tells of a domain: its configuration as JSON.
//!
//! Booleans are strings in it, and the number of a running domain is the outer `domid`: the one within is that of a domain
//! not yet made (4294967295). Names, paths and values are the operator's or the guest's: hostile text.

use serde_json::Value;

use crate::BackendError;

/// The most domains, and disks of a domain, that are looked at.
const MOST: usize = 4096;

/// One domain.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Domain {
    /// Its number, until it is started anew.
    pub(super) id: u32,
    /// Stays the same for its life.
    pub(super) uuid: String,
    /// Its name.
    pub(super) name: String,
    /// `pv`, `pvh`, `hvm`.
    pub(super) kind: String,
    /// CPUs.
    pub(super) cpus: Option<u32>,
    /// Memory in bytes.
    pub(super) memory: Option<u64>,
    /// Its disks.
    pub(super) disks: Vec<DiskConfig>,
    /// Whatever passes hardware through to it: `pcidevs`, `usbdevs`, ….
    pub(super) passed: Vec<String>,
}

/// A disk as the configuration has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct DiskConfig {
    /// As the guest calls it: `xvda`.
    pub(super) vdev: String,
    /// Path on dom0.
    pub(super) path: String,
    /// `raw`, `qcow2`, ….
    pub(super) format: String,
    /// `phy`, `qdisk`, …; none if xl chose.
    pub(super) backend: Option<String>,
    /// The domain that serves it, unless dom0 does.
    pub(super) served_by: Option<String>,
    /// The guest may write to it.
    pub(super) writable: bool,
    /// A CD drive: maybe empty.
    pub(super) removable: bool,
}

/// The domains but dom0. What is no domain is left out; what is no list is an error.
pub(super) fn domains(text: &[u8]) -> Result<Vec<Domain>, BackendError> {
    let refuse = |found: String| {
        BackendError::corrupt("read the domains' configuration", "xl list -l", "its answer", "a list of domains", found)
    };
    let value: Value = serde_json::from_slice(text).map_err(|error| refuse(error.to_string()))?;
    let list = value.as_array().ok_or_else(|| refuse("something else".to_owned()))?;
    Ok(list.iter().take(MOST).filter_map(domain).filter(|domain| domain.id != 0).collect())
}

/// The configuration of one domain, as it was told.
pub(super) fn part_of(text: &[u8], id: u32) -> Option<Value> {
    let list: Vec<Value> = serde_json::from_slice(text).ok()?;
    list.into_iter().find(|entry| entry.get("domid").and_then(Value::as_u64) == Some(u64::from(id)))
}

fn domain(entry: &Value) -> Option<Domain> {
    let config = entry.get("config")?;
    let (about, build) = (config.get("c_info")?, config.get("b_info"));
    let number = |key: &str| build.and_then(|build| build.get(key)).and_then(Value::as_u64);
    let id = u32::try_from(entry.get("domid")?.as_u64()?).ok()?;
    let uuid = if id == 0 { String::new() } else { uuid(about.get("uuid")?.as_str()?)? };
    let kib = number("target_memkb").filter(|kib| *kib > 0).or(number("max_memkb"));
    Some(Domain {
        id,
        uuid,
        name: about.get("name").and_then(Value::as_str).unwrap_or_default().to_owned(),
        kind: about.get("type").and_then(Value::as_str).unwrap_or("unknown").to_owned(),
        cpus: number("max_vcpus").and_then(|cpus| u32::try_from(cpus).ok()),
        memory: kib.and_then(|kib| kib.checked_mul(1024)),
        disks: array(config, "disks").iter().take(MOST).filter_map(disk).collect(),
        passed: ["pcidevs", "usbdevs", "vtpms", "dtdevs"]
            .into_iter()
            .filter(|key| !array(config, key).is_empty())
            .map(str::to_owned)
            .collect(),
    })
}

fn array<'a>(config: &'a Value, key: &str) -> &'a [Value] {
    config.get(key).and_then(Value::as_array).map_or(&[], Vec::as_slice)
}

fn disk(entry: &Value) -> Option<DiskConfig> {
    let text = |key: &str| entry.get(key).and_then(Value::as_str).map(str::to_owned);
    let set = |key: &str| match entry.get(key) {
        Some(Value::Number(number)) => number.as_u64() != Some(0),
        Some(Value::String(text)) => text == "True",
        Some(Value::Bool(set)) => *set,
        _ => false,
    };
    Some(DiskConfig {
        vdev: text("vdev")?,
        path: text("pdev_path").unwrap_or_default(),
        format: text("format").unwrap_or_else(|| "unknown".to_owned()),
        backend: text("backend"),
        served_by: text("backend_domname").filter(|name| !name.is_empty()),
        writable: set("readwrite"),
        removable: set("removable") || set("is_cdrom"),
    })
}

/// A UUID in lower case: it becomes part of paths, so nothing else is accepted.
pub(super) fn uuid(text: &str) -> Option<String> {
    let fits = |(at, c): (usize, char)| match at {
        8 | 13 | 18 | 23 => c == '-',
        _ => c.is_ascii_hexdigit(),
    };
    (text.len() == 36 && text.char_indices().all(fits)).then(|| text.to_ascii_lowercase())
}

#[cfg(test)]
mod tests {
    use super::*;

    // As Xen 4.17 prints it, shortened.
    const LIST: &[u8] = br#"[
      {"domid": 0, "config": {"c_info": {"type": "pv", "name": "Domain-0"}, "b_info": {"max_memkb": 524288}}},
      {"domid": 1, "config": {
        "c_info": {"type": "pv", "name": "web01", "domid": 4294967295, "uuid": "83952BFF-b85f-4fad-a4f3-608d48c1b056"},
        "b_info": {"max_vcpus": 2, "max_memkb": 98304, "target_memkb": 98304, "type.pv": {}},
        "disks": [
          {"pdev_path": "/dev/vg0/web01-root", "vdev": "xvda", "format": "raw", "readwrite": 1, "colo_restore_enable": "False"},
          {"pdev_path": "/it's $(here)", "vdev": "xvdb", "backend": "qdisk", "format": "qcow2", "removable": "True"},
          {"pdev_path": "/nameless"}],
        "pcidevs": [{"func": 0}]}}]"#;

    #[test]
    fn a_domain_has_its_outer_number_and_all_its_disks() {
        let domains = domains(LIST).unwrap();
        assert_eq!(domains.len(), 1, "dom0 is no target");
        let domain = &domains[0];
        assert_eq!((domain.id, domain.uuid.as_str()), (1, "83952bff-b85f-4fad-a4f3-608d48c1b056"));
        assert_eq!((domain.cpus, domain.memory, domain.kind.as_str()), (Some(2), Some(96 << 20), "pv"));
        assert_eq!(domain.disks.len(), 2);
        assert!(domain.disks[0].writable && !domain.disks[0].removable && domain.disks[0].backend.is_none());
        assert_eq!((domain.disks[1].path.as_str(), domain.disks[1].format.as_str()), ("/it's $(here)", "qcow2"));
        assert!(!domain.disks[1].writable && domain.disks[1].removable);
        assert_eq!(domain.passed, ["pcidevs"]);
        assert!(part_of(LIST, 1).unwrap().to_string().contains("web01") && part_of(LIST, 2).is_none());
    }

    #[test]
    fn damaged_answers_are_errors_and_damaged_domains_are_left_out() {
        for cut in 0..LIST.len() {
            assert!(domains(&LIST[..cut]).is_err(), "cut at {cut}");
        }
        assert!(domains(b"{}").is_err() && domains(b"null").is_err() && domains(&[0xff, 0]).is_err());
        for odd in [
            r#"[1, null, {}, {"domid": -1, "config": {"c_info": {}}}]"#,
            r#"[{"domid": 4294967296, "config": {"c_info": {"uuid": "83952bff-b85f-4fad-a4f3-608d48c1b056"}}}]"#,
            r#"[{"domid": 1, "config": {"c_info": {"uuid": "../../../../../../../etc/passwd/1234567"}}}]"#,
            r#"[{"domid": 1, "config": {"c_info": {"uuid": 7}}}]"#,
        ] {
            assert_eq!(domains(odd.as_bytes()).unwrap(), [], "{odd}");
        }
        let odd = br#"[{"domid": 1, "config": {"c_info": {"uuid": "83952bff-b85f-4fad-a4f3-608d48c1b056"},
            "b_info": {"max_memkb": 18446744073709551615, "max_vcpus": 99999999999}, "disks": {"vdev": "xvda"}}}]"#;
        let domains = domains(odd).unwrap();
        assert_eq!((domains[0].memory, domains[0].cpus, domains[0].disks.len()), (None, None, 0));
    }
}
