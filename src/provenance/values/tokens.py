"""Secrets that can be recognised by their own form, whatever they are called: keys, tokens, passwords in addresses.

Every pattern takes time linear in the text: what repeats without bound begins only where its characters begin, or consumes
what it has read. Most texts are told to hold nothing by a search for a few fixed strings.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Callable
from functools import cache

from provenance.values.texts import REDACTED

_SHORTEST = 6  # "://:p@"
_SHORTEST_FORM = 15

# RFC 7468, RFC 4880 (PGP), and the formats of OpenSSH and, with four dashes and a blank, of SSH2. One without an end goes
# on to the end of the text.
_PRIVATE_KEY = re.compile(
    r"----[- ]BEGIN [A-Z0-9 ]{0,40}PRIVATE KEY(?: BLOCK)? ?-----?"
    r".*?(?:----[- ]END [A-Z0-9 ]{0,40}PRIVATE KEY(?: BLOCK)? ?-----?|\Z)",
    re.DOTALL,
)
# RFC 7519: base64url of a JSON object, then one to four more parts. A first part that is followed by just one may be
# anything that was signed; with a second object after it, it is a token whose signature was cut off.
_JWT = re.compile(
    r"(?<![A-Za-z0-9_-])eyJ[A-Za-z0-9_-]{7,}+(?:\.eyJ[A-Za-z0-9_-]++|(?:\.[A-Za-z0-9_-]*+){2})"
    r"(?:\.[A-Za-z0-9_-]*+){0,3}"
)
# RFC 6750, RFC 7617, and what Django REST framework and others use.
_AUTHORIZATION = re.compile(r"(?i)(?<![^\W_])(bearer|basic|negotiate|token)([ ]++)([A-Za-z0-9._~+/=-]{6,}+)")
# RFC 3986, 3.2.1; a user and a password may hold "@" all the same. The last form has an unescaped slash in the password:
# after the colon is no port. Inside JSON the slashes may be escaped.
_USERINFO = re.compile(
    r"""(?P<head>:\\{0,9}/\\{0,9}/)(?:
    (?P<user>[^\s/?\#"<>:]*+):[^\s/?\#"<>]*@
    | (?P<alone>[^\s/?\#"<>@:]*+)(?:
        (?P<one>@)
        | :(?![0-9]*+(?:[/?\#\s]|\Z))(?<!\[:)(?:(?!://)[^\s"<>@])*+@))""",
    re.VERBOSE,
)
# The addresses of servers that have databases have no "@" in what follows the port, and a password in them may hold all
# that should have been escaped: blanks, and what looks like a port.
_DATABASE = re.compile(
    r"""(?P<head>\b(?:postgres(?:ql)?|mysql|mariadb|mssql|oracle|clickhouse|mongodb|rediss?|valkey|amqps?|ldaps?|smtps?)
    (?:\+\w{1,30})?:\\{0,9}/\\{0,9}/[^\s/?\#"<>:]{0,200}+:)(?:
    [0-9]++[/?\#][^\s"<>@=&]{1,200}+
    | (?![0-9]++(?:\W|\Z))(?!\s)(?:(?!://)[^\r\n"<>@]){1,200}+
    )@(?:[^\s/?\#"<>@]*@)*""",
    re.VERBOSE,
)
# As the driver of MySQL for Go has it, without a scheme.
_WITHOUT_SCHEME = re.compile(r"""(?<![^\s"'`=(])([^\s:/"'`=(]{1,64}+:)[^\s"'`]{1,200}?(?=@(?:tcp[46]?|unix)\()""")
_LONGEST_USER = 20


def _plain(token: str) -> bool:
    """Return whether a token may be words: letters, in the case of words."""
    return all(
        part.isalpha() and (part[1:].islower() or part.isupper() or len(part) == 1)
        for part in re.split(r"[._~+/=-]+", token)
        if part
    )


def _decoded(token: str) -> bytes:
    """Decode the base64 that a token begins with, in either alphabet and whether padded or not."""
    letters = re.split("[^A-Za-z0-9+/]", token.replace("-", "+").replace("_", "/"), maxsplit=1)[0]
    if len(letters) % 4 == 1:
        letters = letters[:-1]
    return base64.b64decode(letters + "=" * (-len(letters) % 4))


def _authorization(found: re.Match[str]) -> str:
    scheme, blank, token = found.groups()
    match scheme.lower():
        case "basic":
            # "Basic information" is no base64 of a user and a password.
            secret = b":" in _decoded(token)
        case "token":
            secret = len(token) >= 20 and not _plain(token)
        case _:
            secret = not _plain(token)
    return f"{scheme}{blank}{REDACTED}" if secret else found[0]


def _userinfo(found: re.Match[str]) -> str:
    # A token may stand in the place of the user.
    user = found["alone"] if found["user"] is None else found["user"]
    user = user if len(user) < _LONGEST_USER else REDACTED
    return f"{found['head']}{user}@" if found["one"] else f"{found['head']}{user}:{REDACTED}@"


def _unless_plain(found: re.Match[str]) -> str:
    return found[0] if _plain(found[0]) else REDACTED


def _after_prefix(found: re.Match[str]) -> str:
    return found[1] + REDACTED


_Replacement = str | Callable[[re.Match[str]], str]
_Row = tuple[str, str, _Replacement]


def _form(needle: str, pattern: str, replacement: _Replacement = REDACTED) -> _Row:
    return needle, "(?<![A-Za-z0-9])" + pattern, replacement


def _forms(prefixes: str, rest: str) -> list[_Row]:
    return [_form(prefix, re.escape(prefix) + rest) for prefix in prefixes.split()]


# What must be in the text, the pattern, and what takes its place. Sources: for AWS "IAM identifiers" in its IAM user
# guide; for GitHub
# https://github.blog/engineering/platform-security/behind-githubs-new-authentication-token-formats/; for GitLab
# "Token prefixes" in its documentation; for Slack "Token types" in its API documentation; for Tailscale
# https://tailscale.com/kb/1277/key-prefixes; for Databricks https://docs.databricks.com/en/dev-tools/auth/pat.html;
# for PuTTY "PPK file format" in its manual; for Docker, Grafana, Notion and Supabase the rules of
# https://github.com/gitleaks/gitleaks and of scanners that follow it; the others begin as their providers'
# documentation shows them. Publishable keys (Stripe's pk_) are none.
_FORMS: list[_Row] = [
    # An access key id, and the secret that is next to it in a file of credentials.
    *_forms(
        "AKIA ASIA ABIA ACCA",
        r"[A-Z2-7]{16}(?![A-Za-z0-9])(?:[^A-Za-z0-9/+=]{1,9}[A-Za-z0-9/+]{40}(?![A-Za-z0-9/+=]))?",
    ),
    *_forms("AIza", r"[A-Za-z0-9_-]{35}"),  # Google
    *_forms("ya29. GOCSPX-", r"[A-Za-z0-9_-]{20,}"),
    *_forms("ghp_ gho_ ghu_ ghs_ ghr_", r"[A-Za-z0-9_.-]{30,}"),  # GitHub
    *_forms("github_pat_", r"[A-Za-z0-9_]{22,}"),
    *_forms(
        "glpat- gloas- gldt- glrt- glrtr- glcbt- glptt- glft- glimt- glagent- glsoat- glffct- glwt-",  # GitLab
        r"[A-Za-z0-9_.-]{20,}",
    ),
    *_forms("xoxd-", r"[A-Za-z0-9%+/=-]{10,}"),  # Slack's cookie, as it is and encoded
    _form("xox", r"xox[a-z](?:\.xox[a-z])?-[A-Za-z0-9-]{10,}"),  # Slack
    *_forms("xapp-", r"[A-Za-z0-9-]{10,}"),
    _form("hooks.slack.com/", r"(hooks\.slack\.com/[a-z]{1,20}/)[A-Za-z0-9/_-]{10,}", _after_prefix),
    ("/api/webhooks/", r"(/api/webhooks/)[0-9]{17,20}/[A-Za-z0-9_-]{30,}", _after_prefix),  # Discord
    # Whoever has an address that was signed may do what it says: of Azure, AWS and Google.
    *(
        (needle, rf"([?&](?:X-[A-Z][a-z]{{2,3}}-)?{needle})[^\s&#\"'<>]+", _after_prefix)
        for needle in ("sig=", "Signature=")
    ),
    *_forms("sk_live_ sk_test_ sk_org_live_ sk_org_test_ rk_live_ rk_test_ whsec_", r"[A-Za-z0-9+/=]{10,}"),  # Stripe
    _form("sk-", r"sk-[A-Za-z0-9_-]{20,}", _unless_plain),  # OpenAI, Anthropic and others
    *_forms("npm_ hf_ gsk_ lin_api_", r"[A-Za-z0-9]{30,}"),  # npm, Hugging Face, Groq, Linear
    *_forms("figd_ ATATT3 sntrys_ sntryu_", r"[A-Za-z0-9_=+/-]{30,}"),  # Figma, Atlassian, Sentry
    *_forms("NRAK-", r"[A-Z0-9]{27}"),  # New Relic
    *_forms("EAA", r"[A-Za-z0-9]{60,}"),  # Facebook
    *_forms("1//0", r"[A-Za-z0-9_-]{30,}"),  # refresh tokens of Google's
    *_forms("pypi-AgE hvs. hvb.", r"[A-Za-z0-9_-]{20,}"),  # PyPI, Vault
    *_forms("dckr_pat_ dckr_oat_", r"[A-Za-z0-9_-]{20,}"),  # Docker
    *_forms("glsa_", r"[A-Za-z0-9]{32}_[A-Fa-f0-9]{8}"),  # Grafana
    *_forms("dapi", r"[a-f0-9]{32}(?![A-Za-z0-9])(?:-[0-9]{1,3})?"),  # Databricks
    *_forms("sbp_", r"[a-f0-9]{40}"),  # Supabase
    *_forms("tskey-", r"[a-z]{1,20}-[A-Za-z0-9-]{10,}"),  # Tailscale
    *_forms("ntn_", r"[A-Za-z0-9]{40,}"),  # Notion
    *_forms("SG.", r"[A-Za-z0-9_-]{20,24}\.[A-Za-z0-9_-]{39,}"),  # SendGrid
    *_forms("dop_v1_ doo_v1_ dor_v1_", r"[a-f0-9]{64}"),  # DigitalOcean
    *_forms("shpat_ shpca_ shppa_ shpss_", r"[A-Fa-f0-9]{32}"),  # Shopify
    *_forms("AGE-SECRET-KEY-1", r"[A-Z0-9]{20,}"),
    (
        "Private-Lines: ",  # PuTTY
        r"(?s)(Private-Lines: [0-9]{1,4}(?:\r?\n|\\n)).*?(?=(?:\r?\n|\\n)Private-(?:MAC|Hash):|\Z)",
        _after_prefix,
    ),
    # Telegram's, which follow the word "bot" in addresses.
    (":AA", r"(?<![0-9])[0-9]{8,10}:AA[A-Za-z0-9_-]{32,}", REDACTED),
]

# Few of the forms ever occur in one process, and to compile them all takes longer than much else when it starts.
_compiled = cache(re.compile)


# What all the forms have, but for those that begin so. Most texts are told to hold none by a single search.
_EXCEPT = ("sig=", "Signature=", "Private-Lines: ")
_LONG_WORD = re.compile(rf"[A-Za-z0-9_./+=%-]{{{_SHORTEST_FORM}}}")


def _may_have_a_form(text: str) -> bool:
    return len(text) >= _SHORTEST_FORM and (
        _LONG_WORD.search(text) is not None or any(needle in text for needle in _EXCEPT)
    )


def _without_passwords(text: str) -> str:
    if "://" in text or ":\\" in text:
        text = _USERINFO.sub(_userinfo, text)
        text = _DATABASE.sub(rf"\g<head>{REDACTED}@", text)
    return _WITHOUT_SCHEME.sub(rf"\1{REDACTED}", text) if "@tcp" in text or "@unix" in text else text


def hidden(text: str) -> str:
    """Return *text* without the secrets in it that can be told by their form; the rest stays as it is."""
    if len(text) < _SHORTEST:
        return text
    if "PRIVATE KEY" in text:
        text = _PRIVATE_KEY.sub(REDACTED, text)
    if "@" in text:
        text = _without_passwords(text)
    if "eyJ" in text and "." in text:
        text = _JWT.sub(REDACTED, text)
    if " " in text:
        lower = text.lower()
        if "bearer " in lower or "basic " in lower or "negotiate " in lower or "token " in lower:
            text = _AUTHORIZATION.sub(_authorization, text)
    if _may_have_a_form(text):
        for needle, pattern, replacement in _FORMS:
            if needle in text:
                text = _compiled(pattern).sub(replacement, text)
    return text
