"""The one-file program and the Debian package, as they are built; installing is a sweep."""

from __future__ import annotations

import os
import pathlib
import re
import subprocess
import sys
import zipfile

import pytest

from release import bundle, debian, man, onefile
from tests.support.daemon_process import PATIENCE
from tests.support.docs import ROOT
from tests.support.peers import find


@pytest.fixture(scope="module")
def pyz(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """The one-file program, built."""
    file = tmp_path_factory.mktemp("onefile") / "flockpr.pyz"
    onefile.write(file)
    return file


def run(program: pathlib.Path, *words: str, home: pathlib.Path) -> subprocess.CompletedProcess[str]:
    """Run the file with nothing but Python: no site-packages, no repository."""
    return subprocess.run(
        [sys.executable, "-S", str(program), *words],
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        cwd="/",
        env={"PATH": "/usr/bin:/bin", "HOME": str(home)},
    )


def test_one_file_runs_a_verb_and_is_unpacked_once(
    pyz: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    """Into the user's cache, which only the user can write to."""
    root = tmp_path / "root"
    for name in ("one", "two"):
        done = run(pyz, "lun", "create", name, "--root", str(root), home=tmp_path)
        assert done.returncode == 0, done.stderr
    assert sorted(path.name for path in root.iterdir() if path.is_dir()) == [
        ".numbers",
        "one",
        "two",
    ]
    cache = tmp_path / ".cache" / "flockpr"
    assert cache.stat().st_mode & 0o777 == 0o700
    (place,) = cache.iterdir()
    assert (place / "flockpr" / "cli" / "__init__.py").exists()


def test_one_file_called_by_another_name_is_that_program(
    pyz: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    """A manager of machines wants a path of its own for the helper."""
    link = tmp_path / "flockpr-pr-helper"
    link.symlink_to(pyz)
    done = run(link, "-V", home=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("qemu-pr-helper ")


def test_one_file_does_not_use_a_cache_that_others_can_write_to(
    pyz: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    """What is there would be executed."""
    text = zipfile.ZipFile(pyz).read("__main__.py").decode()
    names: dict[str, object] = {}
    exec(text.removesuffix("main()\n"), names)
    usable = names["usable"]
    assert callable(usable)
    open_ = tmp_path / "open"
    open_.mkdir()
    open_.chmod(0o777)
    link = tmp_path / "link"
    link.symlink_to(tmp_path)
    assert not usable(str(open_))
    assert not usable(str(link))
    assert usable(str(tmp_path / "new"))


def test_one_file_says_when_python_is_another(pyz: pathlib.Path, tmp_path: pathlib.Path) -> None:
    """It has a compiled module, so it is for one Python and one processor."""
    other = tmp_path / "other.pyz"
    text = zipfile.ZipFile(pyz).read("__main__.py").decode()
    with zipfile.ZipFile(other, "w") as archive:
        archive.writestr("__main__.py", text.replace(bundle.platform_tag(), "cpython-399-vax"))
    done = run(other, "--version", home=tmp_path)
    assert done.returncode == 1
    assert "for cpython-399-vax" in done.stderr
    assert "use pip" in done.stderr


def test_one_file_is_the_same_each_time(pyz: pathlib.Path, tmp_path: pathlib.Path) -> None:
    """Who gets it can build it and compare."""
    again = tmp_path / "again.pyz"
    onefile.write(again)
    assert again.read_bytes() == pyz.read_bytes()
    assert os.access(again, os.X_OK)


def test_bundle_has_every_dependency_with_its_licence() -> None:
    """Those of pyproject.toml."""
    text = (ROOT / "pyproject.toml").read_text()
    (line,) = re.findall(r"^dependencies = \[(.*)\]$", text, re.MULTILINE)
    assert bundle.dependencies() == sorted(re.findall(r'"(\w+)', line))


@pytest.mark.peer("dpkg-deb")
def test_debian_package_has_all_that_it_should(tmp_path: pathlib.Path) -> None:
    """Programs, units, pages, completion, licences; nothing is owned by who built it."""
    package = debian.write(tmp_path)
    listed = _output("dpkg-deb", "--contents", str(package))
    files = set(re.findall(r" \./(\S*[^/\s])$", listed, re.MULTILINE))
    expected = {f"usr/bin/{name}" for name in bundle.scripts()}
    expected |= {
        f"usr/lib/systemd/system/{unit.name}" for unit in (ROOT / "flockpr/data/systemd").iterdir()
    }
    expected |= {f"usr/share/man/man8/{name}.8.gz" for name in man.pages()}
    expected |= {"usr/lib/sysusers.d/flockpr.conf", "usr/lib/tmpfiles.d/flockpr.conf"}
    expected |= {"usr/share/bash-completion/completions/flockpr"}
    expected |= {"usr/share/doc/flockpr/copyright", "usr/share/doc/flockpr/docs/cli.md"}
    assert expected <= files
    assert not [file for file in files if "__pycache__" in file]
    assert set(re.findall(r"^\S+ (\S+)", listed, re.MULTILINE)) == {"root/root"}
    libraries = f"{debian.PRIVATE}/"
    licences = [file for file in files if "/licenses/" in file and file.startswith(libraries)]
    assert len({file.split("/")[3] for file in licences}) == len(bundle.dependencies())

    control = _output("dpkg-deb", "--info", str(package))
    assert "not\n fencing" in control.replace("\n  ", "\n ")
    major, minor = sys.version_info[:2]
    assert f"python3 (>= {major}.{minor}), python3 (<< {major}.{minor + 1})" in control
    _output("dpkg-deb", "--extract", str(package), str(tmp_path / "tree"))
    for name in ("postinst", "prerm"):
        script = _output("dpkg-deb", "--info", str(package), name)
        subprocess.run(["sh", "-n"], input=script, text=True, check=True)
    sums = _output("dpkg-deb", "--info", str(package), "md5sums")
    subprocess.run(
        ["md5sum", "--quiet", "-c"], input=sums, text=True, check=True, cwd=tmp_path / "tree"
    )


def _output(*command: str) -> str:
    found = (find(command[0]) or command[0], *command[1:])
    done = subprocess.run(found, check=True, capture_output=True, text=True, timeout=PATIENCE)
    return done.stdout
