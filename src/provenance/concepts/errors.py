"""What is wrong with a declaration, with the database it is to be applied to, or with a call of a repository."""

from __future__ import annotations

from provenance.errors import ProvenanceError


class InvalidConcept(ProvenanceError, ValueError):
    """A declaration contradicts itself or what Postgres can hold; raised when it is made, before any SQL."""


class ConceptRefused(ProvenanceError, RuntimeError):
    """The database cannot be made what is declared, or not without losing something; nothing has been changed."""


class InvalidEntity(ProvenanceError, ValueError):
    """A call of a repository names what the concept does not have, or nothing at all; raised before any SQL."""


class EntityNotFound(ProvenanceError, LookupError):
    """There is no such row, or it is deleted (or, for ``restore``, it is not)."""
