"""`hari event ...` and `hari replay`: why an event went where, and sending events again."""

from datetime import UTC, datetime
from typing import Annotated, Any

import typer

from services.cli.client import Api, show, table
from services.cli.delivery import Json

app = typer.Typer(help="Events: why each webhook got one or not.", no_args_is_help=True)
COLUMNS = ("webhook_id", "name", "verdict", "clause", "delivery_id", "changed_since")


@app.command()
def explain(id: Annotated[str, typer.Argument(help="evt_...")], json: Json = False) -> None:
    """Say for each webhook whether the event was sent, and if not, why."""
    answer = Api().call("GET", f"/events/{id}/explain")
    if json:
        show(answer, True)
        return
    event = answer["event"]
    typer.echo(f"{event['id']}  {event['entity']} {event['event']}  record {event['record_id']}")
    show({"data": answer["webhooks"]}, False, COLUMNS)


def replay(
    webhook_id: Annotated[str, typer.Argument(help="wh_...")],
    since: Annotated[str, typer.Option(help="Events stored at this time or later, like 2026-11-23T10:00:00Z.")],
    until: Annotated[str | None, typer.Option(help="Events stored before this time; now without.")] = None,
    include_delivered: Annotated[bool, typer.Option(help="Send once more what was delivered.")] = False,
    dry_run: Annotated[bool, typer.Option(help="Only count.")] = False,
    json: Json = False,
) -> None:
    """Send a webhook the events of a time range that it missed, as far as it matches them now."""
    body: dict[str, Any] = {"webhook_id": webhook_id, "since": since, "until": until or datetime.now(UTC).isoformat()}
    answer = Api().call("POST", "/replays", body | {"include_delivered": include_delivered, "dry_run": dry_run})
    if json:
        show(answer, True)
        return
    would = "would be" if dry_run else "are"
    table([["deliveries", "replay"], [f"{answer['count']} {would} sent", answer.get("id", "-")]])
