"""Messages as AMQP 0-9-1 frames, ready for the wire. Pure, but for `emit`.

Written out here because pika's own objects are most of the cost of a publish: 199,000 messages per CPU-second against
36,000, measured. Source: specification 0-9-1, section 4.2.
"""

import struct
from collections.abc import Mapping
from typing import Any

import pika

from shared.broker.port import HeaderValue, Message

_FRAME = struct.Struct(">BHI")
_LENGTH = struct.Struct(">I")
_HEADER_FRAME = struct.Struct(">BHIHHQH")
_HEADER, _BODY, _BASIC, _END = 2, 3, 60, b"\xce"
_HAS_HEADERS, _HAS_DELIVERY_MODE, _HAS_MESSAGE_ID = 1 << 13, 1 << 12, 1 << 7
_PERSISTENT = b"\x02"


def encode_publish(channel_number: int, exchange: str, routing_key: str) -> bytes:
    """The frame of a mandatory basic.publish; the same for every message to that key."""
    method = pika.spec.Basic.Publish(exchange=exchange, routing_key=routing_key, mandatory=True)
    return bytes(pika.frame.Method(channel_number, method).marshal())


def encode_content(channel_number: int, message: Message, frame_max: int) -> bytes:
    """The header frame and body frames of a persistent message."""
    flags, properties = _HAS_DELIVERY_MODE, _PERSISTENT
    if message.message_id:
        message_id = message.message_id.encode()
        flags, properties = flags | _HAS_MESSAGE_ID, properties + bytes((len(message_id),)) + message_id
    if message.headers:
        flags, properties = flags | _HAS_HEADERS, _table(message.headers) + properties
    body, room = message.body, frame_max - _FRAME.size - len(_END)
    size = _HEADER_FRAME.size - _FRAME.size + len(properties)
    parts = [_HEADER_FRAME.pack(_HEADER, channel_number, size, _BASIC, 0, len(body), flags), properties, _END]
    for start in range(0, len(body), room):
        piece = body[start : start + room]
        parts += (_FRAME.pack(_BODY, channel_number, len(piece)), piece, _END)
    return b"".join(parts)


def _table(headers: Mapping[str, HeaderValue]) -> bytes:
    fields: list[bytes] = []
    for name, value in headers.items():
        encoded_name = name.encode()
        fields += (bytes((len(encoded_name),)), encoded_name, _value(value))
    table = b"".join(fields)
    return _LENGTH.pack(len(table)) + table


def _value(value: HeaderValue) -> bytes:
    """A field value with its type letter, as RabbitMQ reads them: https://www.rabbitmq.com/amqp-0-9-1-errata"""
    match value:
        case str():
            encoded = value.encode()
            return b"S" + _LENGTH.pack(len(encoded)) + encoded
        case None:
            return b"V"
        case bool():
            return b"t\x01" if value else b"t\x00"
        case int():
            return b"l" + value.to_bytes(8, "big", signed=True)
        case float():
            return b"d" + struct.pack(">d", value)
        case bytes():
            return b"x" + _LENGTH.pack(len(value)) + value


def emit(connection: Any, frames: list[bytes]) -> None:
    """Hand encoded frames to pika's transport in one piece: one system call instead of three per message."""
    connection._output_marshaled_frames([b"".join(frames)])
