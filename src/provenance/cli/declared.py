"""Finding what is declared in a file or a module of the application."""

from __future__ import annotations

import importlib
import importlib.util
import sys
import traceback
from collections.abc import Generator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType, ModuleType

from provenance.cli.problems import Misuse
from provenance.concepts import InvalidConcept
from provenance.errors import ProvenanceError


def split(source: str) -> tuple[str, str]:
    """Return the file or module that is meant, and the name after its colon or nothing."""
    # A path may have colons in it, and the name of a variable no dot.
    if source.endswith(".py") or ":" not in source:
        return source, ""
    place, name = source.rsplit(":", 1)
    return place, name


def module(place: str) -> ModuleType:
    """Load a file ending in ``.py``, or a module; what is wrong in it is said with the line that it comes from.

    Raises:
        Misuse: there is none, or it cannot be loaded.
        InvalidConcept: it declares something wrongly.
        ProvenanceError: it does something wrongly.
    """
    try:
        return _file(Path(place)) if place.endswith(".py") else _dotted(place)
    except InvalidConcept as error:
        raise InvalidConcept(f"{error}{_line(place, error)}") from error
    except (Misuse, ProvenanceError):
        raise
    except SyntaxError as error:
        where = f"line {error.lineno} of {error.filename}: " if error.lineno else ""
        raise Misuse(f"{place} cannot be loaded: {where}{error.msg}{_line(place, error)}") from error
    except (Exception, SystemExit) as error:  # the file may do anything when it is loaded
        raise Misuse(f"{place} cannot be loaded: {type(error).__name__}: {error}{_line(place, error)}") from error


def _line(place: str, error: BaseException) -> str:
    """Return the last line of what was loaded on the way to an error, or nothing when none of it was run."""
    lines = [line for frame, line in traceback.walk_tb(error.__traceback__) if _is_of(place, frame)]
    return f" (line {lines[-1]} of {place})" if lines else ""


def _is_of(place: str, frame: FrameType) -> bool:
    if place.endswith(".py"):
        return Path(frame.f_code.co_filename).resolve() == Path(place).resolve()
    return frame.f_globals.get("__name__") == place


@contextmanager
def _findable(directory: Path) -> Generator[None]:
    entry = str(directory)
    sys.path.insert(0, entry)
    try:
        yield
    finally:
        # What was loaded may have put something before it, or taken it away.
        with suppress(ValueError):
            sys.path.remove(entry)


def _file(path: Path) -> ModuleType:
    if not path.is_file():
        raise Misuse(f"there is no file {path}; give the path of a Python file, or the dotted name of a module")
    name = f"provenance_declared_in_{path.stem}"
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None  # noqa: S101 - it is known what to do with a file ending in .py
    assert spec.loader is not None  # noqa: S101
    loaded = importlib.util.module_from_spec(spec)
    sys.modules[name] = loaded
    try:
        # What stands beside it can be imported, as when Python runs the file.
        with _findable(path.resolve().parent):
            spec.loader.exec_module(loaded)
    finally:
        del sys.modules[name]
    return loaded


def _dotted(name: str) -> ModuleType:
    missing = f"there is no module {name}; run this where it can be imported, or give the path of a file ending in .py"
    if not all(part.isidentifier() for part in name.split(".")):
        raise Misuse(missing)
    try:
        # A script is started with the directory that it is in; the application is where the person is.
        with _findable(Path.cwd()):
            return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{name}.".startswith(f"{error.name}."):
            raise
        raise Misuse(missing) from error
