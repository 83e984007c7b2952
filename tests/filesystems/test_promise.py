"""From facts to a promise: mount tables as data."""

from __future__ import annotations

import itertools

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from flockpr.filesystems import Facts, Fencing, Gated, judge, together
from flockpr.filesystems.kinds import COHERENT, LOCAL_LOCKS, UNTRIED
from flockpr.filesystems.mounts import Mount
from flockpr.filesystems.rules import MOUNT_RULES, Answer, Finding, Outcome

YES, DECLARED, NO = Gated.YES, Gated.DECLARED, Gated.NO
NONE, EXTERNAL = Fencing.NONE, Fencing.EXTERNAL
NFS42 = "rw,vers=4.2,hard,local_lock=none"
NFS3 = "rw,vers=3,hard,local_lock=none"


def facts(kind: str, options: str, **more: object) -> Facts:
    """Facts of a mount."""
    known = {"recover_lost_locks": "N", "pnfs": ""} if kind in ("nfs", "nfs4") else {}
    mount = Mount(kind, "server:/export", "/mnt", tuple(options.split(",")))
    return attrs.evolve(Facts(mount), **{**known, **more})  # type: ignore[arg-type]


# kind, options, further facts, gated by default, gated with external fencing, many hosts then
ROWS = [
    ("ext4", "rw", {}, YES, YES, False),
    ("xfs", "rw,noatime", {}, YES, YES, False),
    ("btrfs", "rw", {}, YES, YES, False),
    ("tmpfs", "rw", {}, YES, YES, False),
    ("overlay", "rw", {}, YES, YES, False),
    ("ext4", "ro", {}, NO, NO, False),
    ("nfs4", NFS42, {}, YES, YES, True),
    ("nfs4", "rw,vers=4.1,hard,local_lock=none", {}, YES, YES, True),
    ("nfs4", "rw,vers=4.0,hard,local_lock=none", {"recover_lost_locks": "0"}, YES, YES, True),
    ("nfs4", "rw,vers=4.2,hard,local_lock=flock", {}, YES, YES, True),
    ("nfs", "rw,nfsvers=4.1,hard", {}, YES, YES, True),
    ("nfs4", NFS42, {"recover_lost_locks": "Y"}, NO, NO, False),
    ("nfs4", NFS42, {"recover_lost_locks": "1"}, NO, NO, False),
    ("nfs4", NFS42, {"recover_lost_locks": None}, NO, NO, False),
    ("nfs4", NFS42, {"pnfs": "LAYOUT_FLEX_FILES"}, NO, NO, False),
    ("nfs4", NFS42, {"pnfs": None}, NO, NO, False),
    ("nfs4", "rw,vers=4.0,hard,local_lock=none", {"pnfs": None}, YES, YES, True),
    ("nfs4", "rw,vers=4.2,soft,local_lock=none", {}, NO, NO, False),
    ("nfs4", "rw,vers=4.2,softerr", {}, NO, NO, False),
    ("nfs4", "rw,vers=4.2,hard,nocto", {}, NO, NO, False),
    ("nfs4", "rw,vers=4.2,hard,softreval", {}, NO, NO, False),
    ("nfs4", "rw,vers=4.2,hard,local_lock=all", {}, NO, NO, False),
    ("nfs4", "rw,vers=4.2,hard,local_lock=posix", {}, NO, NO, False),
    ("nfs4", "rw,vers=4.2,hard,nolock", {}, NO, NO, False),
    ("nfs4", "ro,vers=4.2,hard", {}, NO, NO, False),
    ("nfs", NFS3, {}, NO, DECLARED, True),
    ("nfs", NFS3, {"recover_lost_locks": "Y"}, NO, DECLARED, True),
    ("nfs", NFS3, {"lockd": True}, NO, DECLARED, True),
    ("nfs", NFS3, {"lockd": False}, NO, NO, False),
    ("nfs", "rw,hard", {}, NO, DECLARED, True),
    ("nfs", "rw,vers=3,hard,nolock", {}, NO, NO, False),
    ("nfs", "rw,vers=3,hard,local_lock=all", {}, NO, NO, False),
    ("nfs", "rw,vers=3,soft", {}, NO, NO, False),
    ("nfs", "rw,vers=2,hard", {}, NO, NO, False),
    ("gfs2", "rw,noatime", {"lock_protocol": "lock_dlm", "dlm_fences": True}, YES, YES, True),
    ("gfs2", "rw,noatime", {}, NO, NO, False),
    ("gfs2", "rw,lockproto=lock_dlm", {}, YES, YES, True),
    ("gfs2", "rw,lockproto=lock_dlm", {"lock_protocol": "lock_nolock"}, NO, NO, False),
    ("gfs2", "rw", {"lock_protocol": "lock_dlm", "dlm_fences": False}, NO, NO, False),
    ("gfs2", "rw", {"lock_protocol": "lock_dlm", "dlm_locks": False}, NO, NO, False),
    ("gfs2", "rw", {"lock_protocol": "lock_nolock"}, NO, NO, False),
    ("gfs2", "rw,lockproto=lock_nolock", {}, NO, NO, False),
    ("gfs2", "rw,localflocks", {"lock_protocol": "lock_dlm"}, NO, NO, False),
    ("ocfs2", "rw", {}, NO, NO, False),
    ("ceph", "rw", {}, NO, NO, False),
    ("cifs", "rw,vers=3.1.1", {}, NO, NO, False),
    ("smb3", "rw,nobrl", {}, NO, NO, False),
    ("fuse.sshfs", "rw", {}, NO, NO, False),
    ("fuse", "rw", {}, NO, NO, False),
    ("9p", "rw", {}, NO, NO, False),
    ("virtiofs", "rw", {}, NO, NO, False),
    ("newfs", "rw", {}, NO, NO, False),
]


