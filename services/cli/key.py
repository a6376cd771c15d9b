"""`hari key ...`: API keys and their roles."""

from typing import Annotated

import typer

from services.cli.client import Api, show
from services.cli.delivery import Json

app = typer.Typer(help="API keys: who may call, and what.", no_args_is_help=True)
COLUMNS = ("id", "name", "role", "prefix", "created_at", "revoked_at")


@app.command()
def create(
    name: Annotated[str, typer.Option(help="A name for people; changes show it as their user.")],
    role: Annotated[str, typer.Option(help="viewer, operator or admin.")],
    json: Json = False,
) -> None:
    """Make a key and show it, this one time."""
    answer = Api().call("POST", "/keys", {"name": name, "role": role})
    show(answer, json, ("id", "name", "role", "key"))


@app.command("list")
def list_(cursor: str | None = None, limit: int | None = None, json: Json = False) -> None:
    """List keys, newest first."""
    show(Api().call("GET", "/keys", cursor=cursor, limit=limit), json, COLUMNS)


@app.command()
def revoke(id: Annotated[str, typer.Argument(help="key_...")], json: Json = False) -> None:
    """End a key; it works two seconds more at most."""
    Api().call("DELETE", f"/keys/{id}")
    if json:
        show({"id": id, "revoked": True}, True)
    else:
        typer.echo(f"revoked {id}")
