"""`hari dead ...`: dead deliveries, and what sends them again."""

from typing import Annotated, Any

import typer

from services.cli.client import Api, show
from services.cli.delivery import COLUMNS, Json

app = typer.Typer(help="Dead deliveries: their retries are used up.", no_args_is_help=True)


@app.command("list")
def list_(
    webhook_id: str | None = None,
    since: str | None = None,
    until: str | None = None,
    cursor: str | None = None,
    limit: int | None = None,
    json: Json = False,
) -> None:
    """List dead deliveries, newest first."""
    filters: dict[str, Any] = {"webhook_id": webhook_id, "since": since, "until": until}
    show(Api().call("GET", "/dead", **filters, cursor=cursor, limit=limit), json, COLUMNS)


@app.command()
def redrive(
    id: Annotated[list[str] | None, typer.Argument(help="dlv_..., one or more; or use a filter.")] = None,
    webhook_id: str | None = None,
    since: Annotated[str | None, typer.Option(help="Created at this time or later.")] = None,
    until: Annotated[str | None, typer.Option(help="Created before this time.")] = None,
    reason: Annotated[str | None, typer.Option(help="With exactly this reason.")] = None,
    every: Annotated[bool, typer.Option("--all", help="Every dead delivery.")] = False,
    json: Json = False,
) -> None:
    """Begin a new round of dead deliveries, with the full schedule."""
    filters = {"webhook_id": webhook_id, "since": since, "until": until, "reason": reason}
    body: dict[str, Any] = {name: value for name, value in filters.items() if value is not None}
    if id:
        body["delivery_ids"] = id
    if not body and not every:
        raise typer.BadParameter("give ids, a filter, or --all")
    answer = Api().call("POST", "/dead/redrive", body)
    if json:
        show(answer, True)
    else:
        typer.echo(f"{answer['count']} dead {'delivery is' if answer['count'] == 1 else 'deliveries are'} sent again")
