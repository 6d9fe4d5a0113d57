"""Writing, reading and locking a file where another user may have put something in its place."""

from __future__ import annotations

import ast
import fcntl
import os
import stat
from functools import partial
from pathlib import Path

import pytest

from asm import files
from asm.errors import StorageError
from asm.sqlite.files import create_private
from tests.contract.other_clients import ROOT
from tests.contract.planted_files import (
    IRREGULAR,
    PLANTED,
    VICTIM,
    killed_at_every_step,
    mode_of,
    names_in,
    plant,
)

pytestmark = pytest.mark.filterwarnings("ignore:.*multi-threaded:DeprecationWarning")

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file to another user")


def give_away(path: Path) -> None:
    os.lchown(path, 65_534, 65_534)


def write(path: Path, content: bytes = b"new") -> None:
    with files.replacing(path) as file:
        file.write(content)


# Writing


@pytest.mark.parametrize("what", sorted(PLANTED.keys() - {"a folder"}))
def test_a_new_file_replaces_what_has_its_name_and_changes_no_other_file(tmp_path: Path, what: str) -> None:
    victim = plant(path := tmp_path / "file", what)
    before = names_in(tmp_path)
    write(path)
    assert (path.read_bytes(), victim.read_bytes()) == (b"new", VICTIM)
    assert (stat.S_ISREG(path.lstat().st_mode), path.lstat().st_nlink) == (True, 1)
    assert names_in(tmp_path) == before


def test_a_new_file_does_not_replace_a_folder(tmp_path: Path) -> None:
    (tmp_path / "file").mkdir()
    with pytest.raises(IsADirectoryError):
        write(tmp_path / "file")
    assert names_in(tmp_path) == {"file"}


def test_writing_that_fails_leaves_the_earlier_contents_and_no_other_file(tmp_path: Path) -> None:
    write(path := tmp_path / "file", b"old")
    (tmp_path / "file.unfinished").touch()
    with pytest.raises(OSError, match="the disk is full"), files.replacing(path) as file:
        file.write(b"half")
        raise OSError("the disk is full")
    assert (path.read_bytes(), names_in(tmp_path)) == (b"old", {"file", "file.unfinished"})


def test_two_writers_of_one_file_do_not_mix_their_contents(tmp_path: Path) -> None:
    path = tmp_path / "file"
    with files.replacing(path) as one:
        one.write(b"one")
        write(path, b"other")
        assert path.read_bytes() == b"other"
        one.write(b" more")
    assert (path.read_bytes(), names_in(tmp_path)) == (b"one more", {"file"})


def test_a_process_that_is_killed_while_it_writes_leaves_the_old_contents_or_the_new(tmp_path: Path) -> None:
    write(path := tmp_path / "file", b"1 old")
    seen = [path.read_bytes() for _ in killed_at_every_step(partial(write, path, b"2 new"))]
    assert (seen == sorted(seen), set(seen)) == (True, {b"1 old", b"2 new"})


# Modes


def test_a_file_is_private_when_it_is_new_and_keeps_its_mode_when_it_is_replaced(tmp_path: Path) -> None:
    write(path := tmp_path / "file")
    assert mode_of(path) == 0o600
    path.chmod(0o4644)
    write(path)
    assert mode_of(path) == 0o644


@needs_root
def test_a_file_keeps_its_owner_and_its_group(tmp_path: Path) -> None:
    write(path := tmp_path / "file")
    give_away(path)
    write(path)
    assert (path.stat().st_uid, path.stat().st_gid) == (65_534, 65_534)


def test_a_file_whose_group_cannot_be_kept_gives_another_group_no_rights_that_others_do_not_have(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_arguments: object) -> None:
        raise PermissionError

    write(path := tmp_path / "file")
    path.chmod(0o664)
    monkeypatch.setattr(os, "fchown", refuse)
    write(path)
    assert mode_of(path) == 0o644


