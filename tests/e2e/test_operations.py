"""What a person has sent again on the running product: resend, redrive, replay."""

from datetime import UTC, datetime, timedelta
from typing import Any

from tests.e2e.conftest import Hari
from tests.journal import JournalReceiver
from tests.waiting import eventually


def add(hari: Hari, url: str, **fields: Any) -> str:
    body = {"name": "Test", "entity": "Lead", "event": "create", "url": url, "secret": "s"}
    return str(hari.api.call("POST", "/webhooks", body | fields)["id"])


def states(hari: Hari, webhook_id: str) -> list[str]:
    return [row["state"] for row in hari.api.call("GET", "/deliveries", webhook_id=webhook_id)["data"]]


def test_what_is_dead_is_redriven_and_what_is_delivered_resent(hari: Hari) -> None:
    answer = 500
    with JournalReceiver(lambda _: answer, keep_bodies=True) as endpoint:
        webhook_id = add(hari, endpoint.url)
        for name in ("A", "B"):
            hari.api.call("POST", "/records/Lead", {"name": name})
        eventually(lambda: states(hari, webhook_id) == ["dead"] * 2, 30)
        first, second = (row["id"] for row in hari.api.call("GET", "/dead", webhook_id=webhook_id)["data"])
        assert len(endpoint.lines) == 6
        hari.api.call("POST", f"/deliveries/{first}/resend")
        eventually(lambda: len(endpoint.lines) == 9, 20)  # the full schedule again
        eventually(lambda: states(hari, webhook_id) == ["dead"] * 2, 20)
        answer = 200
        assert hari.api.call("POST", "/dead/redrive", {"webhook_id": webhook_id})["count"] == 2
        eventually(lambda: states(hari, webhook_id) == ["delivered"] * 2, 20)
        answer = 503
        assert hari.api.call("POST", f"/deliveries/{second}/resend")["attempt_no"] == 5
        eventually(lambda: hari.api.call("GET", f"/deliveries/{second}")["attempts"][-1]["status"] == 503, 20)
        shown = hari.api.call("GET", f"/deliveries/{second}")
        assert len(shown["attempts"]) == 5
        assert shown["state"] == "delivered"
        assert len({line.body for line in endpoint.lines if line.delivery_id == second}) == 1
        hari.api.call("DELETE", f"/webhooks/{webhook_id}")


def test_what_a_deactivated_webhook_missed_is_replayed(hari: Hari) -> None:
    with JournalReceiver(keep_bodies=True) as endpoint:
        webhook_id = add(hari, endpoint.url, active=False)
        witness = add(hari, endpoint.url, event="delete")
        since = datetime.now(UTC) - timedelta(seconds=2)
        leads = [hari.api.call("POST", "/records/Lead", {"name": str(n)})["id"] for n in range(5)]
        hari.api.call("DELETE", f"/records/Lead/{leads[-1]}")
        eventually(lambda: states(hari, witness) == ["delivered"], 20)  # what came before is dispatched too
        hari.api.call("PATCH", f"/webhooks/{webhook_id}", {"active": True})
        mine = {line.delivery_id for line in endpoint.lines}
        body = {"webhook_id": webhook_id, "since": since.isoformat(), "until": datetime.now(UTC).isoformat()}
        counted = hari.api.call("POST", "/replays", body | {"dry_run": True})["count"]
        assert counted >= 5
        assert hari.api.call("POST", "/replays", body)["count"] == counted
        eventually(lambda: states(hari, webhook_id) == ["delivered"] * counted, 20)
        assert len({line.delivery_id for line in endpoint.lines} - mine) == counted
        for found in (webhook_id, witness):
            hari.api.call("DELETE", f"/webhooks/{found}")
