"""Trajectories in Harbor's format ATIF: documents of one session, which may refer to one another.

`files` recognises them and reads one with those that it refers to, `trajectory` makes the rows of a session,
and `steps` the events of a step. The readers of other formats do not import it.
"""

from asm.formats.atif.files import READER

__all__ = ["READER"]
