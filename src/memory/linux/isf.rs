//! A symbol file for Volatility 3 (ISF, schema 6.2.0) from the image alone: types from BTF, symbols from kallsyms.
//!
//! Layout: `volatility3/schemas/schema-6.2.0.json`. BTF has types for variables of CPUs only, so the types of the variables that
//! plugins read are in a table of our own. Constant data is that of `linux_banner`, by which Volatility recognises a kernel.

use serde_json::{Map, Value, json};

use super::super::Outcome;
use super::super::symbols::btf::{Btf, Id, Kind};
use super::super::symbols::kallsyms::KERNEL_MAP;
use super::Kernel;

/// Variables that plugins read, and what they are. `*` in front: a pointer to it; `[]`: as many as there is room for.
const GLOBALS: &[(&str, &str)] = &[
    ("init_task", "task_struct"),
    ("init_mm", "mm_struct"),
    ("init_pid_ns", "pid_namespace"),
    ("init_net", "net"),
    ("init_uts_ns", "uts_namespace"),
    ("init_files", "files_struct"),
    ("modules", "list_head"),
    ("net_namespace_list", "list_head"),
    ("super_blocks", "list_head"),
    ("tty_drivers", "list_head"),
    ("iomem_resource", "resource"),
    ("module_kset", "*kset"),
    ("keyboard_notifier_list", "atomic_notifier_head"),
    ("prog_idr", "idr"),
    ("map_idr", "idr"),
    ("prb", "*printk_ringbuffer"),
    ("mount_hashtable", "*hlist_head"),
    ("file_systems", "*file_system_type"),
    ("ftrace_ops_list", "*ftrace_ops"),
    ("mod_tree", "mod_tree_root"),
    ("taint_flags", "[]taint_flag"),
    ("idt_table", "[]gate_struct"),
    ("socket_file_ops", "file_operations"),
    ("sockfs_dentry_operations", "dentry_operations"),
    ("tcp4_seq_afinfo", "tcp_seq_afinfo"),
    ("tcp6_seq_afinfo", "tcp_seq_afinfo"),
    ("udp4_seq_afinfo", "udp_seq_afinfo"),
    ("udp6_seq_afinfo", "udp_seq_afinfo"),
    ("ftrace_mod_maps", "list_head"),
    ("bpf_kallsyms", "list_head"),
    ("tk_core", TIMEKEEPER),
    ("cap_last_cap", "int"),
    ("pgtable_l5_enabled", "unsigned int"),
    ("kallsyms_num_syms", "unsigned int"),
    ("kallsyms_names", "[]unsigned char"),
    ("kallsyms_token_table", "[]unsigned char"),
    ("kallsyms_token_index", "[]short unsigned int"),
    ("kallsyms_offsets", "[]int"),
    ("kallsyms_relative_base", "long unsigned int"),
];

/// The type of `tk_core` has no name in the kernel: a counter, and the timekeeper behind it.
const TIMEKEEPER: &str = "impound_tk_core";

/// The file's content.
pub fn build(kernel: &Kernel) -> Outcome<Value> {
    let mut writer = Writer { types: &kernel.types, bases: Map::new() };
    let (mut user, mut enums) = (Map::new(), Map::new());
    // Of several with one name the first stays: the kernel's own, before those of modules.
    for id in (1..kernel.types.count()).rev() {
        match kernel.types.kind(id) {
            Kind::Struct | Kind::Union => {
                user.insert(writer.name(id), writer.structure(id));
            }
            Kind::Enum { .. } => {
                enums.insert(writer.name(id), writer.enumeration(id));
            }
            Kind::Int { .. } => {
                writer.describe(id, 0);
            }
            _ => {}
        }
    }
    let timekeeper = json!({ "type": { "kind": "struct", "name": "timekeeper" }, "offset": 8 });
    let size = kernel.types.find("timekeeper").map_or(8, |id| kernel.types.size(id) + 8);
    user.insert(
        TIMEKEEPER.to_owned(),
        json!({ "kind": "struct", "size": size, "fields": { "timekeeper": timekeeper } }),
    );
    let symbols = symbols(kernel, &mut writer)?;
    let mut bases = std::mem::take(&mut writer.bases);
    let base = |size: u64, signed: bool, kind: &str| json!({ "size": size, "signed": signed, "kind": kind, "endian": "little" });
    bases.insert("pointer".to_owned(), base(8, false, "int"));
    bases.insert("void".to_owned(), base(0, false, "void"));
    Ok(json!({
        "metadata": {
            "format": "6.2.0",
            "producer": { "name": "impound", "version": env!("CARGO_PKG_VERSION") },
            "linux": { "symbols": [], "types": [] },
        },
        "base_types": bases, "user_types": user, "enums": enums, "symbols": symbols,
    }))
}

