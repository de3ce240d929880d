"""What is hidden, as the user decides it."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from functools import lru_cache

import attrs

from provenance.values import arguments, cards, complaints, documents, keys, markup, named, pairs, tokens
from provenance.values.neighbours import may_name_values
from provenance.values.texts import REDACTED, escaped, name

Captured = Mapping[str, "Captured | None"]
"""Which members of an object are kept, and which of theirs; ``None``: whole."""

# How many times a text may be encoded: JSON inside JSON, an address inside an address.
_DEEPEST = 3
# A word or a number, shorter than any secret that can be told by its form, and without anything that could stand between a
# key and its value; a UUID; or a sentence of such words, of letters alone. Behind some of them a secret may be one, too.
_WORD = r"(?!(?i:basic|bearer|negotiate|token) )[A-Za-z]{1,13}"
_HARMLESS = re.compile(
    r"[\w.,/-]{0,13}|[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}"
    rf"|{_WORD}(?:[,;.!?]? {_WORD})*[.!?]?"
).fullmatch

# Payloads whose keys strangers choose are never seen again: of them, no more than this are held in memory.
_SHAPES = 256


def _nothing(_: str) -> None:
    """Know of no text that it is harmless."""


def _patterns(given: Iterable[str | re.Pattern[str]]) -> tuple[re.Pattern[str], ...]:
    if isinstance(given, (str, re.Pattern)):
        raise TypeError("patterns: expected a list, got a single one; put it in brackets")
    found: list[re.Pattern[str]] = []
    for number, pattern in enumerate(given):
        source: object = pattern.pattern if isinstance(pattern, re.Pattern) else pattern
        if not isinstance(source, str):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise TypeError(f"patterns[{number}]: expected a pattern for text, got {type(source).__name__}")
        try:
            compiled = re.compile(pattern)
        except re.error as error:
            raise ValueError(f"patterns[{number}] is no regular expression: {error}") from error
        if compiled.search(""):
            raise ValueError(f"patterns[{number}] matches the empty text, so it would be found everywhere")
        found.append(compiled)
    return tuple(found)


def _paths(action_type: str, given: Iterable[str]) -> tuple[str, ...]:
    if isinstance(given, str):
        raise TypeError(f'capture[{action_type!r}]: expected a list of keys, got text; write ["user"] for a single key')
    paths = tuple(given)
    for path in paths:
        if not isinstance(path, str):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise TypeError(f"capture[{action_type!r}]: expected keys as text, got {type(path).__name__}")
        if not all(path.split(".")):
            raise ValueError(f"capture[{action_type!r}]: {path!r} is no key, nor keys joined by single dots")
    return paths


def _capture(given: Mapping[str, Iterable[str]]) -> dict[str, tuple[str, ...]]:
    if not isinstance(given, Mapping):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise TypeError(f"capture: expected a mapping of action types to lists of keys, got {type(given).__name__}")
    return {name(action_type, "capture"): _paths(action_type, paths) for action_type, paths in given.items()}


def _tree(paths: Iterable[str]) -> Captured:
    """Return paths as a tree. Of a path and a longer one the shorter holds: it keeps more."""
    tree: dict[str, Captured | None] = {}
    for path in sorted(paths, key=len, reverse=True):
        first, _, rest = path.partition(".")
        tree[first] = None if not rest else {**(tree.get(first) or {}), **_tree([rest])}
    return tree


@attrs.frozen
class Key:
    """What becomes of a member of an object by its key."""

    name: str
    shown: str
    """The key, with what is secret in it hidden."""
    quoted: str
    """That as JSON."""
    hides: bool
    keeps: bool


def quoted_key(text: str) -> str:
    """Return a key as JSON that ``jsonb`` takes."""
    quoted = documents.dumps(text)
    return documents.dumps(escaped(text)) if "\\u" in quoted else quoted


@attrs.frozen(kw_only=True)
class Redactor:
    """Decides what is hidden: which members of an object by their keys, and which parts of a text.

    A key is judged by the words inside it, however they are joined: ``userPassword``, ``password_confirmation`` and
    ``X-API-Key`` are hidden, ``monkey``, ``key_id`` and ``token_count`` are not.

    In texts, what has the form of a secret is hidden (private keys, tokens, card numbers, passwords in addresses), and
    what stands behind a key that would be: in JSON, forms, headers, settings and connection strings.

    Args:
        extra: further words or keys to hide, wherever their words follow one another in a key.
        keep: keys to leave alone, as a whole and in any spelling: ``"page_token"`` keeps ``pageToken`` and nothing
            else. It wins over everything; a text under such a key is stored as it is.
        patterns: further regular expressions; what they match in a text is hidden. They are searched in texts that come
            from outside, of up to 128 kB: nested repetitions such as ``(a+)+`` can take for ever.
        capture: for action types, which keys of the payload are stored, exactly as they are written there; everything
            else in the payload of such an action is hidden. A dotted path names a key inside an object, or inside each
            object of a list. What is named is still judged as above.

    Raises:
        TypeError: *extra*, *keep*, *patterns* or a list in *capture* is a single text, or something in it is no text.
        ValueError: a key has no letter in it, a pattern is malformed or matches the empty text, or a path is empty.
        InvalidAction: an action type in *capture* could not be that of an action; it is a ``ValueError``.
    """

    extra: tuple[str, ...] = attrs.field(default=(), converter=keys.checked)
    keep: tuple[str, ...] = attrs.field(default=(), converter=keys.checked)
    patterns: tuple[re.Pattern[str], ...] = attrs.field(default=(), converter=_patterns)
    capture: Mapping[str, tuple[str, ...]] = attrs.field(
        factory=dict[str, tuple[str, ...]], converter=_capture, hash=False
    )
    _rule: keys.Rule = attrs.field(init=False, repr=False, eq=False)
    key: Callable[[str], Key] = attrs.field(init=False, repr=False, eq=False)
    """Returns what becomes of a member with this key."""
    shape: Callable[[tuple[str, ...]], tuple[Key, ...] | None] = attrs.field(init=False, repr=False, eq=False)
    """Returns what becomes of the members of an object with these keys, or ``None`` if there is more to it; remembers it, so
    it may be asked only of keys that are few and short."""
    captured: Callable[[str], Captured | None] = attrs.field(init=False, repr=False, eq=False)
    """Returns which keys of the payload of such an action are stored, or ``None`` when that is not restricted."""
    harmless: Callable[[str], object] = attrs.field(init=False, repr=False, eq=False)
    """Returns something if it can be seen at once that nothing in a text is secret; it is printable then."""

    def __attrs_post_init__(self) -> None:
        object.__setattr__(self, "_rule", keys.Rule(self.extra, self.keep))
        object.__setattr__(self, "key", keys.remembered(self._key))
        # Asked for every action and for every text, these are the very functions of dict and pattern.
        object.__setattr__(self, "captured", {kind: _tree(paths) for kind, paths in self.capture.items()}.get)
        object.__setattr__(self, "harmless", _nothing if self.patterns else _HARMLESS)
        object.__setattr__(self, "shape", lru_cache(_SHAPES)(self._shape))

    def hides(self, key: str) -> bool:
        """Return whether the value under *key* is to be replaced by ``[redacted]``."""
        return self._rule.hides(key)

    def _key(self, name: str) -> Key:
        shown = self.redact(name)
        return Key(name, shown, quoted_key(shown), self._rule.hides(name), self._rule.keeps(name))

    def _shape(self, names: tuple[str, ...]) -> tuple[Key, ...] | None:
        known = tuple(map(self.key, names))
        differ = len({key.quoted for key in known}) == len(known) and all(key.shown == key.name for key in known)
        return known if differ and not may_name_values(names) else None

    def redact(self, text: str) -> str:
        """Return *text* with everything secret in it replaced by ``[redacted]``, and the rest as it is.

        Takes time linear in the length of the text, the user's own patterns apart.
        """
        return self._redacted(text, _DEEPEST)

    def _redacted(self, text: str, depth: int) -> str:
        if self.harmless(text):
            return text

        def redact(inner: str) -> str:
            return self._redacted(inner, depth - 1)

        if depth:
            found = documents.redacted_json(text, self._rule, redact)
            if found is not None:
                return found
            if "%" in text or ("+" in text and "=" in text):
                text = documents.redacted_encoded(text, redact)
        for pattern in self.patterns:
            text = pattern.sub(REDACTED, text)
        text = cards.hidden(tokens.hidden(text))
        for module in (complaints, named, pairs, arguments, markup):
            text = module.hidden(text, self.hides)
        return text

    @property
    def suspicious(self) -> str:
        """A regular expression for the letters of an ASCII key, in lower case: found in all that are hidden, and in more."""
        return keys.suspicious(self.extra)
