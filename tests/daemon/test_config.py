"""Sources of configuration, their precedence, and how mistakes in them are reported."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import attrs
import pytest

from flockpr.daemon.config import (
    ENVIRONMENT,
    default_root,
    default_socket,
    known_keys,
    load_settings,
)
from flockpr.daemon.documents import MAX_FILE
from flockpr.daemon.settings import Serve, Settings
from flockpr.daemon.target_settings import Target
from flockpr.errors import ConfigError
from flockpr.filesystems import Terms


class Sources:
    """The three files of one imaginary machine, and a loader that sees nothing else."""

    def __init__(self, directory: Path) -> None:
        self.system = directory / "etc.toml"
        self.user = directory / "home" / ".config" / "flockpr.toml"
        self.named = directory / "named.toml"
        self.user.parent.mkdir(parents=True)
        self.environ = {"HOME": str(directory / "home"), "XDG_RUNTIME_DIR": "/run/user/1"}

    def load(
        self,
        flags: Mapping[str, object] | None = None,
        environ: Mapping[str, str] | None = None,
        **options: Any,
    ) -> Settings:
        """Load with these flags and these variables beside HOME."""
        variables = self.environ | dict(environ or {})
        return load_settings(
            flags, variables, system_file=str(self.system), **({"uid": 1000} | options)
        )


@pytest.fixture
def sources(tmp_path: Path) -> Sources:
    """One machine of its own."""
    return Sources(tmp_path)


def test_settings_without_any_source_are_the_users_defaults(sources: Sources) -> None:
    """With no options at all there is a default root and socket of the user."""
    settings = sources.load()
    assert settings.root == f"{sources.environ['HOME']}/.local/share/flockpr"
    assert [entry.path for entry in settings.sockets] == ["/run/user/1/flockpr/pr.sock"]
    assert settings.all_defaults
    assert settings.files == ()


@pytest.mark.parametrize(
    ("environ", "uid", "root", "path"),
    [
        ({}, 0, "/var/lib/flockpr", "/run/flockpr/pr.sock"),
        ({"XDG_DATA_HOME": "/d", "HOME": "/h"}, 0, "/var/lib/flockpr", "/run/flockpr/pr.sock"),
        ({"XDG_DATA_HOME": "/d", "HOME": "/h"}, 7, "/d/flockpr", "/tmp/flockpr-7/pr.sock"),
        ({"XDG_DATA_HOME": "d", "HOME": "/h"}, 7, "/h/.local/share/flockpr", None),
        ({"XDG_RUNTIME_DIR": "/run/user/7", "HOME": "/h"}, 7, None, "/run/user/7/flockpr/pr.sock"),
    ],
)
def test_default_paths_by_user_and_environment_are_as_documented(
    environ: dict[str, str], uid: int, root: str | None, path: str | None
) -> None:
    """Root serves below /var/lib and /run, a user below the XDG directories."""
    if root:
        assert default_root(environ, uid) == root
    if path:
        assert default_socket(environ, uid) == path


def test_precedence_of_one_key_is_flag_environment_named_user_system(sources: Sources) -> None:
    """Taking the strongest source away uncovers the next, down to the default."""
    for file, host in ((sources.system, "s"), (sources.user, "u"), (sources.named, "n")):
        file.write_text(f'[serve]\nhost = "{host}"\n')
    named = {"config": str(sources.named)}
    assert sources.load({**named, "host": "f"}, {"FLOCKPR_HOST": "e"}).serve.host == "f"
    assert sources.load(named, {"FLOCKPR_HOST": "e"}).serve.host == "e"
    assert sources.load(named).serve.host == "n"
    assert sources.load().serve.host == "u"
    assert sources.load(user_file=False).serve.host == "s"
    sources.system.unlink()
    assert sources.load(user_file=False).serve.host is None


def test_merge_of_files_is_per_key(sources: Sources) -> None:
    """A stronger file hides the keys that it has, and no others; an array is one key."""
    sources.system.write_text(
        '[serve]\nroot = "/s"\nhost = "s"\n[lun.a]\nwwids = ["1"]\n[lun.b]\nwwids = ["2"]\n'
        '[initiators]\nvm1 = "iqn.a:1"\nvm2 = "iqn.a:2"\n[[socket]]\npath = "/a"\n'
    )
    sources.user.write_text(
        '[serve]\nhost = "u"\n[lun.b]\nwwids = ["3"]\n[initiators]\nvm2 = "iqn.a:3"\n'
        '[[socket]]\npath = "/b"\n[[socket]]\npath = "/c"\n'
    )
    settings = sources.load()
    assert (settings.root, settings.serve.host) == ("/s", "u")
    assert {name: lun.wwids for name, lun in settings.luns.items()} == {"a": ("1",), "b": ("3",)}
    assert settings.initiators == {"vm1": "iqn.a:1", "vm2": "iqn.a:3"}
    assert [entry.path for entry in settings.sockets] == ["/b", "/c"]
    assert settings.files == (str(sources.system), str(sources.user))


def test_config_variable_names_the_file_and_the_flag_beats_it(sources: Sources) -> None:
    """FLOCKPR_CONFIG is --config for those who cannot give options, as under libvirt."""
    sources.named.write_text('[serve]\nhost = "n"\n')
    environ = {"FLOCKPR_CONFIG": str(sources.named)}
    assert sources.load(environ=environ).serve.host == "n"
    other = sources.named.with_name("other.toml")
    other.write_text('[serve]\nhost = "o"\n')
    assert sources.load({"config": str(other)}, environ).serve.host == "o"


def test_fencing_is_declared_with_or_without_a_target_door(sources: Sources) -> None:
    """The helper door's commands have to know it, too; a flag beats the file."""
    assert sources.load().terms == Terms()
    sources.user.write_text('[target]\nfencing = "external"\n[serve]\nallow_unproven = true\n')
    assert sources.load().terms == Terms("external", allow_unproven=True)
    assert sources.load(fencing="none").terms == Terms(allow_unproven=True)
    sources.user.write_text("")
    flagged = sources.load(fencing="external")
    assert flagged.target is None
    assert flagged.terms == Terms("external")


