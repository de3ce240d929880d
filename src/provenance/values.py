"""Values on their way into a row: identifiers, names, messages, and JSON with secrets taken out.

What leaves here is accepted by the ``text`` and ``jsonb`` columns of a UTF-8 database, and is bounded in size.
Pure functions.
"""

from __future__ import annotations

import base64
import dataclasses
import hashlib
import json
import math
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import date, time, timedelta
from decimal import Decimal
from enum import Enum
from functools import lru_cache
from operator import attrgetter, methodcaller
from pathlib import PurePath
from types import NoneType
from typing import Any
from uuid import UUID

import attrs

from provenance.errors import InvalidAction, UnserializableValue

# PostgreSQL refuses U+0000 in text and jsonb, and UTF-8 has no form for surrogates. A str never needs them: any that is
# there is lone, two in a row included (https://www.postgresql.org/docs/current/datatype-json.html).
_UNSTORABLE = re.compile("[\x00\ud800-\udfff]")
# str() of a larger int raises ValueError (sys.set_int_max_str_digits), and numeric ends at 131,072 digits.
_LARGEST_DECIMAL_BITS = 3320  # just under 1,000 decimal digits

# An index entry is at most 2,704 bytes, and a character at most 4.
_LONGEST_IDENTIFIER = 256
_LONGEST_NAME = 100


def _escaped(text: str) -> str:
    return _UNSTORABLE.sub(lambda found: f"\\u{ord(found[0]):04x}", text)


def _digits(number: int) -> str:
    return int.__repr__(number) if int.bit_length(number) <= _LARGEST_DECIMAL_BITS else hex(number)


def identifier(value: str | int | UUID | None, what: str) -> str | None:
    r"""Return the text that a user, tenant, entity or correlation id is stored as.

    Characters that a text column cannot hold are written as ``\uXXXX``. An id of more than 256 characters is cut and
    ends in a part of its SHA-256, so that ids which differ only at the end stay different.

    Args:
        value: text, an int or a UUID; ``None`` and ``""`` mean that there is none.
        what: the name of the argument, for the error.

    Raises:
        InvalidAction: *value* is of another type.
    """
    if value is None:
        return None
    if isinstance(value, str):
        text = _escaped(str.__str__(value))
    elif isinstance(value, int) and not isinstance(value, bool):
        text = _digits(value)
    elif isinstance(value, UUID):
        text = str(value)
    else:
        raise InvalidAction(f"{what}: expected text, an int or a UUID, got {type(value).__name__}")
    if len(text) > _LONGEST_IDENTIFIER:
        mark = "~sha256:" + hashlib.sha256(text.encode()).hexdigest()[:16]
        text = text[: _LONGEST_IDENTIFIER - len(mark)] + mark
    return text or None


def name(value: object, what: str) -> str:
    """Return an action type, concept or entity type, checked.

    Args:
        value: printable text of 1 to 100 characters with no white space around it.
        what: the name of the argument, for the error.

    Raises:
        InvalidAction: it is anything else. The message does not repeat it.
    """
    expected = f"expected printable text of 1 to {_LONGEST_NAME} characters with no white space around it"
    if not isinstance(value, str):
        raise InvalidAction(f"{what}: {expected}, got {type(value).__name__}")
    text = str.__str__(value)
    if not text:
        raise InvalidAction(f"{what} is empty: {expected}")
    if len(text) > _LONGEST_NAME:
        raise InvalidAction(f"{what} has {len(text)} characters: {expected}")
    if text != text.strip():
        raise InvalidAction(f"{what} begins or ends with white space: {expected}")
    if not text.isprintable():
        raise InvalidAction(f"{what} has characters that cannot be printed: {expected}")
    return text


def message(text: str, limit: int = 4096) -> str:
    r"""Return free text, such as the message of an error, fit for a text column.

    Characters that the column cannot hold are written as ``\uXXXX``; a longer text is cut and says so at its end.

    Args:
        text: anything.
        limit: the most characters to return.
    """
    text = str.__str__(text)
    safe = _escaped(text[: limit + 1])
    if len(safe) <= limit:
        return safe
    mark = f" [cut: {len(text)} characters]"
    return (safe[: max(limit - len(mark), 0)] + mark)[:limit]


REDACTED = "[redacted]"
"""What stands in the place of a value that was hidden."""

# Camel case inside a run of letters: an acronym, or a capitalised or lower-case word.
_CAMEL = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+")
_LETTERS = re.compile(r"[^\W\d_]+")

