"""Imports a session of an export, with its numbers and its times."""

from __future__ import annotations

import pickle
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from itertools import chain
from tempfile import TemporaryFile, gettempdir

from asm.errors import StorageError
from asm.export_files.exported import ExportedSession
from asm.operations.imports import ImportBatch, ImportCounts, batches_of
from asm.store import SessionStore, run_operation


def import_export(store: SessionStore, exported: ExportedSession) -> ImportCounts:
    """Write what the store lacks, all of it or nothing, and return how much that was.

    Conflict if it differs from the stored session. A long one is imported in one transaction, which is not
    retried.
    """
    batches = batches_of(exported.session, exported.rows, exported.counter)
    first, second = next(batches), next(batches, None)
    if second is None:
        return run_operation(store, first.import_all())
    # No transaction is open while the file is read, which may be a pipe whose writer stalls: nobody else
    # could write to a SQLite store meanwhile.
    with _spooled(chain((first, second), batches)) as spooled, store.transaction() as tx:
        counts = [run_operation(tx, batch.import_all()) for batch in spooled]
    return ImportCounts(*map(sum, zip(*counts, strict=True)))


@contextmanager
def _spooled(batches: Iterable[ImportBatch]) -> Iterator[Iterator[ImportBatch]]:
    """The same batches, all of which have been read, from a temporary file that no other process can open."""
    with TemporaryFile() as file:
        number = 0
        for batch in batches:
            try:
                pickle.dump(batch, file, pickle.HIGHEST_PROTOCOL)
            except OSError as error:
                raise StorageError(f"cannot write to a file in {gettempdir()}: {error.strerror}") from error
            number += 1
        file.seek(0)
        yield (pickle.load(file) for _ in range(number))
