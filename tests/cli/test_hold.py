"""``hold``."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from provenance import Trail
from tests.cli.conftest import Run


def test_holds(run: Run, run_json: Callable[..., Any], provenance_dsn: str) -> None:
    """Placed, listed, in the way, and released; to a person and to a program."""
    with Trail(provenance_dsn) as trail, trail.track_action("open", concept="account", user_id="ada", payload={"a": 1}):
        pass
    assert "nothing is held\n" == run("hold", "list").stdout
    everything = run("hold", "place", "all", "--reason", "a court")
    assert (0, "the hold all keeps everything\n") == (everything.exit_code, everything.stdout)
    options = ("--tenant", "", "--user", "ada", "--entity", "account:7", "--concept", "account", "--type", "open")
    placed = run("hold", "place", "case", "--reason", "Ada", *options, "--since", "2027-01-01", "--until", "2028-01-01")
    assert (
        "the hold case keeps tenant '', user ada, entity type account, entity 7, concept account, type open, "
        "since 2027-01-01 00:00:00.000Z, until 2028-01-01 00:00:00.000Z\n"
    ) == placed.stdout
    lines = run("hold", "list").stdout.splitlines()
    assert ["HOLD", "PLACED", "KEEPS", "REASON"] == lines[0].split()
    assert lines[1].startswith("all ")
    assert lines[1].endswith("everything" + lines[1].partition("everything")[2])
    assert ["all", "case"] == [one["name"] for one in run_json("hold", "list")]
    refused = run("erase", "--user", "ada", "--reason", "asked to", "--yes")
    assert 1 == refused.exit_code
    assert (
        "Error: the legal hold all keeps what was to be erased; erase it once the hold is released\n" == refused.stderr
    )
    assert "the hold all is released\n" == run("hold", "release", "all", "--reason", "settled").stdout
    assert "case" == run_json("hold", "release", "case", "--reason", "settled")["name"]
    assert "more" == run_json("hold", "place", "more", "--reason", "a court", "--user", "bob")["name"]
    assert 0 == run("erase", "--user", "ada", "--reason", "asked to", "--yes").exit_code
