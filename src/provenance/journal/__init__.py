"""The journal: rows that must outlive the work they tell of, through connections of their own and, in an outage, a spool."""

from __future__ import annotations

from provenance.journal.connections import AsyncJournal, Journal
from provenance.journal.outage import JournalHealth, Outage
from provenance.journal.spool import Spool, Usage

__all__ = ["AsyncJournal", "Journal", "JournalHealth", "Outage", "Spool", "Usage"]
