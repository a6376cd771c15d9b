"""What every page must be: free of serious accessibility faults in light and dark, and no wider than a phone."""

import pytest

from tests.browser.chromium import NARROW, WIDE, Browser
from tests.browser.conftest import Product
from tests.receivers import Receiver, answer
from tests.waiting import eventually

WEBHOOKS = (
    ("Old sync", "Company", "update", "bad", {"active": False}),
    ("Tasks to the planner", "Task", "create", "bad", {}),
    ("Zapier – New Contact", "Contact", "create", "good", {}),
    ("Deal won → Slack", "Deal", "update", "bad", {"filter": {"changed.stage": "Won"}}),
    ("Deals to the data warehouse with a rather long name", "Deal", "save", "good", {"secret": "s3cret"}),
)
PAGES = {
    "webhooks": "/settings/webhooks",
    "incoming": "/settings/webhooks/incoming",
    "webhook-add": "/settings/webhooks/new",
    "webhook-edit": "/settings/webhooks/{webhook}",
    "secret": "/settings/webhooks/{webhook}/secret",
    "delete": "/settings/webhooks/{webhook}/delete",
    "deliveries": "/deliveries",
    "delivery": "/deliveries/{delivery}",
    "records": "/records/Deal",
    "record-add": "/records/Deal/new",
    "error": "/nothing",
}


@pytest.fixture
def places(browser: Browser, product: Product) -> dict[str, str]:
    """Some webhooks that have fared well and badly; what stands for {webhook} and {delivery} in PAGES."""
    api = product.api
    with Receiver(answer(200, body=b'{"ok": true}')) as good, Receiver(answer(404, body=b"no such hook")) as bad:
        made = [
            api.call("POST", "/webhooks", {"name": name, "entity": entity, "event": event, "url": url} | more)
            for name, entity, event, kind, more in WEBHOOKS
            for url in [(good if kind == "good" else bad).url_for("127.0.0.1", "/hooks/catch/1234567/abcdefghijkl")]
        ]
        for count in range(5):
            deal = api.call("POST", "/records/Deal", {"name": f"Rocket skates {count}", "stage": "Offer", "amount": 12})
            api.call("PATCH", f"/records/Deal/{deal['id']}", {"stage": "Won"})
            api.call("POST", "/records/Contact", {"first_name": "Ada", "email": "ada@example.com"})
        api.call("POST", "/records/Task", {"title": "Call back"})
        eventually(lambda: len(good.requests) >= 15 and len(bad.requests) >= 12, 20)
        browser.open("/settings/webhooks")
        browser.press("Send test to Deals to the data warehouse with a rather long name")
        browser.sees("200 OK in")
        browser.picture("webhooks-tested")
    failed = api.call("GET", "/deliveries?status=404")["data"]
    return {"webhook": made[-1]["id"], "delivery": failed[0]["id"]}


def test_every_page_is_accessible_and_fits_a_phone(browser: Browser, places: dict[str, str]) -> None:
    faults, wide = [], []
    for name, path in PAGES.items():
        browser.open(path.format(**places))
        for details in browser.all("details:not([open]) > summary"):
            if details.is_displayed():
                details.click()
        for scheme in ("light", "dark"):
            browser.scheme(scheme)
            faults += [f"{scheme} {fault}" for fault in browser.accessibility()]
            browser.picture(f"{name}-{scheme}")
        browser.size(NARROW)
        if browser.overflow() > 0:
            wide.append(f"{name}: {browser.overflow()} px")
        faults += [f"narrow {fault}" for fault in browser.accessibility()]
        browser.picture(f"{name}-narrow")
        browser.size(WIDE)
    browser.complaints()  # /nothing answers 404, which the console repeats
    assert (faults, wide) == ([], [])


def test_signing_in_is_accessible_and_says_what_was_wrong(browser: Browser) -> None:
    browser.press("Sign out")
    browser.fill(Name="admin", Password="wrong")
    browser.press("Sign in")
    browser.sees("do not fit together")
    faults = [fault for scheme in ("light", "dark") for fault in _in(browser, scheme)]
    browser.picture("sign-in")
    assert faults == []


def _in(browser: Browser, scheme: str) -> list[str]:
    browser.scheme(scheme)
    return browser.accessibility()
