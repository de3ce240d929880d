"""Payment card numbers in texts, told from other long numbers by issuer, length and check digit."""

from __future__ import annotations

import re

from provenance.values.texts import REDACTED

# First and last prefix of an issuer's numbers, and how many digits they have: ISO/IEC 7812-1, and the ranges that the
# issuers publish, as listed in https://en.wikipedia.org/wiki/Payment_card_number. Left out are lengths below 14: Visa's of
# 13 digits are no longer issued, and the article numbers (EAN) of some countries look just like them.
_ISSUERS = (
    (4, 4, (16, 18, 19)),  # Visa
    (51, 55, (16,)),  # Mastercard
    (2221, 2720, (16,)),
    (34, 34, (15,)),  # American Express
    (37, 37, (15,)),
    (300, 305, (14, 16, 19)),  # Diners Club
    (3095, 3095, (14, 16, 19)),
    (36, 36, (14, 16, 19)),
    (38, 39, (14, 16, 19)),
    (6011, 6011, (16, 19)),  # Discover
    (644, 659, (16, 19)),  # and RuPay, Troy, Verve
    (3528, 3589, (16, 19)),  # JCB
    (62, 62, (16, 17, 18, 19)),  # UnionPay
    (60, 60, (16,)),  # RuPay
    (81, 82, (16,)),
    (508, 508, (16,)),
    (2200, 2204, (16, 17, 18, 19)),  # Mir
    (5018, 5018, (16, 18, 19)),  # Maestro
    (5020, 5020, (16, 18, 19)),
    (5038, 5038, (16, 18, 19)),
    (5893, 5893, (16, 18, 19)),
    (6304, 6304, (16, 18, 19)),
    (6759, 6763, (16, 18, 19)),
)
# Of the digits 0 to 9 doubled, the cross sums.
_DOUBLED = (0, 2, 4, 6, 8, 1, 3, 5, 7, 9)
_SHORTEST = 14
LEAST = 10 ** (_SHORTEST - 1)
"""No smaller number is that of a card."""

# It begins with the digit, which lets the engine skip all other text; what may stand before that is looked at afterwards.
# A digit after a point belongs to a fraction, and one after a plus to a telephone number.
_CANDIDATE = re.compile(
    r"""[0-9](?<![^\W_][0-9])(?<!\+[0-9])(?<![0-9]\.[0-9])
    (?:[0-9]{13,18}
    | [0-9]{3}(?P<four>[ .\-\xa0\u2010-\u2013])[0-9]{4}(?P=four)[0-9]{4}(?P=four)[0-9]{4}(?:(?P=four)[0-9]{3})?
    | [0-9]{3}(?P<six>[ .\-\xa0\u2010-\u2013])[0-9]{6}(?P=six)[0-9]{4,5})
    (?![^\W_])(?!\.[0-9])""",
    re.VERBOSE,
)
_IBAN_HEAD = re.compile(r"(?<![^\W_])[A-Z]{2}[0-9]{2}(?: [A-Z0-9]{4}){0,6} \Z")
_IBAN = re.compile(r"[A-Z]{2}[0-9]{2}(?: [A-Z0-9]{4}){2,7}(?: [A-Z0-9]{1,3})?(?![^\W_])")


def is_card(digits: str) -> bool:
    """Return whether ASCII digits are those of a payment card.

    The check digit is that of Luhn: https://www.iso.org/standard/70484.html, annex B.
    """
    if not any(
        first <= int(digits[: len(str(first))]) <= last and len(digits) in lengths for first, last, lengths in _ISSUERS
    ):
        return False
    single, doubled = map(int, digits[::-2]), map(int, digits[-2::-2])
    return (sum(single) + sum(_DOUBLED[digit] for digit in doubled)) % 10 == 0


def is_card_number(number: int) -> bool:
    """Return whether an int has the digits of a payment card."""
    return number >= LEAST and number < LEAST * 10**6 and is_card(str(number))


def _in_iban(found: re.Match[str]) -> bool:
    """Return whether groups of four digits are part of an account number, by its own check digits (ISO 13616)."""
    head = _IBAN_HEAD.search(found.string, max(found.start() - 40, 0), found.start())
    whole = _IBAN.match(found.string, head.start()) if head else None
    if whole is None:
        return False
    compact = whole[0].replace(" ", "")
    return int("".join(str(int(letter, 36)) for letter in compact[4:] + compact[:4])) % 97 == 1


def _judged(found: re.Match[str]) -> str:
    digits = "".join(filter(str.isdigit, found[0]))
    return REDACTED if is_card(digits) and not _in_iban(found) else found[0]


def hidden(text: str) -> str:
    """Return *text* without the card numbers in it, in one piece or in the groups that are embossed."""
    return _CANDIDATE.sub(_judged, text) if len(text) >= _SHORTEST else text
