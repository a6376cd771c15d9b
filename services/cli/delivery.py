"""`hari delivery ...`: the delivery log."""

from typing import Annotated, Any

import typer

from services.cli.client import Api, show, table

app = typer.Typer(help="The delivery log: what was sent, what came back.", no_args_is_help=True)
COLUMNS = (
    "id",
    "state",
    "reason",
    "attempt_count",
    "last_status",
    "entity",
    "event",
    "test",
    "webhook_id",
    "created_at",
)

Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]


@app.command("list")
def list_(
    webhook_id: str | None = None,
    state: Annotated[str | None, typer.Option(help="pending, waiting, delivered, dead or cancelled.")] = None,
    entity: str | None = None,
    record_id: str | None = None,
    event_id: str | None = None,
    since: str | None = None,
    until: str | None = None,
    cursor: str | None = None,
    limit: int | None = None,
    json: Json = False,
) -> None:
    """List deliveries, newest first."""
    filters: dict[str, Any] = {"webhook_id": webhook_id, "state": state, "entity": entity, "record_id": record_id}
    filters |= {"event_id": event_id, "since": since, "until": until, "cursor": cursor, "limit": limit}
    show(Api().call("GET", "/deliveries", **filters), json, COLUMNS)


@app.command("show")
def show_(id: Annotated[str, typer.Argument(help="dlv_...")], json: Json = False) -> None:
    """Show one delivery with its attempts."""
    answer = Api().call("GET", f"/deliveries/{id}")
    if json:
        show(answer, True)
        return
    print_delivery(answer)


@app.command()
def resend(id: Annotated[str, typer.Argument(help="dlv_...")], json: Json = False) -> None:
    """Make the next attempt now; a dead or cancelled delivery begins a new round."""
    answer = Api().call("POST", f"/deliveries/{id}/resend")
    if json:
        show(answer, True)
    else:
        typer.echo(f"attempt {answer['attempt_no']} of {id} is on its way")


def print_delivery(answer: Any) -> None:
    """One delivery and its attempts as a person reads them."""
    typer.echo(f"{answer['id']}  {answer['entity']} {answer['event']}  {answer['state']}  {answer.get('reason') or ''}")
    url = answer["attempts"][-1]["request"]["url"] if answer["attempts"] else None
    following = f"  next attempt {answer['next_attempt_at']}" if answer.get("next_attempt_at") else ""
    typer.echo(f"record {answer['record_id']}  webhook {answer['webhook_id']}  {f'to {url}' if url else ''}{following}")
    rows = [["attempt", "started", "met", "ms"]]
    for attempt in answer["attempts"]:
        met = attempt["status"] if attempt["error"] is None else f"{attempt['error']} {attempt['status'] or ''}"
        rows.append(
            [str(attempt["attempt_no"]), attempt["started_at"], str(met).strip(), f"{attempt['duration_ms'] or 0:.1f}"]
        )
    table(rows)
