"""Values on their way into a row: identifiers, names, messages, and JSON with secrets taken out.

What leaves here is accepted by the ``text`` and ``jsonb`` columns of a UTF-8 database, and is bounded in size.
Pure functions.
"""

from provenance.values.redactor import Redactor
from provenance.values.texts import REDACTED, Identifier, identifier, message, name, names, reason, tenant
from provenance.values.writing import to_json, to_json_marked

__all__ = [
    "REDACTED",
    "Identifier",
    "Redactor",
    "identifier",
    "message",
    "name",
    "names",
    "reason",
    "tenant",
    "to_json",
    "to_json_marked",
]