_LONGEST_CACHED_KEY = 128
_CACHED_KEYS = 4096


def _words(key: str) -> list[str]:
    """Split a key at case changes, digits and everything that is not a letter, into lower-case words."""
    words: list[str] = []
    for run in _LETTERS.findall(key):
        words += _CAMEL.findall(run) if run.isascii() else [run]
    return [word.casefold() for word in words]


# Every entry is compared with each word of a key and with each two neighbours read as one, in singular and plural:
# "apikey" hides api_key, apiKey, API-Keys and apikey; "jwt" hides JWTs, which splits into jw and ts.
_SECRETS = frozenset(
    _words(
        "accesskey accountkey aeskey apikey authcode authkey authorization backupcode bearer cardnumber cookie "
        "credential creditcard csrf cvc cvv debitcard encryptionkey hmackey jwt masterkey mfacode otp passcode "
        "passphrase passwd password passwordhash pin privatekey pwd recoverycode secret secretkey securitycode "
        "seedphrase sessid sessionid sessionkey sharedkey signingkey socialsecurity sshkey ssn token totp "
        "verificationcode xsrf"
    )
)
# Hidden only as the last word: db_pass and basic_auth hold a secret, pass_rate and auth_method do not.
_SECRET_ENDINGS = frozenset({"auth", "pass"})
# Written as one word (csrftoken, userpassword, passwordhash), these leave no boundary to see. Each is the end of no
# ordinary English word, which is not true of "pin" or "otp" (spin, laptop).
_SECRET_TAILS = ("apikey", "cookie", "credential", "passphrase", "passwd", "password", "secret", "secretkey", "token")
_SECRET_HEADS = ("passwd", "password")
# A key that ends so tells about a secret and does not hold it: token_count, password_changed_at, cookie_consent.
_HARMLESS_ENDINGS = frozenset({"at", "consent", "count", "expiry", "keyid", "length", "policy", "tokenid", "type"})


def _runs(words: list[str], longest: int) -> Iterator[str]:
    """Yield every run of 1 to *longest* neighbouring words, read as one."""
    for size in range(1, longest + 1):
        for start in range(len(words) - size + 1):
            yield "".join(words[start : start + size])


def _listed(run: str, names: frozenset[str]) -> bool:
    return run in names or run.removesuffix("s") in names


def _written_together(word: str) -> bool:
    if word.removesuffix("s").endswith(_SECRET_TAILS):
        return True
    return word.startswith(_SECRET_HEADS) and not word.endswith("less")


def _holds_secret(words: list[str]) -> bool:
    last = words[-1]
    if last in _HARMLESS_ENDINGS or "".join(words[-2:]) in _HARMLESS_ENDINGS:
        return False
    return (
        last in _SECRET_ENDINGS
        or any(map(_written_together, words))
        or any(_listed(run, _SECRETS) for run in _runs(words, 2))
    )


def _keys(given: Iterable[str]) -> tuple[str, ...]:
    if isinstance(given, str):
        raise TypeError('expected a list of keys, got text; write ("iban",) for a single key')
    keys = tuple(given)
    if not all(map(_words, keys)):
        raise ValueError("a key without any letter cannot be matched; give keys as they are written in the data")
    return keys


def _make_rule(redactor: Redactor) -> Callable[[str], bool]:
    split = [_words(key) for key in redactor.extra]
    extra = frozenset(map("".join, split))
    longest = max(map(len, split), default=0)
    keep = frozenset("".join(_words(key)) for key in redactor.keep)

    def hides(key: str) -> bool:
        words = _words(key)
        if not words or "".join(words) in keep:
            return False
        return any(_listed(run, extra) for run in _runs(words, longest)) or _holds_secret(words)

    return hides


def _make_cached_rule(redactor: Redactor) -> Callable[[str], bool]:
    return lru_cache(_CACHED_KEYS)(_make_rule(redactor))


