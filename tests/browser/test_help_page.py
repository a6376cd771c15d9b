"""Every line of the user's help page on outgoing webhooks, done by hand in a real browser on the running product."""

import json
from typing import Any

from selenium.webdriver.common.by import By
from selenium.webdriver.support.ui import Select

from tests.browser.chromium import Browser
from tests.browser.conftest import Product
from tests.receivers import Receiver, answer, in_turn, ok
from tests.waiting import eventually


def add(browser: Browser, receiver: Receiver, name: str, **more: str) -> None:
    """Add an outgoing webhook for every saved Deal, as a person does."""
    browser.open("/settings/webhooks")
    browser.press("Add outgoing")
    browser.fill(Name=name, Entity="Deal", Webhook_URL=receiver.url)
    for label, text in more.items():
        browser.fill(**{label: text})
    browser.press("Create outgoing webhook")
    browser.sees(f"{name} is active")


def create_deal(browser: Browser, name: str, stage: str = "Offer") -> None:
    browser.open("/records/Deal")
    browser.press("Add Deal")
    browser.fill(Name=name, Stage=stage)
    browser.press("Create Deal")
    browser.sees("The Deal is created")


def body(received: Any) -> Any:
    return json.loads(received.body)


def test_the_form_asks_what_the_help_page_says(browser: Browser) -> None:
    browser.sees("No outgoing webhooks yet")
    browser.picture("empty")
    browser.press("Add outgoing")
    labels = [label.text for label in browser.all("form.card label") if label.is_displayed()]
    assert labels[:5] == ["Name", "Entity", "Webhook URL", "Event", "Secret (optional)"]
    events = [option.text for option in Select(browser.field("Event")).options]
    assert events == [
        "After record save (create or update)",
        "After record create",
        "After record update",
        "After record delete",
    ]
    assert "Deal" in [option.text for option in Select(browser.field("Entity")).options]
    browser.press("Create outgoing webhook")
    browser.sees("must not be empty")
    assert browser.field("Name").get_attribute("aria-invalid") == "true"
    browser.picture("form")


def test_send_test_shows_the_status_that_came_back_and_the_secret_travels(browser: Browser) -> None:
    with Receiver(in_turn(answer(200, body=b"thanks"), answer(404))) as receiver:
        add(browser, receiver, "To my app", Secret="my own s3cret")
        browser.press("Send test to To my app")
        browser.sees(r"200 OK in \d+ ms: thanks")
        [received] = receiver.requests
        assert received.header("X-Webhook-Secret") == "my own s3cret"
        assert body(received)["test"] is True
        browser.press("Send test to To my app")
        browser.sees(r"404 Not Found in \d+ ms")
        assert "does not know this path" in browser.text


def test_the_post_says_event_entity_record_timestamp_and_user(browser: Browser) -> None:
    with Receiver(ok) as receiver:
        add(browser, receiver, "To my app")
        create_deal(browser, "Rocket skates")
        [received] = receiver.wait_for(1)
        sent = body(received)
        assert (sent["event"], sent["entity"], sent["user"]["name"]) == ("created", "Deal", "admin")
        assert set(sent["record"]) > {"id", "version", "name", "stage", "amount", "close_date", "contact_id"}
        assert sent["timestamp"].endswith("Z")


def test_view_logs_shows_deliveries_with_status_and_payload(browser: Browser) -> None:
    with Receiver(ok) as receiver:
        add(browser, receiver, "To my app")
        create_deal(browser, "A very recognisable deal")
        receiver.wait_for(1)
        browser.open("/settings/webhooks")
        browser.press("View Logs of To my app")
        browser.sees("delivered.*Deal created.*200 OK")
        browser.one("tbody a").click()
        browser.sees("A very recognisable deal")
        assert "X-Webhook-Secret" not in browser.text
        assert "webhook-id" in browser.text
        browser.press("As a curl command")
        browser.sees("curl -X POST")


def test_failed_deliveries_are_retried(browser: Browser) -> None:
    with Receiver(in_turn(answer(500), ok)) as receiver:
        add(browser, receiver, "To my app")
        create_deal(browser, "Twice")
        receiver.wait_for(2)
        browser.open("/deliveries")
        browser.sees(r"delivered.*Deal created.*200 OK\s+2")
        browser.one("tbody a").click()
        browser.sees("500 Internal Server Error")
        assert len(browser.all("li.attempt")) == 2


def test_a_delivery_that_waits_counts_down(browser: Browser) -> None:
    with Receiver(answer(500)) as receiver:
        add(browser, receiver, "To my app")
        create_deal(browser, "Never")
        receiver.wait_for(2)
        browser.open("/deliveries?state=waiting")
        browser.sees(r"waiting.*500 Internal Server Error\s+2")
        browser.one("tbody a").click()
        browser.sees(r"next try in (\d+:)?\d\d:\d\d")


