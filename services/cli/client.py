"""The `hari` client's side of the API: `requests`, one place for errors and output."""

import contextlib
import json
import os
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import requests
import typer

from shared.errors import HariError
from shared.settings import KEY_FILE, URL_FILE, read_settings

TIMEOUT_S = 60


class ApiError(HariError):
    """The API said no; the text is its problem, field by field."""


class Api:
    """The API at HARI_URL with HARI_API_KEY; without them, the local `hari up` and the key in its data directory."""

    def __init__(self, url: str | None = None, key: str | None = None) -> None:
        self._url = (url or os.environ.get("HARI_URL") or _local_url()).rstrip("/")
        self._session = requests.Session()
        self._session.headers["Authorization"] = f"Bearer {key or os.environ.get('HARI_API_KEY') or _local_key()}"

    def call(self, method: str, path: str, body: Any = None, **params: Any) -> Any:
        """The parsed answer (None for 204). Raises ApiError with what the API said, field by field."""
        query = {name: value for name, value in params.items() if value is not None}
        try:
            answer = self._session.request(
                method, f"{self._url}/api/v1{path}", json=body, params=query, timeout=TIMEOUT_S
            )
        except requests.RequestException:
            raise ApiError(
                f"nothing answers at {self._url}: start it with ./hari up, or set HARI_URL to where it runs"
            ) from None
        if answer.ok:
            return answer.json() if answer.content else None
        raise ApiError(_explain(answer))


def _explain(answer: requests.Response) -> str:
    try:
        problem = answer.json()
    except ValueError:
        return f"the API answered {answer.status_code} {answer.reason}"
    lines = [f"{problem.get('detail') or problem.get('title')} ({answer.status_code})"]
    lines += [f"  {error['pointer'] or '(body)'}: {error['detail']}" for error in problem.get("errors", ())]
    return "\n".join(lines)


def _local_url() -> str:
    settings = read_settings()
    with contextlib.suppress(OSError):
        return (settings.data_dir / URL_FILE).read_text().strip()
    host, port = settings.producer_bind
    return f"http://{'127.0.0.1' if host == '0.0.0.0' else host}:{port}"  # noqa: S104 - read, not bound to


def _local_key() -> str:
    path = Path(read_settings().data_dir) / KEY_FILE
    try:
        return path.read_text().strip()
    except OSError:
        raise ApiError(f"no API key: set HARI_API_KEY, or run this where `hari up` keeps {path}") from None


def show(answer: Any, as_json: bool, columns: Sequence[str] = ()) -> None:
    """Print an answer: JSON as it came, else one line per item with these columns."""
    if as_json:
        print(json.dumps(answer, indent=2, ensure_ascii=False))
        return
    items = answer["data"] if isinstance(answer, dict) and "data" in answer else [answer]
    if not items:
        print("nothing here yet")
        return
    table([list(columns), *([_text(item.get(column)) for column in columns] for item in items)])
    if isinstance(answer, dict) and answer.get("next_cursor"):
        print(f"more: add --cursor {answer['next_cursor']}", file=sys.stderr)


def table(rows: Sequence[Sequence[str]]) -> None:
    """Print rows in aligned columns, the first row as header."""
    widths = [max(len(row[at]) for row in rows) for at in range(len(rows[0]))]
    for row in rows:
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())


def _text(value: Any) -> str:
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def parsed(text: str) -> Any:
    """The JSON in an option."""
    try:
        return json.loads(text)
    except ValueError as error:
        raise typer.BadParameter(f"not valid JSON: {error}") from None


def fields(words: Iterable[str]) -> dict[str, Any]:
    """`name=value` words as a dict; a value that is JSON is taken as such, anything else as text."""
    found: dict[str, Any] = {}
    for word in words:
        name, equals, value = word.partition("=")
        if not equals or not name:
            raise typer.BadParameter(f"{word!r} must be name=value, like stage=Won")
        try:
            found[name] = json.loads(value)
        except ValueError:
            found[name] = value
    return found
