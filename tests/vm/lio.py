"""A machine with the kernel's own target, LIO, and this host's Python."""

from __future__ import annotations

import json
import re
import shutil
import sys
import tarfile
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from attrs import evolve

from tests.vm.initramfs import GUEST_FILES, initramfs
from tests.vm.kernel import Kernel, _files_of, _once, kernel
from tests.vm.machine import Machine
from tests.vm.share import TREE_MODULES, tree_arguments

MODULES = (
    *("virtio_pci", "virtio_console", "virtio_net", *TREE_MODULES, "sd_mod", "sg"),
    *("target_core_mod", "target_core_file", "tcm_loop", "dm_mod"),
)
_WANTED = re.compile(r"/kernel/drivers/(dax|md|scsi/device_handler|target)/")


def kernel_with_targets() -> Kernel:
    """The rig's kernel, and of its package the modules of targets and of the device mapper."""
    chosen = kernel()

    def build(draft: Path) -> None:
        shutil.copytree(chosen.modules, draft / "modules")
        with (
            _files_of(f"linux-image-{chosen.release}") as stream,
            tarfile.open(fileobj=stream, mode="r|") as archive,
        ):
            for member in archive:
                content = archive.extractfile(member)
                name = Path(member.name)
                if content is not None and name.suffix == ".ko" and _WANTED.search(member.name):
                    (draft / "modules" / name.name).write_bytes(content.read())

    layout = zlib.crc32(_WANTED.pattern.encode())
    folder = _once(f"lio-{chosen.release}.{layout:08x}", build)
    return evolve(chosen, modules=folder / "modules")


@contextmanager
def machine(
    folder: Path,
    modules: Sequence[str] = MODULES,
    *,
    packages: Path | None = None,
    arguments: Sequence[str] = (),
    memory: int = 512,
) -> Iterator[Machine]:
    """Such a machine, booted.

    Args:
        folder: Where everything goes; short.
        modules: What is loaded, in this order.
        packages: Files of packages that this host lacks.
        arguments: More of QEMU.
        memory: MiB.
    """
    chosen = kernel_with_targets()
    initrd = folder / "initrd"
    initrd.write_bytes(initramfs(chosen, modules, environment={"ROOT": "host"}))
    empty = folder / "empty"
    empty.mkdir()
    trees = tree_arguments(packages or empty)
    with Machine(
        "host", folder, chosen, initrd, memory=memory, arguments=[*trees, *arguments]
    ) as host:
        host.wait_booted()
        yield host


def python(host: Machine, program: str, *arguments: object, seconds: float = 3000) -> Any:
    """What a program of ``guest/`` prints last, as JSON."""
    words = " ".join(str(argument) for argument in arguments)
    repository = Path(__file__).parents[2]
    command = f"PYTHONPATH={repository} {sys.executable} {GUEST_FILES / program} {words}"
    done = host.start(command).wait(seconds)
    assert done.status == 0, f"{program}: {done.status}\n{done.output}"
    return json.loads(done.output.splitlines()[-1])
