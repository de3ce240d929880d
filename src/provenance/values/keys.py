"""Which keys are those of secrets, by the words in them."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Iterable, Iterator
from functools import lru_cache
from typing import TypeVar

T = TypeVar("T")

# Camel case inside a run of letters: an acronym, or a capitalised or lower-case word.
_CAMEL = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+")
_LETTERS = re.compile(r"[^\W\d_]+")

_LONGEST_CACHED_KEY = 128
_CACHED_KEYS = 4096


def words(key: str) -> list[str]:
    """Split a key at case changes, digits and everything that is not a letter, into lower-case words."""
    found: list[str] = []
    if not key.isascii():
        # Letters in another form, such as those of full width, are the same letters. One by one: marks stay apart.
        key = "".join([unicodedata.normalize("NFKC", character) for character in key])
    for run in _LETTERS.findall(key):
        found += _CAMEL.findall(run) if run.isascii() else [run]
    return [word.casefold() for word in found]


def checked(given: Iterable[str]) -> tuple[str, ...]:
    """Return keys that a user gives.

    Raises:
        TypeError: it is a single text.
        ValueError: one of the keys has no letter in it.
    """
    if isinstance(given, str):
        raise TypeError('expected a list of keys, got text; write ("iban",) for a single key')
    keys = tuple(given)
    if not all(map(words, keys)):
        raise ValueError("a key without any letter cannot be matched; give keys as they are written in the data")
    return keys


# Every entry is compared with each word of a key and with each two neighbours read as one, in singular and plural:
# "apikey" hides api_key, apiKey, API-Keys and apikey; "jwt" hides JWTs, which splits into jw and ts.
_SECRETS = frozenset(
    words(
        "accesskey accountkey aeskey apikey apipass authcode authkey authorization authpass backupcode bearer bindpw "
        "cardno cardnumber ccno ccnumber codeverifier cookie credential creditcard creds csrf cvc cvv dbpass debitcard "
        "encryptionkey facode factorcode hmackey jwt keypass masterkey mfacode otp passcode passphrase passwd password "
        "passwordhash pin presharedkey privatekey psk pwd recoverycode secret secretkey securitycode seedphrase sessid "
        "sessionid sessionkey sharedkey signingkey smscode socialsecurity sshkey sshpass ssn storepass token totp userpass "
        "verificationcode xsrf"
    )
)
# Hidden only as the last word: db_pass and basic_auth hold a secret, pass_rate and auth_method do not.
_SECRET_ENDINGS = frozenset({"auth", "pass"})
# Written as one word (csrftoken, userpassword, passwordhash), these leave no boundary to see. Each is the end of no
# ordinary English word, which is not true of "pin", "otp" or "pass" (spin, laptop, compass).
_SECRET_TAILS = (
    *("apikey", "cookie", "credential", "passphrase", "passwd", "password", "pwd", "secret", "secretkey", "sessid"),
    *("sessionid", "token"),
)
_SECRET_HEADS = ("passwd", "password")
# A key that ends so tells about a secret and does not hold it: token_count, password_changed_at, cookie_consent. What
# could be said of a secret and be one is named with what it is said of: api_key_name is none, password_name may be one.
_HARMLESS_ENDINGS = frozenset(
    words(
        "arn at attempts boardingpass bostoken budget consent cookiedomain cookiename count cvccheck cvvcheck enabled "
        "eostoken expiration expiry issuer keyid keyname keyprefix length limit numberlast padtoken passwordstrength policy "
        "required secretname sentto status tokenendpoint tokenid tokenname tokenurl ttl type unktoken usage"
    )
)
# Tokens that are counted are those of a language model: max_tokens, completion_tokens, tokens_used, input_token_details.
_COUNTED = frozenset(words("audio cached completion input max min num output prompt reasoning remaining total used"))


def _runs(split: list[str], longest: int) -> Iterator[str]:
    """Yield every run of 1 to *longest* neighbouring words, read as one."""
    for size in range(1, longest + 1):
        for start in range(len(split) - size + 1):
            yield "".join(split[start : start + size])


def _listed(run: str, names: frozenset[str]) -> bool:
    return run in names or run.removesuffix("s") in names


def _written_together(word: str) -> bool:
    if word.removesuffix("s").endswith(_SECRET_TAILS):
        return True
    return word.startswith(_SECRET_HEADS) and not word.endswith("less")


def _counts_tokens(split: list[str]) -> bool:
    if split[-1] == "details":
        split = split[:-1]
        return split[-1:] in (["token"], ["tokens"]) and not _COUNTED.isdisjoint(split[-2:-1])
    return "tokens" in split[-2:] and not _COUNTED.isdisjoint(split[-2:])


def _asks(split: list[str]) -> bool:
    """Return whether a key is a question, to be answered with yes or no: has_api_key, is_password_set."""
    return (split[0] == "has" and 1 < len(split) <= 3) or (split[0] == "is" and split[-1] == "set")


def _holds_secret(split: list[str]) -> bool:
    last = split[-1]
    if last in _HARMLESS_ENDINGS or "".join(split[-2:]) in _HARMLESS_ENDINGS or _counts_tokens(split) or _asks(split):
        return False
    return (
        last in _SECRET_ENDINGS
        or any(map(_written_together, split))
        or any(_listed(run, _SECRETS) for run in _runs(split, 2))
    )


def remembered(answer: Callable[[str], T]) -> Callable[[str], T]:
    """Return a function that gives the same answer about a key, and remembers it: most keys come again and again.

    They may come from a stranger too, so what is remembered is bounded in number, and the keys in length.
    """
    cached = lru_cache(_CACHED_KEYS)(answer)

    def remember(key: str) -> T:
        return cached(key) if len(key) <= _LONGEST_CACHED_KEY else answer(key)

    return remember


class Rule:
    """Tells what becomes of a key, given the user's own.

    Args:
        extra: keys to hide too, wherever their words follow one another.
        keep: keys to leave alone, as a whole.
    """

    __slots__ = ("_extra", "_kept", "_longest", "hides")

    def __init__(self, extra: Iterable[str], keep: Iterable[str]) -> None:
        split = [words(key) for key in extra]
        self._extra = frozenset(map("".join, split))
        self._longest = max(map(len, split), default=0)
        self._kept = frozenset("".join(words(key)) for key in keep)
        self.hides = remembered(self._hides)

    def keeps(self, key: str) -> bool:
        return bool(self._kept) and "".join(words(key)) in self._kept

    def _hides(self, key: str) -> bool:
        split = words(key)
        if not split or "".join(split) in self._kept:
            return False
        return any(_listed(run, self._extra) for run in _runs(split, self._longest)) or _holds_secret(split)


def suspicious(extra: Iterable[str]) -> str:
    """Return a regular expression for the letters of an ASCII key, in lower case: found in all hidden ones, and in more."""
    parts = {*_SECRETS, *_SECRET_ENDINGS, *_SECRET_TAILS, *_SECRET_HEADS}
    return "|".join(sorted(parts | {"".join(words(key)) for key in extra}))
