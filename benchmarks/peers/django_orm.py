"""An update through Django, alone and with what records it.

Settings and applications are those of a process. In one of these processes there is never more than one peer.
"""

# pyright: basic, reportMissingImports=false

from __future__ import annotations

from collections.abc import Mapping
from contextvars import ContextVar
from functools import partial
from types import SimpleNamespace
from typing import Any
from uuid import UUID

from psycopg.conninfo import conninfo_to_dict

import provenance
from benchmarks.peers.sampling import ACTIONS, CHANGES, USER_ID, Variant, Write, add_provenance, fill
from provenance import request_scope, track_action


def _made(address: str, *peer: str, **settings: object) -> tuple[Any, Any]:
    """Set up Django, make its tables, and return the model of the accounts and the user."""
    import django  # noqa: PLC0415 - need not be installed
    from django.conf import settings as django_settings  # noqa: PLC0415
    from django.core.management import call_command  # noqa: PLC0415

    options = conninfo_to_dict(address)
    django_settings.configure(
        DATABASES={
            "default": {"ENGINE": "django.db.backends.postgresql", "NAME": options.pop("dbname"), "OPTIONS": options}
        },
        INSTALLED_APPS=["django.contrib.contenttypes", "django.contrib.auth", *peer, "benchmarks.peers.accounts"],
        **settings,
    )
    django.setup()
    call_command("migrate", verbosity=0)
    # The application has no migrations. Its tables may refer to those of the others, and its triggers to their functions.
    call_command("migrate", run_syncdb=True, verbosity=0)
    fill(address)

    from django.contrib.auth.models import User  # noqa: PLC0415 - not before the setup

    from benchmarks.peers.accounts.models import Account  # noqa: PLC0415

    return Account, User.objects.create(pk=USER_ID, username="ada")


def _bare(address: str) -> Write:
    account, _ = _made(address)
    return _deposit(account)


def _deposit(account: Any) -> Write:
    from django.db import transaction  # noqa: PLC0415 - need not be installed

    def write(row: int, _: UUID) -> None:
        with transaction.atomic():
            found = account.objects.get(pk=row)
            found.balance += 1
            found.save()

    return write


def _provenance(address: str, *, captured: bool = False) -> Write:
    account, _ = _made(address)
    from django.db import connection, transaction  # noqa: PLC0415 - need not be installed

    add_provenance(address, captured=captured)
    provenance.configure(address)

    def write(row: int, request_id: UUID) -> None:
        with (
            request_scope(request_id, user_id=USER_ID),
            transaction.atomic(),
            track_action(
                "deposit", concept="account", entity_type="account", entity_id=row, connection=connection.connection
            ),
        ):
            found = account.objects.get(pk=row)
            found.balance += 1
            found.save()

    return write


def _pghistory(address: str) -> Write:
    account, user = _made(address, "pgtrigger", "pghistory")
    import pghistory  # noqa: PLC0415 - need not be installed

    deposit = _deposit(account)

    def write(row: int, request_id: UUID) -> None:
        with pghistory.context(user=user.pk, request_id=str(request_id)):
            deposit(row, request_id)

    return write


_request_id: ContextVar[str] = ContextVar("request_id")


def _auditlog(address: str) -> Write:
    account, user = _made(address, "auditlog", AUDITLOG_CID_GETTER=_request_id.get)
    from auditlog.context import set_actor  # noqa: PLC0415 - need not be installed

    deposit = _deposit(account)

    def write(row: int, request_id: UUID) -> None:
        _request_id.set(str(request_id))
        with set_actor(user):
            deposit(row, request_id)

    return write


def _simple_history(address: str) -> Write:
    account, user = _made(address, "simple_history")
    from simple_history.models import HistoricalRecords  # noqa: PLC0415 - need not be installed

    deposit = _deposit(account)

    def write(row: int, request_id: UUID) -> None:
        # As its middleware does.
        HistoricalRecords.context.request = SimpleNamespace(user=user, request_id=request_id)
        try:
            deposit(row, request_id)
        finally:
            del HistoricalRecords.context.request

    return write


VARIANTS: Mapping[str, Variant] = {
    "bare": Variant(_bare, ["Django"]),
    "provenance": Variant(_provenance, ["Django"], ACTIONS),
    "provenance, row captured": Variant(partial(_provenance, captured=True), ["Django"], CHANGES),
    "django-pghistory": Variant(
        _pghistory,
        ["Django", "django-pghistory"],
        """SELECT count(DISTINCT c.metadata->>'request_id') FROM pghistory_context c
             JOIN accounts_accountevent e ON e.pgh_context_id = c.id
            WHERE c.metadata->>'user' = '1' AND e.pgh_label = 'update' AND e.balance > 100""",
    ),
    "django-auditlog": Variant(
        _auditlog,
        ["Django", "django-auditlog"],
        "SELECT count(DISTINCT cid) FROM auditlog_logentry WHERE actor_id = 1 AND action = 1 AND changes ? 'balance'",
    ),
    "django-simple-history": Variant(
        _simple_history,
        ["Django", "django-simple-history"],
        """SELECT count(DISTINCT request_id) FROM accounts_historicalaccount
            WHERE history_user_id = 1 AND history_type = '~' AND balance > 100""",
    ),
}