@pytest.mark.parametrize("row", ROWS, ids=lambda row: f"{row[0]}-{row[1]}-{row[2]}")
def test_promise_of_a_mount_is_that_of_its_row(
    row: tuple[str, str, dict[str, object], Gated, Gated, bool],
) -> None:
    """What is served as it is, what with a declaration, what not."""
    kind, options, more, plain, declared, many = row
    known = facts(kind, options, **more)

    promise = judge(known, EXTERNAL)

    assert judge(known, NONE).gated is plain
    assert promise.gated is declared
    assert promise.many_hosts is many
    assert promise.cluster_lock is (kind == "gfs2")
    assert promise.exclusive is (declared is NO)
    assert bool(promise.reasons) is (declared is NO)
    assert bool(promise.remedies) is (declared is NO)


def test_promise_without_a_mount_table_is_none() -> None:
    """Nobody tells a program later what could not be found out."""
    promise = judge(Facts(None), EXTERNAL)

    assert promise.gated is NO
    assert promise.advisory is Answer.CONDITION
    assert promise.filesystem == "an unknown file system"


def test_promise_on_gfs2_whose_lock_module_cannot_be_told_is_none() -> None:
    """Without a word of it in /sys and in the mount, it may be the one that locks nothing."""
    promise = judge(facts("gfs2", "rw,noatime"))

    assert promise.gated is NO
    assert promise.advisory is Answer.CONDITION
    assert any("cannot be told" in one for one in promise.reasons)
    assert any("/sys" in one for one in promise.remedies)


def test_promise_names_the_version_of_nfs() -> None:
    """People tell 3 from 4 by it."""
    assert judge(facts("nfs4", NFS42)).filesystem == "nfs 4.2"
    assert judge(facts("nfs", "rw,hard")).filesystem == "nfs"


def test_promise_says_what_the_operator_has_to_see_to() -> None:
    """A `sync` export, and fencing."""
    assert any("sync" in one for one in judge(facts("nfs4", NFS42)).conditions)
    assert any("fence" in one for one in judge(facts("nfs", NFS3), EXTERNAL).conditions)
    assert any("fences" in one for one in judge(facts("gfs2", "rw,lockproto=lock_dlm")).conditions)


def test_refusal_of_nfs3_names_the_declaration() -> None:
    """Somebody who fences has to know how to say so."""
    (reason,) = judge(facts("nfs", NFS3)).reasons

    assert "NFS 3" in reason
    assert "--fencing external" in judge(facts("nfs", NFS3)).remedies[0]


# Whatever stands beside them: any of these breaks the promise, declared or not.
BREAKING = {
    "nfs4": [
        *("ro", "soft", "softerr", "softreval", "nocto"),
        *("nolock", "local_lock=all", "local_lock=posix"),
    ],
    "nfs": [
        *("ro", "soft", "softerr", "softreval", "nocto"),
        *("nolock", "local_lock=all", "local_lock=posix"),
    ],
    "gfs2": ["ro", "localflocks", "lock_nolock", "lockproto=lock_nolock"],
}
HARMLESS = [
    "rw",
    "local_lock=none",
    "lockproto=lock_dlm",
    "noatime",
    "vers=4.2",
    "vers=3",
    "hard",
    "proto=tcp",
    "sec=sys",
    "timeo=600",
]


