"""Secrets inside texts: what is hidden of them, what is left, and what it costs."""

from __future__ import annotations

import base64
import itertools
import json
import re
import time
import uuid
from collections.abc import Callable
from typing import Any
from urllib.parse import quote, urlencode

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from provenance.errors import InvalidAction, UnserializableValue
from provenance.values import REDACTED, Redactor, message, to_json, to_json_marked, tokens
from tests.strategies import CANARY, Box, Crate, any_text, unhurried

REDACTOR = Redactor()


def joined(*parts: str) -> str:
    """Return a made-up secret. In parts, or whoever scans this source for secrets would find one."""
    return "".join(parts)


def encoded(*parts: object) -> str:
    """Return the parts of a token in base64url, joined by dots."""
    return ".".join(base64.urlsafe_b64encode(json.dumps(part).encode()).decode().rstrip("=") for part in parts)


LETTERS = "aB3dEfGh1jKlMn0pQrStUvWxYz4567aBcDeFgHiJkLmN"
JWT = encoded({"alg": "HS256", "typ": "JWT"}, {"sub": "ada", "exp": 1}) + ".c2lnbmF0dXJlLXNpZ25hdHVyZQ"
PEM = joined("-----BEGIN RSA PRIV", "ATE KEY-----\nMIIEow\nIBAAKC+/=\n-----END RSA PRIV", "ATE KEY-----")
OPENSSH = joined("-----BEGIN OPENSSH PRIV", "ATE KEY-----\nb3BlbnNz")
AWS_ID = joined("AKIA", "IOSFODNN7EXAMPLE")
AWS_SECRET = joined("wJalrXUtnFEMI/K7MDENG", "/bPxRfiCYEXAMPLEKEY")
GITHUB = joined("ghp_", LETTERS[:36])
OPENAI = joined("sk-", "proj-", LETTERS)

MULTIPART = (
    '--b\r\nContent-Disposition: form-data; name="password"\r\n\r\n{}\n'
    '--b\r\nContent-Disposition: form-data; name="a"\r\n\r\n1\r\n--b--'
)

PYDANTIC = (
    "2 validation errors for User\nname\n  Bad [type=x, input_value='ada', input_type=str]\n"
    "{}\n  String should have at least 20 characters [type=string_too_short, input_value={}, input_type=str]\n"
    "    For further information visit https://errors.pydantic.dev/2/v/string_too_short"
)

