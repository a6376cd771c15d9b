"""`python -m services.cli` is `hari`."""

from services.cli.main import run

run()
