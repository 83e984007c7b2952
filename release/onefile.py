"""flockpr.pyz: the program as one file, for a machine that has Python and nothing else."""

from __future__ import annotations

import hashlib
import pathlib
import tempfile
import zipfile

from release import bundle

_SHEBANG = b"#!/usr/bin/env python3\n"
_THEN = (1980, 1, 1, 0, 0, 0)
"""The time of every entry, so that the same sources make the same file."""


def write(target: pathlib.Path) -> None:
    """Write the file and make it executable.

    Args:
        target: The file; what is there is replaced.
    """
    with tempfile.TemporaryDirectory() as name:
        tree = pathlib.Path(name)
        bundle.copy(tree)
        files = sorted(path for path in tree.rglob("*") if path.is_file())
        digest = hashlib.sha256()
        for file in files:
            digest.update(str(file.relative_to(tree)).encode() + b"\0" + file.read_bytes())
        with target.open("wb") as output:
            output.write(_SHEBANG)
            with zipfile.ZipFile(output, "w", zipfile.ZIP_DEFLATED) as archive:
                _add(archive, "__main__.py", _main(digest.hexdigest()[:32]))
                for file in files:
                    _add(archive, f"site/{file.relative_to(tree)}", file.read_bytes())
    target.chmod(0o755)


def _add(archive: zipfile.ZipFile, name: str, data: bytes) -> None:
    entry = zipfile.ZipInfo(name, _THEN)
    entry.compress_type = zipfile.ZIP_DEFLATED
    entry.external_attr = 0o644 << 16
    archive.writestr(entry, data)


def _main(digest: str) -> bytes:
    text = pathlib.Path(__file__).with_name("onefile_main.py").read_text(encoding="utf-8")
    text = text.replace("@TAG@", bundle.platform_tag()).replace("@DIGEST@", digest)
    return text.replace('{"@SCRIPTS@": ""}', repr(bundle.scripts())).encode()