# A text, and what is stored of it.
PARTLY_HIDDEN = [
    # tokens by their form
    (f"got {JWT}, which has expired", "got [redacted], which has expired"),
    (f"({JWT.rpartition('.')[0]})", "([redacted])"),
    (encoded({"enc": "A256GCM", "alg": "dir"}) + "..aXY.Y2lwaGVy.dGFn", "[redacted]"),
    (f"before\n{PEM}\nafter", "before\n[redacted]\nafter"),
    (f"cut off: {OPENSSH}", "cut off: [redacted]"),
    (PEM.replace("RSA ", "").replace("\n", "\\n"), "[redacted]"),
    (f"{PEM} and {PEM}", "[redacted] and [redacted]"),
    (joined("-----BEGIN PGP PRIV", "ATE KEY BLOCK-----\nxyz\n-----END PGP PRIV", "ATE KEY BLOCK-----"), "[redacted]"),
    (f"user {AWS_ID} may not", "user [redacted] may not"),
    (f"{AWS_ID},{AWS_SECRET}\nnext", "[redacted]\nnext"),
    (f"Secret access key: {AWS_SECRET}", "Secret access key: [redacted]"),
    (f"aws_secret_access_key = {AWS_SECRET}\nregion = eu", "aws_secret_access_key = [redacted]\nregion = eu"),
    (f"?key={joined('AIza', LETTERS[:35])}&q=x", "?key=[redacted]&q=x"),
    (joined("ya29.", LETTERS), "[redacted]"),
    (joined("GOCSPX-", LETTERS[:28]), "[redacted]"),
    (f"push with {GITHUB} failed", "push with [redacted] failed"),
    (joined("github_pat_", LETTERS[:22], "_", LETTERS), "[redacted]"),
    (joined("glpat-", LETTERS[:20]), "[redacted]"),
    (joined("glrt-", LETTERS[:20]), "[redacted]"),
    (joined("xox", "b-1234567890-1234567890-abcdefghij"), "[redacted]"),
    (joined("xapp-", "1-A012345-678-abcdef"), "[redacted]"),
    (joined("https://hooks.slack.com/", "services/T0001/B0001/XXXXXXXXXXXX"), "https://hooks.slack.com/services/[redacted]"),
    (joined("sk_", "live_", LETTERS[:24]), "[redacted]"),
    (joined("rk_", "test_", LETTERS[:24]), "[redacted]"),
    (joined("whsec_", LETTERS[:32]), "[redacted]"),
    (f"Incorrect API key provided: {OPENAI}.", "Incorrect API key provided: [redacted]."),
    (joined("sk-", "ant-api03-", LETTERS), "[redacted]"),
    (joined("npm_", LETTERS[:36]), "[redacted]"),
    (joined("pypi-", "AgEIcHlwaS5vcmc", LETTERS), "[redacted]"),
    (joined("SG.", LETTERS[:22], ".", LETTERS[:43]), "[redacted]"),
    (joined("hvs.", LETTERS), "[redacted]"),
    (joined("shpat_", "0123456789abcdef" * 2), "[redacted]"),
    (joined("https://api.telegram.org/bot", "123456789:AA", LETTERS[:33], "/sendMessage"), "https://api.telegram.org/bot[redacted]/sendMessage"),
    (joined("gsk_", LETTERS), "[redacted]"),
    (joined("NRAK-", "ABCDEFGHIJ0123456789ABCDEFG"), "[redacted]"),
    (joined("sntrys_", LETTERS), "[redacted]"),
    (joined("lin_api_", LETTERS[:40]), "[redacted]"),
    (joined("figd_", LETTERS[:40]), "[redacted]"),
    (joined("ATATT3xFf", LETTERS), "[redacted]"),
    (joined("1//0", LETTERS), "[redacted]"),
    (joined("EAAG", LETTERS, LETTERS), "[redacted]"),
    (joined("https://discord.com/api/", "webhooks/123456789012345678/", LETTERS, LETTERS[:24]),
     "https://discord.com/api/webhooks/[redacted]"),
    ("https://x.blob.core.windows.net/a?sv=2024&sig=aB3%2Bd%3D&se=2026", "https://x.blob.core.windows.net/a?sv=2024&sig=[redacted]&se=2026"),
    ("https://b.s3.amazonaws.com/k?X-Amz-Date=1&X-Amz-Signature=0123abcd", "https://b.s3.amazonaws.com/k?X-Amz-Date=1&X-Amz-Signature=[redacted]"),
    ("https://storage.googleapis.com/b/k?X-Goog-Signature=0123abcd&a=1", "https://storage.googleapis.com/b/k?X-Goog-Signature=[redacted]&a=1"),
    ("grant_type=authorization_code&code_verifier=abc&n=1", "grant_type=authorization_code&code_verifier=[redacted]&n=1"),
    # authorization
    ("Bearer mF_9.B5f-4.1JqM", "Bearer [redacted]"),
    ("bearer 0123456789abcdef", "bearer [redacted]"),
    ("sent Basic dXNlcjpwYXNz today", "sent Basic [redacted] today"),
    ("Basic dXNlcjpwYXNzd29yZA==", "Basic [redacted]"),
    ("Token 9944b09199c62bcf9418ad846dd0e4bbdfc6ee4b", "Token [redacted]"),
    ("Authorization: Bearer abcdefgh\r\nHost: x", "Authorization: [redacted]\r\nHost: x"),
    ("curl -H 'Authorization: Basic abc' https://x", "curl -H 'Authorization: [redacted]' https://x"),
    ("GET /\nCookie: a=b; c=d\nX-Api-Key: k\nAccept: */*", "GET /\nCookie: [redacted]\nX-Api-Key: [redacted]\nAccept: */*"),
    ("sent 'Cookie: a=b; c=d' and more", "sent 'Cookie: [redacted]' and more"),
    # addresses
    ("postgresql://ada:hunter2@db:5432/app?sslmode=require", "postgresql://ada:[redacted]@db:5432/app?sslmode=require"),
    ("redis://:hunter2@cache/0", "redis://:[redacted]@cache/0"),
    ("amqp://u:p@ss@host/v", "amqp://u:[redacted]@host/v"),
    ("see https://ada:a/b@host/x", "see https://ada:[redacted]@host/x"),
    (f"https://{GITHUB}@example.org/r.git", "https://[redacted]@example.org/r.git"),
    ("https://0123456789abcdef0123456789abcdef@sentry.example/1", "https://[redacted]@sentry.example/1"),
    ("https://0123456789abcdef0123456789abcdef:x-oauth@h", "https://[redacted]:[redacted]@h"),
    ("from postgres://a:b@c to postgres://d:e@f", "from postgres://a:[redacted]@c to postgres://d:[redacted]@f"),
    ("https://x/cb?state=1&access_token=abc#id_token=d", "https://x/cb?state=1&access_token=[redacted]"),
    # connection strings and settings
    ("host=db user=ada password=hunter2 dbname=app", "host=db user=ada password=[redacted] dbname=app"),
    (r"password='hun\'ter 2' host=db", "password='[redacted]' host=db"),
    ("password = 'it''s' host=db", "password = '[redacted]' host=db"),
    ("Server=db;Password=a,b;Database=app", "Server=db;Password=[redacted];Database=app"),
    ("AccountName=x;AccountKey=abc==;EndpointSuffix=y", "AccountName=x;AccountKey=[redacted];EndpointSuffix=y"),
    ("PGPASSWORD=x psql", "PGPASSWORD=[redacted] psql"),
    ("export API_KEY=\"a b\"\nexport HOME=/", "export API_KEY=\"[redacted]\"\nexport HOME=/"),
    ("psql --password hunter2 --host db", "psql --password [redacted] --host db"),
    ("run --api-key='a b' --token-type x", "run --api-key='[redacted]' --token-type x"),
    ("run --secret 'a b' now", "run --secret '[redacted]' now"),
    ("login failed: password: hunter2, ip 10.0.0.1", "login failed: password: [redacted] ip 10.0.0.1"),
    ("db:\n  user: ada\n  password: correct horse\n  host: x", "db:\n  user: ada\n  password: [redacted]\n  host: x"),
    ("Your api key: abc def", "Your api key: [redacted] def"),
    ("password => hunter2", "password => [redacted]"),
    ("$config['password'] = 'x';", "$config['password'] = '[redacted]';"),
    ("if password == 'hunter2' then", "if password == '[redacted]' then"),
    ("User(name='ada', password=b'x y', age=3)", "User(name='ada', password=b'[redacted]', age=3)"),
    ("{'user': 'ada', 'password': 'hunter2', 'n': 1}", "{'user': 'ada', 'password': '[redacted]', 'n': 1}"),
    ("{'tokens': ['a', 'b'], 'n': 1}", "{'tokens': [redacted]"),
    # forms
    ("user=ada&password=hun%26ter2&n=1", "user=ada&password=[redacted]&n=1"),
    ("user%5Bpassword%5D=x&a=1", "user%5Bpassword%5D=[redacted]&a=1"),
    ("user[password]=x&user[name]=ada", "user[password]=[redacted]&user[name]=ada"),
    ("pass%77ord=x", "pass%77ord=[redacted]"),
    ("password=&user=ada&token=", "password=&user=ada&token="),
    ("next=postgres%3A%2F%2Fu%3Ahunter2%40h&a=1", "next=postgres://u:[redacted]@h&a=1"),
    (MULTIPART.format("hunter2\r"), MULTIPART.format("[redacted]")),
    ('Content-Disposition: form-data; name=token\n\nabc', 'Content-Disposition: form-data; name=token\n\n[redacted]'),
    # markup
    ("<login><user>ada</user><wsse:Password Type='x'>hunter2</wsse:Password></login>",
     "<login><user>ada</user><wsse:Password Type='x'>[redacted]</wsse:Password></login>"),
    ("<a></a><secret><![CDATA[x]]></secret>", "<a></a><secret><![CDATA[[redacted]</secret>"),
    # JSON
    ('{"user":"ada","password":"hunter2"}', '{"user":"ada","password":"[redacted]"}'),
    (' {"a": 1.50, "b": [{"apiKey": {"x": 1}}]}\n', '{"a":1.50,"b":[{"apiKey":"[redacted]"}]}'),
    (r'{"pass\u0077ord":1}', '{"password":"[redacted]"}'),
    ('{"n":"token=a","n":"b"}', '{"n":"token=[redacted]","n":"b"}'),
    ('["postgres://a:b@c",true,null,NaN,12345678901234567890123]', '["postgres://a:[redacted]@c",true,null,NaN,12345678901234567890123]'),
    ('[4111111111111111]', '["[redacted]"]'),
    ('"password=x"', '"password=[redacted]"'),
    (json.dumps({"body": json.dumps({"token": "x"})}), '{"body":"{\\"token\\":\\"[redacted]\\"}"}'),
    ('body: {"password": "hunter2", "n": 1}', 'body: {"password": "[redacted]", "n": 1}'),
    (r'logged {\"password\": \"hun\\\"ter2\", \"n\": 1}', r'logged {\"password\": \"[redacted]\", \"n\": 1}'),
    ('{"n": 1, "password": "hunt', '{"n": 1, "password": "[redacted]'),
    ('{"n": 1, "passwords": {"a": "b", ', '{"n": 1, "passwords": [redacted]'),
    ('{"n": 1}\n{"password": "x"}', '{"n": 1}\n{"password": "[redacted]"}'),
    # cards
    ("4111111111111111", "[redacted]"),
    ("paid with 4111 1111 1111 1111 12/27", "paid with [redacted] 12/27"),
    ("4111-1111-1111-1111", "[redacted]"),
    ("4111.1111.1111.1111,5500005555555559", "[redacted],[redacted]"),
    ("card_4012888888881881", "card_[redacted]"),
    ("EH12 4111 1111 1111 1111", "EH12 [redacted]"),
    *((number, "[redacted]") for number in (
        "5555555555554444", "5105105105105100", "2223003122003222", "2720994326581252",  # Mastercard
        "378282246310005", "3782 822463 10005", "371449635398431",  # American Express
        "6011111111111117", "6445644564456445", "6500000000000002",  # Discover
        "30569309025904", "3056 930902 5904", "38520000023237", "36227206271667",  # Diners Club
        "3530111333300000", "3566002020360505",  # JCB
        "6200000000000005", "6205500000000000004", "6205 5000 0000 0000 004",  # UnionPay
        "6759649826438453", "6304000000000000", "2200000000000053", "5018000000000009",  # Maestro, Mir
    )),
    # arguments of commands
    ("Command '['false', '--password', 'hunter2']' returned 1",
     "Command '['false', '--password', '[redacted]']' returned 1"),
    ('args: ["--password", "a b", "--host", "db"]', 'args: ["--password", "[redacted]", "--host", "db"]'),
    (r'args: [\"--password\", \"a b\"]', r'args: [\"--password\", \"[redacted]\"]'),
    ("[b'--api-key', b'a b']", "[b'--api-key', b'[redacted]']"),
    ("--password\nhunter2\n--host db", "--password\n[redacted]\n--host db"),
    ("psql --password \\\n  hunter2 \\\n  --host db", "psql --password \\\n  [redacted] \\\n  --host db"),
    ("curl -u ada:hunter2 https://h", "curl -u ada:[redacted] https://h"),
    ("curl --user=ada:hunter2 h", "curl --user=ada:[redacted] h"),
    ("curl --proxy-user 'ada:a b' h", "curl --proxy-user 'ada:[redacted]' h"),
    ("Command '['curl', '-u', 'ada:a b', 'https://h']'", "Command '['curl', '-u', 'ada:[redacted]', 'https://h']'"),
    # complaints about a value
    (PYDANTIC.format("password", "'a, b'"), PYDANTIC.format("password", REDACTED)),
    (PYDANTIC.format("users.0.tokens.1", "'abc'"), PYDANTIC.format("users.0.tokens.1", REDACTED)),
    (r"{'error': 'for U\npassword\n  Bad [type=x, input_value=\'a b",
     r"{'error': 'for U\npassword\n  Bad [type=x, input_value=[redacted]"),
    ("(\"'password' must be <class 'int'> (got 'a b' that is a <class 'str'>).\", Attribute(name='password'), 'a b')",
     "(\"'password' must be <class 'int'> (got [redacted]"),
    ("'api_key' must match regex '^a$' ('b c' doesn't)", "'api_key' must match regex [redacted]"),
    ("'name' must be int (got 'x'). 'token' must be int (got 'a b')",
     "'name' must be int (got 'x'). 'token' must be int (got [redacted]"),
    # names beside values
    ("[('X-Api-Key', 'a b'), ('Host', 'h')]", "[('X-Api-Key', '[redacted]'), ('Host', 'h')]"),
    ("[(b'cookie', b'a b')]", "[(b'cookie', b'[redacted]')]"),
    ('headers [["X-Api-Key", "a b"], ["Cookie", "c"], ["Host", "h"]]',
     'headers [["X-Api-Key", "[redacted]"], ["Cookie", "[redacted]"], ["Host", "h"]]'),
    ("('pin', 1234)", "('pin', [redacted])"),
    ("('token', '\n('token', 'a')", "('token', '\n('token', '[redacted]')"),
    ("('token', Token('a b')), 1", "('token', [redacted] 1"),
    ("('password', 'hun", "('password', '[redacted]"),
    (r"(\'password\', \'a b\')", r"(\'password\', \'[redacted]\')"),
    ("{'name': 'password', 'value': 'a b', 'n': 1}", "{'name': 'password', 'value': '[redacted]', 'n': 1}"),
    (r'got {\"Name\": \"DB_PASSWORD\", \"x\": 1, \"Value\": \"a b\"}',
     r'got {\"Name\": \"DB_PASSWORD\", \"x\": 1, \"Value\": \"[redacted]\"}'),
    ("env:\n- name: DB_PASSWORD\n  value: abc\n- name: HOME\n  value: /",
     "env:\n- name: DB_PASSWORD\n  value: [redacted]\n- name: HOME\n  value: /"),
    ("name=password&value=abc&n=1", "name=password&value=[redacted]&n=1"),
    ('[{"name":"Cookie","value":"a"},{"value":"b","name":"Host"}]',
     '[{"name":"Cookie","value":"[redacted]"},{"value":"b","name":"Host"}]'),
    ('{"value":1,"key":"pin"}', '{"value":"[redacted]","key":"pin"}'),
    ('[["X-Api-Key","a b"],["Host","h"]]', '[["X-Api-Key","[redacted]"],["Host","h"]]'),
    ('["run","--password","a b","-v"]', '["run","--password","[redacted]","-v"]'),
    ('["/usr/bin/curl","-u","ada:a b","https://h"]', '["/usr/bin/curl","-u","ada:[redacted]","https://h"]'),
    # values without an end that can be found
    ("a: 1\npassword: |\n  one\n\n  two\nx: 1", "a: 1\npassword: [redacted]\nx: 1"),
    ("db:\n  - password: >- # folded\n      one\n    user: ada", "db:\n  - password: [redacted]\n    user: ada"),
    ("password: |\n  one\r\n  two", "password: [redacted]"),
    (r"'password: |\n  one\nx: 1'", "'password: [redacted]"),
    ("U(token=Token(a='b c (', d=[1]), n=1)", "U(token=[redacted], n=1)"),
    ("credentials=Credentials(user='ada b', key='a", "credentials=[redacted]"),
    ("token: Token(a='b\nc') x\nn: 1", "token: [redacted]\nn: 1"),
    ("password=<Password 'a > b'>, n=1", "password=[redacted], n=1"),
    ("password=(a, (b c)), n=1", "password=[redacted], n=1"),
    ("password=\u201ca b\u201d n=1", "password=[redacted] n=1"),
    ("password=\u201ea b\u201c n=1", "password=[redacted] n=1"),
    ("password=\xaba b\xbb n=1", "password=[redacted] n=1"),
    ("password=\u2018it\u2019s a\u2019 n=1", "password=[redacted] n=1"),
    ("password=\u201ca b", "password=[redacted]"),
    *((f"password={prefix}'a b' n=1", f"password={prefix}'[redacted]' n=1") for prefix in ("N", "U&", "f", "E", "rb",
    "x")),
    ("'user=ada password=x' n 1", "'user=ada password=[redacted]"),
    ("password=''hunter2'' n=1", "password='[redacted]' n=1"),
    ('password="b"apiKey": "a"', 'password="[redacted]"apiKey": "[redacted]"'),
    ("password='' n=1", "password='[redacted]' n=1"),
    ("['-e', 'PGPASSWORD=a b', 'n']", "['-e', 'PGPASSWORD=[redacted]', 'n']"),
    ("header b'X-Api-Key: a b' is bad", "header b'X-Api-Key: [redacted]' is bad"),
    ("dsn 'password=a b dbname=app host=h'", "dsn 'password=[redacted] dbname=app host=h'"),
    ("dsn 'host=h password=a dbname=app' it is", "dsn 'host=h password=[redacted] dbname=app' it is"),
    ("('password=a') and more", "('password=[redacted] and more"),
    # other separators and quotes
    ("password\xa0: a b", "password\xa0: [redacted]"),
    ("n=1 password =\xa0a n=1", "n=1 password =\xa0[redacted] n=1"),
    ("n=1 password := a n=1", "n=1 password := [redacted] n=1"),
    ("password\uff1aabc", "password\uff1a[redacted]"),
    ("\uff50\uff41\uff53\uff53\uff57\uff4f\uff52\uff44 \uff1a abc",
     "\uff50\uff41\uff53\uff53\uff57\uff4f\uff52\uff44 \uff1a [redacted]"),
    ("**password**: a b", "**password**: [redacted]"),
    ("* **Password:** a b\nn: 1", "* **Password:** [redacted]\nn: 1"),
    ("{&quot;password&quot;:&quot;a b&quot;,&quot;n&quot;:1}",
     "{&quot;password&quot;:&quot;[redacted]&quot;,&quot;n&quot;:1}"),
    ("&#34;token&#34;: &#34;a b&#34;", "&#34;token&#34;: &#34;[redacted]&#34;"),
    # more tokens by their form
    (joined("dckr_pat_", LETTERS[:27]), "[redacted]"),
    (joined("glsa_", LETTERS[:32], "_0a1B2c3d"), "[redacted]"),
    (joined("dapi", "0123456789abcdef" * 2, "-2"), "[redacted]"),
    (joined("sbp_", "0123456789abcdef0123" * 2), "[redacted]"),
    (joined("tskey-auth-", LETTERS[:12], "-", LETTERS[:32]), "[redacted]"),
    (joined("ntn_", LETTERS, "ab"), "[redacted]"),
    (joined("hvb.", LETTERS), "[redacted]"),
    (joined("sk_org_", "live_", LETTERS), "[redacted]"),
    (joined("d=xoxd-", LETTERS, "%2B", LETTERS), "d=[redacted]"),
    (joined("---- BEGIN SSH2 ENCRYPTED PRIV", "ATE KEY ----\nabc\n---- END SSH2 ENCRYPTED PRIV", "ATE KEY ----\nx"),
     "[redacted]\nx"),
    ("PuTTY-User-Key-File-3: ssh-rsa\nPrivate-Lines: 2\nabc\ndef\nPrivate-MAC: 0",
     "PuTTY-User-Key-File-3: ssh-rsa\nPrivate-Lines: 2\n[redacted]\nPrivate-MAC: 0"),
    ("Private-Lines: 2\nabc\nde", "Private-Lines: 2\n[redacted]"),
    # constants, and what only begins like one
    ("password: true1", "password: [redacted]"),
    ("secret=nullable&n=1", "secret=[redacted]&n=1"),
    ("password: null and void", "password: [redacted]"),
    ("Cookie: true; sid=a", "Cookie: [redacted]"),
    ("password='null'", "password='[redacted]'"),
    ("password='}!}'", "password='[redacted]'"),
    ("password='}", "password='[redacted]"),
    ("run --password-files a", "run --password-files [redacted]"),
    # markup that is cut off, or has more in it
    ("<login><password>hun", "<login><password>[redacted]"),
    ("bad body: <password>hun ter", "bad body: <password>[redacted]"),
    ("<login><password>.hun", "<login><password>[redacted]"),
    ("<password>a<b/>c</password><n>1</n>", "<password>[redacted]</password><n>1</n>"),
    ("<password>a</passwords>b</password >c", "<password>[redacted]</password >c"),
    ("<a></a><password>a<b>c</b>d", "<a></a><password>[redacted]"),
    ("<a></a><password>a</password", "<a></a><password>[redacted]</password"),
    ('<add key="password" value="a b"/>', '<add key="password" value="[redacted]"/>'),
    ("<input name='password' type='text' value='a b'>", "<input name='password' type='text' value='[redacted]'>"),
    ("<entry key='password'>a b</entry><entry key='n'>1</entry>",
     "<entry key='password'>[redacted]</entry><entry key='n'>1</entry>"),
    ("<p></p><a key='token'>b</a><a key='token'>c</a>",
     "<p></p><a key='token'>[redacted]</a><a key='token'>[redacted]</a>"),
    ("<p><a key='token'><b key='token'>x</b></p>", "<p><a key='token'><b key='token'>[redacted]</b></p>"),
    # addresses that should have been escaped
    ("postgresql://ada@corp.com:hunter2@db/app", "postgresql://ada@corp.com:[redacted]@db/app"),
    ("postgres://u:12345/abc@h/x", "postgres://u:[redacted]@h/x"),
    ("mysql+pymysql://u:5432#abc@h", "mysql+pymysql://u:[redacted]@h"),
    ("redis://u:12?abc@h", "redis://u:[redacted]@h"),
    ("postgres://u:a b@c@h/x", "postgres://u:[redacted]@h/x"),
    (r'{"a": "postgres:\/\/u:abc@h"', r'{"a": "postgres:\/\/u:[redacted]@h"'),
    (r"https:\/\/0123456789abcdef0123456789abcdef@h", r"https:\/\/[redacted]@h"),
    ("dsn=ada:a@b@tcp(h:3306)/db", "dsn=ada:[redacted]@tcp(h:3306)/db"),
    ("'ada:abc@unix(/tmp/s)/db'", "'ada:[redacted]@unix(/tmp/s)/db'"),
    ("http://h/x;jsessionid=abc", "http://h/x;jsessionid=[redacted]"),
]  # fmt: skip

