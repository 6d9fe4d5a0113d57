"""File formats from which sessions are read, and our own, to which they are written.

`registry` finds the format of a file. `jsonl` is our export format, `archives` a folder of exports, and
each other module the format of one tool. `maintenance` and `cli` import this package.
"""
