"""The `asm` command, one module per group of subcommands. Nothing else imports this package."""

from asm.cli.main import main

__all__ = ["main"]
