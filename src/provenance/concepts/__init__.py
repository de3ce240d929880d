"""Concepts: nouns of the domain that own a table and refer to others by opaque ids alone, declared in Python.

A declaration becomes SQL, to be reviewed and kept with the team's own migrations, and a repository that works on it.
"""

from provenance.concepts.applying import Plan, apply, plan, remove
from provenance.concepts.changing import Script, changes
from provenance.concepts.ddl import down_sql, up_sql
from provenance.concepts.definition import Concept, linked
from provenance.concepts.errors import ConceptRefused, EntityNotFound, InvalidConcept, InvalidEntity
from provenance.concepts.models import DanglingReference, Entity, ResolvedEntity
from provenance.concepts.parts import Attribute, Computed, LiveIndex, Reference, Target
from provenance.concepts.repository import AsyncConceptRepository, ConceptRepository

__all__ = [
    "AsyncConceptRepository",
    "Attribute",
    "Computed",
    "Concept",
    "ConceptRefused",
    "ConceptRepository",
    "DanglingReference",
    "Entity",
    "EntityNotFound",
    "InvalidConcept",
    "InvalidEntity",
    "LiveIndex",
    "Plan",
    "Reference",
    "ResolvedEntity",
    "Script",
    "Target",
    "apply",
    "changes",
    "down_sql",
    "linked",
    "plan",
    "remove",
    "up_sql",
]
