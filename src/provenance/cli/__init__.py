"""The command ``provenance``. It comes with the extra ``provenance-trail[cli]``."""

from __future__ import annotations

import sys


def main() -> None:
    """Run the command line; the entry point of the script ``provenance``."""
    try:
        from provenance.cli.app import cli  # noqa: PLC0415 - only with the extra
    except ModuleNotFoundError as error:
        if error.name not in {"click", "rich"}:
            raise
        sys.stderr.write(
            f"Error: the command line needs {error.name}, which is not installed; run: pip install 'provenance-trail[cli]'\n"
        )
        sys.exit(2)
    if (reconfigure := getattr(sys.stdout, "reconfigure", None)) is not None:
        # What is stored may be in any script, and the terminal's encoding may lack it.
        reconfigure(errors="backslashreplace")
    cli(prog_name="provenance")
