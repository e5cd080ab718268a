"""vim-cmd, esxcli and dd of the double of an ESXi host: see mod.rs beside this file.

It is called by these names. What it knows is in state.json of the folder $ESX, what is to go wrong in control.json there.
Texts follow public captures of 6.x to 8.x; field order, trailing blanks and misspellings are the host's.
"""

import fcntl
import json
import os
import sys
import time

HOME = os.environ["ESX"]
ABSENT = "<unset>"


class Typed:
    """A null of a type, an object, or a list."""

    def __init__(self, kind, value=None):
        self.kind, self.value = kind, value


def load(name, default):
    try:
        with open(os.path.join(HOME, name), encoding="utf-8") as file:
            return json.load(file)
    except FileNotFoundError:
        return default


def shown(value, depth):
    pad = "   " * depth
    if isinstance(value, Typed):
        if value.value is None:
            return f"({value.kind}) null"
        pairs = value.value and all(isinstance(one, tuple) and len(one) == 2 for one in value.value)
        if not pairs:
            if not value.value:
                return f"({value.kind}) []"
            rows = [pad + "   " + shown(one, depth + 1) for one in value.value]
            return f"({value.kind}) [\n" + ", \n".join(rows) + f"\n{pad}]"
        rows = [f"{pad}   {name} = {shown(one, depth + 1)}, \n" for name, one in value.value]
        return f"({value.kind}) {{\n" + "".join(rows) + f"{pad}}}"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int) or value == ABSENT:
        return str(value)
    if isinstance(value, tuple):
        return f"'{value[0]}'"
    return f'"{value}"'


def say(value):
    print(shown(value, 0))


def fault(kind, message):
    say(Typed(kind, [("faultCause", Typed("vmodl.MethodFault")), ("msg", message)]))
    sys.exit(1)


