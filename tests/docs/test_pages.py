"""README and docs: the generated parts are current, links lead somewhere, and nothing public is left out."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

import asm
from asm.cli.command import cli
from tests.docs import make_pages, tables
from tests.docs.snippets import blocks_of, commands_of

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
PAGES = [
    *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "SECURITY.md")),
    *sorted(DOCS.rglob("*.md")),
]

_BLOCK = re.compile(r"^```.*?^```$|^    .*?$", re.DOTALL | re.MULTILINE)
_LINK = re.compile(r"(?:\]\(|^\[\w+\]: )([^)\s]+)", re.MULTILINE)
_HEADING = re.compile(r"^#+ (.+)$", re.MULTILINE)


def test_the_generated_parts_of_the_pages_are_current() -> None:
    assert make_pages.outdated() == [], "run `make pages`"


def test_every_column_of_the_tables_is_described() -> None:
    assert tables.undescribed() == set()


@pytest.mark.parametrize("page", ["CONTRIBUTING.md", "docs/architecture.md"])
def test_a_page_shows_the_layers_that_the_check_keeps(page: str) -> None:
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["tool"]["importlinter"]
    layers = [set(re.split(r" [|:] ", layer)) for layer in settings["contracts"][0]["layers"]]
    [shown] = re.findall(r"(?:^    .*→.*\n)+", (ROOT / page).read_text("utf-8"), re.MULTILINE)

    assert [set(re.split(r",\s+", layer.strip())) for layer in shown.split("→")] == layers


def test_readme_has_at_most_600_words() -> None:
    assert len((ROOT / "README.md").read_text("utf-8").split()) <= 600


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_the_links_of_a_page_lead_to_files_and_headings(page: Path) -> None:
    broken = [link for link in links(page) if not leads_somewhere(page, link)]

    assert broken == []


def links(page: Path) -> list[str]:
    text = _BLOCK.sub("", page.read_text("utf-8"))
    return [link for link in _LINK.findall(text) if not re.match(r"[a-z]+:", link)]


def leads_somewhere(page: Path, link: str) -> bool:
    path, _, anchor = link.partition("#")
    target = (page.parent / path).resolve() if path else page
    return target.exists() and (not anchor or anchor in anchors(target))


def anchors(page: Path) -> set[str]:
    """The anchors of a page's headings, as MkDocs and GitHub make them."""
    headings = _HEADING.findall(_BLOCK.sub("", page.read_text("utf-8")))
    return {re.sub(r"[-\s]+", "-", re.sub(r"[^\w\s-]", "", heading).strip().lower()) for heading in headings}


def test_every_page_is_in_the_navigation_and_every_entry_is_a_page() -> None:
    entries = re.findall(
        r"^ +- (?:.*: )?([\w/-]+\.md)$", (ROOT / "mkdocs.yml").read_text("utf-8"), re.MULTILINE
    )

    assert sorted(entries) == sorted(str(page.relative_to(DOCS)) for page in DOCS.rglob("*.md"))


def test_every_public_name_is_in_the_api_reference() -> None:
    reference = "\n".join(page.read_text("utf-8") for page in DOCS.joinpath("api").glob("*.md"))
    documented = set(re.findall(r"^::: asm\.(\w+)$", reference, re.MULTILINE))

    assert {name for name in asm.__all__ if not is_documented_elsewhere(name)} - documented == set()


def is_documented_elsewhere(name: str) -> bool:
    """Whether a name is an exception, which the page of asm.errors has, or the async twin of a class."""
    value = getattr(asm, name)
    is_error = isinstance(value, type) and issubclass(value, asm.AsmError)
    is_twin = name.startswith("Async") and hasattr(asm, name.removeprefix("Async"))
    return is_error or is_twin or name == "__version__"


@pytest.mark.parametrize(
    "owner", [asm.SessionStore, asm.Transaction, asm.QueryAPI, asm.Maintenance, asm.ArtifactRegistry]
)
def test_every_public_method_has_a_docstring(owner: type) -> None:
    methods = {name: value for name, value in vars(owner).items() if callable(value) and name[0] != "_"}

    assert [name for name, value in methods.items() if not value.__doc__] == []


def commands_on_pages() -> Iterator[tuple[str, list[str]]]:
    for page in PAGES:
        for block in blocks_of(page.read_text("utf-8")):
            if block.language == "console":
                lines = [command for command, _ in commands_of(block.text)]
            else:
                lines = block.text.splitlines() if block.language in ("sh", "bash") else []
            for line in lines:
                # Up to a comment, a pipe or a redirection.
                for words in re.findall(r"(?:^|\s)(asm [^|#>&;]+)", line):
                    yield f"{page.relative_to(ROOT)}: {words}", words.split()[1:]


def test_every_command_on_a_page_exists_with_its_options() -> None:
    unknown = [where for where, words in commands_on_pages() if not is_known(words)]

    assert unknown == []


def is_known(words: list[str]) -> bool:
    command: click.Command = cli
    while isinstance(command, click.Group) and words and words[0] in command.commands:
        command, words = command.commands[words[0]], words[1:]
    known = {name for parameter in command.params for name in parameter.opts} | {"--help", "-h"}
    options = {word.partition("=")[0] for word in words if word.startswith("-") and word != "-"}
    return command is not cli and options - known - {"--nonsense"} == set()
