"""Following the doctor's advice."""

from __future__ import annotations

from typing import Any

import psycopg
from psycopg.pq import TransactionStatus

from provenance.doctor import Finding, Limits, Severity, diagnose

# What holds of the server the tests run on, which loses everything in a crash for the sake of speed.
SERVER = ("durability", "transactions", "vacuum")


def wrong(
    connection: psycopg.Connection[Any], *, skip: tuple[str, ...] = SERVER, limits: Limits | None = None
) -> list[Finding]:
    """Return what the doctor finds wrong with a database, the server apart."""
    return [
        finding
        for finding in diagnose(connection, skip=skip, limits=limits)
        if finding.severity is not Severity.UNCHECKED
    ]


def cure(connection: psycopg.Connection[Any], finding: Finding) -> None:
    """Run the SQL of a remedy; inside a transaction too, where nothing can be done concurrently."""
    in_transaction = connection.info.transaction_status != TransactionStatus.IDLE
    for statement in finding.remedy.split(";\n"):
        text = statement.replace(" CONCURRENTLY", "") if in_transaction else statement
        if not all(line.startswith("--") for line in text.splitlines()):
            connection.execute(text.encode())