class Host:
    def __init__(self):
        self.lock = open(os.path.join(HOME, "lock"), "w", encoding="utf-8")
        fcntl.flock(self.lock, fcntl.LOCK_EX)
        self.state = load("state.json", {})
        self.control = load("control.json", {})
        self.settle()

    def save(self):
        path = os.path.join(HOME, "state.json")
        with open(path + ".new", "w", encoding="utf-8") as file:
            json.dump(self.state, file)
        os.rename(path + ".new", path)

    def vm(self, number):
        for vm in self.state["vms"]:
            if str(vm["id"]) == number:
                return vm
        return fault("vim.fault.NotFound", "Unable to find a VM corresponding to \"" + number + "\"")

    def path(self, name):
        for volume in sorted(self.state["volumes"], key=lambda one: -len(one["name"])):
            head = "[" + volume["name"] + "] "
            if volume["name"] and name.startswith(head):
                return volume["mount"] + "/" + name[len(head):]
        raise SystemExit("no datastore in " + name)

    def volume(self, name):
        return max((v for v in self.state["volumes"] if name.startswith("[" + v["name"] + "] ")), key=lambda v: len(v["name"]))

    def stem(self, vm):
        return vm["vmx"][: -len(".vmx")]

    def log(self, vm, words):
        now = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime()) + ".000Z"
        line = f"{now}| vcpu-0| I125: {words}\n" if self.state["style"] < 7 else f"{now} In(05) vcpu-0 - {words}\n"
        with open(os.path.dirname(self.path(vm["vmx"])) + "/vmware.log", "a", encoding="utf-8") as file:
            file.write(line)

    # Tasks: begun by one command, ended by whichever comes after their time.

    def begin(self, vm, verb, effect, seconds):
        number = self.state["next_task"]
        self.state["next_task"] += 1
        task = {"id": f"haTask-{vm['id']}-vim.VirtualMachine.{verb}-{number}", "vm": vm["id"], "state": "running"}
        task.update(effect=effect, until=time.time() + seconds)
        self.state["tasks"].append(task)

    def settle(self):
        for task in self.state["tasks"]:
            if task["state"] == "running" and task["until"] <= time.time() and not self.control.get("hold"):
                vm = next(vm for vm in self.state["vms"] if vm["id"] == task["vm"])
                error = getattr(self, "do_" + task["effect"]["do"])(vm, task["effect"])
                task["state"] = "error" if error else "success"
                task["error"] = error
        self.save()

    def do_create(self, vm, effect):
        if self.control.get("create") == "error":
            return ["vim.fault.GenericVmConfigFault", "An error occurred while saving the snapshot: Failed to quiesce."]
        memory = effect["memory"] and vm["power"] == "poweredOn"
        volume = self.volume(vm["vmx"])
        if memory and volume["free"] < vm["memory_mb"] << 20 or self.control.get("create") == "full":
            return ["vim.fault.NoDiskSpace", "There is not enough space on the file system for the selected operation."]
        number = vm["next_snapshot"]
        vm["next_snapshot"] += 1
        one = {"id": number, "name": effect["name"], "about": effect["about"], "state": vm["power"], "memory": memory}
        one.update(parent=vm["current"], deltas=[], files=[])
        state = f"{self.stem(vm)}-Snapshot{number}"
        self.put(state + ".vmsn", "memory.vmsn" if memory else None)
        one["files"].append(state + ".vmsn")
        if memory and os.path.exists(os.path.join(HOME, "memory.vmem")):
            self.put(state + ".vmem", "memory.vmem")
            one["files"].append(state + ".vmem")
            volume["free"] -= vm["memory_mb"] << 20
        for disk in vm["disks"]:
            if disk["mode"] == "persistent" and disk["backing"] != "raw" and not disk.get("vsan"):
                one["deltas"].append([disk["key"], disk["file"]])
                self.delta(disk, number)
        vm["snapshots"].append(one)
        vm["current"] = number
        if not self.control.get("silent_log"):
            self.log(vm, "Guest: Checkpoint_Unstun: vm stopped for 99999999 us")
            self.log(vm, "Checkpoint_Unstun: vm stopped for 812345 us")
        return None

    def put(self, name, source):
        path = self.path(name)
        if source:
            os.link(os.path.join(HOME, source), path)
        else:
            with open(path, "wb") as file:
                file.write(b"\xd3\xbe\xd3\xbe" + bytes(60))

    def delta(self, disk, number):
        """The guest writes here from now on; nothing of it is ever to be read."""
        stem = disk["file"][: -len(".vmdk")].rsplit("-0", 1)[0]
        top = f"{stem}-{number:06}"
        kind = "SESPARSE" if self.state["style"] >= 7 else "VMFSSPARSE"
        extent = top + ("-sesparse.vmdk" if self.state["style"] >= 7 else "-delta.vmdk")
        with open(self.path(disk["file"]), encoding="utf-8") as file:
            text = file.read()
        cid = next(line.split("=")[1] for line in text.splitlines() if line.startswith("CID="))
        base = os.path.basename(self.path(disk["file"]))
        with open(self.path(top + ".vmdk"), "w", encoding="utf-8") as file:
            file.write(
                f'# Disk DescriptorFile\nversion=1\nCID={number:08x}\nparentCID={cid}\ncreateType="seSparse"\n'
                f'parentFileNameHint="{base}"\n# Extent description\nRW 8 {kind} "{os.path.basename(self.path(extent))}"\n'
            )
        with open(self.path(extent), "wb") as file:
            file.write(b"what the guest wrote after the instant")
        disk["file"], disk["extents"] = top + ".vmdk", [extent]

    def do_remove(self, vm, effect):
        if self.control.get("remove") == "error":
            return ["vim.fault.GenericVmConfigFault", "Unable to access file since it is locked"]
        one = next(one for one in vm["snapshots"] if one["id"] == effect["id"])
        for name in one["files"]:
            os.unlink(self.path(name))
        for key, file in one["deltas"]:
            disk = next(disk for disk in vm["disks"] if disk["key"] == key)
            os.unlink(self.path(disk["file"]))
            for extent in disk["extents"]:
                os.unlink(self.path(extent))
            disk["file"], disk["extents"] = file, disk["bases"][file]
            # What was in the delta goes into the base.
            with open(self.path(disk["extents"][0]), "r+b") as base:
                base.seek(-16, 2)
                base.write(b"written later on")
        for other in vm["snapshots"]:
            if other["parent"] == one["id"]:
                other["parent"] = one["parent"]
        vm["snapshots"].remove(one)
        if vm["current"] == one["id"]:
            vm["current"] = one["parent"]
        if not self.control.get("silent_log"):
            self.log(vm, "Checkpoint_Unstun: vm stopped for 5000 us")
        return None

    def do_suspend(self, vm, _effect):
        vm["power"] = "suspended"
        self.put(self.stem(vm) + "-1a2b.vmss", "memory.vmsn")
        if os.path.exists(os.path.join(HOME, "memory.vmem")):
            self.put(self.stem(vm) + "-1a2b.vmem", "memory.vmem")

    def do_on(self, vm, _effect):
        if self.control.get("on") == "error":
            return ["vim.fault.GenericVmConfigFault", "no"]
        if vm["power"] == "suspended":
            for ending in (".vmss", ".vmem"):
                path = self.path(self.stem(vm) + "-1a2b" + ending)
                if os.path.exists(path):
                    os.unlink(path)
        vm["power"] = "poweredOn"
        return None

    def locked(self):
        """What ESX has open for writing."""
        found = set()
        for vm in self.state["vms"]:
            if vm["power"] == "poweredOn":
                for disk in vm["disks"]:
                    found.update(self.path(extent) for extent in disk["extents"])
        return found


