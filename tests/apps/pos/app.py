# Copyright: Contributors to the Sluice project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A point of sale: sells, and says how it is. It listens where HOST and PORT say."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
import time
from pathlib import Path

import psycopg2
import redis
import uvicorn
from fastapi import FastAPI, HTTPException, Request, WebSocket

HERE = Path(__file__).resolve().parent
VERSION = json.loads((HERE / "version.json").read_text())["version"]
DATABASE = os.environ.get("DATABASE_URL", "")
REDIS = os.environ.get("REDIS_URL", "")
STARTED = time.time()
# A worker that wrote nothing for so many seconds is dead.
STALE_S = 10

app = FastAPI(title="pos")
served = {"requests": 0, "errors": 0}


def ask(sql, *values):
    """Run one statement and return its rows."""
    connection = psycopg2.connect(DATABASE, connect_timeout=2)
    try:
        with connection, connection.cursor() as cursor:
            cursor.execute(sql, values)
            return cursor.fetchall() if cursor.description else []
    finally:
        connection.close()


def component(look):
    """Say how a part is, by whether looking at it fails."""
    began = time.monotonic()
    try:
        said = look()
    except Exception as error:  # whatever it is, the part is down
        return {"status": "down", "why": type(error).__name__}
    return {"status": "ok", "ms": round((time.monotonic() - began) * 1000, 1), **(said or {})}


def worker_age():
    rows = ask("SELECT extract(epoch FROM now() - max(seen)) FROM heartbeats")
    age = rows[0][0]
    if age is None or age > STALE_S:
        raise RuntimeError("no heartbeat")
    return {"age_s": round(float(age), 1)}


@app.middleware("http")
async def count(request: Request, answer):
    served["requests"] += 1
    response = await answer(request)
    served["errors"] += response.status_code >= 500
    return response


@app.get("/api/v1/health")
def health():
    return {"status": "ok", "version": VERSION, "slot": os.environ.get("SLUICE_SLOT", "")}


@app.get("/api/v1/health/detailed")
def detailed():
    parts = {}
    if DATABASE:
        parts["database"] = component(lambda: ask("SELECT 1") and None)
        parts["worker"] = component(worker_age)
    if REDIS:
        parts["redis"] = component(lambda: redis.Redis.from_url(REDIS, socket_timeout=2).ping() and None)
    return {"status": "ok", "version": VERSION, "components": parts}


@app.get("/health/metrics")
def metrics():
    return {"uptime_seconds": round(time.time() - STARTED, 1), **served}


@app.get("/")
def till():
    return {"till": "open", "version": VERSION}


@app.post("/api/v1/sales", status_code=201)
async def sell(request: Request):
    sale = await request.json()
    if not isinstance(sale.get("amount_cents"), int) or sale["amount_cents"] <= 0:
        raise HTTPException(400, "amount_cents must be a positive number")
    rows = await asyncio.to_thread(ask, "INSERT INTO sales (amount_cents) VALUES (%s) RETURNING id", sale["amount_cents"])
    return {"id": rows[0][0]}


@app.websocket("/ws")
async def socket(connection: WebSocket):
    await connection.accept()
    await connection.send_json({"version": VERSION})
    await connection.close()


def worker():
    """Write a heartbeat each second, to the database and to the file that the slot names."""
    slot, beat = os.environ.get("SLUICE_SLOT", ""), os.environ.get("SLUICE_HEARTBEAT", "")
    while True:
        ask("INSERT INTO heartbeats (slot, seen) VALUES (%s, now()) ON CONFLICT (slot) DO UPDATE SET seen = excluded.seen", slot)
        if beat:
            Path(beat).touch()
        time.sleep(1)


def serve():
    uvicorn.run(app, host=os.environ.get("HOST", "0.0.0.0"), port=int(os.environ.get("PORT", "8000")), access_log=False)


if __name__ == "__main__":
    if sys.argv[1:] == ["worker"]:
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
        worker()
    serve()
