"""`hari webhook ...`: manage outgoing webhooks."""

from pathlib import Path
from typing import Annotated, Any

import typer

from services.cli.client import Api, fields, parsed, show

app = typer.Typer(help="Outgoing webhooks: who is told about which changes.", no_args_is_help=True)
COLUMNS = ("id", "name", "entity", "event", "url", "active", "deactivated_reason")

Id = Annotated[str, typer.Argument(help="The webhook's id, wh_...")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]


@app.command()
def create(
    name: Annotated[str, typer.Option(help="A name for people.")],
    entity: Annotated[str, typer.Option(help="Record type, like Deal.")],
    event: Annotated[str, typer.Option(help="save, create, update or delete.")],
    url: Annotated[str, typer.Option(help="Where to POST.")],
    secret: Annotated[str | None, typer.Option(help="Sent as X-Webhook-Secret, and the key of the signature.")] = None,
    header: Annotated[list[str] | None, typer.Option(help="A static header as name=value; may be repeated.")] = None,
    filter: Annotated[str | None, typer.Option(help='JSON, like {"changed.stage": "Won"}.')] = None,
    preset: Annotated[
        str | None,
        typer.Option(help="Form of the body: hari, standard, cloudevents, slack, zapier, google-apps-script, custom."),
    ] = None,
    template: Annotated[str | None, typer.Option(help="For custom: JSON, or @file that holds it.")] = None,
    redirect: Annotated[str | None, typer.Option(help="google-apps-script: its redirect is delivered.")] = None,
    timeout_s: Annotated[int | None, typer.Option(help="Deadline of one attempt, 1 to 30.")] = None,
    concurrency: Annotated[int | None, typer.Option(help="Requests at once per dispatcher, 1 to 256.")] = None,
    json: Json = False,
) -> None:
    """Create outgoing webhook."""
    given: dict[str, Any] = {"name": name, "entity": entity, "event": event, "url": url, "secret": secret}
    given["filter"] = parsed(filter) if filter else None
    given |= {"preset": preset, "template": _template(template) if template else None, "redirect": redirect}
    given |= {"timeout_s": timeout_s, "concurrency": concurrency, "headers": fields(header) if header else None}
    body = {key: value for key, value in given.items() if value is not None}
    answer = Api().call("POST", "/webhooks", body)
    show(answer, json, COLUMNS)
    if not json:
        for warning in answer.get("warnings", ()):
            typer.echo(f"warning: {warning['detail']}", err=True)


def _template(given: str) -> Any:
    if not given.startswith("@"):
        return parsed(given)
    try:
        return parsed(Path(given[1:]).read_text())
    except OSError as error:
        raise typer.BadParameter(f"cannot read {given[1:]}: {error.strerror}") from None


@app.command("list")
def list_(cursor: str | None = None, limit: int | None = None, json: Json = False) -> None:
    """List webhooks, newest first."""
    show(Api().call("GET", "/webhooks", cursor=cursor, limit=limit), json, COLUMNS)


@app.command("show")
def show_(id: Id, json: Json = False) -> None:
    """Show one webhook."""
    show(Api().call("GET", f"/webhooks/{id}"), json, COLUMNS)


@app.command()
def change(
    id: Id,
    field: Annotated[list[str], typer.Argument(help="name=value pairs; a value of null removes it.")],
    json: Json = False,
) -> None:
    """Change fields: hari webhook change wh_... url=https://example.com/hook timeout_s=10"""
    show(Api().call("PATCH", f"/webhooks/{id}", fields(field)), json, COLUMNS)


@app.command()
def activate(id: Id, json: Json = False) -> None:
    """Switch it on."""
    show(Api().call("PATCH", f"/webhooks/{id}", {"active": True}), json, COLUMNS)


@app.command()
def deactivate(id: Id, json: Json = False) -> None:
    """Switch it off without deleting it; what waits is cancelled, requests in flight finish."""
    show(Api().call("PATCH", f"/webhooks/{id}", {"active": False}), json, COLUMNS)


@app.command("rotate-secret")
def rotate_secret(
    id: Id,
    secret: Annotated[str | None, typer.Option(help="Your own; generated without.")] = None,
    overlap_s: Annotated[int | None, typer.Option(help="How long the old one signs too; 0 after a leak.")] = None,
    json: Json = False,
) -> None:
    """Regenerate secret; it is shown once."""
    given = {"secret": secret, "overlap_s": overlap_s}
    body = {key: value for key, value in given.items() if value is not None}
    show(Api().call("POST", f"/webhooks/{id}/rotate-secret", body), json, ("id", "secret"))


@app.command()
def delete(id: Id) -> None:
    """Delete it; its delivery log stays readable."""
    Api().call("DELETE", f"/webhooks/{id}")
    typer.echo(f"deleted {id}; its delivery log stays readable")


@app.command()
def test(id: Id, json: Json = False) -> None:
    """Send test: one sample event now, and the status that came back."""
    answer = Api().call("POST", f"/webhooks/{id}/test")
    if json:
        show(answer, True)
    else:
        met = answer["status"] if answer["error"] is None else answer["error"]
        typer.echo(f"{met} in {answer['duration_ms'] or 0:.0f} ms  ({answer['delivery_id']})")
    if answer["error"] is not None or answer["status"] >= 400:  # a redirect that failed has an error
        raise typer.Exit(1)
