"""Months that leave the database for files, and come back. It needs the extra ``archive``."""

from provenance.archive.files import Manifest, Month, contents, verify_month
from provenance.archive.leaving import archive_month
from provenance.archive.ledger import Archived, Due, due_months, ledger
from provenance.archive.restoring import restore_month
from provenance.archive.retiring import Retired, due_rows, retire_month

__all__ = [
    "Archived",
    "Due",
    "Manifest",
    "Month",
    "Retired",
    "archive_month",
    "contents",
    "due_months",
    "due_rows",
    "ledger",
    "restore_month",
    "retire_month",
    "verify_month",
]
