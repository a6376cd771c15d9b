"""What pages are made of: vendored files as they were published, words for times, URLs and outcomes."""

import hashlib
from datetime import timedelta
from pathlib import Path

import pytest

from services.producer.pages import show
from shared.model import Problem
from shared.passwords import hash_password, verify_password
from tests.builders import NOON

ROOT = Path(__file__).parents[3]
PAGES = ROOT / "services" / "producer" / "pages"


@pytest.mark.parametrize("directory", [PAGES / "static", ROOT / "tests" / "browser" / "vendor"], ids=lambda d: d.name)
def test_vendored_scripts_are_the_published_ones(directory: Path) -> None:
    listed = dict(reversed(line.split()) for line in (directory / "checksums.sha256").read_text().splitlines())
    assert listed == {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in directory.glob("*.min.js")}
    assert listed


def test_no_template_has_inline_script_or_style() -> None:
    for path in PAGES.glob("templates/*.html"):
        text = path.read_text()
        assert "style=" not in text, path
        assert "<style" not in text, path
        assert "<script>" not in text, path
        assert "|safe" not in text, path


def test_times_as_people_say_them() -> None:
    said = [show.ago(NOON - timedelta(seconds=age), NOON) for age in (0, 59, 60, 3599, 3600, 86400 * 3, -24)]
    assert said == ["just now", "59 s ago", "1 min ago", "59 min ago", "1 h ago", "3 d ago", "in 24 s"]


def test_long_urls_are_shortened_in_the_middle() -> None:
    assert show.middle("https://example.com/hook") == "example.com/hook"
    short = show.middle("https://hooks.zapier.com/hooks/catch/1234567/abcdefgh/end", 30)
    assert (len(short), short[:16], short[-4:]) == (30, "hooks.zapier.com", "/end")


@pytest.mark.parametrize("problem", Problem)
def test_every_problem_has_words(problem: Problem) -> None:
    assert show.met(None, problem.value) != problem.value
    assert show.why(None, problem.value, "https://example.com/x").endswith((".", "?"))


def test_a_curl_command_survives_quotes() -> None:
    request = {"url": "https://example.com/?a='b'", "headers": {"X-A": "it's"}, "body": '{"a": "it\'s"}'}
    assert show.curl(request).splitlines() == [
        "curl -X POST 'https://example.com/?a='\\''b'\\''' \\",
        "  -H 'X-A: it'\\''s' \\",
        "  --data-raw '{\"a\": \"it'\\''s\"}'",
    ]


def test_passwords_are_stored_salted_and_verified() -> None:
    stored = hash_password("correct horse")
    assert stored != hash_password("correct horse")
    assert verify_password("correct horse", stored)
    assert not verify_password("correct hors", stored)
    assert not verify_password("correct horse", "scrypt$broken")
