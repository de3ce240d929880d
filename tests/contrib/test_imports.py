"""What importing an adapter loads."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

FRAMEWORKS = {"flask", "starlette", "fastapi"}


@pytest.mark.parametrize(
    ("module", "loaded"),
    [
        ("provenance", []),
        ("provenance.context", []),
        ("provenance.contrib", []),
        ("provenance.contrib.wsgi", ["provenance.contrib.wsgi"]),
        ("provenance.contrib.asgi", ["provenance.contrib.asgi"]),
        ("provenance.contrib.flask", ["flask", "provenance.contrib.flask", "provenance.contrib.wsgi"]),
        (
            "provenance.contrib.starlette",
            ["provenance.contrib.asgi", "provenance.contrib.starlette", "starlette"],
        ),
    ],
)
def test_only_what_is_asked_for_is_loaded(module: str, loaded: list[str]) -> None:
    """The core loads no adapter, and an adapter no framework but its own."""
    code = f"import json, sys, {module}; print(json.dumps(sorted(sys.modules)))"
    answer = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    adapters = {f"provenance.contrib.{name}" for name in ("wsgi", "asgi", "flask", "starlette")}
    assert loaded == [name for name in json.loads(answer.stdout) if name in FRAMEWORKS | adapters]
