"""Receivers that enforce what the real services do: Slack's incoming webhooks, and Apps Script web apps."""

import json
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

Answer = tuple[int, dict[str, str], bytes]


@dataclass
class StrictReceiver:
    """Listens on a free loopback port; `answer(body)` chooses status, headers and body. GETs are only counted."""

    answer: Callable[[bytes], Answer]
    posts: list[bytes] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)
    gets: int = 0

    def __enter__(self) -> "StrictReceiver":
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["content-length"]))
                outer.posts.append(body)
                outer.headers.append({name.lower(): value for name, value in self.headers.items()})
                self._answer(*outer.answer(body))

            def do_GET(self) -> None:
                outer.gets += 1
                self._answer(404, {}, b"")

            def _answer(self, status: int, headers: dict[str, str], body: bytes) -> None:
                self.send_response(status)
                # Closed, so that nobody who gets this port next is answered by us.
                own = {"Content-Length": str(len(body)), "Connection": "close"}
                for name, value in (headers | own).items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: Any) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()
        self.url = f"http://127.0.0.1:{self._server.server_port}/hook"
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()


def slack(body: bytes) -> Answer:
    """What hooks.slack.com answers: `ok`, or 400 with the word for what it will not take."""
    word = slack_refuses(body)
    return (400, {}, word.encode()) if word else (200, {}, b"ok")


def slack_refuses(body: bytes) -> str | None:
    """`invalid_payload`, `no_text` or `invalid_blocks`; None when Slack would post it.

    Source: Slack, "Sending messages using incoming webhooks" (errors); Block Kit, "Section block", "Context block".
    """
    try:
        message = json.loads(body)
    except ValueError:
        return "invalid_payload"
    if not isinstance(message, dict):
        return "invalid_payload"
    if not message.get("text") and not message.get("blocks"):
        return "no_text"
    if not isinstance(message.get("text", ""), str) or len(message.get("text", "")) > 40_000:
        return "invalid_payload"
    blocks = message.get("blocks", [])
    return None if len(blocks) <= 50 and all(map(_block_is_fine, blocks)) else "invalid_blocks"


def _block_is_fine(block: Any) -> bool:
    if block["type"] == "context":
        return 1 <= len(block["elements"]) <= 10 and all(_text_is_fine(one, 3000) for one in block["elements"])
    if block["type"] != "section" or not ("text" in block or "fields" in block):
        return False
    fields = block.get("fields", [])
    fits = "fields" not in block or 1 <= len(fields) <= 10
    return fits and all(_text_is_fine(one, 2000) for one in fields) and _text_is_fine(block.get("text"), 3000)


def _text_is_fine(text: Any, most: int) -> bool:
    return text is None or (text["type"] in ("mrkdwn", "plain_text") and 1 <= len(text["text"]) <= most)


@dataclass
class AppsScript:
    """A web app: runs `do_post` for every POST, then answers 302, to the one-time page with the script's answer when it
    is public, to the sign-in page when it is not (and then nothing has run)."""

    do_post: Callable[[bytes], None]
    public: bool = True

    def __call__(self, body: bytes) -> Answer:
        if not self.public:
            return 302, {"Location": "https://accounts.google.com/ServiceLogin?continue=x"}, b""
        self.do_post(body)
        page = "https://script.googleusercontent.com/macros/echo?user_content_key=AbC&lib=1"
        return 302, {"Location": page}, b"<HTML>Moved Temporarily</HTML>"
