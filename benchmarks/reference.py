"""The reference: what people write instead. A Celery task that signs, POSTs with `requests` and adds one log row.

`plain` is the task of the libraries' own first examples (`requests.post`, a row in a transaction); `tuned` keeps its
connections to the endpoint as well. Neither is held back: a pool for the database, no gossip, the better of threads and
processes. Runs as a process of its own:
`python -m benchmarks.reference BROKER_URL DATABASE_URL QUEUE POOL CONCURRENCY plain|tuned`.
"""

import hashlib
import hmac
import sys
import threading
import time
from datetime import UTC, datetime
from functools import cache
from typing import Any

import requests
from celery import Celery
from sqlalchemy import BigInteger, Column, DateTime, Float, Integer, LargeBinary, MetaData, Table, Text, insert
from sqlalchemy.engine import Engine, create_engine, make_url

SECRET = b"a secret of the reference"
TASK = "reference.deliver"
MOST_CONNECTIONS = 64

metadata = MetaData()
log = Table(
    "reference_log",
    metadata,
    Column("id", BigInteger, primary_key=True),
    Column("event_id", Text, nullable=False, index=True),
    Column("url", Text, nullable=False),
    Column("started_at", DateTime(timezone=True), nullable=False),
    Column("status", Integer),
    Column("duration_ms", Float, nullable=False),
    Column("request_body", LargeBinary, nullable=False),
    Column("response_body", LargeBinary),
)
_threads = threading.local()


def make_app(broker_url: str, queue: str) -> Celery:
    app = Celery("reference", broker=broker_url)
    app.conf.update(
        task_default_queue=queue,
        task_acks_late=True,
        task_ignore_result=True,
        broker_connection_retry_on_startup=True,
        worker_hijack_root_logger=False,
    )
    return app


@cache
def engine_of(database_url: str) -> Engine:
    """One engine a process, made after the fork."""
    url = make_url(database_url).set(drivername="postgresql+psycopg")
    return create_engine(url, pool_size=MOST_CONNECTIONS)


def session() -> requests.Session:
    """One session a thread: its connection is kept."""
    if not hasattr(_threads, "session"):
        _threads.session = requests.Session()
    kept: requests.Session = _threads.session
    return kept


def deliver(database_url: str, event_id: str, url: str, body: str, *, tuned: bool) -> None:
    """Sign, POST, log."""
    started_at, started = datetime.now(UTC), time.perf_counter()
    raw = body.encode()
    signature = hmac.new(SECRET, raw, hashlib.sha256).hexdigest()
    headers = {"Content-Type": "application/json", "X-Signature": f"sha256={signature}", "X-Event-Id": event_id}
    post = session().post if tuned else requests.post
    answer = post(url, data=raw, headers=headers, timeout=15)
    row: dict[str, Any] = {
        "event_id": event_id,
        "url": url,
        "started_at": started_at,
        "status": answer.status_code,
        "duration_ms": (time.perf_counter() - started) * 1000,
        "request_body": raw,
        "response_body": answer.content,
    }
    with engine_of(database_url).begin() as conn:
        conn.execute(insert(log), row)
    answer.raise_for_status()


def main() -> None:
    broker_url, database_url, queue, pool, concurrency, style = sys.argv[1:]
    app = make_app(broker_url, queue)

    @app.task(name=TASK)  # type: ignore[untyped-decorator]
    def task(event_id: str, url: str, body: str) -> None:
        deliver(database_url, event_id, url, body, tuned=style == "tuned")

    quiet = ["--without-gossip", "--without-mingle", "--without-heartbeat", "--loglevel=WARNING"]
    app.worker_main(["worker", f"--pool={pool}", f"--concurrency={concurrency}", *quiet])


if __name__ == "__main__":
    main()