def test_a_hard_link_in_a_public_folder_does_not_give_its_mode_to_a_new_file(tmp_path: Path) -> None:
    tmp_path.chmod(0o1777)
    plant(path := tmp_path / "file", "a hard link")
    path.chmod(0o666)
    write(path)
    assert mode_of(path) == 0o600


@needs_root
def test_another_users_file_in_a_public_folder_gives_a_new_file_neither_mode_nor_owner(
    tmp_path: Path,
) -> None:
    tmp_path.chmod(0o1777)
    write(path := tmp_path / "file")
    path.chmod(0o666)
    give_away(path)
    write(path)
    assert (mode_of(path), path.stat().st_uid) == (0o600, 0)


def test_a_new_folder_is_private_and_one_that_exists_keeps_its_mode(tmp_path: Path) -> None:
    files.make_folder(folder := tmp_path / "above" / "folder")
    assert mode_of(folder) == 0o700
    folder.chmod(0o755)
    files.make_folder(folder)
    assert mode_of(folder) == 0o755


# Reading


@pytest.mark.parametrize("what", IRREGULAR)
def test_nothing_but_a_regular_file_is_read(tmp_path: Path, what: str) -> None:
    plant(path := tmp_path / "file", what)
    with pytest.raises(OSError, match="must be a regular file") as raised:
        files.reading(path)
    assert raised.value.filename == str(path)


@pytest.mark.parametrize("what", IRREGULAR)
def test_a_file_that_the_user_names_may_also_be_a_link_to_a_regular_file(tmp_path: Path, what: str) -> None:
    plant(path := tmp_path / "file", what)
    if what == "a link":
        with files.reading(path, follow_links=True) as file:
            assert file.read() == VICTIM
    else:
        with pytest.raises(OSError, match=r"must be a regular file|No such file"):
            files.reading(path, follow_links=True)


@pytest.mark.parametrize("follow_links", [False, True])
def test_a_file_that_becomes_a_pipe_before_it_is_opened_is_not_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, follow_links: bool
) -> None:
    (path := tmp_path / "file").touch()
    check = files._check_regular

    def replace_after_check(path: Path, found: os.stat_result) -> None:
        check(path, found)
        path.unlink()
        os.mkfifo(path)

    monkeypatch.setattr(files, "_check_regular", replace_after_check)
    with pytest.raises(OSError, match="it is a named pipe"):
        files.reading(path, follow_links=follow_links)


@needs_root
def test_another_users_file_in_a_public_folder_is_only_read_if_the_user_names_it(tmp_path: Path) -> None:
    (path := tmp_path / "file").touch()
    give_away(path)
    files.reading(path).close()
    tmp_path.chmod(0o1777)
    with pytest.raises(PermissionError, match="another user's"):
        files.reading(path)
    files.reading(path, follow_links=True).close()


# Links that the user has named


def test_the_users_own_links_are_followed(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "one").symlink_to("folder/two")
    (tmp_path / "folder" / "two").symlink_to("../file")
    assert files.followed(tmp_path / "one").resolve() == tmp_path / "file"
    assert files.followed(tmp_path / "file") == tmp_path / "file"


@needs_root
@pytest.mark.parametrize("what", ["a link", "a link to nothing", "a pipe"])
def test_links_and_pipes_of_another_user_are_refused(tmp_path: Path, what: str) -> None:
    plant(path := tmp_path / "file", what)
    give_away(path)
    (tmp_path / "own").symlink_to("file")
    for named in (path, tmp_path / "own"):
        with pytest.raises(PermissionError, match="of another user is not used"):
            files.followed(named)


def test_a_circle_of_links_is_refused(tmp_path: Path) -> None:
    (tmp_path / "one").symlink_to("two")
    (tmp_path / "two").symlink_to("one")
    with pytest.raises(OSError, match="a circle of symbolic links"):
        files.followed(tmp_path / "one")


def test_a_device_that_has_become_a_file_is_not_written_into(tmp_path: Path) -> None:
    (path := tmp_path / "file").write_bytes(VICTIM)
    with pytest.raises(FileExistsError, match="it has become a regular file"):
        files.writing_into(path)
    assert path.read_bytes() == VICTIM


