"""`hari record ...`: create, read and change records; every change is an event."""

from typing import Annotated

import typer

from services.cli.client import Api, fields, show

app = typer.Typer(help="Records of the CRM; every change becomes an event.", no_args_is_help=True)
COLUMNS = ("id", "version", "updated_at")

Entity = Annotated[str, typer.Argument(help="Record type, like Deal.")]
Id = Annotated[str, typer.Argument(help="The record's id.")]
Fields = Annotated[list[str], typer.Argument(help="name=value pairs, like stage=Won amount=1200.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]


@app.command()
def create(entity: Entity, field: Fields, json: Json = False) -> None:
    """Create a record."""
    show(Api().call("POST", f"/records/{entity}", fields(field)), json, COLUMNS)


@app.command()
def change(entity: Entity, id: Id, field: Fields, json: Json = False) -> None:
    """Change fields of a record."""
    show(Api().call("PATCH", f"/records/{entity}/{id}", fields(field)), json, COLUMNS)


@app.command("show")
def show_(entity: Entity, id: Id) -> None:
    """Print one record as JSON."""
    show(Api().call("GET", f"/records/{entity}/{id}"), True)


@app.command("list")
def list_(entity: Entity, cursor: str | None = None, limit: int | None = None, json: Json = False) -> None:
    """List records, newest first."""
    show(Api().call("GET", f"/records/{entity}", cursor=cursor, limit=limit), json, COLUMNS)


@app.command()
def delete(entity: Entity, id: Id) -> None:
    """Delete a record."""
    Api().call("DELETE", f"/records/{entity}/{id}")
    typer.echo(f"deleted {entity} {id}")
