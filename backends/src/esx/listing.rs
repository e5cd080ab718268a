//! The rest of what a host's tools print: tables, trees of snapshots, states, and its log.

use jiff::Timestamp;

/// Rows of a table that are looked at.
const ROWS: usize = 65_536;

/// Ids in `vmsvc/getallvms`, each once. A row proves nothing: notes are printed too, run over lines, and may look like one. So
/// each id has to be asked for by itself. `wanted`: only rows that hold this text.
pub(super) fn vm_ids(text: &str, wanted: Option<&str>) -> Result<Vec<u32>, String> {
    let mut lines = text.lines().skip_while(|line| line.trim().is_empty());
    let head = lines.next().unwrap_or_default();
    if !head.starts_with("Vmid") {
        return Err(format!("expected a table that begins with Vmid, found \"{}\"", short(head)));
    }
    let mut ids = Vec::new();
    for line in lines.take(ROWS) {
        let digits = line.split(|c: char| !c.is_ascii_digit()).next().unwrap_or_default();
        let behind = line.get(digits.len()..).unwrap_or_default();
        let Ok(id) = digits.parse::<u32>() else { continue };
        if behind.starts_with(char::is_whitespace)
            && wanted.is_none_or(|wanted| behind.contains(wanted))
            && !ids.contains(&id)
        {
            ids.push(id);
        }
    }
    Ok(ids)
}

/// A file system of the host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Volume {
    /// What its operator calls it: may hold blanks, brackets, quotes.
    pub name: String,
    /// Where it is mounted: `/vmfs/volumes/UUID`.
    pub mount: String,
    /// `VMFS-6`, `NFS`, `vsan` ….
    pub kind: String,
    /// Bytes.
    pub free: u64,
    /// Bytes.
    pub size: u64,
}

/// Reads `esxcli --formatter=csv storage filesystem list`. Unmounted ones are left out.
pub(super) fn volumes(text: &str) -> Result<Vec<Volume>, String> {
    let mut lines = text.lines().filter(|line| !line.trim().is_empty());
    let head = fields(lines.next().unwrap_or_default());
    let column = |name: &str| {
        let found = head.iter().position(|field| field == name);
        found.ok_or_else(|| format!("expected a column {name}, found \"{}\"", short(&head.join(","))))
    };
    let (mount, name) = (column("MountPoint")?, column("VolumeName")?);
    let (free, size, kind) = (column("Free")?, column("Size")?, column("Type")?);
    let mounted = column("Mounted")?;
    let mut volumes = Vec::new();
    for line in lines.take(ROWS) {
        let row = fields(line);
        let cell = |at: usize| row.get(at).map(String::as_str).unwrap_or_default();
        if row.len() != head.len() {
            return Err(format!("expected {} fields, found {} in \"{}\"", head.len(), row.len(), short(line)));
        }
        if cell(mounted) != "true" {
            continue;
        }
        let number = |at: usize| {
            cell(at).parse().map_err(|_| format!("expected a number of bytes, found \"{}\"", short(cell(at))))
        };
        if !cell(mount).starts_with('/') {
            return Err(format!("expected a path, found \"{}\"", short(cell(mount))));
        }
        volumes.push(Volume {
            name: cell(name).to_owned(),
            mount: cell(mount).trim_end_matches('/').to_owned(),
            kind: cell(kind).to_owned(),
            free: number(free)?,
            size: number(size)?,
        });
    }
    Ok(volumes)
}

/// The fields of a line of CSV (RFC 4180); `esxcli` ends each line with a comma.
fn fields(line: &str) -> Vec<String> {
    let mut fields = Vec::new();
    let (mut field, mut quoted) = (String::new(), false);
    let mut rest = line.chars().peekable();
    while let Some(c) = rest.next() {
        match c {
            '"' if quoted && rest.peek() == Some(&'"') => {
                rest.next();
                field.push('"');
            }
            '"' if quoted || field.is_empty() => quoted = !quoted,
            ',' if !quoted => fields.push(std::mem::take(&mut field)),
            c => field.push(c),
        }
    }
    if !field.is_empty() {
        fields.push(field);
    }
    fields
}

/// A snapshot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Snapshot {
    /// Its number; old hosts print none.
    pub id: Option<u64>,
    /// Its name, which any owner of the VM chose.
    pub name: String,
    /// What was said of it.
    pub about: String,
    /// Snapshots above it.
    pub level: usize,
    /// Snapshots before it at its level.
    pub index: usize,
    /// Taken of a running VM.
    pub running: bool,
}

