"""The package as a whole: public names, version, what an import costs."""

from __future__ import annotations

import inspect
import subprocess
import sys
import tomllib

import flockpr
from flockpr import errors
from tests.support.docs import ROOT, read

PUBLIC = [
    "AuditRecord",
    "Busy",
    "ConfigError",
    "Emulated",
    "FlockprError",
    "HostFenced",
    "InAction",
    "InitiatorPort",
    "LogicalUnit",
    "LunExists",
    "LunIdentity",
    "LunListing",
    "LunNotFound",
    "NewerFormat",
    "Nexus",
    "OutAction",
    "OutcomeUnknown",
    "PRManager",
    "PassedThrough",
    "ProtocolViolation",
    "ReservationType",
    "Result",
    "Sense",
    "ServedElsewhere",
    "StateLost",
    "StateUnreadable",
    "Status",
    "StoreError",
    "StoreUnavailable",
    "UnitStatus",
    "UnknownManager",
    "Unproven",
    "__version__",
    "create_lun",
    "create_manager",
    "delete_lun",
    "encode_basic_list",
    "encode_move_list",
    "encode_persistent_reserve_in",
    "encode_persistent_reserve_out",
    "list_luns",
    "lookup_manager",
    "parse_capabilities",
    "parse_full_status",
    "parse_keys",
    "parse_reservation",
    "parse_sense",
    "read_identity",
    "register_kind",
    "remove_manager",
]


def test_public_names_are_pinned() -> None:
    """A name that disappears breaks a user: this list is only added to."""
    assert flockpr.__all__ == PUBLIC


def test_public_names_all_load() -> None:
    """Every name leads to an object, and to the same one again."""
    for name in flockpr.__all__:
        assert getattr(flockpr, name) is getattr(flockpr, name)
        assert name in dir(flockpr)


def test_public_names_unknown_name_raises_attribute_error() -> None:
    """As of any module; hasattr and pickle count on it."""
    assert not hasattr(flockpr, "no_such_name")


def test_public_names_hold_every_exception() -> None:
    """Whatever is raised on purpose can be caught by its public name."""
    raised = {
        name
        for name, value in vars(errors).items()
        if inspect.isclass(value) and issubclass(value, errors.FlockprError)
    }

    assert raised <= set(flockpr.__all__)


def test_import_loads_nothing_else() -> None:
    """`import flockpr` leaves attrs, the store and the locks alone until they are used."""
    code = (
        "import sys, flockpr;"
        "print(*(m for m in sys.modules if m.startswith(('flockpr', 'attr', 'portalocker'))))"
    )

    loaded = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )

    assert loaded.stdout.split() == ["flockpr._lazy", "flockpr._version", "flockpr"]


def test_version_is_the_one_of_the_build() -> None:
    """pyproject.toml holds it too, for builds that see no Python."""
    project = tomllib.loads(read("pyproject.toml"))["project"]

    assert flockpr.__version__ == project["version"]


def test_python_api_page_names_every_exception() -> None:
    """The table of errors is complete."""
    page = read("docs/python-api.md")

    for name in flockpr.__all__:
        value = getattr(flockpr, name)
        if inspect.isclass(value) and issubclass(value, errors.FlockprError):
            assert f"`{name}`" in page


def test_typed_marker_is_shipped() -> None:
    """Type checkers of users look for it (PEP 561)."""
    assert (ROOT / "flockpr" / "py.typed").is_file()