def rows(host, vm):
    name, file, guest, version = vm["name"], vm["vmx"], "debian12_64Guest", "vmx-19"
    return [str(vm["id"]), name, file, guest, version, vm["annotation"]]


def getallvms(host, _args):
    head = ["Vmid", "Name", "File", "Guest OS", "Version", "Annotation"]
    table = [head] + [rows(host, vm) for vm in host.state["vms"]]
    widths = [max(len(row[at]) for row in table) for at in range(5)]
    for row in table:
        print("   ".join(cell.ljust(width) for cell, width in zip(row, widths)) + "   " + row[5] + "   ")


def summary(host, args):
    vm = host.vm(args[0])
    say_after("Listsummary:\n", Typed("vim.vm.Summary", [
        ("vm", (f"vim.VirtualMachine:{vm['id']}",)),
        ("runtime", Typed("vim.vm.RuntimeInfo", [
            ("connectionState", "connected"), ("powerState", vm["power"]), ("suspendTime", ABSENT),
            ("question", Typed("vim.vm.QuestionInfo")), ("maxMemoryUsage", vm["memory_mb"]),
        ])),
        ("guest", Typed("vim.vm.Summary.GuestSummary", [
            ("guestFullName", "Debian GNU/Linux 12 (64-bit)"), ("toolsStatus", "toolsNotInstalled"),
            ("hostName", vm.get("host_name") or ABSENT),
        ])),
        ("config", Typed("vim.vm.Summary.ConfigSummary", [
            ("name", vm["name"]), ("template", False), ("vmPathName", vm["vmx"]), ("memorySizeMB", vm["memory_mb"]),
            ("numCpu", vm["cpus"]), ("uuid", vm["uuid"]), ("instanceUuid", vm["instance"]), ("annotation", vm["annotation"]),
        ])),
        ("overallStatus", "green"),
    ]))


def say_after(line, value):
    print(line)
    say(value)