def test_named_file_that_is_absent_is_an_error_and_others_may_be(sources: Sources) -> None:
    """A file asked for by name must be there."""
    with pytest.raises(ConfigError, match=r"named\.toml: no such configuration file"):
        sources.load({"config": str(sources.named)})


@pytest.mark.parametrize("variable", sorted(ENVIRONMENT))
def test_each_key_of_serve_has_a_variable_that_is_heard(sources: Sources, variable: str) -> None:
    """FLOCKPR_ and the key in capitals sets the key, converted to its type."""
    texts = {"timeout": "3", "drain": "4", "log_level": "error", "log_format": "json"}
    texts |= {"unit_attentions": "yes", "allow_unproven": "on", "metrics": "127.0.0.1:9751"}
    texts |= {"socket_mode": "0660", "lun": "a", "initiator": "iqn.x:y", "manager": "sgio"}
    key = ENVIRONMENT[variable]
    settings = sources.load(environ={variable: texts.get(key, "/some/path")})
    value = getattr(settings.serve, key)
    expected = {"timeout": 3.0, "drain": 4.0, "unit_attentions": True, "allow_unproven": True}
    assert value == expected.get(key, texts.get(key, "/some/path"))


def test_socket_that_passes_on_has_no_emulated_unit(sources: Sources) -> None:
    """Its own manager beats the `lun` of [serve], which is for others; both at once are wrong."""
    sources.user.write_text(
        '[serve]\nlun = "a"\n[[socket]]\npath = "/x"\n[[socket]]\npath = "/y"\nmanager = "sgio"\n'
    )
    assert [(entry.manager, entry.lun) for entry in sources.load().sockets] == [
        ("file-lock", "a"),
        ("sgio", None),
    ]
    for flags in ({"manager": "sgio", "lun": "b"}, {"manager": "sgio"}):
        with pytest.raises(ConfigError, match=r"manager 'sgio' .* lun '.' is emulated"):
            sources.load(flags)
    with pytest.raises(ConfigError, match="must be one of auto, file-lock, sgio, ioc-pr, mpath"):
        sources.load({"manager": "lio"})


