"""The `asm` command, for tests that look at what it prints."""

from __future__ import annotations

from click.testing import CliRunner

from asm.cli.command import cli


def output_of(*arguments: str) -> str:
    """What the command prints. It must succeed."""
    result = CliRunner().invoke(cli, arguments, prog_name="asm", catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.stdout
