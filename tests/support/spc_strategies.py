"""Hypothesis strategies for values of the wire: ports, TransportIDs, lists, CDBs."""

from __future__ import annotations

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

from flockpr.spc.transport_id import (
    FibreChannel,
    InitiatorPort,
    ParallelScsi,
    Sas,
    Sbp,
    Sop,
    Srp,
    TransportId,
)

QUIET = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
"""Settings of every property test: a busy machine must not make one fail."""


def unsigned(bits: int) -> st.SearchStrategy[int]:
    """Return integers of so many bits, the extremes included."""
    return st.integers(0, (1 << bits) - 1)


def _fits(name: str) -> bool:
    try:
        InitiatorPort(name)
    except ValueError:
        return False
    return True


_plain_names = st.from_regex(
    r"iqn\.[0-9]{4}-[0-9]{2}\.[a-z]{2,8}\.[a-zA-Z]{2,20}(:[a-z]{1,9})?", fullmatch=True
)
_any_names = st.text(
    st.characters(exclude_categories=("Cc", "Cs", "Zs", "Zl", "Zp")), min_size=1, max_size=80
)

names = st.one_of(
    _plain_names,
    _any_names.filter(_fits),
    st.integers(1, 223).map(lambda size: "n" * size),
)
initiator_ports: st.SearchStrategy[InitiatorPort] = st.builds(
    InitiatorPort, names, st.none() | unsigned(48)
)
transport_ids: st.SearchStrategy[TransportId] = st.one_of(
    initiator_ports,
    st.builds(FibreChannel, unsigned(64)),
    st.builds(ParallelScsi, unsigned(16), unsigned(16)),
    st.builds(Sbp, unsigned(64)),
    st.builds(Srp, unsigned(128)),
    st.builds(Sas, unsigned(64)),
    st.builds(Sop, unsigned(16)),
)
keys = unsigned(64)
