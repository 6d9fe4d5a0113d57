"""How files are written and read, also in folders to which other users may write.

A file is written under a random name, synced, and renamed. So a reader, also after a crash, finds the earlier
contents or the new ones. A link, a pipe or a lock that another user has put in the place of a file is not
followed, not written into and not deleted, and no function waits for it without a limit.

All functions raise OSError. Its `strerror` is a sentence that can follow the name of the file.
"""

from __future__ import annotations

import errno
import fcntl
import os
import secrets
import stat
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from io import BufferedReader
from itertools import takewhile
from pathlib import Path
from typing import BinaryIO

PRIVATE = 0o600
"""The mode of a new file: only its owner may read and write it."""

PRIVATE_FOLDER = 0o700

LOCK_RETRY_S = 0.02

_LINKS_MAX = 40

_KINDS = {
    stat.S_IFLNK: "a symbolic link",
    stat.S_IFIFO: "a named pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFDIR: "a folder",
}


# Writing.


@contextmanager
def replacing(path: Path) -> Iterator[BinaryIO]:
    """A new file that is synced and gets the name `path` when the block ends without an error.

    If it replaces a regular file, it takes over the mode and, where that is permitted, the owner and the
    group. Otherwise it is private. A link that has the name is replaced, and not followed.
    """
    # Opened first: a folder that cannot be synced is found out before anything is written.
    folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        # Nobody can foretell a random name and take it before, which O_EXCL would refuse.
        unfinished = path.with_name(f".asm-{secrets.token_hex(8)}.new")
        descriptor = os.open(unfinished, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, PRIVATE)
        try:
            with os.fdopen(descriptor, "wb") as file:
                yield file
                file.flush()
                _take_over_mode(descriptor, path, os.fstat(folder))
                os.fsync(descriptor)
            unfinished.replace(path)
        except BaseException:
            with suppress(OSError):
                unfinished.unlink()
            raise
        _sync_folder(folder)
    finally:
        os.close(folder)


def writing_into(path: Path) -> BinaryIO:
    """A device or a pipe, open for writing. FileExistsError for a regular file.

    Opening a pipe waits until another process reads from it.
    """
    # Without O_CREAT and O_TRUNC, and checked after opening: a file may have taken its place since the
    # caller looked.
    descriptor = os.open(path, os.O_WRONLY)
    if stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise FileExistsError(errno.EEXIST, "it has become a regular file", str(path))
    return os.fdopen(descriptor, "wb")


def make_folder(folder: Path) -> None:
    """Create a private folder, and the folders above it, unless it exists."""
    missing = list(takewhile(lambda each: not each.is_dir(), (folder, *folder.parents)))
    for each in reversed(missing):
        each.mkdir(PRIVATE_FOLDER if each == folder else 0o777, exist_ok=True)
        descriptor = os.open(each.parent, os.O_RDONLY | os.O_DIRECTORY)
        try:
            _sync_folder(descriptor)
        finally:
            os.close(descriptor)


def create_private(path: Path) -> None:
    """Create an empty private file. FileExistsError if anything has the name, also a link to nothing."""
    os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, PRIVATE))


def _take_over_mode(descriptor: int, path: Path, folder: os.stat_result) -> None:
    """Give a file the mode, the owner and the group of the one that it is going to replace."""
    mode = PRIVATE
    with suppress(FileNotFoundError):
        found = path.lstat()
        if stat.S_ISREG(found.st_mode) and not _is_planted(found, folder):
            mode = _mode_with_owner(descriptor, found)
    # Not permitted where the file system has no modes.
    with suppress(PermissionError):
        os.fchmod(descriptor, mode)


def _mode_with_owner(descriptor: int, found: os.stat_result) -> int:
    """Change the owner and the group as far as permitted. Returns the mode for those that it has now."""
    mode = stat.S_IMODE(found.st_mode) & 0o777
    for owner in (found.st_uid, -1):
        # Beside PermissionError, for an owner that a container does not know.
        with suppress(OSError):
            os.fchown(descriptor, owner, found.st_gid)
            return mode
    # The file keeps a group that the replaced file did not have. To that file its members were others, so
    # the group gets the rights of all others.
    return mode & 0o707 | (mode & 0o007) << 3


def _sync_folder(descriptor: int) -> None:
    """Sync the names in a folder, which a crash may lose otherwise."""
    try:
        os.fsync(descriptor)
    except OSError as error:
        # The file system cannot sync folders. PostgreSQL ignores the same errors.
        if error.errno not in (errno.EBADF, errno.EINVAL):
            raise