def test_regenerate_secret_is_beside_the_test_and_rolls_it(browser: Browser) -> None:
    with Receiver(ok) as receiver:
        add(browser, receiver, "To my app", Secret="leaked")
        names = [found.get_attribute("title") for found in browser.all("td.actions .icon-button")]
        assert names == ["Send test", "Regenerate secret", "View Logs", "Deactivate", "Delete"]
        browser.press("Regenerate secret of To my app")
        browser.press("Regenerate secret")
        browser.sees("has a new secret")
        secret = browser.one("#new-secret").get_attribute("value")
        browser.press("Copy")
        browser.sees("Copied|Press Ctrl-C")
        browser.open("/settings/webhooks")
        assert browser.all("#new-secret") == []
        browser.press("Send test to To my app")
        browser.sees("200 OK in")
        assert receiver.requests[-1].header("X-Webhook-Secret") == secret


def test_deactivate_activate_and_delete(browser: Browser) -> None:
    with Receiver(ok) as quiet, Receiver(ok) as witness:
        add(browser, quiet, "Quiet")
        add(browser, witness, "Witness")
        browser.press("Deactivate Quiet")
        browser.sees("Quiet is inactive")
        create_deal(browser, "Unheard")
        witness.wait_for(1)
        browser.open("/settings/webhooks")
        browser.press("Activate Quiet")
        browser.sees("Quiet is active")
        create_deal(browser, "Heard")
        [received] = quiet.wait_for(1)
        assert body(received)["record"]["name"] == "Heard"
        browser.open("/settings/webhooks")
        browser.press("Delete Quiet")
        browser.sees("Its 1 log entry stays readable")
        browser.press("Delete webhook")
        browser.sees("Quiet is deleted")
        assert [row.text for row in browser.all("tbody th a")] == ["Witness"]
        browser.open("/deliveries")
        browser.sees("Quiet")


def test_a_webhook_for_deals_whose_stage_becomes_won(browser: Browser) -> None:
    with Receiver(ok) as won:
        browser.open("/settings/webhooks/new")
        browser.press("More")
        browser.fill(Name="Won", Entity="Deal", Webhook_URL=won.url, Filter='{"changed.stage": "Won"}')
        browser.press("Create outgoing webhook")
        browser.sees("filtered")
        create_deal(browser, "A deal")
        for name, stage in (("A deal", "Call"), ("A deal", "Won"), ("A renamed deal", "Won"), ("A deal", "Lost")):
            browser.one("tbody a").click()
            browser.fill(Name=name, Stage=stage)
            browser.press("Save")
            browser.sees("The Deal is saved")
        browser.one("tbody a").click()
        browser.fill(Stage="Won")
        browser.press("Save")
        first, second = won.wait_for(2)
        assert [body(one)["previous"]["stage"] for one in (first, second)] == ["Call", "Lost"]


def test_everything_works_without_javascript(browser: Browser, product: Product) -> None:
    with Receiver(ok) as receiver, browser.without_javascript():
        add(browser, receiver, "Plain")
        browser.press("Send test to Plain")
        browser.sees(r"200 OK in \d+ ms")
        browser.press("Deactivate Plain")
        browser.sees("Plain is inactive")
        browser.one("tbody th a").click()
        browser.fill(Name="Plainer")
        browser.press("Save")
        browser.sees("Plainer is saved")
        browser.press("Delete Plainer")
        browser.press("Delete webhook")
        browser.sees("No outgoing webhooks yet")
    assert product.api.call("GET", "/webhooks")["data"] == []


def test_the_log_follows_what_happens(browser: Browser, product: Product) -> None:
    with Receiver(ok) as receiver:
        add(browser, receiver, "To my app")
        browser.open("/deliveries?entity=Task")
        browser.sees("Nothing fits these filters")
        add(browser, receiver, "Tasks", Entity="Task")
        browser.open("/deliveries?entity=Task")
        product.api.call("POST", "/records/Task", {"title": "Call"})
        browser.sees("Task created")


def test_the_keyboard_alone_is_enough(browser: Browser) -> None:
    seen: list[str] = []
    for _ in range(12):
        browser.driver.switch_to.active_element.send_keys("\ue004")
        focused = browser.driver.switch_to.active_element
        seen.append(focused.text or focused.get_attribute("aria-label") or "")
        if seen[-1] == "Add outgoing":
            break
    assert seen[0] == "Skip to content"
    assert seen[-1] == "Add outgoing"
    assert focused.value_of_css_property("outline-style") == "solid"
    focused.send_keys("\ue007")
    eventually(lambda: browser.path == "/settings/webhooks/new")
    assert browser.driver.find_element(By.ID, "name").is_displayed()
