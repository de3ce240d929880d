"""What is hidden, as the user decides it."""

from __future__ import annotations

from collections.abc import Callable

import attrs

from provenance.values import keys

REDACTED = "[redacted]"
"""What stands in the place of a value that was hidden."""


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

    extra: tuple[str, ...] = attrs.field(default=(), converter=keys.checked)
    keep: tuple[str, ...] = attrs.field(default=(), converter=keys.checked)
    _hides: Callable[[str], bool] = attrs.field(init=False, repr=False, eq=False)

    def __attrs_post_init__(self) -> None:
        object.__setattr__(self, "_hides", keys.rule(self.extra, self.keep))

    def hides(self, key: str) -> bool:
        """Return whether the value under *key* is to be replaced by :data:`REDACTED`."""
        return self._hides(key)

    @property
    def suspicious(self) -> str:
        """A regular expression for the letters of an ASCII key, in lower case: found in all that are hidden, and in more."""
        return keys.suspicious(self.extra)
