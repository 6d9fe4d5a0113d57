"""File formats from which sessions are read, and `import_files`, which imports them into a store.

`registry` finds the format of a file. Each other module has the format of one tool.
"""

from asm.formats.importing import ImportFailure, ImportReport, import_files

__all__ = ["ImportFailure", "ImportReport", "import_files"]
