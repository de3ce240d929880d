"""JSON with secrets taken out, bounded in size and depth, that the ``jsonb`` columns of a UTF-8 database accept."""

from __future__ import annotations

import base64
import dataclasses
import hashlib
import math
from collections.abc import Callable, Iterable, Mapping
from datetime import date, time, timedelta
from decimal import Decimal
from enum import Enum
from itertools import islice
from json.encoder import encode_basestring_ascii
from operator import attrgetter, itemgetter, methodcaller
from pathlib import PurePath
from types import NoneType
from typing import Any, TypeVar
from uuid import UUID

import attrs

from provenance.errors import UnserializableValue
from provenance.values import cards
from provenance.values.documents import dumps
from provenance.values.neighbours import hidden_items, hidden_members
from provenance.values.redactor import Captured, Key, Redactor, quoted_key
from provenance.values.texts import (
    LARGEST_DECIMAL_BITS,
    LONGEST_NAME,
    PATIENCE,
    REDACTED,
    UNSTORABLE,
    beginning,
    digits,
    escaped,
)

_Part = TypeVar("_Part")

_DEEPEST = 32
_HEAD = 1_000
_LONGEST_PATH_PART = 64

_REDACTED_TEXT = dumps(REDACTED)
_TOO_DEEP = '{"$truncated":"depth"}'
_TOO_LONG = '{"$truncated":"size"}'
_CYCLE = '{"$cycle":true}'
_CONSTANTS = {None: "null", True: "true", False: "false"}
_UNREADABLE = '{"$unserializable":"value"}'
_PLAIN_CONTAINERS = frozenset({dict, list, tuple})
_LEAVES = frozenset({str, int, float, bool})
_TEXT = frozenset({str})
_MOST_KEYS = 32
_LONGEST_KEYS = 1024
_first = itemgetter(0)

# Values are told apart by type() and issubclass(): isinstance() also asks value.__class__, which a lazy proxy answers
# by loading what it stands for. Subclasses of builtins are read through the builtin, so that no override runs or hides
# what is there.
_PLAINER: tuple[tuple[tuple[type, ...], Callable[[Any], object]], ...] = (
    ((Enum,), attrgetter("value")),
    ((str,), str.__str__),
    ((int,), int.__int__),
    ((float,), float.__float__),
    ((date, time), methodcaller("isoformat")),
    ((timedelta,), timedelta.total_seconds),
    ((UUID, Decimal, PurePath), str),
)
_KEY_TEXTS: tuple[tuple[tuple[type, ...], Callable[[Any], str | None]], ...] = (
    ((Enum,), lambda member: _key_text(member.value)),
    ((str,), str.__str__),
    ((NoneType, bool, float), dumps),
    ((int,), digits),
    ((UUID,), str),
    ((date,), methodcaller("isoformat")),
)
_dict_items: Callable[[Any], Iterable[tuple[object, object]]] = dict[object, object].items
_mapping_items: Callable[[Any], Iterable[tuple[object, object]]] = methodcaller("items")
_ELEMENTS: tuple[tuple[type, Callable[[Any], Iterable[object]]], ...] = (
    (list, list[object].__iter__),
    (tuple, tuple[object, ...].__iter__),
    (set, set[object].__iter__),
    (frozenset, frozenset[object].__iter__),
)


class _RefusedError(Exception):
    """A value has no JSON form. Containers add their part of the path as it passes, so that success pays nothing."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason
        self.path: list[str] = []


def _type_name(kind: type) -> str:
    try:
        full = kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"
        return full[:LONGEST_NAME] if full.isprintable() else "unnamed"
    except Exception:  # noqa: BLE001 - a metaclass can do anything here
        return "unnamed"


def _path_part(key: str) -> str:
    if len(key) > _LONGEST_PATH_PART:
        key = key[:_LONGEST_PATH_PART] + "..."
    return f".{key}" if key.isidentifier() else f"[{dumps(key)}]"


def _key_text(key: object) -> str | None:
    """Return the text of an object's key, or ``None`` when it has none."""
    for kinds, text in _KEY_TEXTS:
        if issubclass(type(key), kinds):
            return text(key)
    return None


def _named_items(value: Any) -> Iterable[tuple[object, object]]:
    return zip(value._fields, tuple[object, ...].__iter__(value), strict=True)


def _members(value: object) -> Iterable[tuple[object, object]] | None:
    """Return the keys and values of a mapping or of an instance with declared fields, or ``None`` for all else."""
    kind = type(value)
    if issubclass(kind, Mapping):
        return _mapping_items(value)
    if dataclasses.is_dataclass(kind):
        names = [field.name for field in dataclasses.fields(kind)]
    elif attrs.has(kind):
        names = [field.name for field in attrs.fields(kind)]
    else:
        return None
    return ((name, getattr(value, name)) for name in names)


