"""The wheel by itself: what it contains, and what works with the core requirements only."""

from __future__ import annotations

import os
import subprocess
import sys
import venv
from collections.abc import Iterator
from importlib.metadata import distribution, version
from pathlib import Path
from zipfile import ZipFile

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

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
def core(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The programs of an environment with the wheel and its core requirements."""
    return _new_environment(tmp_path_factory.mktemp("core"), wheel, "asm-store")


@pytest.fixture(scope="module")
def full(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The programs of an environment with the wheel and the extra `all`."""
    return _new_environment(tmp_path_factory.mktemp("full"), wheel, "asm-store[all]")


@pytest.mark.parametrize("name", IN_THE_WHEEL)
def test_the_wheel_contains(name: str, wheel: Path) -> None:
    with ZipFile(wheel) as archive:
        assert name in archive.namelist()


def test_the_wheel_contains_nothing_but_the_library(wheel: Path) -> None:
    with ZipFile(wheel) as archive:
        top = {name.partition("/")[0] for name in archive.namelist()}

    assert top == {"asm", f"asm_store-{version('asm-store')}.dist-info"}


def test_the_imported_library_is_that_of_the_wheel(core: Path, tmp_path: Path) -> None:
    imported = _run(core / "python", "-c", "import asm; print(asm.__file__)", cwd=tmp_path)

    assert Path(imported.strip()).is_relative_to(core.parent)


@pytest.mark.parametrize("module", ["click", "rich", "psycopg_binary"])
def test_the_core_requirements_exclude_what_an_extra_brings(core: Path, module: str, tmp_path: Path) -> None:
    find = f"from importlib.util import find_spec; print(find_spec({module!r}))"

    assert _run(core / "python", "-c", find, cwd=tmp_path) == "None\n"


def test_a_sqlite_store_works_with_the_core_requirements(core: Path, tmp_path: Path) -> None:
    assert _run(core / "python", "-c", RECORD, cwd=tmp_path) == "1\n"


def test_the_demo_runs_with_the_core_requirements(core: Path, tmp_path: Path) -> None:
    printed = _run(core / "python", str(ROOT / "examples" / "demo.py"), cwd=tmp_path)

    assert "Will it rain in Bergen today?" in printed


@pytest.mark.parametrize("command", [["asm"], ["python", "-m", "asm"]], ids=" ".join)
def test_without_its_extra_the_command_prints_how_to_install_it(
    core: Path, command: list[str], tmp_path: Path
) -> None:
    program, *arguments = command
    outcome = _outcome(core / program, *arguments, cwd=tmp_path)

    assert outcome.returncode == 1
    assert outcome.stderr == "asm: the command needs click and rich: pip install 'asm-store[cli]'\n"


def test_the_installed_command_migrates_a_database(full: Path, tmp_path: Path) -> None:
    dsn = f"sqlite:///{tmp_path / 'agents.db'}"

    _run(full / "asm", "migrate", cwd=tmp_path, ASM_DSN=dsn)

    assert asm.pending_migrations(dsn) == []


def _new_environment(folder: Path, wheel: Path, requirement: str) -> Path:
    """Install the wheel, and link what it requires from the environment of the tests."""
    venv.create(folder, symlinks=True)
    programs = folder / "bin"
    _run(
        *(sys.executable, "-m", "pip", f"--python={programs / 'python'}", "--disable-pip-version-check"),
        *("install", "--no-deps", "--no-index", "--no-warn-script-location", str(wheel)),
    )
    (packages,) = folder.glob("lib/python*/site-packages")
    for name in set(_required(Requirement(requirement))):
        for installed in _top_level(name):
            (packages / installed.name).symlink_to(installed)
    return programs


def _required(requirement: Requirement) -> Iterator[str]:
    """The names of the distributions that a requirement brings, without its own."""
    extras = requirement.extras or {""}
    for line in distribution(requirement.name).requires or []:
        required = Requirement(line)
        if required.marker is None or any(required.marker.evaluate({"extra": extra}) for extra in extras):
            if required.name != "asm-store":
                yield canonicalize_name(required.name)
            yield from _required(required)


def _top_level(name: str) -> Iterator[Path]:
    """The packages, modules and metadata of a distribution."""
    found = distribution(name)
    tops = {file.parts[0] for file in found.files or [] if file.parts[0] not in ("..", "__pycache__")}
    for top in tops:
        yield Path(str(found.locate_file(top)))


def _run(*command: str | Path, cwd: Path | None = None, **environment: str) -> str:
    outcome = _outcome(*command, cwd=cwd, **environment)
    assert outcome.returncode == 0, outcome.stdout + outcome.stderr
    return outcome.stdout


def _outcome(
    *command: str | Path, cwd: Path | None = None, **environment: str
) -> subprocess.CompletedProcess[str]:
    # Only these variables: others could lead to the checkout, and the locale must not decide the encoding.
    environment = {"PATH": os.defpath, "LC_ALL": "C.UTF-8", "PIP_ROOT_USER_ACTION": "ignore"} | environment
    return subprocess.run(command, cwd=cwd, env=environment, capture_output=True, encoding="utf-8")
