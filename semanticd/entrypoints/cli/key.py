"""`semanticd key`: makes API keys."""

from __future__ import annotations

import secrets

import click

from semanticd.entrypoints.cli.output import narrate, print_text

_NUM_BYTES = 32


@click.group("key")
def commands() -> None:
    """Generate API keys."""


@commands.command()
def new() -> None:
    """Print a new random key, which is not stored."""
    print_text(f"sk-semanticd-{secrets.token_urlsafe(_NUM_BYTES)}")
    narrate(
        "clients must send it once it is set: SEMANTIC_API_KEY, or `api_key` under [security] in the "
        "file that `semanticd config path` prints; several keys are separated by commas"
    )
