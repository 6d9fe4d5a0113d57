"""Files that sessions are read from and written to: our own JSON Lines, archives, and other tools' formats.

`maintenance` and `cli` import it.
"""