# Stored as they are. Keys have lists of their own in test_values.
KEPT = [
    "", "a", "ada", "link", "] = hunter2", "'= x", "monkey", "keyboard", "tokenizer", "the key is in the ignition",
    # ids and numbers
    "01890a5d-ac96-774b-bcce-b302099a8057", "12345678-1234-4123-8123-123456789012", "550e8400e29b41d4a716446655440000",
    "41111111-1111-4111-8111-111111111111", "urn:uuid:01890a5d-ac96-774b-bcce-b302099a8057",
    "4bf92f3577b34da6a3ce929d0e0e4736", "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
    "da39a3ee5e6b4b0d3255bfef95601890afd80709", "bfd9529",
    "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
    "+44 7911 123456", "+1 (555) 010-9999", "0049 30 901820", "+378282246310005", "030-9018-2000",
    "978-3-16-148410-0", "9783161484100", "4006381333931", "4222222222222", "0-306-40615-2",
    "2024-02-29T12:30:00.000005+00:00", "1700000000", "1700000000000", "1700000000000000", "1700000000000000000",
    "2024-02-29 12:30", "12:30:00", "20240229123000",
    "1234567890123456", "4111111111111112", "order 4111111111111112", "0000000000000000", "175928847299117063",
    "0.4111111111111111", "4111111111111111.5", "abc4111111111111111", "41111111111111111111111",
    "DE89 3704 0044 0532 0130 00", "FR76 3000 6000 0112 3456 7890 189", "GB29 NWBK 6016 1331 9268 19",
    "35-209900-176148-1", "490154203237518", "192.168.100.200", "1Z9999999999999999",
    # base64, words and code
    "aGVsbG8gd29ybGQsIHRoaXMgaXMgb3JkaW5hcnkgdGV4dA==", "eyJpZCI6MTIzfQ==", "eyJpZCI6MTIzfQ.json",
    "data:image/png;base64,iVBORw0KGgoAAAANSUhEUg==", "task-aB3dEfGh1jKlMn0pQrStUvWxYz", "sk-SK",
    "sk-estimator-doc-link-with-long-name", "AKIAIOSFODNN7", "glpat-short", "xoxo", "ghp_", "a github_pat_ is a token",
    "Bearer authentication is required", "the bearer of bad news", "Basic information", "basic plan2024", "Basic Plan",
    "Basic understanding of Python-based systems", "Token based", "token certificates-are-not-supported",
    "unexpected token 12345678", "password must not be empty", "Forgot your password?", "tokens are counted",
    "-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----", "-----BEGIN PUBLIC KEY-----\nMIIB",
    # addresses
    "https://example.org/a?page=2#top", "https://example.org:8080/a@b", "ssh://git@github.com/a/b.git", "http://[::1]:80/@x",
    "mailto:ada@example.org", "git@github.com:a/b.git", "https://medium.com/@ada/x", "https://example.org/?q=a:b@c",
    "ada@example.org", "postgresql:///app", "http://localhost:8000", "file:///tmp/x",
    # the nearest to what is hidden
    "['false', '--password']", "['--password', '--host', 'db']", "--password\n\nnext", 'use "--password", then go',
    "--passwords",
    "--password-file /run/x --token-file x", "--password-file=/run/x", "['--token-file', '/run/x']",
    '["--token-file","/run/x"]',
    "dapiDataGetTopLongShortPositionRatio", "tskey-auth", "tskey-auth-short", "glsa_x", "sbp_short", "ntn_12", "hvb.x",
    "dckr_pat_",
    "Private-Lines: few", "---- BEGIN SSH2 PUBLIC KEY ----\nabc", "xoxd-", "**note**: a", "note\xa0: a", "\uff1a",
    "&quot;n&quot;:&quot;a&quot;",
    "--secret '--host' x", "run -u ada:hunter", "docker run -u 1000:1000 curlimages/curl", "curl -u ada",
    '["curl","-u","ada"]',
    '["run","-u","a:b"]',
    '["--password","--host"]', '["--password"]', '["-p","x"]', '["--password","[redacted]"]',
    "1 validation error for U\nname\n  Bad [type=x, input_value='ada', input_type=str]", "input_value='ada'",
    "'password' must not be empty", "'password' must be at least 8 characters", "'name' must be int (got 'x')",
    "('password', 'email', 'name')", "(\"password\", \"email\", 1)", "('name', 'ada')", "f('token', x=1)",
    "['password', 'email']",
    '["password","email"]', '[["password","email"],"name"]', '[["password","email","name"]]',
    '[["key_id","a"],["b",1]]', "[[1,2],[3,4]]",
    '[["password","[redacted]"]]', '{"name":"token","value":"[redacted]"}',
    '{"name":"DB_PASSWORD","valueFrom":{"configMapKeyRef":{"key":"x"}}}',
    '{"name":"ada","value":1}', '{"name":"Chocolate cookie","value":3}', '{"name":"get_token","input":{"a":1}}',
    '{"name":7,"value":1}',
    "name: token_count\nvalue: 3", "name: token, size: 3", "name: token\nname: x\nvalue: 3", "filename: token value: 3",
    "password: null", "secret=true", "secret=True&n=1", "password=None, n=1", "Basic auth: enabled", "password: false,",
    '{"n": "password: disabled"}', "SyntaxError: Unexpected token: '}' at line 3", "Unexpected token: '=>'",
    "has_password: yes",
    "login <user> <password> [now]", "postgres://<user>:<password>@<host>", "<token>", "a <token>, b",
    "<password></password>",
    "<password/>", "<a></a><password/>", "<b>x</b><input name='password'><p>text</p>", "<p></p><input name='token'>",
    "Promise<Token> x",
    "<entry key='n'>1</entry>", "<password x='1'/>",
    "postgres://db:5432/app?user=ada@corp.com", "postgres://db:5432 failed, write to ada@example.org",
    "https://ada@example.org:443/x",
    "postgres://db: not reached by ada@example.org", "redis://cache:6379: refused for ada@x", "https://h:x y@z",
    "a:b @tcp(x)",
    "ada@tcp(h:3306)/db",
    # keys and values that are no secrets
    "a=1&b=2", "key_id=7", "monkey=george&keyboard=us", "token_count: 3", "primary key: id",
    "max_tokens: 4096", "completion_tokens=17", "author_token_limit=3", "secret_ttl: 60", "email_signature=ada", "sig: ada",
    "gsk_ is a prefix", "1//0", "EAAG",
    "public key: abc", "key: value",
    "host=db user=ada", "x == y", "std::string", "password::text", "C:\\tokens", "note: see page 3", "auth_method=otp",
    "--host db --token-type x", "a -- b", "--", "--token-type x", "100%", "50%25 off", "a%20b=c%20d", "%zz",
    '{"a": 1.50, "b": [1e400, "x"]}', '{"a":1,"a":2}', "[]", '""', "{}", "[1, 2", "{not json}", '{"password": "[redacted]"}',
    "<p>text</p>", "<a href='x'>y</a>", 'form-data; name="a"\n\n1',
    "Überweisung: 12,50 €", "סיסמה", "naïve: ça va", "\0", "\ud800", "=", ":", "==", "=x", ":x", "password=", "token: ",
]  # fmt: skip


