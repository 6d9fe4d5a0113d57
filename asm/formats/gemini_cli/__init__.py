"""Gemini CLI's files: logs of JSON records, the documents of versions before 0.30, and saved conversations.

`files` recognises and reads them. `conversation` makes the rows of a session of its messages, and `records`
knows single messages. docs/formats/gemini-cli.md has the mapping.
"""

from asm.formats.gemini_cli.files import READERS, why_no_session

__all__ = ["READERS", "why_no_session"]
