"""The `hari` command: processes, and a client for the API. Imports what a command needs only when it runs."""

import sys
from typing import Annotated

import typer

from services.cli import dead, delivery, event, key, record, webhook
from shared.errors import HariError

app = typer.Typer(
    help="HARi Webhooks: signed deliveries for a CRM's record changes, with retries, dead letters and a full log.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
app.add_typer(webhook.app, name="webhook")
app.add_typer(record.app, name="record")
app.add_typer(delivery.app, name="delivery")
app.add_typer(dead.app, name="dead")
app.add_typer(event.app, name="event")
app.add_typer(key.app, name="key")
app.command()(event.replay)

Json = Annotated[bool, typer.Option("--json", help="Print JSON instead of text.")]


@app.command()
def up() -> None:
    """Start everything in one process until Ctrl-C: API, relay, dispatcher; embedded unless servers are set."""
    from services.cli import processes

    processes.up()


@app.command()
def demo() -> None:
    """Show one delivery from record change to verified request and log row, then exit."""
    from services.cli import demo as shown

    raise typer.Exit(shown.run())


@app.command()
def test(only: Annotated[list[str] | None, typer.Argument(help="Phases to run; all without.")] = None) -> None:
    """Run the whole suite, servers included; each phase prints its time."""
    from services.cli import testing

    raise typer.Exit(testing.run(only or []))


@app.command()
def producer() -> None:
    """The API: records, events, webhooks, deliveries."""
    _process("producer")


@app.command()
def relay() -> None:
    """Carry the outbox to the broker; one is active, others stand by."""
    _process("relay")


@app.command()
def dispatcher() -> None:
    """Match events, deliver, retry, log; run as many as you need."""
    _process("dispatcher")


@app.command()
def migrate() -> None:
    """Bring the database's schema to this version."""
    from services.cli import processes

    processes.migrate_now()


@app.command()
def health() -> None:
    """Exit 0 when the process on this host's HARI_METRICS_BIND is ready; for container health checks."""
    from services.cli import processes

    raise typer.Exit(processes.health())


@app.command("new-secret-key")
def new_secret_key() -> None:
    """Print a fresh key for HARI_SECRET_KEYS."""
    from shared.secrets import new_key

    print(new_key())


@app.command(context_settings={"allow_extra_args": True, "ignore_unknown_options": True})
def bench(context: typer.Context) -> None:
    """Measure deliveries per second against a Celery reference and a bare loop; see docs/performance.md."""
    from benchmarks.bench import main

    raise typer.Exit(main(context.args))


def _process(role: str) -> None:
    from services.cli import processes

    processes.run_role(role)


def run() -> None:
    """The entry point: errors of ours become one message and exit code 2, never a traceback."""
    try:
        app(prog_name="hari")
    except HariError as error:
        print(f"hari: {error}", file=sys.stderr)
        sys.exit(2)