@pytest.mark.parametrize(("text", "expected"), PARTLY_HIDDEN)
def test_secrets_are_hidden_and_the_rest_is_kept(text: str, expected: str) -> None:
    """Only what is secret in a text is replaced, and what was stored once is not changed by being stored again."""
    assert expected == REDACTOR.redact(text)
    assert expected == REDACTOR.redact(expected)


@pytest.mark.parametrize("text", KEPT)
def test_other_texts_are_kept(text: str) -> None:
    """To the letter, whatever they look like from afar."""
    assert text == REDACTOR.redact(text)


@pytest.mark.parametrize("secret", [JWT, PEM, AWS_ID, GITHUB, "4111 1111 1111 1111", "postgres://ada:hunter2@db/app"])
@pytest.mark.parametrize(
    "wrap",
    [
        lambda text: text,
        lambda text: [text],
        lambda text: ({text},),
        lambda text: {text: 1},
        lambda text: {"note": f"it was {text} then"},
        lambda text: Box(Crate(text)),
        lambda text: text.encode(),
        lambda text: json.dumps({"a": [text]}),
        lambda text: json.dumps(json.dumps({text: 1})),
        lambda text: urlencode({"a": text, "b": "c"}),
        lambda text: "https://example.org/?next=" + quote(f"/x?y={quote(text, safe='')}", safe=""),
    ],
)
def test_secrets_are_hidden_wherever_they_stand(wrap: Callable[[str], Any], secret: str) -> None:
    """Values, items, keys, bytes, JSON in texts, forms and addresses: no long part of a secret is stored."""
    texts = [
        to_json(wrap(secret), REDACTOR, what="payload") or "",
        to_json_marked(wrap(secret), REDACTOR, what="r")[0] or "",
    ]

    for text in texts:
        decoded = text + "".join(base64.b64decode(found).decode() for found in re.findall(r'"\$bytes":"([^"]*)', text))
        assert REDACTED in decoded
        assert [] == [part for part in re.findall(r"[\w]{6,}", secret) if part in decoded and part not in NO_SECRETS]


