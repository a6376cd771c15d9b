"""Signatures against the published vectors and the official library, both ways."""

import base64
import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from standardwebhooks import Webhook as Official

from shared.errors import Refused
from shared.signing import TOLERANCE_S, key_of, sign, verify

VECTORS: list[dict[str, Any]] = json.loads(
    (Path(__file__).parents[2] / "golden" / "signatures.json").read_text(encoding="utf-8")
)["standard_webhooks"]
SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
KEY = key_of(SECRET)
NOW_S = 1_795_000_000
BODY = b'{"event":"updated"}'
SIGNATURE = sign(KEY, "dlv_1", NOW_S, BODY)


@pytest.mark.parametrize("vector", VECTORS, ids=lambda vector: vector["secret"])
def test_published_vectors(vector: dict[str, Any]) -> None:
    signature = sign(key_of(vector["secret"]), vector["id"], vector["timestamp"], vector["body"].encode())
    assert signature == vector["signature"]


@pytest.mark.parametrize(
    ("secret", "key"),
    [
        pytest.param(SECRET, base64.b64decode(SECRET[6:]), id="a whsec_ secret is decoded"),
        pytest.param("MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw", b"MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw", id="base64 alone is not"),
        pytest.param("pass word", b"pass word", id="text stands for its bytes"),
        pytest.param("grüße", "grüße".encode(), id="text that is not ASCII stands for its UTF-8 bytes"),
        pytest.param("WHSEC_abc", b"WHSEC_abc", id="the prefix is lower case"),
    ],
)
def test_key_of(secret: str, key: bytes) -> None:
    assert key_of(secret) == key


def test_key_of_a_broken_whsec_secret() -> None:
    with pytest.raises(ValueError, match="base64"):
        key_of("whsec_not base64!")


@given(
    secret=st.binary(min_size=24, max_size=64), body=st.text(max_size=200), message_id=st.from_regex(r"[a-z0-9_]{1,40}")
)
def test_the_official_library_accepts_ours_and_we_accept_its(secret: bytes, body: str, message_id: str) -> None:
    text = "whsec_" + base64.b64encode(secret).decode()
    now = datetime.now(UTC)
    timestamp_s = int(now.timestamp())
    ours = sign(key_of(text), message_id, timestamp_s, body.encode())
    official = Official(text)
    assert official.sign(msg_id=message_id, timestamp=now, data=body) == ours
    headers = {"webhook-id": message_id, "webhook-timestamp": str(timestamp_s), "webhook-signature": ours}
    payload = json.dumps({"text": body})
    headers["webhook-signature"] = sign(key_of(text), message_id, timestamp_s, payload.encode())
    assert official.verify(payload, headers) == {"text": body}
    theirs = official.sign(msg_id=message_id, timestamp=now, data=payload)
    verify([key_of(text)], message_id, str(timestamp_s), payload.encode(), theirs, now_s=now.timestamp())


@pytest.mark.parametrize(
    ("keys", "signatures"),
    [
        pytest.param([KEY], SIGNATURE, id="one key, one signature"),
        pytest.param([b"new", KEY], SIGNATURE, id="the second key fits"),
        pytest.param([KEY], f"{sign(b'new', 'dlv_1', NOW_S, BODY)} {SIGNATURE}", id="the second signature fits"),
        pytest.param([KEY], f"v1a,AAAA v2,BBBB {SIGNATURE}", id="other versions are passed over"),
        pytest.param([KEY], f"v1,grüße {SIGNATURE}", id="what is not ASCII is passed over"),
    ],
)
def test_verify_accepts(keys: list[bytes], signatures: str) -> None:
    verify(keys, "dlv_1", str(NOW_S), BODY, signatures, now_s=NOW_S)


@pytest.mark.parametrize(
    "change",
    [
        pytest.param({"keys": [b"other"]}, id="another key"),
        pytest.param({"keys": []}, id="no key"),
        pytest.param({"message_id": "dlv_2"}, id="another id"),
        pytest.param({"timestamp": str(NOW_S + 1)}, id="another timestamp"),
        pytest.param({"body": BODY + b" "}, id="another body"),
        pytest.param({"signatures": ""}, id="no signature"),
        pytest.param({"signatures": "v1,"}, id="an empty signature"),
        pytest.param({"signatures": SIGNATURE[3:]}, id="a signature without version"),
        pytest.param({"signatures": SIGNATURE[:-1]}, id="a shortened signature"),
        pytest.param({"signatures": "v1a," + SIGNATURE[3:]}, id="another version"),
        pytest.param({"timestamp": "soon"}, id="a timestamp that is no number"),
        pytest.param({"timestamp": f"{NOW_S}.0"}, id="a timestamp with a fraction"),
        pytest.param({"timestamp": "٣"}, id="a timestamp in other digits"),
        pytest.param({"timestamp": "9" * 5000}, id="a timestamp without end"),
        pytest.param({"timestamp": ""}, id="no timestamp"),
        pytest.param({"now_s": NOW_S + TOLERANCE_S + 1}, id="too old"),
        pytest.param({"now_s": NOW_S - TOLERANCE_S - 1}, id="too far in the future"),
    ],
)
def test_verify_refuses(change: dict[str, Any]) -> None:
    good: dict[str, Any] = {"keys": [KEY], "message_id": "dlv_1", "timestamp": str(NOW_S), "body": BODY}
    good |= {"signatures": SIGNATURE, "now_s": NOW_S}
    verify(**good)
    with pytest.raises(Refused) as refusal:
        verify(**(good | change))
    assert refusal.value.status == 401


@pytest.mark.parametrize("drift_s", [-TOLERANCE_S, 0, TOLERANCE_S])
def test_clocks_may_differ_by_the_tolerance(drift_s: float) -> None:
    verify([KEY], "dlv_1", str(NOW_S), BODY, SIGNATURE, now_s=NOW_S + drift_s)