class _Writer:
    """Writes one value as JSON text, in the strict form or, when *marked*, in the lenient one.

    ``room`` counts down the characters that may still be written. Below zero everything stops as it stands: the text is
    over the limit by then, whatever would follow.

    ``captured`` says which members are written of the objects that come next, when not all are.
    """

    __slots__ = ("captured", "marked", "open", "redactor", "room")

    def __init__(self, redactor: Redactor, *, marked: bool, room: int, captured: Captured | None = None) -> None:
        self.redactor = redactor
        self.captured = captured
        self.marked = marked
        self.room = room
        self.open: set[int] = set()

    def write(self, value: Any, depth: int = 0) -> str:
        kind = type(value)  # pyright: ignore[reportUnknownVariableType]
        if self.captured is not None and kind in _LEAVES:
            return self._charged(_REDACTED_TEXT)
        if kind is str:
            return self._string(value)
        if kind is int:
            return self._integer(value)
        if value is None or kind is bool:
            return self._charged(_CONSTANTS[value])
        if kind is float:
            return self._float(value)
        try:
            return self._dict(value, depth) if kind is dict else self._other(value, depth)
        except _RefusedError:
            raise
        except Exception as error:  # noqa: BLE001
            # The caller's own code ran here (a property, a mapping), or another thread changed a dict meanwhile.
            shown = _type_name(kind)  # pyright: ignore[reportUnknownArgumentType]
            failure = f"reading a value of type {shown} raised {_type_name(type(error))}"
            return self._refused(value, f"{failure}; pass plain data instead", error)

    def _charged(self, text: str) -> str:
        self.room -= len(text)
        return text

    def _refused(self, value: object, reason: str, cause: Exception | None = None) -> str:
        if not self.marked:
            raise _RefusedError(reason) from cause
        return self._charged(f'{{"$unserializable":{dumps(_type_name(type(value)))}}}')

    def _too_long(self) -> str:
        self.room = -1
        return _TOO_LONG

    def _string(self, text: str, *, kept: bool = False) -> str:
        if len(text) <= self.room and self.redactor.harmless(text):
            return self._charged(encode_basestring_ascii(text))
        cut = len(text) > self.room
        if cut:
            text = beginning(text, self.room)
        if not kept:
            text = self.redactor.redact(text)
        written = encode_basestring_ascii(text)
        if "\\u" in written and UNSTORABLE.search(text):
            doubled = text.replace("\\", "\\\\")
            written = f'{{"$str":{encode_basestring_ascii(escaped(doubled))}}}'
        self._charged(written)
        if cut:
            # What is left may be short by now, and is still not the whole.
            self.room = -1
        return written

    def _integer(self, number: int) -> str:
        if cards.is_card_number(number):
            return self._charged(_REDACTED_TEXT)
        bits = number.bit_length()
        if bits <= LARGEST_DECIMAL_BITS:
            return self._charged(int.__repr__(number))
        return self._too_long() if bits > 4 * self.room else self._charged(f'{{"$int":"{hex(number)}"}}')

    def _float(self, number: float) -> str:
        text = float.__repr__(number)
        return self._charged(text if math.isfinite(number) else f'{{"$float":"{dumps(number)}"}}')

    def _bytes(self, data: Any) -> str:
        view = memoryview(data)
        if view.nbytes > self.room:
            return self._too_long()
        if self.captured is not None:
            return self._charged(_REDACTED_TEXT)
        # Every byte sequence has a text and comes back from it, and the body of a request may well be one.
        text = view.tobytes().decode("utf-8", "surrogateescape")
        clean = self.redactor.redact(text).encode("utf-8", "surrogateescape")
        return self._charged(f'{{"$bytes":"{base64.b64encode(clean).decode()}"}}')

    def _other(self, value: object, depth: int) -> str:
        kind = type(value)
        if kind not in _PLAIN_CONTAINERS:
            for kinds, plainer in _PLAINER:
                if issubclass(kind, kinds):
                    return self.write(plainer(value), depth + 1)
            if issubclass(kind, (bytes, bytearray, memoryview)):
                return self._bytes(value)
        if depth >= _DEEPEST:
            return self._charged(_TOO_DEEP)
        if id(value) in self.open:
            return self._cycle()
        self.open.add(id(value))
        try:
            return self._container(value, depth + 1)
        finally:
            self.open.discard(id(value))

    def _cycle(self) -> str:
        if not self.marked:
            raise _RefusedError("the value contains itself; pass data without references back")
        return self._charged(_CYCLE)

    def _dict(self, value: dict[object, object], depth: int) -> str:
        """Write a dict as :meth:`_other` does, and quicker where its keys are text, as most are, and known together."""
        members = list(value.items()) if len(value) <= _MOST_KEYS else []
        keys: tuple[Any, ...] = tuple(map(_first, members))
        # No subclass: one may be equal to another text than its own.
        known = (
            self.redactor.shape(keys)
            if _TEXT.issuperset(map(type, keys)) and self.captured is None and sum(map(len, keys)) <= _LONGEST_KEYS
            else None
        )
        if not known or depth >= _DEEPEST or id(value) in self.open:
            return self._other(value, depth)
        self.open.add(id(value))
        try:
            return self._known(known, members, depth + 1)
        finally:
            self.open.discard(id(value))

    def _known(self, keys: tuple[Key, ...], members: list[tuple[object, object]], depth: int) -> str:
        texts: list[str] = []
        harmless = self.redactor.harmless
        for key, (_, item) in zip(keys, members, strict=True):
            self.room -= len(key.name) + 4
            if self.room < 0:
                break
            # By type(); see above.
            if key.hides:
                text = _REDACTED_TEXT
            elif type(item) is str and len(item) <= self.room and harmless(item):
                text = encode_basestring_ascii(item)
            elif type(item) is int and -cards.LEAST < item < cards.LEAST:
                text = int.__repr__(item)
            elif item is None or type(item) is bool:
                text = _CONSTANTS[item]
            else:
                texts.append(f"{key.quoted}:{self._below(key, item, depth)}")
                continue
            self.room -= len(text)
            texts.append(f"{key.quoted}:{text}")
        return f"{{{','.join(texts)}}}"

    def _below(self, key: Key, item: object, depth: int) -> str:
        try:
            return self._string(item, kept=key.keeps) if type(item) is str else self.write(item, depth)
        except _RefusedError as refused:
            refused.path.append(_path_part(key.name))
            raise

    def _container(self, value: object, depth: int) -> str:
        kind = type(value)
        if issubclass(kind, dict):
            return self._object(_dict_items(value), depth)
        if hasattr(kind, "_fields") and issubclass(kind, tuple):
            return self._object(_named_items(value), depth)
        for base, elements in _ELEMENTS:
            if issubclass(kind, base):
                return self._array(self._items(elements(value), base), depth, ordered=base in _PLAIN_CONTAINERS)
        return self._instance(value, depth)

    def _instance(self, value: object, depth: int) -> str:
        members = _members(value)
        if members is not None:
            return self._object(members, depth)
        model_dump = getattr(type(value), "model_dump", None)  # pydantic
        if callable(model_dump):
            return self.write(model_dump(value, mode="json"), depth)
        sentence = f"a value of type {_type_name(type(value))} has no JSON form"
        return self._refused(value, f"{sentence}; convert it to text, a number, a list or a dict")

    def _taken(self, parts: Iterable[_Part], shortest: int) -> list[_Part]:
        """Return as many parts as there may be room for, and one more."""
        return list(islice(parts, max(self.room, 0) // shortest + 1))

    def _items(self, items: Iterable[object], base: type) -> Iterable[object]:
        if base not in _PLAIN_CONTAINERS:
            return items
        return hidden_items(self._taken(items, 1), self.redactor.hides, of_tuple=base is tuple)

    def _array(self, items: Iterable[object], depth: int, *, ordered: bool = True) -> str:
        texts: list[str] = []
        try:
            for item in items:
                self.room -= 1
                if self.room < 0:
                    break
                texts.append(self.write(item, depth))
        except _RefusedError as refused:
            refused.path.append(f"[{len(texts)}]" if ordered else "[*]")
            raise
        return f"[{','.join(texts if ordered else sorted(texts))}]"

    def _object(self, members: Iterable[tuple[object, object]], depth: int) -> str:
        captured = self.captured
        texts: dict[str, str] = {}
        name: str | None = None
        try:
            for key, item in hidden_members(self._taken(members, 5), self.redactor.hides):
                name = key if type(key) is str else _key_text(key)
                self.room -= 4 if name is None else len(name) + 4
                if self.room < 0:
                    break
                if name is None:
                    # Its value goes too: nobody can tell whether it is a secret's.
                    reason = f"a key of type {_type_name(type(key))} has no JSON form; use text"
                    shown, text = '"$key"', self._refused(key, reason)
                else:
                    known = self.redactor.key(name)
                    name = known.shown
                    shown = known.quoted if name == known.name else self._shown_key(known, texts)
                    text = self._member(known, item, depth, captured)
                texts[shown] = self._duplicate(texts[shown], text) if shown in texts else text
        except _RefusedError as refused:
            if name is not None:
                refused.path.append(_path_part(name))
            raise
        finally:
            self.captured = captured
        return f"{{{','.join([f'{shown}:{text}' for shown, text in texts.items()])}}}"

    def _member(self, key: Key, item: object, depth: int, captured: Captured | None) -> str:
        if key.hides or (captured is not None and key.name not in captured):
            return self._charged(_REDACTED_TEXT)
        self.captured = None if captured is None else captured[key.name]
        if self.captured is None and type(item) is str:
            return self._string(item, kept=key.keeps)
        return self.write(item, depth)

    def _shown_key(self, key: Key, texts: Mapping[str, str]) -> str:
        """Return a key in which something is hidden; two of them may have become equal, which is not the caller's fault."""
        return quoted_key(f"{key.shown} ({len(texts) + 1})") if key.quoted in texts else key.quoted

    def _duplicate(self, first: str, second: str) -> str:
        if not self.marked:
            raise _RefusedError("two keys become the same JSON key; use text keys that differ")
        return f'{{"$duplicate":[{first},{second}]}}'


def _capped(text: str, limit: int, *, partial: bool) -> str:
    if len(text) <= limit and not partial:
        return text
    about: dict[str, object] = {
        "bytes": len(text),
        "sha256": hashlib.sha256(text.encode()).hexdigest(),
        "head": text[:_HEAD],
    }
    if partial:
        about["partial"] = True
    return dumps({"$truncated": about})


def to_json(
    value: object, redactor: Redactor, *, what: str, limit: int = 32_768, captured: Captured | None = None
) -> str | None:
    r"""Return *value* as JSON text for ``jsonb``, with secrets hidden; the strict form, for arguments of a call.

    Plain JSON data is stored as it is. Beyond it:

    - dates and times become ISO 8601 text; a ``timedelta`` its seconds, as a number
    - ``Decimal``, ``UUID`` and paths become text; members of an enum their value
    - sets become a list, sorted by its JSON text
    - mappings, named tuples, dataclasses, attrs and pydantic instances become an object
    - bytes become ``{"$bytes": "<base64>"}``
    - NaN and the infinities become ``{"$float": "NaN"}`` and so on
    - an int of over 3,320 bits, some 1,000 digits, becomes ``{"$int": "0x..."}``
    - text with NUL or surrogates becomes ``{"$str": "..."}``: its backslashes doubled, these as ``\uXXXX``
    - a container on the 33rd level becomes ``{"$truncated": "depth"}``
    - a text over the limit becomes ``{"$truncated": {"bytes": ..., "sha256": ..., "head": ...}}``

    Keys that are numbers, booleans, ``None``, UUIDs, dates or enum members become text; NUL and surrogates in a key are
    written as ``\uXXXX``. Hidden values are not looked at. Size and hash of a text over the limit are those of the
    redacted JSON text; ``"partial": true`` says that conversion itself was given up, at more than four times the limit.

    Args:
        value: what to convert.
        redactor: decides what is hidden.
        what: the name of the argument, where the path in an error begins.
        limit: the longest text to store, in bytes.
        captured: which members are stored, when not all are; the others are hidden, and what is in no object.

    Returns:
        Compact ASCII text, or ``None`` for ``None``.

    Raises:
        UnserializableValue: a part has no JSON form, cannot be read, contains itself, or has two keys that become
            equal. The message names the path and the type, never the value.
    """
    if value is None:
        return None
    writer = _Writer(redactor, marked=False, room=limit * PATIENCE, captured=captured)
    try:
        text = writer.write(value)
    except _RefusedError as refused:
        path = "".join(reversed(refused.path))
        raise UnserializableValue(f"{what}{path}: {refused.reason}") from refused.__cause__
    return text if len(text) <= limit and writer.room >= 0 else _capped(text, limit, partial=writer.room < 0)


def to_json_marked(
    value: object, redactor: Redactor, *, what: str, limit: int = 32_768
) -> tuple[str | None, str | None]:
    """Return *value* as JSON text and a warning; the lenient form, for what is assigned inside a block.

    Never raises an :class:`Exception`, so that a bad result cannot undo good work. Converts as :func:`to_json` does and
    marks what that refuses: ``{"$unserializable": "<type>"}``, ``{"$cycle": true}``, ``{"$duplicate": [..., ...]}`` for
    keys that become equal, and ``"$key": {"$unserializable": "<type>"}`` for a key without a text form, value dropped.

    Args:
        value: what to convert.
        redactor: decides what is hidden.
        what: the name of the attribute, where the path in the warning begins.
        limit: the longest text to store, in bytes.

    Returns:
        The text (``None`` for ``None``), and one sentence about the first part that was marked (``None`` if none was).
    """
    try:
        try:
            return to_json(value, redactor, what=what, limit=limit), None
        except UnserializableValue as refused:
            writer = _Writer(redactor, marked=True, room=limit * PATIENCE)
            text = writer.write(value)
            return _capped(text, limit, partial=writer.room < 0), str(refused)
    except Exception:  # noqa: BLE001 - at the end of the stack or of memory even marking can fail
        return _UNREADABLE, f"{what}: converting it to JSON failed; pass plain data instead"