# Locks


@pytest.mark.parametrize("what", IRREGULAR)
def test_nothing_but_a_regular_file_is_locked(tmp_path: Path, what: str) -> None:
    victim = plant(path := tmp_path / "lock", what)
    before = names_in(tmp_path)
    with pytest.raises(OSError, match="must be a regular file"), files.locked(path, timeout_s=60):
        pass
    assert (victim.read_bytes(), names_in(tmp_path)) == (VICTIM, before)


def test_a_lock_is_private_and_leaves_nothing(tmp_path: Path) -> None:
    with files.locked(tmp_path / "lock", timeout_s=60):
        assert mode_of(tmp_path / "lock") == 0o600
    assert names_in(tmp_path) == set()


def test_waiting_for_a_lock_ends(tmp_path: Path) -> None:
    with (
        files.locked(tmp_path / "lock", timeout_s=60),
        pytest.raises(TimeoutError, match=r"another process has had it locked for 0\.05 seconds"),
        files.locked(tmp_path / "lock", timeout_s=0.05),
    ):
        pass


def test_the_lock_of_a_killed_process_is_free(tmp_path: Path) -> None:
    child = os.fork()
    if child == 0:
        with files.locked(tmp_path / "lock", timeout_s=60):
            os._exit(0)
    os.waitpid(child, 0)
    assert names_in(tmp_path) == {"lock"}
    with files.locked(tmp_path / "lock", timeout_s=0):
        pass


def test_a_lock_whose_file_was_deleted_before_it_was_locked_is_no_lock(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    flock = fcntl.flock

    def delete_before_locking(descriptor: int, operation: int) -> None:
        monkeypatch.setattr(fcntl, "flock", flock)
        (tmp_path / "lock").unlink()
        flock(descriptor, operation)

    monkeypatch.setattr(fcntl, "flock", delete_before_locking)
    with (
        files.locked(tmp_path / "lock", timeout_s=60),
        pytest.raises(TimeoutError),
        files.locked(tmp_path / "lock", timeout_s=0),
    ):
        pass


# New databases


def test_a_database_is_created_through_the_users_own_link(tmp_path: Path) -> None:
    (tmp_path / "link.db").symlink_to("agents.db")
    create_private(str(tmp_path / "link.db"))
    assert mode_of(tmp_path / "agents.db") == 0o600


@needs_root
def test_no_database_is_created_through_a_link_of_another_user_and_one_that_exists_is_opened(
    tmp_path: Path,
) -> None:
    (link := tmp_path / "link.db").symlink_to("agents.db")
    give_away(link)
    with pytest.raises(StorageError, match=f"cannot create {link}: a symbolic link of another user"):
        create_private(str(link))
    assert names_in(tmp_path) == {"link.db"}
    (tmp_path / "agents.db").touch()
    create_private(str(link))


# The project

_CREATING = {
    "write_text",
    "write_bytes",
    "mkdir",
    "makedirs",
    "mkstemp",
    "touch",
    "hardlink_to",
    "symlink_to",
}


def _creates_a_file(node: ast.AST) -> bool:
    if isinstance(node, ast.Attribute):
        return node.attr in {*_CREATING, "O_CREAT"}
    if isinstance(node, ast.Call) and getattr(node.func, "attr", getattr(node.func, "id", "")) == "open":
        arguments = [*node.args, *(keyword.value for keyword in node.keywords)]
        modes = [str(each.value) for each in arguments if isinstance(each, ast.Constant)]
        return any(set(mode) & set("wax+") for mode in modes)
    return False


def test_no_other_module_creates_a_file() -> None:
    creating = {
        str(module.relative_to(ROOT))
        for module in (ROOT / "asm").rglob("*.py")
        for node in ast.walk(ast.parse(module.read_text("utf-8")))
        if _creates_a_file(node)
    }
    assert creating == {"asm/files.py"}
