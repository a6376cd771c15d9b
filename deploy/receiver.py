"""An endpoint for trying things out: answers 200 to every POST and prints it as one JSON line.

`python -m deploy.receiver [host:port]`; the profile `demo` of docker-compose.yml runs it.
"""

import contextlib
import json
import signal
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class Handler(BaseHTTPRequestHandler):
    """POST is printed; GET says that the endpoint is there."""

    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        headers = {
            name: "••••" if name.lower() == "x-webhook-secret" else value for name, value in self.headers.items()
        }
        request = {"path": self.path, "headers": headers, "body": body.decode(errors="replace")}
        print(json.dumps(request, ensure_ascii=False), flush=True)  # noqa: T201 - its output is for a person
        self._answer()

    def do_GET(self) -> None:
        self._answer()

    def _answer(self) -> None:
        self.send_response(200)
        self.send_header("Content-Length", "2")
        self.end_headers()
        self.wfile.write(b"ok")

    def log_message(self, format: str, *args: object) -> None:
        return


def main() -> None:
    host, _, port = (sys.argv[1] if len(sys.argv) > 1 else "127.0.0.1:8090").rpartition(":")
    # As process 1 of a container it would not hear SIGTERM without a handler.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    print(f"listening on http://{host}:{port}", file=sys.stderr, flush=True)  # noqa: T201 - its output is for a person
    with ThreadingHTTPServer((host, int(port)), Handler) as server, contextlib.suppress(KeyboardInterrupt):
        server.serve_forever()


if __name__ == "__main__":
    main()