# Reading.


def reading(path: Path, *, follow_links: bool = False) -> BufferedReader:
    """A regular file, open for reading. OSError at once if there is anything else.

    With `follow_links`, for a path that the user has named, it may also be a symbolic link to a regular
    file. Without, it may not be another user's file in a folder to which everybody may write.
    """
    descriptor = _open_regular(path, os.O_RDONLY, follow_links=follow_links)
    file = os.fdopen(descriptor, "rb")
    try:
        if not follow_links:
            _check_not_planted(path, os.fstat(descriptor))
    except BaseException:
        file.close()
        raise
    return file


def check_not_planted(path: Path) -> None:
    """PermissionError if there is another user's file or link in a folder to which everybody may write."""
    with suppress(FileNotFoundError):
        _check_not_planted(path, path.lstat())


def followed(path: Path) -> Path:
    """Where the symbolic link leads that the user has named; the path itself if it is no link.

    PermissionError for a link or a pipe of another user, unless that user is root.
    """
    for _ in range(_LINKS_MAX):
        try:
            found = path.lstat()
        except FileNotFoundError:
            return path
        kind = stat.S_IFMT(found.st_mode)
        if kind in (stat.S_IFLNK, stat.S_IFIFO) and found.st_uid not in (os.geteuid(), 0):
            raise PermissionError(
                errno.EPERM, f"{_KINDS[kind]} of another user is not used: name another file", str(path)
            )
        if kind != stat.S_IFLNK:
            return path
        path = path.parent / path.readlink()
    raise OSError(errno.ELOOP, "it is a circle of symbolic links", str(path))


def _open_regular(path: Path, flags: int, *, follow_links: bool = False) -> int:
    # Before opening it, which may have an effect on a device or fail without a telling error, and after:
    # it may have been replaced between the two. O_NONBLOCK is for a pipe, which waits for a writer.
    with suppress(FileNotFoundError):
        _check_regular(path, path.stat(follow_symlinks=follow_links))
    flags |= os.O_NONBLOCK | (0 if follow_links else os.O_NOFOLLOW)
    descriptor = os.open(path, flags, PRIVATE)
    try:
        _check_regular(path, os.fstat(descriptor))
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def _check_regular(path: Path, found: os.stat_result) -> None:
    if not stat.S_ISREG(found.st_mode):
        kind = _KINDS.get(stat.S_IFMT(found.st_mode), "a device")
        raise OSError(errno.EINVAL, f"it is {kind}, and must be a regular file", str(path))


def _check_not_planted(path: Path, found: os.stat_result) -> None:
    if _is_planted(found, path.parent.stat()):
        raise PermissionError(
            errno.EPERM, "it is another user's, in a folder to which everybody may write", str(path)
        )


def _is_planted(found: os.stat_result, folder: os.stat_result) -> bool:
    """Whether another user may have put this file into a folder to which everybody may write.

    Linux protects links and pipes in such folders by the same rule, `fs.protected_symlinks`. A hard link
    shows the owner of the file, and not of the link.
    """
    is_public = bool(folder.st_mode & stat.S_IWOTH)
    return is_public and (found.st_nlink > 1 or found.st_uid not in (os.geteuid(), folder.st_uid))


# Locking.


@contextmanager
def locked(file: Path, timeout_s: float) -> Iterator[None]:
    """An exclusive lock during the block: a private file, which is deleted afterwards.

    A user who may only read the folder cannot lock it. TimeoutError if another process has the lock for
    `timeout_s` seconds.
    """
    deadline = time.monotonic() + timeout_s
    while (descriptor := _try_to_lock(file)) is None:
        if time.monotonic() > deadline:
            raise TimeoutError(
                errno.ETIMEDOUT, f"another process has had it locked for {timeout_s:g} seconds", str(file)
            )
        time.sleep(LOCK_RETRY_S)
    try:
        yield
    finally:
        # Before it is unlocked: the process that locks it next finds out that it has no name any more.
        with suppress(OSError):
            file.unlink()
        os.close(descriptor)


def _try_to_lock(file: Path) -> int | None:
    """The descriptor that has the lock, None if another one has it."""
    descriptor = _open_regular(file, os.O_RDWR | os.O_CREAT)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if os.path.samestat(os.fstat(descriptor), file.lstat()):
            return descriptor
    except (BlockingIOError, FileNotFoundError):
        pass
    except BaseException:
        os.close(descriptor)
        raise
    os.close(descriptor)
    return None
