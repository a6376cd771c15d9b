"""A kombu transport whose queues stand in one SQLite file and live through `kill -9`.

kombu brings declarations, routing and prefetch; this module brings storage, delays, dead-lettering and limits. One
process has the file at a time (the data directory's lock sees to it), and one thread in it makes every call.
"""

import re
import sqlite3
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from itertools import count
from typing import Any

from kombu.exceptions import ChannelError
from kombu.transport import virtual
from kombu.transport.virtual.exchange import TopicExchange
from kombu.utils import json

Row = tuple[Any, ...]
RawMessage = dict[str, Any]

# A process that was killed leaves its commits with the system, so NORMAL keeps what `kill -9` must not lose; only a
# power cut can take the last ones, and those the database's housekeeping publishes again.
PRAGMAS = ("journal_mode=WAL", "synchronous=NORMAL", "cache_size=-8000", "busy_timeout=1000")

SCHEMA = (
    # Arguments outlive the process: a wait queue that today's schedule no longer names still hands its messages on.
    "CREATE TABLE IF NOT EXISTS queues (name TEXT PRIMARY KEY, arguments TEXT NOT NULL) WITHOUT ROWID",
    """CREATE TABLE IF NOT EXISTS messages (
        id INTEGER PRIMARY KEY,         -- place in the queue, and delivery tag
        queue TEXT NOT NULL,
        leased INTEGER NOT NULL,        -- handed out, not ended
        lost_count INTEGER NOT NULL,    -- leases that ended with their process
        due_at REAL,                    -- Unix seconds; when it is dead-lettered
        message_id TEXT NOT NULL,
        headers TEXT NOT NULL,
        body BLOB NOT NULL
    )""",
    "CREATE INDEX IF NOT EXISTS messages_ready ON messages (queue, id) WHERE NOT leased",
    "CREATE INDEX IF NOT EXISTS messages_due ON messages (due_at) WHERE due_at IS NOT NULL AND NOT leased",
)

DEAD_LETTERS_AT_ONCE = 500
DEAD_LETTER_AGAIN_S = 1.0


class QueueFull(ChannelError):  # type: ignore[misc]
    """A queue that refuses publishes is at its length."""


class Unroutable(ChannelError):  # type: ignore[misc]
    """No queue is bound for this exchange and routing key, nor at the alternate exchange."""


class AmqpTopic(TopicExchange):
    """A topic exchange whose `#` stands for no word too, as AMQP 0-9-1 (3.1.3.3) has it; kombu's wants one."""

    def key_to_pattern(self, rkey: str) -> str:
        words = {"*": r"\.[^.]*", "#": r"(?:\.[^.]*)*"}
        return "".join(words.get(word, r"\." + re.escape(word)) for word in rkey.split(".")) + r"\Z"

    def _match(self, pattern: str, string: str) -> Any:
        return super()._match(pattern, f".{string}")  # type: ignore[no-untyped-call]


class QoS(virtual.QoS):
    """kombu's prefetch count, without its hand-back at exit: the next opening ends every lease."""

    restore_at_shutdown = False

    def ack(self, delivery_tag: int) -> None:
        # kombu only marks the tag here, because others' threads may ack; ours is the only one.
        self._delivered.pop(delivery_tag, None)