def devices(host, args):
    disks = []
    for disk in host.vm(args[0])["disks"]:
        kind = "RawDiskMappingVer1" if disk["backing"] == "raw" else "FlatVer2"
        fields = [("fileName", disk["file"]), ("diskMode", disk["mode"]), ("thinProvisioned", True), ("eagerlyScrub", ABSENT)]
        if disk["backing"] == "raw":
            fields += [("deviceName", "vml.0200000000"), ("compatibilityMode", "physicalMode")]
        disks.append(Typed("vim.vm.device.VirtualDisk", [
            ("key", disk["key"]),
            ("deviceInfo", Typed("vim.Description", [("label", disk["label"]), ("summary", "16,384 KB")])),
            ("backing", Typed(f"vim.vm.device.VirtualDisk.{kind}BackingInfo", fields)),
            ("capacityInKB", disk["capacity"] // 1024), ("capacityInBytes", disk["capacity"]),
        ]))
    other = Typed("vim.vm.device.VirtualIDEController", [("key", 200), ("device", Typed("int", []))])
    hardware = [("numCPU", 2), ("device", Typed("vim.vm.device.VirtualDevice", [other] + disks))]
    say_after("Devices:\n", Typed("vim.vm.VirtualHardware", hardware))


def layout(host, args):
    vm = host.vm(args[0])
    files, shots = [], []

    def add(name, kind):
        files.append(Typed("vim.vm.FileLayoutEx.FileInfo", [
            ("key", len(files)), ("name", name), ("type", kind), ("size", 0), ("uniqueSize", 0), ("accessible", True),
        ]))
        return len(files) - 1

    add(vm["vmx"], "config")
    for one in vm["snapshots"]:
        state = add(one["files"][0], "snapshotData")
        memory = add(one["files"][1], "snapshotMemory") if len(one["files"]) > 1 else -1
        shots.append(Typed("vim.vm.FileLayoutEx.SnapshotLayout", [
            ("key", (f"vim.vm.Snapshot:{vm['id']}-snapshot-{one['id']}",)), ("dataKey", state), ("memoryKey", memory),
            ("disk", Typed("vim.vm.FileLayoutEx.DiskLayout", [])),
        ]))
    if vm["power"] == "suspended":
        add(host.stem(vm) + "-1a2b.vmss", "suspend")
    if host.control.get("no_layout"):
        files, shots = files[:1], []
    say_after("Filelayoutex:\n", Typed("vim.vm.FileLayoutEx", [
        ("file", Typed("vim.vm.FileLayoutEx.FileInfo", files)),
        ("snapshot", Typed("vim.vm.FileLayoutEx.SnapshotLayout", shots)), ("timestamp", "2023-06-08T14:26:30.312473Z"),
    ]))


def children(vm, parent):
    return [one for one in vm["snapshots"] if one["parent"] == parent]


def snapshot_info(host, args):
    if host.state["style"] < 6:
        print("Invalid command 'vmsvc/get.snapshotinfo'")
        sys.exit(1)
    vm = host.vm(args[0])

    def tree(parent):
        return Typed("vim.vm.SnapshotTree", [Typed("vim.vm.SnapshotTree", [
            ("snapshot", (f"vim.vm.Snapshot:{vm['id']}-snapshot-{one['id']}",)), ("name", one["name"]),
            ("description", one["about"]), ("id", one["id"]), ("createTime", "2023-05-09T23:05:00.123456Z"),
            ("state", one["state"]), ("quiesced", False), ("childSnapshotList", tree(one["id"])),
        ]) for one in children(vm, parent)])

    print("Get Snapshot Info:")
    say(Typed("vim.vm.SnapshotInfo", [
        ("currentSnapshot", (f"vim.vm.Snapshot:{vm['id']}-snapshot-{vm['current']}",)), ("rootSnapshotList", tree(None)),
    ] if vm["snapshots"] else None))


def snapshot_get(host, args):
    vm = host.vm(args[0])
    print("Get Snapshot:")

    def tree(parent, level):
        for one in children(vm, parent):
            dashes = "--" * (level + 1)
            print("--" * level + ("|-ROOT" if level == 0 else "|-CHILD"))
            print(f"{dashes}Snapshot Name        : {one['name']}")
            if host.state["style"] >= 6:
                print(f"{dashes}Snapshot Id        : {one['id']}")
            print(f"{dashes}Snapshot Desciption  : {one['about']}")
            print(f"{dashes}Snapshot Created On  : 5/9/2023 23:5:0")
            print(f"{dashes}Snapshot State       : powered on")
            tree(one["id"], level + 1)

    tree(None, 0)


def snapshot_create(host, args):
    vm, name, about, memory = host.vm(args[0]), args[1], args[2], args[3] == "1"
    print("Create Snapshot:")
    how = host.control.get("create")
    if host.control.get("off_first"):
        vm["power"] = "poweredOff"
    if how == "refuse":
        print("Snapshot creation failed: the VM is in an invalid state")
    elif how != "lost":
        effect = {"do": "create", "name": name, "about": about, "memory": memory}
        host.begin(vm, "createSnapshot", effect, host.control.get("create_seconds", 0.2))
    host.save()


def snapshot_remove(host, args):
    if not args:
        words = "snapshotId" if host.state["style"] >= 6 else "[removeChildren] [snapshotLevel] [snapshotIndex]"
        print(f"Insufficient arguments.\nUsage: snapshot.remove vmid {words}\n\nRemove a snapshot\n")
        sys.exit(1)
    vm = host.vm(args[0])
    if host.state["style"] >= 6:
        number = int(args[1])
    else:
        level, index = int(args[2]), int(args[3])
        found = []

        def tree(parent, depth):
            for one in children(vm, parent):
                if depth == level:
                    found.append(one["id"])
                tree(one["id"], depth + 1)

        tree(None, 0)
        number = found[index]
    print("Remove Snapshot:")
    host.begin(vm, "removeSnapshot", {"do": "remove", "id": number}, host.control.get("remove_seconds", 0.1))
    host.save()


def tasklist(host, args):
    mine = [(f"vim.Task:{task['id']}",) for task in host.state["tasks"] if str(task["vm"]) == args[0]]
    say(Typed("ManagedObjectReference", mine))


def task_info(host, args):
    for task in host.state["tasks"]:
        if task["id"] == args[0]:
            error = task.get("error")
            fields = [("dynamicType", ABSENT)] if host.state["style"] < 7 else []
            fields += [("key", task["id"]), ("state", task["state"]), ("cancelled", False)]
            fields.append(("error", Typed(error[0], [("msg", error[1])]) if error else Typed("vmodl.MethodFault")))
            fields.append(("progress", ABSENT))
            return say(Typed("vim.TaskInfo", fields))
    return fault("vmodl.fault.ManagedObjectNotFound", "The object has already been deleted or has not been completely created")


def getstate(host, args):
    words = {"poweredOn": "Powered on", "poweredOff": "Powered off", "suspended": "Suspended"}
    print("Retrieved runtime info\n" + words[host.vm(args[0])["power"]])


def suspend(host, args):
    print("Suspending VM:")
    host.begin(host.vm(args[0]), "suspend", {"do": "suspend"}, host.control.get("suspend_seconds", 0.2))
    host.save()


def power_on(host, args):
    vm = host.vm(args[0])
    print("Powering on VM:")
    if vm["power"] == "poweredOn":
        fault("vim.fault.InvalidPowerState", "The attempted operation cannot be performed in the current state (Powered On).")
    host.begin(vm, "powerOn", {"do": "on"}, 0.1)
    host.save()


VIM = {
    "vmsvc/getallvms": getallvms, "vmsvc/get.summary": summary, "vmsvc/device.getdevices": devices,
    "vmsvc/get.filelayoutex": layout, "vmsvc/get.snapshotinfo": snapshot_info, "vmsvc/snapshot.get": snapshot_get,
    "vmsvc/snapshot.create": snapshot_create, "vmsvc/snapshot.remove": snapshot_remove, "vmsvc/get.tasklist": tasklist,
    "vimsvc/task_info": task_info, "vmsvc/power.getstate": getstate, "vmsvc/power.suspend": suspend,
    "vmsvc/power.on": power_on,
}


def vim_cmd(args):
    if not args or args[0] not in VIM:
        print(f"Invalid command '{' '.join(args[:1])}'")
        sys.exit(1)
    VIM[args[0]](Host(), args[1:])


def esxcli(args):
    host = Host()
    if args == ["system", "version", "get"]:
        print(f"   Product: VMware ESXi\n   Version: {host.state['version']}\n   Build: Releasebuild-22380479\n   Update: 2")
    elif args == ["--formatter=csv", "storage", "filesystem", "list"]:
        print("Free,MountPoint,Mounted,Size,Type,UUID,VolumeName,")
        for one in host.state["volumes"]:
            name = one["name"] if "," not in one["name"] else '"' + one["name"].replace('"', '""') + '"'
            print(f"{one['free']},{one['mount']},true,{one['size']},{one['type']},{os.path.basename(one['mount'])},{name},")
        print("0,,false,0,VMFS-5,dead,unmounted,")
    else:
        print("Error: Unknown command or namespace " + " ".join(args))
        sys.exit(1)


def dd(args):
    words = dict(word.split("=", 1) for word in args)
    host = Host()
    if words["if"] in host.locked():
        sys.exit(f"dd: can't open '{words['if']}': Device or resource busy")
    bad = host.control.get("bad_block")
    host.lock.close()
    if bad and words["if"].endswith(bad[0]):
        return read_badly(words, bad[1])
    return os.execv(os.environ["BUSYBOX"], ["dd"] + args)


def read_badly(words, bad):
    """A disk that cannot give one block."""
    size, skip = int(words["bs"]), int(words["skip"])
    with open(words["if"], "rb") as file:
        file.seek(skip * size)
        for number in range(skip, skip + int(words["count"])):
            if number == bad:
                sys.stdout.buffer.flush()
                sys.exit("dd: error reading '" + words["if"] + "': Input/output error")
            sys.stdout.buffer.write(file.read(size))


def browser(args):
    import browser as pages

    pages.serve(args)


{"vim-cmd": vim_cmd, "esxcli": esxcli, "dd": dd, "browser": browser}[os.path.basename(sys.argv[0])](sys.argv[1:])
