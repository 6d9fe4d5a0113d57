"""Trajectories in Harbor's format ATIF: documents of one session, which may refer to one another.

`files` recognises them and knows which belong together, `reading` reads these, `trajectory` makes the rows of
a session, and `steps` the events of a step. Only the registry imports it.
"""

from asm.formats.atif.files import main_file, parts, session_id, sniff
from asm.formats.atif.reading import read
from asm.formats.atif.trajectory import FORMAT
from asm.formats.base import Reader

__all__ = ["READER"]

READER = Reader(FORMAT, sniff, read=read, session_id=session_id, main_file=main_file, parts=parts)