NO_SECRETS = {"postgres", "PRIVATE"}


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ([("X-Api-Key", "a"), ("Host", "h")], [["X-Api-Key", REDACTED], ["Host", "h"]]),
        (("password", {"a": object()}), ["password", REDACTED]),
        ({("password", "a")}, [["password", REDACTED]]),
        ([["password", "a"], ("b", 1)], [["password", REDACTED], ["b", 1]]),
        ((["password", "a"], ["b", 1]), [["password", REDACTED], ["b", 1]]),
        ({"name": "password", "value": object(), "id": 1}, {"name": "password", "value": REDACTED, "id": 1}),
        ({"Value": "a", "Name": "DB_PASSWORD"}, {"Value": REDACTED, "Name": "DB_PASSWORD"}),
        ({"field": "pin", "old": 1, "new": 2}, {"field": "pin", "old": REDACTED, "new": REDACTED}),
        ({"loc": ("body", "password"), "input": "a"}, {"loc": ["body", "password"], "input": REDACTED}),
        (["psql", "--password", "a", "-v"], ["psql", "--password", REDACTED, "-v"]),
        (("curl", "--user", "ada:a", "h"), ["curl", "--user", f"ada:{REDACTED}", "h"]),
        (["run", "--pin", 1234], ["run", "--pin", REDACTED]),
        # The nearest that stay.
        (["password", "email"], ["password", "email"]),
        ([["password", "email"], "name"], [["password", "email"], "name"]),
        ([["password", "email", "name"]], [["password", "email", "name"]]),
        (("password", "email", "name"), ["password", "email", "name"]),
        (("key_id", 7), ["key_id", 7]),
        (("Secret Garden", 7), ["Secret Garden", 7]),
        (("x" * 200 + "_token", 7), ["x" * 200 + "_token", 7]),
        ((7, "a"), [7, "a"]),
        ([[7, "a"], ["token", 1]], [[7, "a"], ["token", 1]]),
        ({"name": "Secret Garden", "value": 7}, {"name": "Secret Garden", "value": 7}),
        ({"name": "password", "valueFrom": "x", 1: 2}, {"name": "password", "valueFrom": "x", "1": 2}),
        ({"loc": ("body", 1), "input": "a"}, {"loc": ["body", 1], "input": "a"}),
        (["--password", "--host", "db"], ["--password", "--host", "db"]),
        (["--password-file", "/run/x"], ["--password-file", "/run/x"]),
        (["--password"], ["--password"]),
        (["docker", "-u", "1:1"], ["docker", "-u", "1:1"]),
        ([], []),
    ],
)  # fmt: skip
def test_values_are_hidden_by_the_name_beside_them(value: Any, expected: Any) -> None:
    """In pairs, in objects of a name and a value, and in the arguments of a command; a list of names is none of these."""
    assert expected == json.loads(to_json(value, REDACTOR, what="payload") or "")