def test_choice_between_managers_needs_a_root_that_somebody_named(sources: Sources) -> None:
    """With another one it is not known which disks others emulate; and with `lun`, all are."""
    assert [entry.manager for entry in sources.load(manager="auto").sockets] == ["file-lock"]
    rooted = sources.load({"root": "/r"}, manager="auto")
    assert [entry.manager for entry in rooted.sockets] == ["auto"]
    assert rooted.unnamed_socket.manager == "auto"
    assert sources.load({"root": "/r"}).sockets[0].manager == "file-lock"
    assert (
        sources.load({"root": "/r", "lun": "a"}, manager="auto").sockets[0].manager == "file-lock"
    )
    sources.user.write_text('[serve]\nmanager = "file-lock"\n')
    assert sources.load({"root": "/r"}, manager="auto").sockets[0].manager == "file-lock"


def test_device_that_is_a_logical_unit_cannot_be_passed_on(sources: Sources) -> None:
    """Of this host's own [lun.NAME]; those of the root are looked at when it starts."""
    sources.user.write_text('[devices]\n"naa.6AB" = "sgio"\n')
    assert sources.load().devices == {"naa.6AB": "sgio"}
    sources.system.write_text('[lun.disk]\nwwids = ["NAA.6ab"]\n')
    with pytest.raises(ConfigError, match=r"devices\.naa\.6AB: is the logical unit disk"):
        sources.load()
    for text in ('naa = "file-lock"', '"a b" = "sgio"', "naa = 1"):
        sources.user.write_text(f"[devices]\n{text}\n")
        with pytest.raises(ConfigError, match=r"devices\."):
            sources.load()


def test_empty_variable_counts_as_not_set(sources: Sources) -> None:
    """A shell's `FLOCKPR_ROOT= command` is no root."""
    assert sources.load(environ={"FLOCKPR_ROOT": "", "FLOCKPR_CONFIG": ""}).root_is_default


def test_variable_with_a_slip_is_an_error_and_a_stranger_is_not(sources: Sources) -> None:
    """FLOCKPR_ROOTS must not end as the default root; FLOCKPR_TEST_FOO is none of our business."""
    with pytest.raises(ConfigError, match=r"FLOCKPR_ROOTS.*FLOCKPR_ROOT\?"):
        sources.load(environ={"FLOCKPR_ROOTS": "/x"})
    assert sources.load(environ={"FLOCKPR_TEST_FOO": "/x"}).root_is_default


