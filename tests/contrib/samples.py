"""Inbound header values, as a middleware receives them: text decoded as latin-1."""

from __future__ import annotations

from uuid import UUID

REQUEST_ID = "5f0c7a52-9d1e-4b3a-8c6f-0123456789ab"
TRACEPARENT = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
AMAZON = "Root=1-67891233-abcdef012345678912345678"

DROPPED = {
    "empty": "",
    "blank": "   ",
    "two joined by a server": f"{REQUEST_ID},{REQUEST_ID}",
    "two joined with a space": f"{REQUEST_ID}, other",
    "CRLF": f"{REQUEST_ID}\r\nSet-Cookie: admin=1",
    "trailing LF": f"{REQUEST_ID}\n",
    "NUL": "a\x00b",
    "control character": "\x01abc",
    "latin-1": "\xff\xfe",
    "Unicode digits": ("٣" * 32).encode().decode("latin-1"),
    "braces": f"{{{REQUEST_ID}}}",
    "markup": "<script>alert(1)</script>",
    "quotes": "a'b\"c",
    "percent": "%0d%0aX: y",
    "201 characters": "a" * 201,
    "64 kB": "a" * 65536,
    "CRLF in a field beside an Amazon id": f"A=\r\nSet-Cookie: admin=1;{AMAZON}",
    "comma in a field beside an Amazon id": f"A=b,c;{AMAZON}",
    "two traceparents of a later version joined": f"01{TRACEPARENT[2:]}-x,01{TRACEPARENT[2:]}",
    "latin-1 in a field beside an Amazon id": f"A=\xff;{AMAZON}",
}

ON_THE_WIRE = {name: value for name, value in DROPPED.items() if not {"\r", "\n"} & {*value}}
"""Those that can be sent as one header line: a line end would make two of it."""


def is_minted(text: str) -> bool:
    """Say whether *text* is the canonical form of a UUIDv7, as this library makes them."""
    return str(UUID(text)) == text and UUID(text).version == 7