def test_headers_are_pairs_of_bytes_too() -> None:
    """As an ASGI server hands them on."""
    stored = to_json([(b"x-api-key", b"abc"), (b"host", b"h")], REDACTOR, what="payload")

    name, host, value = (base64.b64encode(each).decode() for each in (b"x-api-key", b"host", b"h"))
    assert [[{"$bytes": name}, REDACTED], [{"$bytes": host}, {"$bytes": value}]] == json.loads(stored or "")


def test_a_kept_name_keeps_the_value_beside_it() -> None:
    """The user's own words hold for pairs as for keys."""
    redactor = Redactor(extra=("iban",), keep=("page_token",))

    assert [["page_token", "a"], ["IBAN", REDACTED]] == json.loads(
        to_json([("page_token", "a"), ("IBAN", "b")], redactor, what="payload") or ""
    )


def test_card_numbers_are_hidden_as_numbers_too() -> None:
    """JSON has them as numbers where somebody thought they were some."""
    value = {"n": 4111111111111111, "id": 4111111111111112, "big": 10**30, "small": 4111, "minus": -4111111111111111}

    assert json.dumps({**value, "n": REDACTED}, separators=(",", ":")) == to_json(value, REDACTOR, what="payload")


def test_keys_that_become_equal_by_being_hidden_are_told_apart() -> None:
    """It is no fault of the caller's, and undoes no work."""
    value = {f"x://u:{letter}@h": letter for letter in "abc"}

    assert '{"x://u:[redacted]@h":"a","x://u:[redacted]@h (2)":"b","x://u:[redacted]@h (3)":"c"}' == to_json(
        value, REDACTOR, what="payload"
    )


def test_errors_and_warnings_do_not_repeat_a_secret_in_a_key() -> None:
    """They name the path to a value, of which the key is a part."""
    value = {GITHUB: object()}
    with pytest.raises(UnserializableValue) as caught:
        to_json(value, REDACTOR, what="payload")

    assert 'payload["[redacted]"]: a value of type object has' in str(caught.value)
    assert str(caught.value) == to_json_marked(value, REDACTOR, what="payload")[1]


def test_bytes_that_are_no_text_are_kept() -> None:
    """To the bit; and so are those of a text in which nothing is secret."""
    for data in (b"\xff\xfe\0", "é".encode(), b'{"a": 1}'):
        stored = json.loads(to_json(data, REDACTOR, what="payload") or "")
        assert data == base64.b64decode(stored["$bytes"])


def test_bytes_are_redacted_around_what_is_no_text() -> None:
    """The body of a request may be both."""
    stored = json.loads(to_json(b"\xff password=hunter2 \xfe", REDACTOR, what="payload") or "")

    assert b"\xff password=[redacted] \xfe" == base64.b64decode(stored["$bytes"])


def test_a_text_that_is_cut_is_cut_before_a_secret() -> None:
    """Half a token is not recognised as one, so the word that the cut goes through is left out."""
    filler = f"password: '{'x' * 380}' "
    text = filler + GITHUB * 10

    stored = json.loads(to_json(text, REDACTOR, what="payload", limit=100) or "")["$truncated"]
    assert ("\"password: '[redacted]' \"", True) == (stored["head"], stored["partial"])
    assert "password: '[redacted]'  [cut: 793 characters]" == message(text, 100, redact=REDACTOR.redact)


def test_a_word_without_end_is_cut_all_the_same() -> None:
    """There is nothing before it that could be kept."""
    assert "m" * 78 + " [cut: 500 characters]" == message("m" * 500, 100, redact=REDACTOR.redact)


# The user's own patterns and keys


def test_own_patterns_hide_what_they_match() -> None:
    """In every text, however short, beside the library's own."""
    redactor = Redactor(patterns=[r"\b[A-Z]{2}-\d{6}\b", re.compile("ada", re.IGNORECASE)])
    value = {"note": "case AB-123456 of Ada", "ADA": '{"n":"AB-123456"}', "ids": ["ada", "x", 7], "token": "ada"}

    assert {
        "note": "case [redacted] of [redacted]",
        "[redacted]": '{"n":"[redacted]"}',
        "ids": [REDACTED, "x", 7],
        "token": REDACTED,
    } == json.loads(to_json(value, redactor, what="payload") or "")


