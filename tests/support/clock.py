"""A clock that is somewhere else: libfaketime, out of the Debian package ``faketime``."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path

import pytest


def moved_to(moment: datetime) -> Mapping[str, str]:
    """Return what must be in the environment of a process for which it is to be that moment now, and to go on from there."""
    found = next(Path("/usr/lib").glob("*/faketime/libfaketimeMT.so.1"), None)
    if found is None:
        pytest.skip("there is no libfaketime; it comes with the Debian package faketime")
    offset = (moment - datetime.now(UTC)).total_seconds()
    return {
        "LD_PRELOAD": str(found),
        "FAKETIME": f"{offset:+.6f}",
        "FAKETIME_DONT_FAKE_MONOTONIC": "1",
        "DONT_FAKE_MONOTONIC": "1",
    }
