"""What a stranger installs: the wheel by itself carries all that the library needs."""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
import venv
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from zipfile import ZipFile

import pytest

import asm

ROOT = Path(__file__).parents[2]

IN_THE_WHEEL = [
    "asm/py.typed",
    *(f"asm/{file.relative_to(ROOT)}" for file in sorted(ROOT.joinpath("sql").rglob("*.sql"))),
]

RECORD = """
import asm
with asm.SessionStore("sqlite:///agents.db", migrate=True) as store:
    session = asm.Session(agent_id="agent")
    store.save_session(session)
    store.append_event(asm.Event(type="message_sent", session_id=session.id))
    print(store.get_latest_sequence(session.id))
"""


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    _run(sys.executable, "-m", "build", "--wheel", "--no-isolation", f"--outdir={folder}", str(ROOT))
    (built,) = folder.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def bare(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The programs of an environment with nothing of its own but the wheel.

    The dependencies are borrowed from ours by a path, which does not lend what an editable
    installation adds by a path of its own.
    """
    folder = tmp_path_factory.mktemp("bare")
    venv.create(folder, symlinks=True)
    programs = folder / "bin"
    _run(
        *(sys.executable, "-m", "pip", f"--python={programs / 'python'}", "--disable-pip-version-check"),
        *("install", "--no-deps", "--no-index", "--no-warn-script-location", str(wheel)),
    )
    (packages,) = folder.glob("lib/python*/site-packages")
    packages.joinpath("borrowed.pth").write_text("\n".join(_our_packages()))
    return programs


@pytest.mark.parametrize("name", IN_THE_WHEEL)
def test_the_wheel_carries(name: str, wheel: Path) -> None:
    with ZipFile(wheel) as archive:
        assert name in archive.namelist()


def test_the_wheel_carries_nothing_but_the_library(wheel: Path) -> None:
    with ZipFile(wheel) as archive:
        top = {name.partition("/")[0] for name in archive.namelist()}

    assert top == {"asm", f"asm_store-{version('asm-store')}.dist-info"}


def test_the_library_that_is_imported_is_the_wheel_s(bare: Path, tmp_path: Path) -> None:
    imported = _run(bare / "python", "-c", "import asm; print(asm.__file__)", cwd=tmp_path)

    assert Path(imported.strip()).is_relative_to(bare.parent)


def test_an_installed_library_opens_a_store(bare: Path, tmp_path: Path) -> None:
    assert _run(bare / "python", "-c", RECORD, cwd=tmp_path) == "1\n"


def test_the_installed_command_migrates_a_database(bare: Path, tmp_path: Path) -> None:
    dsn = f"sqlite:///{tmp_path / 'agents.db'}"

    _run(bare / "asm", "migrate", cwd=tmp_path, ASM_DSN=dsn)

    assert asm.pending_migrations(dsn) == []


def _run(*command: str | Path, cwd: Path | None = None, **environment: str) -> str:
    # Nothing of our environment that could lead to the checkout.
    environment = {"PATH": os.defpath, "LC_ALL": "C.UTF-8", "PIP_ROOT_USER_ACTION": "ignore"} | environment
    outcome = subprocess.run(command, cwd=cwd, env=environment, capture_output=True, encoding="utf-8")
    assert outcome.returncode == 0, outcome.stdout + outcome.stderr
    return outcome.stdout


def _our_packages() -> Iterator[str]:
    yield from {sysconfig.get_path("purelib"), sysconfig.get_path("platlib")}
