"""Whether the audit trail of a database can be relied on, and what to do where it cannot."""

from provenance.doctor.examination import CHECKS, diagnose
from provenance.doctor.findings import Finding, Limits, Severity

__all__ = ["CHECKS", "Finding", "Limits", "Severity", "diagnose"]
