"""Times for people to read."""

from __future__ import annotations

import datetime as dt

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from flockpr.store import clock
from tests.support.spc_strategies import QUIET

_NEW_YEAR = dt.datetime(2027, 1, 1, tzinfo=dt.UTC)
_MICROSECOND = dt.timedelta(microseconds=1)


@QUIET
@given(st.lists(st.datetimes(timezones=st.just(dt.UTC)), min_size=1))
@example([_NEW_YEAR - _MICROSECOND, _NEW_YEAR, _NEW_YEAR - _MICROSECOND])
@example([_NEW_YEAR, _NEW_YEAR.replace(hour=1), _NEW_YEAR.replace(day=2), _NEW_YEAR])
def test_times_are_written_as_iso_8601_says_whatever_was_written_before(
    moments: list[dt.datetime],
) -> None:
    """With all digits, so that they sort as text."""
    with pytest.MonkeyPatch.context() as patch:
        for moment in moments:
            patch.setattr(clock, "now", lambda moment=moment: moment)
            text = moment.replace(tzinfo=None).isoformat(timespec="microseconds") + "Z"
            assert clock.utc_now() == text
