"""What tutorials teach today: FastAPI with pydantic bodies and SQLAlchemy's ORM on SQLite, one session a request."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import Any

from fastapi import FastAPI
from pydantic import BaseModel
from sqlalchemy import Engine, create_engine, event, select
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column

from tests.bench_peers import flask_sqlite

fill = flask_sqlite.fill


class Base(DeclarativeBase):
    pass


class License(Base):
    __tablename__ = "licenses"
    key: Mapped[str] = mapped_column(primary_key=True)
    sale_id: Mapped[str] = mapped_column(unique=True)
    email: Mapped[str]
    active: Mapped[bool] = mapped_column(default=True)


class Device(Base):
    __tablename__ = "devices"
    key: Mapped[str] = mapped_column(primary_key=True)
    hardware_id: Mapped[str] = mapped_column(primary_key=True)


class Purchase(Base):
    __tablename__ = "purchases"
    seq: Mapped[int] = mapped_column(primary_key=True)
    event_id: Mapped[str] = mapped_column(unique=True)
    body: Mapped[str]


class Question(BaseModel):
    license_key: str
    hardware_id: str


def engine_of(folder: Path) -> Engine:
    engine = create_engine(f"sqlite:///{folder / 'licenses.db'}")

    @event.listens_for(engine, "connect")
    def sync_fully(connection, _record):
        connection.execute("pragma synchronous = full")

    return engine


def app() -> FastAPI:
    return app_on(engine_of(Path(os.environ["PEER_FOLDER"])))


def app_on(engine: Engine) -> FastAPI:
    made = FastAPI()

    @made.get("/health")
    def health() -> str:
        return "ok"

    @made.post("/validate")
    def validate(asked: Question) -> dict[str, Any]:
        with Session(engine) as session:
            license = session.get(License, asked.license_key)
            device = session.get(Device, (asked.license_key, asked.hardware_id))
            valid = bool(license and license.active and device)
            return {"valid": valid, "license": {"email": license.email} if license else None}

    @made.post("/sale")
    def sale(told: dict[str, str]) -> dict[str, Any]:
        key = hashlib.sha256(told["sale_id"].encode()).hexdigest()[:30]
        with Session(engine) as session, session.begin():
            if session.scalar(select(Purchase).where(Purchase.event_id == told["sale_id"])) is None:
                session.add(Purchase(event_id=told["sale_id"], body=json.dumps(told)))
                session.add(License(key=key, sale_id=told["sale_id"], email=told["email"]))
        return {"received": True, "outcome": "issued", "license_keys": [key]}

    return made
