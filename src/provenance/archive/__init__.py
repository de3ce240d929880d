"""Months that leave the database for files, and come back. It needs the extra ``archive``."""

from provenance.archive.files import Manifest, Month, contents, verify_month
from provenance.archive.leaving import archive_month
from provenance.archive.ledger import Archived, Due, due_months, ledger
from provenance.archive.restoring import restore_month

__all__ = [
    "Archived",
    "Due",
    "Manifest",
    "Month",
    "archive_month",
    "contents",
    "due_months",
    "ledger",
    "restore_month",
    "verify_month",
]