fn symbols(kernel: &Kernel, writer: &mut Writer<'_>) -> Outcome<Map<String, Value>> {
    use base64::{Engine, engine::general_purpose::STANDARD};
    let slide = kernel.slide().unwrap_or(0);
    let mut symbols = Map::new();
    for symbol in kernel.symbols.iter() {
        // What each CPU has its own is not moved.
        let address = if symbol.address >> 63 == 1 { symbol.address.wrapping_sub(slide) } else { symbol.address };
        symbols.entry(symbol.name).or_insert_with(|| json!({ "address": address }));
    }
    // kallsyms leaves its own tables out; the crash note names them.
    for (key, value) in kernel.note().iter().flat_map(|note| &note.lines) {
        let name = key.strip_prefix("SYMBOL(").and_then(|rest| rest.strip_suffix(')'));
        if let (Some(name), Ok(address)) = (name, u64::from_str_radix(value, 16)) {
            let moved = if address >= KERNEL_MAP { address.wrapping_sub(slide) } else { continue };
            symbols.entry(name).or_insert_with(|| json!({ "address": moved }));
        }
    }
    for (name, of) in GLOBALS {
        let room = kernel.symbols.address(name).map_or(0, |at| room(kernel, at));
        if let (Some(entry), Some(described)) = (symbols.get_mut(*name), writer.global(of, room)) {
            set_type(entry, described);
        }
    }
    // What has no type of its own is nothing in particular: some plugins want its place alone.
    for entry in symbols.values_mut().filter(|entry| entry.get("type").is_none()) {
        set_type(entry, json!({ "kind": "base", "name": "void" }));
    }
    let mut banner = kernel.space.text(kernel.symbol("linux_banner")?, 1024)?;
    banner.push(0);
    let char_array = json!({ "kind": "array", "count": banner.len(), "subtype": { "kind": "base", "name": "char" } });
    if let Some(entry) = symbols.get_mut("linux_banner").and_then(Value::as_object_mut) {
        entry.insert("type".to_owned(), char_array);
        entry.insert("constant_data".to_owned(), Value::String(STANDARD.encode(&banner)));
    }
    Ok(symbols)
}

fn set_type(entry: &mut Value, described: Value) {
    if let Some(entry) = entry.as_object_mut() {
        entry.insert("type".to_owned(), described);
    }
}

/// Bytes up to the next symbol.
fn room(kernel: &Kernel, at: u64) -> u64 {
    let next = kernel.symbols.iter().map(|symbol| symbol.address).filter(|next| *next > at).min();
    next.map_or(0, |next| next - at).min(1 << 20)
}

struct Writer<'k> {
    types: &'k Btf,
    bases: Map<String, Value>,
}

impl Writer<'_> {
    fn name(&self, id: Id) -> String {
        match self.types.name(id) {
            b"" => format!("unnamed_{id:x}"),
            name => String::from_utf8_lossy(name).into_owned(),
        }
    }

    /// The type of a variable by its row in [`GLOBALS`].
    fn global(&mut self, of: &str, room: u64) -> Option<Value> {
        let bare = of.trim_start_matches("[]").trim_start_matches('*');
        let (inner, size) = match self.types.find(bare) {
            Some(id) if bare != "int" => (self.describe(id, 0), self.types.size(id)),
            _ if bare == TIMEKEEPER => (json!({ "kind": "struct", "name": bare }), 8),
            _ => {
                let size = self.bases.get(bare)?.get("size")?.as_u64()?;
                (json!({ "kind": "base", "name": bare }), size)
            }
        };
        Some(match of.as_bytes().first() {
            Some(b'*') => json!({ "kind": "pointer", "subtype": inner }),
            Some(b'[') => json!({ "kind": "array", "count": room / size.max(1), "subtype": inner }),
            _ => inner,
        })
    }

    fn describe(&mut self, id: Id, depth: u32) -> Value {
        let void = json!({ "kind": "base", "name": "void" });
        let id = self.types.plain(id);
        if depth > 16 {
            return void;
        }
        match self.types.kind(id) {
            Kind::Int { signed } => {
                let name = self.name(id);
                let kind = match name.as_str() {
                    "_Bool" | "bool" => "bool",
                    "char" | "unsigned char" | "signed char" => "char",
                    _ => "int",
                };
                let size = self.types.size(id);
                let value = json!({ "size": size, "signed": signed, "kind": kind, "endian": "little" });
                self.bases.insert(name.clone(), value);
                json!({ "kind": "base", "name": name })
            }
            Kind::Pointer => {
                let target = self.types.plain(self.types.target(id));
                json!({ "kind": "pointer", "subtype": self.describe(target, depth + 1) })
            }
            Kind::Array(count) => {
                json!({ "kind": "array", "count": count, "subtype": self.describe(self.types.target(id), depth + 1) })
            }
            Kind::Struct => json!({ "kind": "struct", "name": self.name(id) }),
            Kind::Union => json!({ "kind": "union", "name": self.name(id) }),
            Kind::Enum { .. } => json!({ "kind": "enum", "name": self.name(id) }),
            Kind::Other => json!({ "kind": "function" }),
            _ => void,
        }
    }

    fn structure(&mut self, id: Id) -> Value {
        let types = self.types;
        let mut fields = Map::new();
        for (n, (name, member)) in types.members(id).enumerate() {
            let mut described = self.describe(member.id, 0);
            let mut bit = member.bit;
            if let Some(width) = member.bits {
                // Volatility reads a whole unit and shifts.
                let unit = types.size(member.id).max(1) * 8;
                let first = bit % unit;
                bit -= first;
                described =
                    json!({ "kind": "bitfield", "bit_position": first, "bit_length": width, "type": described });
            }
            let anonymous = name.is_empty();
            let name =
                if anonymous { format!("unnamed_field_{n:x}") } else { String::from_utf8_lossy(name).into_owned() };
            let mut field = json!({ "type": described, "offset": bit / 8 });
            if let (true, Some(field)) = (anonymous, field.as_object_mut()) {
                field.insert("anonymous".to_owned(), Value::Bool(true));
            }
            fields.insert(name, field);
        }
        let kind = if types.kind(id) == Kind::Union { "union" } else { "struct" };
        json!({ "kind": kind, "size": types.size(id), "fields": fields })
    }

    fn enumeration(&mut self, id: Id) -> Value {
        let mut constants = Map::new();
        for (name, value) in self.types.values(id) {
            constants.insert(String::from_utf8_lossy(name).into_owned(), json!(value));
        }
        let (size, kind) = (self.types.size(id), self.types.kind(id));
        let base = if matches!(kind, Kind::Enum { signed: true }) { "int" } else { "unsigned int" };
        json!({ "size": size, "base": base, "constants": constants })
    }
}
