"""Codex's rollouts: a file of JSON records per session.

`log` reads the lines, `conversation` makes the rows of the session of them. `records` knows
single records, `screen` what is told twice, and `tokens` counts.
docs/formats/codex.md has the mapping.
"""

from asm.formats.codex.log import READER, CodexLog

__all__ = ["READER", "CodexLog"]
