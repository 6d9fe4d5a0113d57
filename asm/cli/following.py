"""Files of folders that change, as `asm import --follow` needs them.

The library watchfiles reports them, by inotify or what else the system has. Where it is not installed, or the
system has no more watches, all files are looked at again and again, at a cost that is limited.
"""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from asm.errors import StorageError
from asm.formats import registry
from asm.formats.importing import Importer, ImportFailure
from asm.store_files import StoreFiles, identity_of

LATENCY_MS = 300
"""Changes are collected for so long at most."""

STEP_MS = 50
"""They are reported when there was no other for so long."""

IDLE_MS = 500
"""How often it is looked whether a folder is there, and failed imports are tried again."""

POLL_S = 0.5
CORE_MAX = 0.01
"""The share of a core that looking at all files may take."""

_LOGS = ("-wal", "-journal")
"""What SQLite appends to the name of a database. It changes these files before the database."""


class Follower:
    """Imports the files of folders as they change."""

    def __init__(
        self, importer: Importer, own: StoreFiles, report: Callable[[ImportFailure], object]
    ) -> None:
        """`report` is called with a file that cannot be imported, again if the reason is another one."""
        self._importer = importer
        self._own = own
        self._report = report
        self._failed: dict[str, str] = {}
        self._again: set[Path] = set()

    def import_changed(self, paths: Iterable[Path]) -> None:
        """Import those files that have changed, and those that failed because of the store."""
        changed = {_database_of(path) for path in paths} | self._again
        wanted = sorted(path for path in changed if self._is_wanted(path))
        if wanted:
            try:
                self._importer.import_changed(wanted)
            except StorageError as error:
                if not error.retryable:
                    raise
                lost = [ImportFailure(str(path), error, named=False) for path in wanted]
                self._importer.report.failures += lost
            self.report_failures(wanted)

    def report_failures(self, paths: Iterable[Path]) -> None:
        """Report what could not be imported of some files, once, and forget what was reported of others."""
        failures, self._importer.report.failures = self._importer.report.failures, []
        for failure in failures:
            if self._failed.get(failure.path) != str(failure):
                self._report(failure)
        reported = {str(path) for path in paths}
        self._failed = {path: message for path, message in self._failed.items() if path not in reported}
        self._failed |= {failure.path: str(failure) for failure in failures}
        self._again = {Path(failure.path) for failure in failures if failure.error.retryable}

    def _is_wanted(self, path: Path) -> bool:
        return path.is_file() and path not in self._own and not registry.is_unfinished(path)


def _database_of(path: Path) -> Path:
    for suffix in _LOGS:
        if path.name.endswith(suffix):
            return path.with_name(path.name.removesuffix(suffix))
    return path


@contextmanager
def stopped_by_signals() -> Iterator[threading.Event]:
    """An event that SIGINT and SIGTERM set, so that what was begun is finished. A second one interrupts."""
    stop = threading.Event()
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def end(_number: int, _frame: object) -> None:
        stop.set()
        restore()

    def restore() -> None:
        for number, handler in before.items():
            signal.signal(number, handler)

    for number in before:
        signal.signal(number, end)
    try:
        yield stop
    finally:
        restore()


def changes(folders: Sequence[Path], stop: threading.Event) -> Iterator[set[Path] | None]:
    """The files that have changed, until `stop` is set.

    None means that any file may have: changes are reported from then on. An empty set is yielded again and
    again while nothing changes.
    """
    while not stop.is_set():
        watched = {folder: identity_of(folder) for folder in folders}
        there = [folder for folder, identity in watched.items() if identity is not None]
        for changed in _watch(there, stop):
            yield changed
            # A folder that was deleted, moved or created is another one for the system.
            if watched != {folder: identity_of(folder) for folder in folders}:
                break


def _watch(folders: Sequence[Path], stop: threading.Event) -> Iterator[set[Path] | None]:
    try:
        from watchfiles import watch
    except ImportError:
        yield from _poll(folders, stop)
        return
    if not folders:
        yield from _poll(folders, stop)
        return
    is_first = True
    try:
        found = watch(
            *folders,
            watch_filter=None,
            debounce=LATENCY_MS,
            step=STEP_MS,
            rust_timeout=IDLE_MS,
            yield_on_timeout=True,
            stop_event=stop,
            ignore_permission_denied=True,
        )
        for changed in found:
            yield None if is_first else _files_in({Path(name) for _, name in changed})
            is_first = False
    except OSError:
        # There are no more watches, or a folder is gone.
        yield from _poll(folders, stop)


def _files_in(changed: set[Path]) -> set[Path]:
    """The paths that changed, and the files of folders among them.

    The system does not report what a new folder gets before it is watched.
    """
    return changed | {
        Path(parent, name) for path in changed for parent, _, names in os.walk(path) for name in names
    }


def _poll(folders: Sequence[Path], stop: threading.Event) -> Iterator[set[Path] | None]:
    began = time.process_time()
    before = _state(folders)
    yield None
    while not stop.wait(max(POLL_S, (time.process_time() - began) / CORE_MAX)):
        began = time.process_time()
        now = _state(folders)
        yield {path for path, state in now.items() if before.get(path) != state}
        before = now


def _state(folders: Sequence[Path]) -> Mapping[Path, tuple[int, int, int]]:
    found = {}
    for folder in folders:
        for parent, _, names in os.walk(folder):
            for name in names:
                path = Path(parent, name)
                try:
                    stat = path.stat()
                except OSError:
                    continue
                found[path] = stat.st_ino, stat.st_size, stat.st_mtime_ns
    return found