def test_own_keys_are_seen_in_texts() -> None:
    """What is hidden as a key is hidden in a form too, and what is kept is kept."""
    redactor = Redactor(extra=("iban", "ת.ז"), keep=("page_token",))

    assert "customerIBAN=[redacted]&page_token=abc&ת.ז=[redacted]" == redactor.redact(
        "customerIBAN=DE00&page_token=abc&ת.ז=123"
    )


def test_a_text_under_a_kept_key_is_kept() -> None:
    """Whatever it looks like, in JSON inside a text too; and no other text with it."""
    redactor = Redactor(keep=("page_token", "order"))
    inner = json.dumps({"pageToken": JWT, "order": 4111111111111111, "x": "token=y"}, separators=(",", ":"))
    value = {"page_token": JWT, "other": JWT, "order": [JWT], "inner": inner}

    assert {
        "page_token": JWT,
        "other": REDACTED,
        "order": [REDACTED],
        "inner": inner.replace("token=y", "token=[redacted]"),
    } == json.loads(to_json(value, redactor, what="payload") or "")


@pytest.mark.parametrize(
    ("given", "error", "said"),
    [
        ("a+", TypeError, "patterns: expected a list, got a single one; put it in brackets"),
        (re.compile("a+"), TypeError, "patterns: expected a list, got a single one; put it in brackets"),
        (
            ["a", "(b"],
            ValueError,
            "patterns[1] is no regular expression: missing ), unterminated subpattern at position 0",
        ),
        ([rb"a"], TypeError, "patterns[0]: expected a pattern for text, got bytes"),
        ([7], TypeError, "patterns[0]: expected a pattern for text, got int"),
        (["a*"], ValueError, "patterns[0] matches the empty text, so it would be found everywhere"),
    ],
)
def test_patterns_that_cannot_work_are_refused(given: Any, error: type[Exception], said: str) -> None:
    """When the redactor is made, in one sentence."""
    with pytest.raises(error) as caught:
        Redactor(patterns=given)

    assert said == str(caught.value)


def test_redactors_with_all_options_compare_and_hash() -> None:
    """Equal options make equal redactors, which can be members of sets."""
    first, second = (Redactor(patterns=["a"], capture={"login": ["user"]}) for _ in range(2))

    assert {first} == {second}
    assert first != Redactor(patterns=["a"])
    assert "Redactor(extra=(), keep=(), patterns=(re.compile('a'),), capture={'login': ('user',)})" == repr(first)


# What is captured of an action


def captured(value: object, *paths: str, **options: Any) -> Any:
    """Convert with a capture list and parse the text again."""
    redactor = Redactor(capture={"login": paths}, **options)
    text = to_json(value, redactor, what="payload", captured=redactor.captured("login"))
    return None if text is None else json.loads(text)


@pytest.mark.parametrize(
    ("value", "paths", "expected"),
    [
        ({"user": "ada", "n": 1}, ["user"], {"user": "ada", "n": REDACTED}),
        ({"user": {"id": 7, "name": "ada"}}, ["user"], {"user": {"id": 7, "name": "ada"}}),
        ({"user": {"id": 7, "name": "ada"}}, ["user.id"], {"user": {"id": 7, "name": REDACTED}}),
        ({"user": {"id": 7, "name": "ada"}}, ["user.id", "user"], {"user": {"id": 7, "name": "ada"}}),
        ({"user": {"id": 7, "n": "a", "x": 1}}, ["user.id", "user.n"], {"user": {"id": 7, "n": "a", "x": REDACTED}}),
        ({"a": {"b": {"c": 1, "d": 2}}}, ["a.b.c"], {"a": {"b": {"c": 1, "d": REDACTED}}}),
        ({"a": [{"id": 1, "x": 2}, {"id": 3}, 4]}, ["a.id"], {"a": [{"id": 1, "x": REDACTED}, {"id": 3}, REDACTED]}),
        ({"user": "a", "id": b"7", "at": None}, ["user.x", "id.x", "at.x"], {"user": REDACTED, "id": REDACTED, "at": None}),
        ({"User": 1, "user_id": 2}, ["user"], {"User": REDACTED, "user_id": REDACTED}),
        ({"user": {"a": 1}, "n": {"user": 2}}, ["user"], {"user": {"a": 1}, "n": REDACTED}),
        ({"user": "ada"}, [], {"user": REDACTED}),
        ({}, ["user"], {}),
        ("hunter2", ["user"], REDACTED),
        (7.5, ["user"], REDACTED),
        ([1, {"user": 2, "n": 3}, "x"], ["user"], [REDACTED, {"user": 2, "n": REDACTED}, REDACTED]),
        (Box({"a": 1}), ["content.a"], {"content": {"a": 1}}),
        (Crate(uuid.UUID(int=0)), ["x"], {"content": REDACTED}),
        (uuid.UUID(int=0), ["x"], REDACTED),
        (None, ["user"], None),
        ({7: 1, "8": 2}, ["7"], {"7": 1, "8": REDACTED}),
    ],
)  # fmt: skip
def test_only_what_is_named_is_captured(value: Any, paths: list[str], expected: Any) -> None:
    """All else is hidden: other keys, and values that are in no object."""
    assert expected == captured(value, *paths)


def test_captured_values_are_judged_like_any_others() -> None:
    """A list of keys narrows; it opens nothing."""
    value = {"password": "x", "note": "token=y", "pin": 1}

    assert {"password": REDACTED, "note": "token=[redacted]", "pin": 1} == captured(
        value, "password", "note", "pin", keep=("pin",)
    )


def test_what_is_not_captured_is_not_looked_at() -> None:
    """So that it need not have a JSON form; what is captured must."""
    assert {"user": 1, "handle": REDACTED} == captured({"user": 1, "handle": object()}, "user")
    with pytest.raises(UnserializableValue, match=r"payload\.user: a value of type object"):
        captured({"user": object()}, "user")


def test_other_action_types_are_captured_whole() -> None:
    """The list of one says nothing about another."""
    assert Redactor(capture={"login": ["user"]}).captured("logout") is None


@pytest.mark.parametrize(
    ("given", "error", "said"),
    [
        (["login"], TypeError, "capture: expected a mapping of action types to lists of keys, got list"),
        ({"login": "user"}, TypeError, "capture['login']: expected a list of keys, got text; write [\"user\"]"),
        ({"login": [7]}, TypeError, "capture['login']: expected keys as text, got int"),
        ({"login": ["user", ""]}, ValueError, "capture['login']: '' is no key, nor keys joined by single dots"),
        ({"login": ["user..id"]}, ValueError, "capture['login']: 'user..id' is no key, nor keys joined by single dots"),
        ({"login": [".id"]}, ValueError, "capture['login']: '.id' is no key, nor keys joined by single dots"),
        ({"": ["user"]}, InvalidAction, "capture is empty: expected printable text of 1 to 100 characters"),
        ({7: ["user"]}, InvalidAction, "capture: expected printable text of 1 to 100 characters"),
    ],
)  # fmt: skip
def test_capture_lists_that_cannot_work_are_refused(given: Any, error: type[Exception], said: str) -> None:
    """When the redactor is made, in one sentence that says where."""
    with pytest.raises(error) as caught:
        Redactor(capture=given)

    assert said == str(caught.value)[: len(said)]