/// Reads `vmsvc/snapshot.get`: `|-ROOT`, `--|-CHILD`, and under each `--Snapshot Name        : …`. Descriptions may run over
/// lines, so one could look like a snapshot more; what has no id, or whose id occurs twice, is refused where ids are printed.
pub(super) fn snapshot_tree(text: &str) -> Result<Vec<Snapshot>, String> {
    let mut lines = text.lines().skip_while(|line| line.trim().is_empty());
    let head = lines.next().unwrap_or_default();
    if !head.starts_with("Get Snapshot") {
        return Err(format!("expected `Get Snapshot:`, found \"{}\"", short(head)));
    }
    let mut found: Vec<Snapshot> = Vec::new();
    let mut counts: Vec<usize> = Vec::new();
    for line in lines.take(ROWS) {
        let dashes = line.len() - line.trim_start_matches('-').len();
        let rest = line.trim_start_matches('-');
        if rest == "|-ROOT" || rest == "|-CHILD" {
            let level = dashes / 2;
            if level > counts.len() || (level == 0) != (rest == "|-ROOT") {
                return Err(format!("expected a snapshot under its parent, found \"{}\"", short(line)));
            }
            if level == counts.len() {
                counts.push(0);
            }
            let Some(count) = counts.get_mut(level) else { continue };
            found.push(Snapshot {
                id: None,
                name: String::new(),
                about: String::new(),
                level,
                index: *count,
                running: false,
            });
            *count += 1;
            continue;
        }
        let Some(last) = found.last_mut() else { continue };
        let Some((key, value)) = rest.split_once(':').filter(|_| dashes == (last.level + 1) * 2) else { continue };
        let value = value.strip_prefix(' ').unwrap_or(value);
        match key.trim_end() {
            "Snapshot Name" => value.clone_into(&mut last.name),
            "Snapshot Desciption" | "Snapshot Description" => value.clone_into(&mut last.about),
            "Snapshot State" => last.running = value.trim() == "powered on",
            "Snapshot Id" => {
                let id = value.trim().parse().map_err(|_| format!("expected a number, found \"{}\"", short(line)))?;
                last.id = Some(id);
            }
            _ => {}
        }
    }
    unambiguous(&found)?;
    Ok(found)
}

/// No id twice, and either all or none have one.
pub(super) fn unambiguous(found: &[Snapshot]) -> Result<(), String> {
    let mut ids: Vec<_> = found.iter().filter_map(|snapshot| snapshot.id).collect();
    let with = ids.len();
    ids.sort_unstable();
    ids.dedup();
    if ids.len() < with || (with > 0 && with < found.len()) {
        return Err("expected an id of its own for each snapshot; a description may pretend to be one".to_owned());
    }
    Ok(())
}

/// The tasks in `vmsvc/get.tasklist`: `haTask-7-vim.VirtualMachine.createSnapshot-182550283`.
pub(super) fn tasks(text: &str) -> Vec<String> {
    let named = text.lines().filter_map(|line| line.trim().strip_prefix("'vim.Task:"));
    let plain = |id: &&str| !id.is_empty() && id.chars().all(|c| c.is_ascii_alphanumeric() || "-._".contains(c));
    named.filter_map(|rest| rest.split('\'').next()).filter(plain).take(1024).map(str::to_owned).collect()
}

/// What `vmsvc/power.getstate` says: its second line.
pub(super) fn power_state(text: &str) -> Result<&str, String> {
    let mut lines = text.lines().map(str::trim);
    match (lines.next(), lines.next()) {
        (Some(head), Some(state @ ("Powered on" | "Powered off" | "Suspended")))
            if head.starts_with("Retrieved runtime info") =>
        {
            Ok(state)
        }
        (head, state) => {
            let found = format!("{} {}", head.unwrap_or_default(), state.unwrap_or_default());
            Err(format!("expected a power state, found \"{}\"", short(&found)))
        }
    }
}

/// One field of `esxcli … get`: `   Version: 8.0.2`.
pub(super) fn field<'a>(text: &'a str, name: &str) -> Option<&'a str> {
    text.lines().find_map(|line| line.trim().strip_prefix(name)?.strip_prefix(':').map(str::trim))
}

/// The times at which `vmware.log` says that the guest stood still for a checkpoint: when it went on, and for how many
/// microseconds it had stood. What the guest logs has a word of its own in front and is not taken for this.
pub(super) fn stuns(log: &str) -> Vec<(Timestamp, u64)> {
    let stun = |line: &str| {
        let (time, rest) = line.split_once('Z')?;
        // 6.x: `| vcpu-0| I125: WORDS`; 8.x: ` In(05) vcpu-0 - WORDS`.
        let words = match rest.strip_prefix('|') {
            Some(rest) => rest.split_once('|')?.1.trim_start().split_once(": ")?.1,
            None => rest.split_once(" - ")?.1,
        };
        let micros = words.strip_prefix("Checkpoint_Unstun: vm stopped for ")?.strip_suffix(" us")?;
        Some((format!("{time}Z").parse().ok()?, micros.parse().ok()?))
    };
    log.lines().filter_map(|line| stun(line.trim_end())).take(1024).collect()
}

