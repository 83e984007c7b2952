"""What an operator declared and allowed, in a process and for a target."""

from __future__ import annotations

import os
import pathlib
from collections.abc import Iterator

import pytest

from flockpr.errors import StoreUnavailable, Unproven
from flockpr.filesystems import Fencing, Gated, Terms, declare, promised
from tests.support.mount_tables import Tables


@pytest.fixture
def tables(tmp_path: pathlib.Path) -> Iterator[Tables]:
    """A host with NFS 3; what a test declares is forgotten after it."""
    tables = Tables(tmp_path / "host")
    tables.mount(tmp_path, "nfs", "rw,vers=3,hard")
    tables.recover("N")
    tables.lockd()
    yield tables
    declare(Terms())


def test_terms_refuse_by_default_and_name_the_place(tmp_path: pathlib.Path, tables: Tables) -> None:
    """Nothing is declared and nothing allowed until somebody does."""
    with pytest.raises(Unproven, match=str(tmp_path)):
        Terms(sources=tables.sources).judge(str(tmp_path))


def test_terms_with_a_declaration_are_kept_by_it(tmp_path: pathlib.Path, tables: Tables) -> None:
    """As text, as the configuration has it."""
    terms = Terms("external", sources=tables.sources)

    assert terms.fencing is Fencing.EXTERNAL
    assert terms.judge(str(tmp_path)).gated is Gated.DECLARED


def test_terms_that_allow_give_no_promise(tmp_path: pathlib.Path, tables: Tables) -> None:
    """Allowed is not proven."""
    terms = Terms(allow_unproven=True, sources=tables.sources)

    assert terms.judge(str(tmp_path)).exclusive


def test_command_of_a_process_without_terms_is_refused_where_nothing_is_promised(
    tmp_path: pathlib.Path, tables: Tables
) -> None:
    """NOT READY, for a person: to have all permits there says nothing."""
    fd = os.open(tmp_path, os.O_RDONLY)
    try:
        declare(Terms(sources=tables.sources))
        with pytest.raises(StoreUnavailable, match="NFS 3") as caught:
            promised(str(tmp_path), fd)
        assert caught.value.for_a_person
        declare(Terms("external", sources=tables.sources))
        assert promised(str(tmp_path), fd).gated is Gated.DECLARED
        declare(Terms(allow_unproven=True, sources=tables.sources))
        assert promised(str(tmp_path), fd).gated is Gated.NO
    finally:
        os.close(fd)


def test_command_of_a_process_on_this_host_is_let_through(tmp_path: pathlib.Path) -> None:
    """Whoever uses the library on a local disk need not declare anything."""
    fd = os.open(tmp_path, os.O_RDONLY)
    try:
        assert promised(str(tmp_path), fd).gated is Gated.YES
    finally:
        os.close(fd)