class Channel(virtual.Channel):
    """One consumer's view of the queues. `self.connection` is the Transport, as kombu has it."""

    QoS = QoS
    exchange_types = virtual.Channel.exchange_types | {"topic": AmqpTopic}
    body_encoding = ""  # none: bodies are bytes from end to end
    do_restore = False

    # -- declarations

    def _new_queue(self, queue: str, arguments: dict[str, Any] | None = None, **_: Any) -> None:
        self.connection.keep_queue(queue, arguments or {})

    def _size(self, queue: str) -> int:
        return self.connection.lengths.get(queue, 0)  # type: ignore[no-any-return]

    # -- publishing

    def _next_delivery_tag(self) -> int:
        return 0  # a row's id takes its place; kombu would make a UUID for every message

    def basic_publish(self, message: RawMessage, exchange: str, routing_key: str, **_: Any) -> None:
        """Store the message in every queue it is routed to, or in none: raises QueueFull, Unroutable."""
        queues = self._route(exchange, routing_key)
        if not queues:
            raise Unroutable(f"exchange {exchange!r} has no queue for {routing_key!r}")
        for queue in queues:
            if self.connection.is_full(queue):
                raise QueueFull(f"{queue} is full")
        for queue in queues:
            self.connection.put(queue, message)

    def _route(self, exchange: str, routing_key: str) -> set[str]:
        found = self._lookup(exchange, routing_key)  # type: ignore[no-untyped-call]
        queues: set[str] = set(found) & self.connection.queues.keys()
        if queues or exchange not in self.state.exchanges:
            return queues
        alternate = self.state.exchanges[exchange]["arguments"].get("alternate-exchange")
        return self._route(alternate, routing_key) if alternate else queues

    # -- consuming

    def basic_consume(self, queue: str, no_ack: bool, callback: Any, consumer_tag: str, **kwargs: Any) -> None:
        super().basic_consume(queue, no_ack, callback, consumer_tag, **kwargs)  # type: ignore[no-untyped-call]
        # kombu keeps one callback for a queue in the whole connection; two consumers of one queue need one each.
        self._hand_to = self.connection._callbacks[queue]

    def _get_many(self, queues: list[str], timeout: float | None = None) -> None:
        """Lease as many messages as prefetch leaves room for, then hand them to the consumer; kombu's drain_events."""
        (queue,) = queues
        with self.connection.transaction():
            rows = self.connection.lease(queue, self.qos.can_consume_max_estimate())
        for row in rows:
            self._hand_to(_raw_message(row))

    def basic_ack(self, delivery_tag: int, multiple: bool = False) -> None:
        self.connection.end_lease(delivery_tag)
        super().basic_ack(delivery_tag)  # type: ignore[no-untyped-call]

    def basic_reject(self, delivery_tag: int, requeue: bool = False) -> None:
        """Hand a message back to its place in the queue; nobody has seen it, so nothing is counted."""
        self.connection.give_back(delivery_tag)
        self.qos.ack(delivery_tag)

    # -- delays and limits

    def dead_letter_due(self) -> None:
        """Move what is due to its dead-letter exchange; what finds no room there stays and is tried again."""
        for row in self.connection.take_due(DEAD_LETTERS_AT_ONCE):
            queue, message = row[1], _raw_message(row)
            arguments = self.connection.queues[queue]
            exchange = arguments.get("x-dead-letter-exchange")
            try:
                if exchange is not None:
                    self.basic_publish(message, exchange, arguments["x-dead-letter-routing-key"])
            except (QueueFull, Unroutable):
                self.connection.postpone(row[0], DEAD_LETTER_AGAIN_S)
            else:
                self.connection.drop(queue, row[0])