# Whatever the text

# What the patterns begin with, end with, and are put off by.
FRAGMENTS = [
    "eyJ", "eyJhbGciOiJI", ".", "-", "--", "-----BEGIN ", "PRIVATE KEY-----", "-----END ", "://", "@", ":", "=", "a:", "/",
    "4111 ", "4111111111111111", "1", "+", "%", "%25", "%3D", "password", "password=", "token: ", "'", '"', '\\"', "\\",
    "[", "{", "]", "}", '{"a":', ",", ";", "&", "?", "#", " ", "\n", "\t", "Bearer ", "Basic ", "token ", "sk-", "AKIA",
    ":AA", "ghp_", "SG.", "form-data; name=", "\r\n\r\n", "<a>", "</", "<secret>", "--token ", "[redacted]", "AB12 ", "é",
    "\ud800", "\0", "api key", "--password", "'--token', ", "('token', '", '[["token", ', "name=token ", "value=",
    "input_value=",
    "password\n  bad [type=x, input_value=", "'token' must be ", "(got ", "password: |\n", "  a\n", "\u201c",
    "\u2018a\u2019a", "token=Token(",
    "\uff1a", "**", "&quot;", "Private-Lines: 2\n", "---- BEGIN ", "\xa0", "xoxd-", "'password=",
    "(", "<", ">", "<token x='1'>", "<a key='token'>", "</a>", "</token", "postgres://u:", "postgres:\\/\\/", "@tcp(",
    "curl -u a:",
]  # fmt: skip


# One with a pattern of its own looks at everything.
thorough = Redactor(patterns=["\0never\0"])
fragments = st.lists(st.sampled_from(FRAGMENTS) | st.text(max_size=3), max_size=30).map("".join)


@given(fragments | any_text)
@unhurried
def test_any_text_can_be_redacted(text: str) -> None:
    """Nothing raises, and the result is a text that can be stored."""
    actual = REDACTOR.redact(text)

    assert isinstance(actual, str)
    assert to_json(text, REDACTOR, what="payload") is not None


WORDS = st.sampled_from(
    ["Bearer", "basic", "Negotiate", "token", "password", "is", "aBcDeFgHiJ", "dXNlcjpwYXNz", "EAA", "apikey", "must",
     "value", "true", "eyJhbGciOiJI", "name", "secret", "Cookie"]
) | st.text("abXY", min_size=1, max_size=14)  # fmt: skip
sentences = st.lists(st.tuples(WORDS, st.sampled_from([" ", ", ", ". ", "; ", "! ", ",", ".", "  ", "", "-"]))).map(
    lambda parts: "".join(itertools.chain.from_iterable(parts))
)


@example("monthly subscription, second reminder")
@example("the bearer aBcDeFgHiJ")
@example("Basic dXNlcjpwYXNz")
@given(sentences | fragments | any_text)
@unhurried
def test_what_is_told_to_be_harmless_at_once_is(text: str) -> None:
    """All the looks that it is spared would have found nothing, and it needs no escapes."""
    assert not thorough.harmless(text)
    if REDACTOR.harmless(text):
        assert text == thorough.redact(text)
        assert "\\u0000" not in json.dumps(text)
        assert text.isprintable()


def test_a_sentence_is_told_to_be_harmless() -> None:
    """Else the shortcut would be none."""
    assert REDACTOR.harmless("monthly subscription, second reminder")
    assert not REDACTOR.harmless("the bearer aBcDeFgHiJ")
    assert not REDACTOR.harmless("unauthorisedly long")


@given(st.lists(st.sampled_from([each.encode("utf-8", "surrogatepass") for each in FRAGMENTS]) | st.binary(max_size=3)))
@unhurried
def test_any_bytes_can_be_redacted(pieces: list[bytes]) -> None:
    """They may be text in part, and half a character at any place."""
    assert (to_json(b"".join(pieces), REDACTOR, what="payload") or "").startswith('{"$bytes":')


@given(
    fragments,
    fragments,
    st.sampled_from(
        [
            *("password={}", "https://u:{}@h/", '"apiKey": "{}"', "Cookie: {}", "--token {}", "('token', '{}')"),
            *("'--token', '{}'", "<password>{}</password>", "{{'name': 'token', 'value': '{}'}}", "password: |\n  {}"),
            "token=Token(a, {})",
        ]
    ),
)
@unhurried
def test_a_secret_is_hidden_in_any_surroundings(before: str, after: str, form: str) -> None:
    """Whatever stands around it, on lines of its own."""
    actual = REDACTOR.redact(f"{before}\n{form.format(CANARY)}\n{after}")

    assert CANARY not in actual


@given(st.text(st.characters(codec="utf-8"), min_size=1).filter(lambda text: text.strip()))
@unhurried
def test_the_value_of_a_key_is_hidden_in_json_and_forms(value: str) -> None:
    """All of it, whatever it is, when it is encoded as it must be."""
    secret = CANARY + value

    assert {"password": REDACTED, "n": 1} == json.loads(REDACTOR.redact(json.dumps({"password": secret, "n": 1})))
    assert "n=1&password=[redacted]&m=2" == REDACTOR.redact(urlencode({"n": 1, "password": secret, "m": 2}))


def seconds(text: str) -> float:
    """Return how long it takes to redact a text, at best."""
    taken: list[float] = []
    for _ in range(2):
        begun = time.process_time()
        REDACTOR.redact(text)
        taken.append(time.process_time() - begun)
    return min(taken)


@pytest.mark.parametrize("tail", ["", "@ </ eyJa. password='", "PRIVATE KEY form-data; ://u:"])
@pytest.mark.parametrize(
    "piece", [*FRAGMENTS, "a", "://a:", "a=", "password=a,a", "4 4", "eyJ.", "form-data; name=a\n"]
)
def test_time_grows_with_the_text_and_no_faster(piece: str, tail: str) -> None:
    """Eight times the text takes nowhere near 64 times as long, and no text takes minutes."""
    short, long = ((piece * (size // len(piece)) + tail) for size in (16_000, 128_000))
    taken = seconds(long)

    # Where it takes no time at all there is nothing to compare.
    assert taken < 0.05 or taken < 30 * seconds(short)
    assert taken < 10


@example("a")
@given(fragments.filter(bool))
@unhurried
def test_any_repetition_takes_linear_time(piece: str) -> None:
    """Hypothesis looks for what the list above forgot."""
    taken = seconds(piece * (48_000 // len(piece)))

    assert taken < 0.5 or taken < 30 * seconds(piece * (6_000 // len(piece)))


@pytest.mark.parametrize("number", range(len(tokens._FORMS)))
@given(data=st.data())
def test_no_token_is_passed_over_by_the_first_look(number: int, data: st.DataObject) -> None:
    """Whatever has the form of a token has what every form is first looked for by."""
    _, pattern, _ = tokens._FORMS[number]
    text = data.draw(st.from_regex(pattern))
    found = re.search(pattern, text)
    assert found is None or tokens._may_have_a_form(f"an ordinary text {found[0]}")