/// What was found, for an error.
pub(super) fn short(text: &str) -> String {
    text.trim().chars().take(60).collect::<String>().escape_debug().to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_come_from_rows_and_a_note_that_looks_like_one_is_asked_for_like_any_other() {
        let text = "Vmid   Name    File     Guest OS     Version   Annotation\n10     one   [a] one/one.vmx   x   vmx-17   \n\
            12     two (x)   [b] two/two.vmx   y   vmx-13   a note\n\n   more\n99     three   [c] 3/3.vmx   z   vmx-1\n12     again\n7x\n";
        assert_eq!(vm_ids(text, None).unwrap(), [10, 12, 99]);
        assert_eq!(vm_ids(text, Some("two (x)")).unwrap(), [12]);
        assert!(vm_ids("-sh: vim-cmd: not found\n", None).unwrap_err().contains("Vmid"));
    }

    #[test]
    fn volumes_are_read_by_their_columns_whatever_they_are_called() {
        let text = "Free,MountPoint,Mounted,Size,Type,UUID,VolumeName,\n5,/vmfs/volumes/u1,true,9,VMFS-6,u1,ds (1) [x] it's,\n\
            5,/vmfs/volumes/u2,true,9,NFS,u2,\"a, \"\"b\"\"\",\n0,,false,0,VMFS-5,u3,gone,\n";
        let found = volumes(text).unwrap();
        let names: Vec<_> = found.iter().map(|volume| volume.name.as_str()).collect();
        assert_eq!(names, ["ds (1) [x] it's", "a, \"b\""]);
        assert_eq!((found[0].free, found[0].size, found[0].mount.as_str()), (5, 9, "/vmfs/volumes/u1"));
        for bad in [
            "",
            "Free,MountPoint\n",
            &text.replace("true,9,VMFS-6", "true,x,VMFS-6"),
            &text.replace("ds (1)", "ds,(1)"),
            &text.replace("/vmfs/volumes/u1", "u1"),
        ] {
            assert!(volumes(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_tree_of_snapshots_is_read_with_its_levels_and_a_forged_one_is_not() {
        let text = "Get Snapshot:\n|-ROOT\n--Snapshot Name        : before patch\n--Snapshot Id        : 14\n--Snapshot Desciption  : \
            first\nsecond\n--Snapshot Created On  : 4/12/2023 16:12:54\n--Snapshot State       : powered on\n--|-CHILD\n----Snapshot Name        \
            : impound-x\n----Snapshot Id        : 15\n----Snapshot Desciption  : \n";
        let found = snapshot_tree(text).unwrap();
        let told: Vec<_> = found.iter().map(|s| (s.id, s.name.as_str(), s.level, s.index)).collect();
        assert_eq!(told, [(Some(14), "before patch", 0, 0), (Some(15), "impound-x", 1, 0)]);
        assert_eq!(found[0].about, "first");
        assert_eq!(snapshot_tree("Get Snapshot:\n").unwrap(), []);
        let old: String = text
            .lines()
            .filter(|line| !line.contains("Snapshot Id"))
            .fold(String::new(), |all, line| all + line + "\n");
        assert!(snapshot_tree(&old).unwrap().iter().all(|snapshot| snapshot.id.is_none()));
        for bad in [
            text.replace("second\n", "--|-CHILD\n----Snapshot Name : impound-x\n----Snapshot Id : 14\n"),
            text.replace("second\n", "--|-CHILD\n----Snapshot Name : impound-x\n"),
            text.replace("--|-CHILD", "------|-CHILD"),
            text.replace(": 15", ": x"),
            "nothing".to_owned(),
        ] {
            assert!(snapshot_tree(&bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn states_tasks_and_fields_are_read() {
        assert_eq!(power_state("Retrieved runtime info\nSuspended\n").unwrap(), "Suspended");
        assert!(
            power_state("(vim.fault.NotFound) {\n").is_err() && power_state("Retrieved runtime info\nOdd\n").is_err()
        );
        let list = "(ManagedObjectReference) [\n   'vim.Task:haTask-7-vim.VirtualMachine.createSnapshot-1', \n   'vim.Task:a;b'\n]\n";
        assert_eq!(tasks(list), ["haTask-7-vim.VirtualMachine.createSnapshot-1"]);
        assert!(tasks("(ManagedObjectReference) []\n").is_empty());
        assert_eq!(field("   Product: VMware ESXi\n   Version: 8.0.2\n", "Version"), Some("8.0.2"));
    }

    #[test]
    fn the_log_tells_how_long_the_guest_stood_and_the_guest_cannot() {
        let log = "2023-05-09T23:05:01.250Z In(05) vcpu-0 - Checkpoint_Unstun: vm stopped for 812345 us\n\
            2017-01-23T08:22:44.338Z| vcpu-0| I125: Checkpoint_Unstun: vm stopped for 1356 us\n\
            2023-05-09T23:05:01.250Z In(05) vcpu-0 - Guest: Checkpoint_Unstun: vm stopped for 1 us\n\
            2017-01-23T08:22:44.338Z| vcpu-0| I125: Guest: Checkpoint_Unstun: vm stopped for 1 us\nx\n";
        let found: Vec<_> = stuns(log).into_iter().map(|(_, micros)| micros).collect();
        assert_eq!(found, [812_345, 1356]);
    }
}
