"""Its only model, and how its peers are told to record it."""

# pyright: basic, reportMissingImports=false

from __future__ import annotations

from typing import Any
from uuid import UUID

from django.apps import apps
from django.db import models


class Account(models.Model):  # type: ignore[misc]
    id = models.IntegerField(primary_key=True)
    owner = models.TextField()
    balance = models.DecimalField(max_digits=12, decimal_places=2)

    class Meta:
        db_table = "accounts"


# One of them at most is installed in a process.

if apps.is_installed("pghistory"):
    import pghistory

    pghistory.track()(Account)

if apps.is_installed("auditlog"):
    from auditlog.registry import auditlog

    auditlog.register(Account)

if apps.is_installed("simple_history"):
    import simple_history
    from django.dispatch import receiver
    from simple_history.models import HistoricalRecords
    from simple_history.signals import pre_create_historical_record

    class Requested(models.Model):  # type: ignore[misc]
        request_id = models.UUIDField()

        class Meta:
            abstract = True

    simple_history.register(Account, bases=[Requested])

    @receiver(pre_create_historical_record)  # type: ignore[untyped-decorator]
    def add_request_id(history_instance: Any, **_: Any) -> None:
        request_id: UUID = HistoricalRecords.context.request.request_id
        history_instance.request_id = request_id