@attrs.frozen(kw_only=True)
class Redactor:
    """Decides by its name which member of an object is hidden.

    A key is judged by the words inside it, however they are joined: ``userPassword``, ``password_confirmation`` and
    ``X-API-Key`` are hidden, ``monkey``, ``key_id`` and ``token_count`` are not.

    Args:
        extra: further words or keys to hide, wherever their words follow one another in a key.
        keep: keys to leave alone, as a whole and in any spelling: ``"page_token"`` keeps ``pageToken`` and nothing
            else. It wins over everything.

    Raises:
        TypeError: *extra* or *keep* is a single text.
        ValueError: one of the keys has no letter in it.
    """

    extra: tuple[str, ...] = attrs.field(default=(), converter=_keys)
    keep: tuple[str, ...] = attrs.field(default=(), converter=_keys)
    _rule: Callable[[str], bool] = attrs.field(
        init=False, repr=False, eq=False, default=attrs.Factory(_make_rule, takes_self=True)
    )
    _cached_rule: Callable[[str], bool] = attrs.field(
        init=False, repr=False, eq=False, default=attrs.Factory(_make_cached_rule, takes_self=True)
    )

    def hides(self, key: str) -> bool:
        """Return whether the value under *key* is to be replaced by :data:`REDACTED`."""
        # Keys may come from a stranger: the cache is bounded in their length too.
        return self._cached_rule(key) if len(key) <= _LONGEST_CACHED_KEY else self._rule(key)

    @property
    def suspicious(self) -> str:
        """A regular expression for the letters of an ASCII key, in lower case: found in all that are hidden, and in more."""
        words = {*_SECRETS, *_SECRET_ENDINGS, *_SECRET_TAILS, *_SECRET_HEADS}
        return "|".join(sorted(words | {"".join(_words(key)) for key in self.extra}))


_DEEPEST = 32
_HEAD = 1_000
_LONGEST_PATH_PART = 64
# A text is measured and hashed as a whole up to so many times its limit; a longer one is given up on the way.
_PATIENCE = 4

_dumps = json.JSONEncoder(separators=(",", ":")).encode
_REDACTED_TEXT = _dumps(REDACTED)
_TOO_DEEP = '{"$truncated":"depth"}'
_TOO_LONG = '{"$truncated":"size"}'
_CYCLE = '{"$cycle":true}'
_CONSTANTS = {None: "null", True: "true", False: "false"}
_UNREADABLE = '{"$unserializable":"value"}'
_PLAIN_CONTAINERS = frozenset({dict, list, tuple})

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
    ((NoneType, bool, float), _dumps),
    ((int,), _digits),
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
        return full[:_LONGEST_NAME] if full.isprintable() else "unnamed"
    except Exception:  # noqa: BLE001 - a metaclass can do anything here
        return "unnamed"


def _path_part(key: str) -> str:
    if len(key) > _LONGEST_PATH_PART:
        key = key[:_LONGEST_PATH_PART] + "..."
    return f".{key}" if key.isidentifier() else f"[{_dumps(key)}]"


def _key_text(key: object) -> str | None:
    """Return the text of an object's key, or ``None`` when it has none."""
    for kinds, text in _KEY_TEXTS:
        if issubclass(type(key), kinds):
            return text(key)
    return None


