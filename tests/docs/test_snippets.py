"""The examples of README and of docs do what their pages say."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from urllib.parse import quote

import pytest
from psycopg.conninfo import conninfo_to_dict

from tests.conftest import DATABASES, INSTALLATIONS, POSTGRES, Cluster
from tests.docs.snippets import WrongExample, blocks_of, commands_of, run_page

ROOT = Path(__file__).parents[2]
README = ROOT / "README.md"
PAGES = [
    page
    for page in (README, *sorted(ROOT.joinpath("docs").rglob("*.md")))
    if blocks_of(page.read_text("utf-8"))
]
RUNNING = [
    page
    for page in PAGES
    # tests/contract/test_roles.py runs the page of roles, as each of its roles.
    if page.name != "roles.md" and any(block.runs for block in blocks_of(page.read_text("utf-8")))
]

A_POSTGRES_DSN = re.compile(r"postgres(?:ql)?://[^\s\"'`)<>]*")
A_SQLITE_DSN = re.compile(r"sqlite:///agents\.db")


@pytest.fixture
def databases(clusters: Callable[[str], Cluster]) -> Iterator[Callable[[str], str]]:
    """Returns the URL of an empty PostgreSQL database for each DSN of a page, the same for the same DSN."""
    made: dict[str, str] = {}
    with ExitStack() as stack:

        def database(dsn: str) -> str:
            if dsn not in made:
                made[dsn] = url(stack.enter_context(clusters(POSTGRES[0]).database(migrated=False)))
            return made[dsn]

        yield database


def url(conninfo: str) -> str:
    part = {name: quote(str(value), safe="") for name, value in conninfo_to_dict(conninfo).items()}
    login = f"{part['user']}:{part['password']}" if "password" in part else part["user"]
    return f"postgresql://{login}@{part['host']}:{part.get('port', '5432')}/{part['dbname']}"


@pytest.mark.parametrize("page", RUNNING, ids=lambda page: str(page.relative_to(ROOT)))
def test_the_examples_of_a_page_do_what_it_says(
    page: Path, databases: Callable[[str], str], tmp_path: Path
) -> None:
    text = page.read_text("utf-8")

    run(page, A_POSTGRES_DSN.sub(lambda dsn: databases(dsn[0]), runnable(text)), tmp_path)


@pytest.mark.parametrize("kind", [kind for kind in DATABASES if kind != "sqlite"][:1])
def test_the_examples_of_readme_do_on_postgresql_what_it_says(
    kind: str, databases: Callable[[str], str], tmp_path: Path
) -> None:
    text = A_SQLITE_DSN.sub("postgresql://app@db.example/agents", README.read_text("utf-8"))

    run(README, A_POSTGRES_DSN.sub(lambda dsn: databases(dsn[0]), runnable(text)), tmp_path)


def runnable(text: str) -> str:
    """The page without text outside of its blocks, whose lines keep their numbers."""
    lines = text.split("\n")
    kept = [""] * len(lines)
    for block in blocks_of(text):
        last = block.line + block.text.count("\n")
        kept[block.line - 2 : last] = lines[block.line - 2 : last]
    return "\n".join(kept)


def run(page: Path, text: str, folder: Path) -> None:
    """Run the examples of a page in an empty folder, in a process of their own."""
    work = folder / "work"
    work.mkdir()
    (folder / "page.md").write_text(text, "utf-8")
    programs = [Path(sys.executable).parent, *(each.bin for each in INSTALLATIONS.values())]
    environment = {
        **{name: value for name, value in os.environ.items() if not name.startswith("ASM_")},
        "COLUMNS": "100",
        "HOME": str(work),
        "NO_COLOR": "1",
        "PATH": os.pathsep.join([*map(str, programs), os.environ["PATH"]]),
        "PYTHONPATH": str(ROOT),
    }
    done = subprocess.run(
        [sys.executable, "-W", "error", "-m", "tests.docs.snippets", str(folder / "page.md")],
        cwd=work,
        env=environment,
        capture_output=True,
        text=True,
        timeout=280,
    )
    assert done.returncode == 0, f"{page.relative_to(ROOT)}\n{done.stderr[-4_000:]}"


def test_an_example_that_prints_something_else_is_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    page = "```python\nprint('a')\n```\n\n```output\n{}\n```\n"

    run_page("page.md", page.format("…"))

    with pytest.raises(WrongExample, match=r"page\.md:2"):
        run_page("page.md", page.format("b"))


def test_a_command_that_fails_or_prints_something_else_is_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)

    run_page("page.md", "```console\n$ echo a; exit 3\na\n[exit status 3]\n$ true\n```\n")

    with pytest.raises(WrongExample, match="exit status 3"):
        run_page("page.md", "```console\n$ exit 3\n```\n")
    with pytest.raises(WrongExample, match="prints"):
        run_page("page.md", "```console\n$ echo a\nb\n```\n")


def test_a_command_of_several_lines_ends_where_no_backslash_is() -> None:
    assert list(commands_of("$ a \\\n  b\nout\n$ c\n")) == [("a \\\n  b", "out"), ("c", "")]
