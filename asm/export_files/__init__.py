"""Exports of sessions: as JSON Lines, and archived in a folder.

`jsonl` is the format, `archives` a folder with an export per session, and `text` reads files of other
programs.
"""