def _quoted_key(text: str) -> str:
    quoted = _dumps(text)
    return _dumps(_escaped(text)) if "\\u" in quoted else quoted


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
    """

    __slots__ = ("hides", "marked", "open", "room")

    def __init__(self, redactor: Redactor, *, marked: bool, room: int) -> None:
        self.hides = redactor.hides
        self.marked = marked
        self.room = room
        self.open: set[int] = set()

    def write(self, value: object, depth: int = 0) -> str:
        if type(value) is str:
            return self._string(value)
        if type(value) is int:
            return self._integer(value)
        if value is None or type(value) is bool:
            return self._charged(_CONSTANTS[value])
        if type(value) is float:
            return self._float(value)
        try:
            return self._other(value, depth)
        except _RefusedError:
            raise
        except Exception as error:  # noqa: BLE001
            # The caller's own code ran here (a property, a mapping), or another thread changed a dict meanwhile.
            failure = f"reading a value of type {_type_name(type(value))} raised {_type_name(type(error))}"
            return self._refused(value, f"{failure}; pass plain data instead", error)

    def _charged(self, text: str) -> str:
        self.room -= len(text)
        return text

    def _refused(self, value: object, reason: str, cause: Exception | None = None) -> str:
        if not self.marked:
            raise _RefusedError(reason) from cause
        return self._charged(f'{{"$unserializable":{_dumps(_type_name(type(value)))}}}')

    def _too_long(self) -> str:
        self.room = -1
        return _TOO_LONG

    def _string(self, text: str) -> str:
        if len(text) > self.room:
            text = text[: self.room]
        quoted = _dumps(text)
        if "\\u" in quoted and _UNSTORABLE.search(text):
            doubled = text.replace("\\", "\\\\")
            quoted = f'{{"$str":{_dumps(_escaped(doubled))}}}'
        return self._charged(quoted)

    def _integer(self, number: int) -> str:
        bits = number.bit_length()
        if bits <= _LARGEST_DECIMAL_BITS:
            return self._charged(int.__repr__(number))
        return self._too_long() if bits > 4 * self.room else self._charged(f'{{"$int":"{hex(number)}"}}')

    def _float(self, number: float) -> str:
        text = float.__repr__(number)
        return self._charged(text if math.isfinite(number) else f'{{"$float":"{_dumps(number)}"}}')

    def _bytes(self, data: Any) -> str:
        view = memoryview(data)
        if view.nbytes > self.room:
            return self._too_long()
        return self._charged(f'{{"$bytes":"{base64.b64encode(view.tobytes()).decode()}"}}')

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

    def _container(self, value: object, depth: int) -> str:
        kind = type(value)
        if issubclass(kind, dict):
            return self._object(_dict_items(value), depth)
        if hasattr(kind, "_fields") and issubclass(kind, tuple):
            return self._object(_named_items(value), depth)
        for base, elements in _ELEMENTS:
            if issubclass(kind, base):
                return self._array(elements(value), depth, ordered=base in _PLAIN_CONTAINERS)
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
        texts: dict[str, str] = {}
        name: str | None = None
        try:
            for key, item in members:
                name = key if type(key) is str else _key_text(key)
                self.room -= 4 if name is None else len(name) + 4
                if self.room < 0:
                    break
                if name is None:
                    # Its value goes too: nobody can tell whether it is a secret's.
                    reason = f"a key of type {_type_name(type(key))} has no JSON form; use text"
                    quoted, text = '"$key"', self._refused(key, reason)
                elif self.hides(name):
                    quoted, text = _quoted_key(name), self._charged(_REDACTED_TEXT)
                else:
                    quoted, text = _quoted_key(name), self.write(item, depth)
                texts[quoted] = self._duplicate(texts[quoted], text) if quoted in texts else text
        except _RefusedError as refused:
            if name is not None:
                refused.path.append(_path_part(name))
            raise
        return f"{{{','.join([f'{quoted}:{text}' for quoted, text in texts.items()])}}}"

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
    return _dumps({"$truncated": about})


def to_json(value: object, redactor: Redactor, *, what: str, limit: int = 32_768) -> str | None:
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
        redactor: decides which members are hidden.
        what: the name of the argument, where the path in an error begins.
        limit: the longest text to store, in bytes.

    Returns:
        Compact ASCII text, or ``None`` for ``None``.

    Raises:
        UnserializableValue: a part has no JSON form, cannot be read, contains itself, or has two keys that become
            equal. The message names the path and the type, never the value.
    """
    if value is None:
        return None
    writer = _Writer(redactor, marked=False, room=limit * _PATIENCE)
    try:
        text = writer.write(value)
    except _RefusedError as refused:
        path = "".join(reversed(refused.path))
        raise UnserializableValue(f"{what}{path}: {refused.reason}") from refused.__cause__
    return _capped(text, limit, partial=writer.room < 0)


def to_json_marked(
    value: object, redactor: Redactor, *, what: str, limit: int = 32_768
) -> tuple[str | None, str | None]:
    """Return *value* as JSON text and a warning; the lenient form, for what is assigned inside a block.

    Never raises an :class:`Exception`, so that a bad result cannot undo good work. Converts as :func:`to_json` does and
    marks what that refuses: ``{"$unserializable": "<type>"}``, ``{"$cycle": true}``, ``{"$duplicate": [..., ...]}`` for
    keys that become equal, and ``"$key": {"$unserializable": "<type>"}`` for a key without a text form, value dropped.

    Args:
        value: what to convert.
        redactor: decides which members are hidden.
        what: the name of the attribute, where the path in the warning begins.
        limit: the longest text to store, in bytes.

    Returns:
        The text (``None`` for ``None``), and one sentence about the first part that was marked (``None`` if none was).
    """
    try:
        try:
            return to_json(value, redactor, what=what, limit=limit), None
        except UnserializableValue as refused:
            writer = _Writer(redactor, marked=True, room=limit * _PATIENCE)
            text = writer.write(value)
            return _capped(text, limit, partial=writer.room < 0), str(refused)
    except Exception:  # noqa: BLE001 - at the end of the stack or of memory even marking can fail
        return _UNREADABLE, f"{what}: converting it to JSON failed; pass plain data instead"
