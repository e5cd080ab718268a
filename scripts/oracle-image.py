"""SHA-256 of the content of an image, read by somebody else: oracle-image.py disk|memory FILE."""

import hashlib
import sys
from pathlib import Path


def disk(path: Path):
    """The image as a file-like object of dissect's."""
    ending = path.suffix.lower()
    if ending == ".qcow2":
        from dissect.hypervisor.disk.qcow2 import QCow2

        image = QCow2(path)
        return image.open() if hasattr(image, "open") else image
    if ending == ".vmdk":
        from dissect.hypervisor.disk.vmdk import VMDK

        image = VMDK(path)
        return image.open() if hasattr(image, "open") else image
    if ending == ".vhdx":
        from dissect.hypervisor.disk.vhdx import VHDX

        image = VHDX(path)
        return image.open() if hasattr(image, "open") else image
    if ending == ".vhd":
        from dissect.hypervisor.disk.vhd import VHD

        image = VHD(path.open("rb"))
        return image.open() if hasattr(image, "open") else image
    if ending == ".vdi":
        from dissect.hypervisor.disk.vdi import VDI

        image = VDI(path.open("rb"))
        return image.open() if hasattr(image, "open") else image
    from dissect.evidence.ewf import EWF, find_files

    return EWF([file.open("rb") for file in sorted(find_files(path))]).open()


def hash_disk(path: Path) -> str:
    digest, image = hashlib.sha256(), disk(path)
    while chunk := image.read(1 << 20):
        digest.update(chunk)
    return digest.hexdigest()


def hash_memory(path: Path) -> str:
    """What Volatility maps, by address, with zeros between."""
    from volatility3.framework import contexts
    from volatility3.framework.layers import elf, lime, physical

    context = contexts.Context()
    context.config["base.location"] = path.as_uri()
    context.add_layer(physical.FileLayer(context, "base", "base"))
    context.config["memory.base_layer"] = "base"
    kind = lime.LimeLayer if path.suffix == ".lime" else elf.Elf64Layer
    layer = kind(context, "memory", "memory")
    context.add_layer(layer)
    digest, at, end = hashlib.sha256(), 0, layer.maximum_address + 1
    while at < end:
        length = min(1 << 20, end - at)
        digest.update(layer.read(at, length, pad=True))
        at += length
    return digest.hexdigest()


if __name__ == "__main__":
    kind, path = sys.argv[1], Path(sys.argv[2])
    print(hash_disk(path) if kind == "disk" else hash_memory(path))
