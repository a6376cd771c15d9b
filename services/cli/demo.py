"""`hari demo`: the main job once, for real: a record change becomes a signed POST and a log row."""

import contextlib
import json
import os
import queue
import socket
import subprocess
import sys
import tempfile
import time
from base64 import b64encode
from collections.abc import Callable, Iterator
from pathlib import Path
from secrets import token_bytes, token_urlsafe
from typing import Any

import requests
from standardwebhooks import Webhook as Verifier

from services.cli.client import Api
from services.cli.delivery import print_delivery
from services.cli.receiver import ReceivedRequest, receiver
from shared.errors import HariError, Unavailable

START_S = 60
ARRIVE_S = 20


def run() -> int:
    """Start the stack in a directory of its own, deliver once, show it; 0 when all of it held."""
    with (
        tempfile.TemporaryDirectory(prefix="hari-demo-") as directory,
        receiver() as (url, received),
        _stack(Path(directory)) as api,
    ):
        return _show(api, url, received)


def _show(api: Api, url: str, received: "queue.Queue[ReceivedRequest]") -> int:
    secret = "whsec_" + b64encode(token_bytes(24)).decode()
    _say("1. an endpoint listens", url)
    webhook = api.call(
        "POST", "/webhooks", {"name": "Demo", "entity": "Deal", "event": "save", "url": url, "secret": secret}
    )
    _say("2. a webhook wants every saved Deal", webhook["id"])
    deal = api.call("POST", "/records/Deal", {"name": "Rocket skates", "stage": "Offer", "amount": 1200})
    _arrived(received)
    started = time.monotonic()
    api.call("PATCH", f"/records/Deal/{deal['id']}", {"stage": "Won"})
    _say("3. the Deal's stage changes", "Offer -> Won")
    request = _arrived(received)
    _say("4. the endpoint receives", f"{(time.monotonic() - started) * 1000:.0f} ms after the change was sent")
    print(f"\n   POST {request.path}")
    for name, value in request.headers:
        print(f"   {name}: {'••••' if name.lower() == 'x-webhook-secret' else value}")
    payload = Verifier(secret).verify(request.body, {name.lower(): value for name, value in request.headers})
    print("\n" + _indent(json.dumps(payload, indent=2, ensure_ascii=False)))
    _say("\n5. the signature is verified", "by the official standardwebhooks library")
    listed = _eventually(lambda: _delivered(api, webhook["id"]))
    _say("6. the delivery log says", "")
    print_delivery(api.call("GET", f"/deliveries/{listed['id']}"))
    print("\nThat was the main job. Keep it running with ./hari up; what to do next stands in README.md.")
    return 0


@contextlib.contextmanager
def _stack(directory: Path) -> Iterator[Api]:
    """`hari up` on free ports, ready; stopped in good order afterwards."""
    port, metrics = _free_port(), _free_port()
    key = f"hari_{token_urlsafe(32)}"
    environment = os.environ | {
        "HARI_DATA_DIR": str(directory / "var"),
        "HARI_PRODUCER_BIND": f"127.0.0.1:{port}",
        "HARI_METRICS_BIND": f"127.0.0.1:{metrics}",
        "HARI_BOOTSTRAP_API_KEY": key,
        "HARI_LOG_FORMAT": "json",
    }
    log = directory / "log"
    with log.open("w") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "services.cli", "up"], env=environment, stdout=output, stderr=subprocess.STDOUT
        )
    try:
        _eventually(lambda: _ready(metrics, process, log), START_S)
        yield Api(f"http://127.0.0.1:{port}", key)
    except HariError:
        print(log.read_text()[-3000:], file=sys.stderr)
        raise
    finally:
        process.terminate()
        process.wait(30)


def _ready(port: int, process: "subprocess.Popen[bytes]", log: Path) -> bool:
    if process.poll() is not None:
        raise Unavailable(f"hari up ended with {process.returncode}; its last words: {log.read_text()[-1500:]}")
    with contextlib.suppress(requests.RequestException):
        return requests.get(f"http://127.0.0.1:{port}/readyz", timeout=2).ok
    return False


def _delivered(api: Api, webhook_id: str) -> Any:
    found = api.call("GET", "/deliveries", webhook_id=webhook_id, event="updated")["data"]
    return found[0] if found and found[0]["state"] == "delivered" else None


def _arrived(received: "queue.Queue[ReceivedRequest]") -> ReceivedRequest:
    try:
        return received.get(timeout=ARRIVE_S)
    except queue.Empty:
        raise Unavailable(f"nothing arrived at the endpoint in {ARRIVE_S} s") from None


def _eventually(condition: Callable[[], Any], within_s: float = ARRIVE_S) -> Any:
    deadline = time.monotonic() + within_s
    while time.monotonic() < deadline:
        found = condition()
        if found:
            return found
        time.sleep(0.02)
    raise Unavailable(f"not within {within_s} s")


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _say(what: str, detail: str) -> None:
    print(f"{what}: {detail}" if detail else what)


def _indent(text: str) -> str:
    return "\n".join(f"   {line}" for line in text.splitlines())