@given(data=st.data())
def test_promise_with_a_breaking_option_is_never_given(data: st.DataObject) -> None:
    """In whatever company and order it stands, and whatever was declared."""
    kind = data.draw(st.sampled_from(sorted(BREAKING)))
    broken = data.draw(st.lists(st.sampled_from(BREAKING[kind]), min_size=1))
    around = data.draw(st.lists(st.sampled_from(HARMLESS)))
    options = data.draw(st.permutations([*broken, *around]))
    known = facts(
        kind,
        ",".join(options),
        recover_lost_locks=data.draw(st.sampled_from(["N", "Y", None])),
        lockd=data.draw(st.sampled_from([True, False, None])),
        dlm_fences=data.draw(st.sampled_from([True, False, None])),
        lock_protocol=data.draw(st.sampled_from(["lock_dlm", None])),
    )

    promise = judge(known, data.draw(st.sampled_from(Fencing)))

    assert promise.gated is NO
    assert promise.exclusive
    assert not promise.many_hosts


@given(
    kind=st.one_of(
        st.sampled_from(sorted(LOCAL_LOCKS | UNTRIED)),
        st.text("abcdefghijklmnopqrstuvwxyz0123456789.", min_size=1).map("fuse.{}".format),
        st.text("abcdefghijklmnopqrstuvwxyz0123456789", min_size=1).filter(
            lambda name: name not in COHERENT | {"nfs", "nfs4", "gfs2"}
        ),
    ),
    options=st.lists(st.sampled_from(HARMLESS), min_size=1),
    fencing=st.sampled_from(Fencing),
)
def test_promise_on_what_is_not_listed_is_never_given(
    kind: str, options: list[str], fencing: Fencing
) -> None:
    """The list is one of what is allowed."""
    assert judge(facts(kind, ",".join(options)), fencing).gated is NO


@pytest.mark.parametrize(
    ("name", "tried"),
    [("lock-descriptions", NO), ("lock-ranges", NO), ("direct", NO)],
)
def test_promise_is_gone_where_a_trial_failed(name: str, tried: Gated) -> None:
    """The name of a file system is not what it does."""
    found = (Finding(name, Outcome.BAD, "seen"),)

    assert judge(facts("nfs4", NFS42), EXTERNAL, found).gated is tried


KINDS = [
    facts("ext4", "rw"),
    facts("nfs4", NFS42),
    facts("nfs", NFS3),
    facts("gfs2", "rw"),
    facts("9p", "rw"),
]


@pytest.mark.parametrize(("root", "image"), list(itertools.product(KINDS, KINDS)))
def test_promise_of_a_root_and_an_image_is_the_worse_of_both(root: Facts, image: Facts) -> None:
    """They may be on two mounts; what forces the cluster's lock is the image's."""
    one, other = judge(root, EXTERNAL), judge(image, EXTERNAL)

    both = together(one, other)

    assert both.exclusive is (one.exclusive or other.exclusive)
    assert (both.gated is YES) is (one.gated is YES and other.gated is YES)
    assert both.many_hosts is (one.many_hosts and other.many_hosts)
    assert both.cluster_lock is other.cluster_lock
    assert bool(both.reasons) is both.exclusive
    assert other.filesystem in both.filesystem
    assert one.filesystem in both.filesystem


def test_promise_as_a_document_holds_every_attribute() -> None:
    """`status --json` shows all that was judged."""
    promise = judge(facts("nfs", NFS3), EXTERNAL)

    document = promise.to_json()

    assert set(document) == {field.name for field in attrs.fields(type(promise))}
    assert document["gated"] == "declared"
    assert document["advisory"] == "yes"


def test_line_of_a_promise_says_which_and_where() -> None:
    """One line in the log, whatever it is."""
    assert "any number of hosts" in judge(facts("nfs4", NFS42)).line()
    assert "this host" in judge(facts("ext4", "rw")).line()
    assert "declared" in judge(facts("nfs", NFS3), EXTERNAL).line()
    assert "nothing is promised on 9p" in judge(facts("9p", "rw")).line()


def test_rules_of_mounts_word_what_they_ask_for() -> None:
    """Whoever is refused is told what to do, and who may be served under which condition."""
    for name, rule in MOUNT_RULES.items():
        assert rule.remedy or name in ("one-host", "volatile", "nfs-export"), name
        assert rule.condition or not rule.declared, name
