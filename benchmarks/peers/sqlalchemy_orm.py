"""An update through SQLAlchemy, alone and with what records it.

The peers listen to all sessions and mapped classes of a process. In one of these processes there is never more than one.
"""

# pyright: basic, reportMissingImports=false

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any, ClassVar
from uuid import UUID

from psycopg.conninfo import conninfo_to_dict
from sqlalchemy import Column, Engine, Integer, Numeric, Text, Uuid, create_engine
from sqlalchemy.orm import DeclarativeBase, Session, configure_mappers, mapped_column

import provenance
from benchmarks.peers.sampling import ACTIONS, CHANGES, USER_ID, Variant, Write, add_provenance, fill
from provenance import request_scope, track_action


class _Base(DeclarativeBase):
    pass


def _account() -> Any:
    """Map the accounts. Who is to know of it has to listen by now."""

    class Account(_Base):
        __tablename__ = "accounts"
        # By this the peers tell what they are to record.
        __versioned__: ClassVar[dict[str, Any]] = {}

        id = mapped_column(Integer, primary_key=True)
        owner = mapped_column(Text, nullable=False)
        balance = mapped_column(Numeric, nullable=False)

    return Account


def _made(address: str, *first: Any) -> Engine:
    """Make the tables of all that is mapped, those of some classes first."""
    configure_mappers()
    engine = create_engine("postgresql+psycopg://", connect_args=dict(conninfo_to_dict(address)))
    _Base.metadata.create_all(engine, [each.__table__ for each in first])
    _Base.metadata.create_all(engine)
    fill(address)
    return engine


def _bare(address: str) -> Write:
    account = _account()
    engine = _made(address)

    def write(row: int, _: UUID) -> None:
        with Session(engine) as session, session.begin():
            session.get_one(account, row).balance += 1

    return write


def _provenance(address: str, *, captured: bool = False) -> Write:
    account = _account()
    engine = _made(address)
    add_provenance(address, captured=captured)
    provenance.configure(address)

    def write(row: int, request_id: UUID) -> None:
        with request_scope(request_id, user_id=USER_ID), Session(engine) as session, session.begin():
            connection: Any = session.connection().connection.driver_connection
            with track_action(
                "deposit", concept="account", entity_type="account", entity_id=row, connection=connection
            ):
                session.get_one(account, row).balance += 1
                session.flush()

    return write


def _postgresql_audit(address: str) -> Write:
    from postgresql_audit.base import VersioningManager, transaction_base  # noqa: PLC0415 - need not be installed

    class Manager(VersioningManager):  # type: ignore[misc]
        def transaction_model_factory(self, base: Any) -> Any:
            class Transaction(transaction_base(base, self.schema_name)):  # type: ignore[misc]
                __tablename__ = "transaction"
                request_id = Column(Uuid)

            return Transaction

    manager = Manager()
    manager.init(_Base)
    account = _account()
    # With its tables it makes the function that puts triggers on others.
    engine = _made(address, manager.transaction_cls, manager.activity_cls)

    def write(row: int, request_id: UUID) -> None:
        manager.values = {"actor_id": str(USER_ID), "request_id": request_id}
        with Session(engine) as session, session.begin():
            session.get_one(account, row).balance += 1

    return write


def _continuum(address: str) -> Write:
    from sqlalchemy_continuum import TransactionFactory, make_versioned, versioning_manager  # noqa: PLC0415
    from sqlalchemy_continuum.plugins import Plugin  # noqa: PLC0415

    # TransactionMetaPlugin would do it too, with a row more.
    class Factory(TransactionFactory):  # type: ignore[misc]
        def create_class(self, manager: Any) -> Any:
            transaction = super().create_class(manager)
            transaction.request_id = Column(Uuid)
            return transaction

    class Request(Plugin):  # type: ignore[misc]
        request_id: UUID

        def transaction_args(self, _unit_of_work: Any, _session: Any) -> dict[str, object]:
            return {"user_id": USER_ID, "request_id": self.request_id}

    class User(_Base):
        __tablename__ = "users"

        id = mapped_column(Integer, primary_key=True)

    request = Request()
    versioning_manager.transaction_cls = Factory()
    make_versioned(plugins=[request])
    account = _account()
    engine = _made(address)
    with Session(engine) as session, session.begin():
        session.add(User(id=USER_ID))

    def write(row: int, request_id: UUID) -> None:
        request.request_id = request_id
        with Session(engine) as session, session.begin():
            session.get_one(account, row).balance += 1

    return write


VARIANTS: Mapping[str, Variant] = {
    "bare": Variant(_bare, ["SQLAlchemy"]),
    "provenance": Variant(_provenance, ["SQLAlchemy"], ACTIONS),
    "provenance, row captured": Variant(partial(_provenance, captured=True), ["SQLAlchemy"], CHANGES),
    "postgresql-audit": Variant(
        _postgresql_audit,
        ["SQLAlchemy", "postgresql-audit"],
        """SELECT count(DISTINCT t.request_id) FROM transaction t JOIN activity a ON a.transaction_id = t.id
            WHERE t.actor_id = '1' AND a.verb = 'update' AND a.changed_data ? 'balance'""",
    ),
    "SQLAlchemy-Continuum": Variant(
        _continuum,
        ["SQLAlchemy", "SQLAlchemy-Continuum"],
        """SELECT count(DISTINCT t.request_id) FROM transaction t JOIN accounts_version v ON v.transaction_id = t.id
            WHERE t.user_id = 1 AND v.operation_type = 1 AND v.balance > 100""",
    ),
}