class Transport(virtual.Transport):
    """The file, and every statement on it. Statements run inside `transaction()` of the caller."""

    client: Any
    Channel = Channel
    driver_type = driver_name = "sqlite"

    def establish_connection(self) -> Any:
        self.database = sqlite3.connect(self.client.transport_options["path"], isolation_level=None)
        self.queues: dict[str, dict[str, Any]] = {}
        self.lengths: dict[str, int] = {}  # ready messages; counting rows at each publish would cost more each time
        for pragma in PRAGMAS:
            self.database.execute(f"PRAGMA {pragma}")
        with self.transaction():
            self._recover()
        return super().establish_connection()  # type: ignore[no-untyped-call]

    def close_connection(self, connection: Any) -> None:
        super().close_connection(connection)  # type: ignore[no-untyped-call]
        self.database.close()

    @contextmanager
    def transaction(self) -> Iterator[None]:
        lengths = dict(self.lengths)
        self.database.execute("BEGIN IMMEDIATE")
        try:
            yield
            self.database.execute("COMMIT")
        except BaseException:
            self.lengths = lengths
            if self.database.in_transaction:  # a full disk has rolled back by itself
                self.database.execute("ROLLBACK")
            raise

    def _recover(self) -> None:
        """End the leases of the process before us, and send what was lost too often to its dead-letter exchange."""
        execute = self.database.execute
        for statement in SCHEMA:
            execute(statement)
        self.queues = {name: json.loads(arguments) for name, arguments in execute("SELECT * FROM queues")}
        execute("UPDATE messages SET leased = 0, lost_count = lost_count + 1 WHERE leased")
        for name, arguments in self.queues.items():
            if (limit := arguments.get("x-delivery-limit")) is not None:
                execute("UPDATE messages SET due_at = 0 WHERE queue = ? AND lost_count > ?", (name, limit))
        self.lengths = dict(execute("SELECT queue, count(*) FROM messages GROUP BY queue"))
        ((last,),) = execute("SELECT coalesce(max(id), 0) FROM messages")
        # Ids go up for as long as the process lives: a second ack of an old tag must never meet a new message.
        self._ids = count(last + 1)

    def keep_queue(self, name: str, arguments: dict[str, Any]) -> None:
        """Remember a queue. Raises ChannelError if it exists with other arguments, as RabbitMQ does (406)."""
        sql = "INSERT INTO queues VALUES (?, ?) ON CONFLICT DO NOTHING"
        self.database.execute(sql, (name, json.dumps(arguments)))
        ((text,),) = self.database.execute("SELECT arguments FROM queues WHERE name = ?", (name,))
        if (stored := json.loads(text)) != arguments:
            raise ChannelError(f"queue {name} has {stored}, not {arguments}")
        self.queues[name] = arguments

    def is_full(self, queue: str) -> bool:
        """Whether the queue refuses publishes; one that drops its oldest never does."""
        arguments = self.queues[queue]
        limit = arguments.get("x-max-length")
        return limit is not None and arguments["x-overflow"] != "drop-head" and self.lengths.get(queue, 0) >= limit

    def put(self, queue: str, message: RawMessage) -> None:
        """Append a message; a queue that drops its oldest makes room first."""
        arguments, length = self.queues[queue], self.lengths.get(queue, 0)
        if length and length >= arguments.get("x-max-length", length + 1):
            oldest = "SELECT min(id) FROM messages WHERE queue = ? AND NOT leased"
            self.database.execute(f"DELETE FROM messages WHERE id = ({oldest})", (queue,))  # noqa: S608
            length -= 1
        ttl_ms = arguments.get("x-message-ttl")
        # The system's clock, because a delay goes on while no process runs.
        due_at = None if ttl_ms is None else time.time() + ttl_ms / 1000
        self.lengths[queue] = length + 1
        headers, message_id = message["headers"], message["properties"].get("message_id", "")
        text = json.dumps(headers) if headers else "{}"
        values = (next(self._ids), queue, due_at, message_id, text, message["body"])
        self.database.execute("INSERT INTO messages VALUES (?, ?, 0, 0, ?, ?, ?, ?)", values)

    def lease(self, queue: str, limit: int) -> list[Row]:
        """Lease up to `limit` ready messages, oldest first."""
        oldest = "SELECT id FROM messages WHERE queue = ? AND NOT leased ORDER BY id LIMIT ?"
        sql = f"UPDATE messages SET leased = 1 WHERE id IN ({oldest}) RETURNING {_COLUMNS}"  # noqa: S608
        rows = sorted(self.database.execute(sql, (queue, limit)))  # RETURNING promises no order
        self.lengths[queue] = self.lengths.get(queue, 0) - len(rows)
        return rows

    def end_lease(self, row_id: int) -> None:
        self.database.execute("DELETE FROM messages WHERE id = ? AND leased", (row_id,))

    def give_back(self, row_id: int) -> None:
        sql = "UPDATE messages SET leased = 0 WHERE id = ? AND leased RETURNING queue"
        for (queue,) in self.database.execute(sql, (row_id,)).fetchall():
            self.lengths[queue] = self.lengths.get(queue, 0) + 1

    def next_due_at(self) -> float | None:
        """When the next message is to be dead-lettered (Unix seconds), or None."""
        sql = "SELECT min(due_at) FROM messages WHERE due_at IS NOT NULL AND NOT leased"
        ((due_at,),) = self.database.execute(sql)
        return due_at  # type: ignore[no-any-return]

    def take_due(self, limit: int) -> list[Row]:
        due = "due_at <= ? AND due_at IS NOT NULL AND NOT leased ORDER BY due_at, id LIMIT ?"
        return self.database.execute(f"SELECT {_COLUMNS} FROM messages WHERE {due}", (time.time(), limit)).fetchall()  # noqa: S608

    def postpone(self, row_id: int, wait_s: float) -> None:
        self.database.execute("UPDATE messages SET due_at = ? WHERE id = ?", (time.time() + wait_s, row_id))

    def drop(self, queue: str, row_id: int) -> None:
        self.lengths[queue] -= 1
        self.database.execute("DELETE FROM messages WHERE id = ?", (row_id,))


_COLUMNS = "id, queue, lost_count, message_id, headers, body"


def _raw_message(row: Iterable[Any]) -> RawMessage:
    """A row as kombu's virtual transports pass messages around."""
    row_id, queue, lost_count, message_id, headers, body = row
    properties = {
        "delivery_tag": row_id,
        "message_id": message_id,
        "delivery_info": {"queue": queue, "redelivered": lost_count > 0},
    }
    return {"body": body, "headers": json.loads(headers) if headers != "{}" else {}, "properties": properties}
