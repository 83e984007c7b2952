"""The package and all that it imports, as one tree of files.

What is below it comes from the environment that runs this, which has it installed; nothing is
downloaded. One dependency, crc32c, is compiled, so a bundle is for this Python and this
processor, and its licence (LGPL) asks that it can be replaced: it stays a file of its own.
"""

from __future__ import annotations

import importlib.metadata
import pathlib
import platform
import shutil
import sys
import tomllib

from packaging.requirements import Requirement

ROOT = pathlib.Path(__file__).resolve().parents[1]


def dependencies() -> list[str]:
    """Names of the distributions that the package needs, and of those that these need."""
    with (ROOT / "pyproject.toml").open("rb") as file:
        wanted = list(tomllib.load(file)["project"]["dependencies"])
    found: list[str] = []
    while wanted:
        requirement = Requirement(wanted.pop())
        if requirement.marker is not None and not requirement.marker.evaluate({"extra": ""}):
            continue
        if requirement.name not in found:
            found.append(requirement.name)
            wanted += importlib.metadata.requires(requirement.name) or []
    return sorted(found)


def scripts() -> dict[str, str]:
    """The programs: name to ``module:function``."""
    with (ROOT / "pyproject.toml").open("rb") as file:
        found: dict[str, str] = tomllib.load(file)["project"]["scripts"]
    return found


def platform_tag() -> str:
    """What a bundle is for, such as ``cpython-311-x86_64``."""
    return f"{sys.implementation.cache_tag}-{platform.machine()}"


def copy(directory: pathlib.Path) -> None:
    """Copy the package and its dependencies, with their licences, below a directory.

    Args:
        directory: Where `import flockpr` is to find it; made if it is missing.
    """
    ignored = shutil.ignore_patterns("__pycache__", "*.pyc")
    shutil.copytree(ROOT / "flockpr", directory / "flockpr", ignore=ignored)
    for name in dependencies():
        for file in importlib.metadata.files(name) or ():
            if ".." in file.parts or file.suffix == ".pyc" or file.name in ("RECORD", "INSTALLER"):
                continue  # scripts, caches, and what tells of this installation
            target = directory / file
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(str(file.locate()), target)