def test_relative_paths_of_flags_count_from_here(
    sources: Sources, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Somebody at a prompt may write a relative path; a file may not."""
    monkeypatch.chdir(tmp_path)
    settings = sources.load({"root": "r"}, {"FLOCKPR_SOCKET": "s"})
    assert settings.root == os.path.join(os.getcwd(), "r")
    assert settings.sockets[0].path == os.path.join(os.getcwd(), "s")
    sources.system.write_text('[serve]\nroot = "r"\n')
    with pytest.raises(ConfigError, match=r"etc\.toml: serve\.root: must be an absolute path"):
        sources.load()


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ('[serve]\nroots = "/x"\n', r"serve\.roots: unknown key; the nearest known one is 'root'"),
        ("[server]\n", r"server: unknown table; the nearest known one is 'serve'"),
        ('[[socket]]\npath="/x"\ninitator="iqn.x:y"\n', r"socket\[1\]\.initator: .*'initiator'"),
        ('[lun.a]\nwwid = ["x"]\n', r"lun\.a\.wwid: unknown key; .*'wwids'"),
        ("[lun.a]\nwwids = 3\n", r"lun\.a\.wwids: must be an array of strings, not 3"),
        ("[lun.a]\nwwids = [3]\n", r"lun\.a\.wwids: must hold strings"),
        ("[lun.'a b']\n", r"lun\.a b: must be 1 to 64 letters"),
        ("lun = 3\n", r"lun: must be a table"),
        ("[serve]\nroot = 3\n", r"serve\.root: must be a string, not 3"),
        ("[serve]\ntimeout = true\n", r"serve\.timeout: must be a number, not True"),
        ("[serve]\ntimeout = 0\n", r"serve\.timeout: must be from 0\.1 to 300, not 0"),
        ("[serve]\ntimeout = nan\n", r"serve\.timeout: must be from"),
        ("[serve]\nunit_attentions = 1\n", r"unit_attentions: must be true or false, not 1"),
        ('[serve]\nlog_level = "loud"\n', r"log_level: must be one of debug, info"),
        ('[serve]\nlun = "../x"\n', r"serve\.lun: must be 1 to 64"),
        ('[serve]\ninitiator = "a b"\n', r"serve\.initiator: "),
        ('[serve]\nmetrics = "192.0.2.1:1"\n', r"serve\.metrics: must be on the loopback"),
        ('[serve]\nsocket_mode = "rw"\n', r"serve\.socket_mode: must be a mode in octal"),
        (f'[serve]\nsocket = "/{"x" * 107}"\n', r"serve\.socket: is too long for a Unix socket"),
        ('[serve]\nhost = ""\n', r"serve\.host: must be printable and not empty"),
        ("[socket]\n", r"socket: must be written \[\[socket\]\]"),
        ("socket = [3]\n", r"socket\[1\]: must be a table"),
        ("[[socket]]\n", r"socket\[1\]: needs a path"),
        ('[[socket]]\npath="/x"\n[[socket]]\npath="/x"\n', r"socket\[2\]\.path: '/x' is there twi"),
        ("[[portal]]\ntag = 1\n", r"portal\[1\]\.tag: must be from 2 to 65535, not 1"),
        ("[[portal]]\ntag = 3\n", r"portal\[1\]: needs a portal, or the name"),
        (
            '[[portal]]\nportal = "a:1"\n[[portal]]\nportal = "a:1"\n',
            r"portal\[2\]\.portal: 'a:1' is",
        ),
        ('[[portal]]\nportal = "[::1]:70000"\n', r"portal\[1\]\.portal: must be ADDRESS:PORT"),
        ('[target]\nluns = ["../x"]\n', r"target\.luns: must be 1 to 64"),
        ('[target]\nluns = "disk"\n', r"target\.luns: must be an array of strings, not 'disk'"),
        ('[target]\nchap = "chap.toml"\n', r"target\.chap: must be an absolute path"),
        ("[target]\nkeepalive = 0\n", r"target\.keepalive: must be from 1 to 3600, not 0"),
        ('[lun.a]\ninitiators = ["x y"]\n', r"lun\.a\.initiators: "),
        ("[lun.a]\ninitiators = [1]\n", r"lun\.a\.initiators: must hold strings"),
        ('[lun.a]\nnexus = "isid"\n', r"lun\.a\.nexus: must be one of name, name\+isid"),
        ('[[portal]]\nportal = "here"\n', r"portal\[1\]\.portal: must be ADDRESS:PORT"),
        ('[target]\nname = "x,i,0x1"\n', r"target\.name: "),
        ("[initiators]\nvm = 3\n", r"initiators\.vm: must be a string, not 3"),
        ('[initiators]\nvm = "a b"\n', r"initiators\.vm: "),
        ('[initiators]\n"uuid:x" = "iqn.x:y"\n', r"initiators\.uuid:x: .*UUID"),
        ("[serve\n", r"not valid TOML"),
        ("x = " + "[" * 100_000, r"not valid TOML"),
    ],
)
def test_mistake_in_a_file_is_reported_with_file_and_key(
    sources: Sources, text: str, complaint: str
) -> None:
    """Unknown keys, wrong types and bad values name the file, the key path and a remedy."""
    sources.system.write_text(text)
    with pytest.raises(ConfigError, match=complaint) as caught:
        sources.load()
    assert str(caught.value).startswith(f"{sources.system}: ")


def test_mistake_that_a_stronger_source_hides_is_reported_all_the_same(sources: Sources) -> None:
    """A file that is wrong today would bite on the day the flag goes."""
    sources.system.write_text("[serve]\nroot = 3\n")
    with pytest.raises(ConfigError, match=r"etc\.toml: serve\.root"):
        sources.load({"root": "/x"})


@pytest.mark.parametrize(
    ("flags", "complaint"),
    [
        ({"timeout": "soon"}, r"the command line: --timeout: must be a number, not 'soon'"),
        ({"log_level": "loud"}, r"the command line: --log-level: must be one of"),
        ({"rot": "/x"}, r"the command line: --rot: unknown option"),
        ({"unit_attentions": "perhaps"}, r"--unit-attentions: must be true or false"),
    ],
)
def test_mistake_in_a_flag_names_the_option(
    sources: Sources, flags: dict[str, object], complaint: str
) -> None:
    """What a flag says is checked like a file, and reported as the option."""
    with pytest.raises(ConfigError, match=complaint):
        sources.load(flags)


def test_file_that_is_no_file_is_refused(sources: Sources) -> None:
    """A directory, a FIFO, something huge or not UTF-8 ends with an error, and at once."""
    sources.system.mkdir()
    with pytest.raises(ConfigError, match="cannot read the configuration file"):
        sources.load()
    sources.user.write_bytes(b"# \xff\n")
    with pytest.raises(ConfigError):
        sources.load()
    sources.system.rmdir()
    sources.user.unlink()
    os.mkfifo(sources.system)
    assert sources.load().root_is_default  # no writer: as empty as /dev/null
    sources.user.write_bytes(b"#" * (MAX_FILE + 1))
    with pytest.raises(ConfigError, match="larger than"):
        sources.load()


def test_sockets_inherit_from_serve_and_flags_beat_both(sources: Sources) -> None:
    """A [[socket]] says what differs; an option given by hand applies to all of them."""
    sources.system.write_text(
        '[serve]\nlun = "a"\nunit_attentions = true\nsocket_mode = "0660"\nsocket = "/z"\n'
        '[[socket]]\npath = "/x"\nlun = "b"\ninitiator = "iqn.x:1"\nunit_attentions = false\n'
        '[[socket]]\nname = "vm2"\nmode = "0600"\nowner = "root"\n'
    )
    one, two, three = sources.load().sockets
    assert (one.path, one.lun, one.initiator, one.unit_attentions) == ("/x", "b", "iqn.x:1", False)
    assert one.mode == "0660"
    assert (two.path, two.name, two.lun, two.unit_attentions) == ("", "vm2", "a", True)
    assert (two.mode, two.owner) == ("0600", "root")
    assert (three.path, three.lun, three.initiator) == ("/z", "a", None)
    settings = sources.load({"lun": "c"}, {"FLOCKPR_INITIATOR": "iqn.x:9"})
    assert {(entry.lun, entry.initiator) for entry in settings.sockets} == {("c", "iqn.x:9")}
    assert settings.unnamed_socket.unit_attentions


def test_socket_of_a_flag_is_the_only_one_and_keeps_its_table(sources: Sources) -> None:
    """--socket serves that socket alone, with the identity that the file gives it."""
    sources.system.write_text(
        '[[socket]]\npath = "/x"\nlun = "b"\n[[socket]]\npath = "/y"\nlun = "c"\n'
    )
    [entry] = sources.load({"socket": "/y"}).sockets
    assert (entry.path, entry.lun) == ("/y", "c")
    [entry] = sources.load(environ={"FLOCKPR_SOCKET": "/z"}).sockets
    assert (entry.path, entry.lun, entry.is_default) == ("/z", None, False)
    assert not sources.load({"socket": "/y"}).all_defaults


def test_tables_of_the_target_door_are_read(sources: Sources) -> None:
    """[target], [[portal]] and what [lun.NAME] has for it."""
    sources.system.write_text(
        '[target]\nname = "iqn.2026-11.example:t"\nluns = ["a", "b"]\nchap = "/c"\n'
        '[[portal]]\nportal = "192.0.2.1:3260"\n'
        '[[portal]]\nportal = "[2001:db8::1]:0"\ntag = 3\n'
        '[lun.a]\ninitiators = ["iqn.2026-11.example:i"]\nnexus = "name+isid"\nread_only = true\n'
    )
    settings = sources.load()
    assert settings.target == Target(name="iqn.2026-11.example:t", luns=("a", "b"), chap="/c")
    assert [entry.tag for entry in settings.portals] == [2, 3]
    assert [entry.address for entry in settings.portals] == [
        ("192.0.2.1", 3260),
        ("2001:db8::1", 0),
    ]
    lun = settings.luns["a"]
    assert lun.initiators == ("iqn.2026-11.example:i",)
    assert (lun.nexus, lun.read_only, lun.removable) == ("name+isid", True, False)


@pytest.mark.parametrize(
    ("text", "there"),
    [
        ("", False),
        ("[lun.a]\nread_only = true\n", False),
        ("[target]\n", True),
        ('[[portal]]\nportal = "127.0.0.1:1"\n', True),
    ],
)
def test_target_door_is_there_when_a_table_of_it_is(
    sources: Sources, text: str, there: bool
) -> None:
    """Or when the command line asks for it; it always has a portal, on this host only."""
    sources.system.write_text(text)
    settings = sources.load()
    assert (settings.target is not None, bool(settings.portals)) == (there, there)
    asked = sources.load(target={})
    assert asked.target == Target()
    assert [entry.address[0] for entry in asked.portals] == ["127.0.0.1"]


def test_options_of_the_target_beat_the_file(sources: Sources) -> None:
    """Portals replace all tables of the file, with their tags; relative paths are made absolute."""
    sources.system.write_text(
        '[target]\nluns = ["a"]\nkeepalive = 5\n[[portal]]\nportal = "192.0.2.1:3260"\ntag = 9\n'
    )
    settings = sources.load(
        target={
            "portals": ["127.0.0.1:0", "[::1]:3261,3"],
            "luns": ["b", "c"],
            "chap": "chap.toml",
            "name": None,
        }
    )
    assert settings.target == Target(
        luns=("b", "c"), keepalive=5.0, chap=os.path.abspath("chap.toml")
    )
    assert [(entry.address, entry.tag) for entry in settings.portals] == [
        (("127.0.0.1", 0), 2),
        (("::1", 3261), 3),
    ]


@pytest.mark.parametrize(
    ("portal", "complaint"),
    [
        ("here", "the command line: portal"),
        ("a:1,x", "--portal: 'x' is no tag"),
        ("a:1,", "--portal: '' is no tag"),
        ("a:1,1", r"the command line: portal\[1\]\.tag: must be from 2"),
    ],
)
def test_portal_on_the_command_line_that_is_wrong_is_told(
    sources: Sources, portal: str, complaint: str
) -> None:
    """In the words of the file, with the place where it stands."""
    with pytest.raises(ConfigError, match=complaint):
        sources.load(target={"portals": [portal]})


def test_default_socket_that_does_not_fit_asks_for_another(sources: Sources) -> None:
    """A deep runtime directory is told about, not cut off."""
    with pytest.raises(ConfigError, match="--socket"):
        sources.load(environ={"XDG_RUNTIME_DIR": "/" + "x" * 100})


def test_known_keys_name_every_key_once() -> None:
    """The list that the documentation is held against is complete."""
    names = known_keys()
    assert len(names) == len(set(names))
    assert {f"serve.{field.name}" for field in attrs.fields(Serve)} <= set(names)
    assert {"socket[].path", "lun.NAME.wwids", "initiators.NAME", "portal[].tag"} <= set(names)
