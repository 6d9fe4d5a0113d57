"""Usage and cost, and the health of the store."""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta
from html.parser import HTMLParser
from itertools import pairwise

import pytest
from starlette.testclient import TestClient

import asm
from asm.migrations import runner
from asm.web.periods import PERIODS_MAX, Period, split
from asm.web.plots import HEIGHT, plot

NONE = "\N{EN DASH}"

Viewer = tuple[TestClient, asm.SessionStore]

DAY = datetime(2026, 3, 10, 12, tzinfo=UTC)


def a_run(session_id: str, at: datetime, **values: object) -> asm.Run:
    return asm.Run(
        **{  # type: ignore[arg-type]
            "session_id": session_id,
            "started_at": at,
            "provider": "anthropic",
            "provider_metadata": {"model": "claude-x"},
            "token_usage": {"input_tokens": 1_000, "output_tokens": 500},
            "cost_usd": 2.0,
            **values,
        }
    )


def used(store: asm.SessionStore) -> None:
    """Two agents, two providers, and a run of a model without a price."""
    for agent in ("coder", "writer"):
        store.save_session(asm.Session(agent_id=agent, id=f"ses_{agent}"))
    store.save_run(a_run("ses_coder", DAY))
    store.save_run(a_run("ses_coder", DAY - timedelta(days=3), cost_usd=1.25))
    unpriced = {"provider": "own", "provider_metadata": {"model": "house-1"}, "cost_usd": None}
    store.save_run(a_run("ses_writer", DAY, **unpriced))


def test_usage_is_summed_by_day_agent_provider_and_model(viewer: Viewer) -> None:
    client, store = viewer
    used(store)
    page = client.get("/usage").text
    assert "$3.25" in page
    rows = dict(rows_of(page))
    assert rows["2026-03-10"] == ["2", "2.00k", "1.00k", NONE, NONE, "3.00k", "$2.00"]
    assert rows["2026-03-07"] == ["1", "1.00k", "500", NONE, NONE, "1.50k", "$1.25"]
    assert rows["coder"] == ["2", "2.00k", "1.00k", NONE, NONE, "3.00k", "$3.25"]
    assert rows["anthropic"] == rows["claude-x"] == rows["coder"]
    assert rows["own"] == rows["house-1"] == rows["writer"] == ["1", "1.00k", "500", NONE, NONE, "1.50k", "?"]


def test_what_has_no_price_is_named(viewer: Viewer) -> None:
    client, store = viewer
    used(store)
    notice = re.search(r'<p class="notice">(.*?)</p>', client.get("/usage").text, re.DOTALL)
    assert notice is not None
    assert "house-1</code> (1 run)" in notice[1]
    assert "claude-x" not in notice[1]
    assert "notice" not in client.get("/usage?provider=anthropic").text


def test_the_filters_of_usage_are_the_address(viewer: Viewer) -> None:
    client, store = viewer
    used(store)
    for query, runs in (
        ("agent=writer", {"writer"}),
        ("provider=anthropic", {"coder"}),
        ("from=2026-03-10&to=2026-03-10", {"coder", "writer"}),
        ("from=2026-03-07&to=2026-03-09", {"coder"}),
        ("from=2026-03-11", set()),
    ):
        rows = dict(rows_of(client.get(f"/usage?{query}").text))
        assert rows.keys() & {"coder", "writer"} == runs, query


@pytest.mark.parametrize(
    ("query", "message"),
    [("from=soon", "soon"), ("to=0001-01-01", "0001-01-01"), ("from=2026-02-02&to=2026-02-01", "after")],
)
def test_days_that_cannot_be_read_are_an_error_that_says_so(viewer: Viewer, query: str, message: str) -> None:
    answer = viewer[0].get(f"/usage?{query}")
    assert answer.status_code == 400
    assert message in answer.text


def test_a_store_without_runs_says_where_usage_comes_from(viewer: Viewer) -> None:
    assert "asm import" in viewer[0].get("/usage").text


@pytest.mark.parametrize(
    ("first", "last", "unit", "number"),
    [
        ("2026-03-10", "2026-03-10", "day", 1),
        ("2026-01-01", "2026-03-03", "day", 62),
        ("2026-01-01", "2026-03-04", "week", 10),
        ("2024-01-15", "2026-03-04", "month", 27),
        ("1900-01-01", "1950-01-01", "year", 51),
    ],
)
def test_the_parts_of_a_period_are_as_small_as_a_plot_has_place_for(
    first: str, last: str, unit: str, number: int
) -> None:
    found, parts = split(Period(date.fromisoformat(first), date.fromisoformat(last)))
    assert (found, len(parts)) == (unit, number)


@pytest.mark.parametrize("days", [1, 61, 63, 500, 3_000, 30_000, 2_000_000])
def test_the_parts_of_a_period_cover_each_day_once(days: int) -> None:
    period = Period(date(1900, 1, 31), date(1900, 1, 31) + timedelta(days=days))
    _, parts = split(period)
    assert len(parts) <= PERIODS_MAX
    assert (parts[0].first, parts[-1].last) == (period.first, period.last)
    assert all(a.until == b.since for a, b in pairwise(parts))


def test_bars_are_stacked_and_the_highest_fills_the_plot() -> None:
    made = plot([("a", [("output", 30), ("input", 70)]), ("b", [("output", 1e-9), ("input", 0)])])
    assert made is not None
    assert made.highest == 100
    assert [(part.kind, part.y, part.height) for part in made.bars[0].parts] == [
        ("output", 70, 30),
        ("input", 0, 70),
    ]
    little = made.bars[1].parts
    assert len(little) == 1
    assert 0 < little[0].height < 1
    assert little[0].y + little[0].height == HEIGHT


def test_a_plot_of_nothing_is_none() -> None:
    assert plot([]) is None
    assert plot([("a", [("output", 0)])]) is None


def test_names_of_agents_and_models_are_no_markup(viewer: Viewer) -> None:
    client, store = viewer
    store.save_session(asm.Session(agent_id="<b>\u202eevil", id="ses_1"))
    run = a_run("ses_1", DAY, provider="<i>", provider_metadata={"model": "<script>x</script>"})
    store.save_run(run)
    page = client.get("/usage").text
    assert "<script>x" not in page
    assert "<b>" not in page
    assert "\u202e" not in page


def test_the_health_check_runs_only_when_it_is_asked_for(viewer: Viewer) -> None:
    client, store = viewer
    store.append_event(asm.Event(session_id="ses_gone", type="message_sent"))
    assert "ses_gone" not in client.get("/health").text
    assert "ses_gone" in client.get("/health?check=1").text


def test_the_page_of_health_lists_migrations_and_rows(
    opened_viewer: Callable[..., Viewer], migrated: str
) -> None:
    client, store = opened_viewer(status=lambda: runner.status(migrated))
    store.save_session(asm.Session(agent_id="a", id="ses_1"))
    page = client.get("/health?check=1").text
    assert "Healthy" in page
    assert "0001" in page
    assert dict(rows_of(page))["sessions"] == ["1"]


class _Rows(HTMLParser):
    """The rows of all tables of a page: the head of each, and its cells."""

    def __init__(self) -> None:
        super().__init__()
        self.rows: list[tuple[str, list[str]]] = []
        self._cells: list[str] | None = None

    def handle_starttag(self, tag: str, attrs: object) -> None:
        if tag == "tr":
            self._cells = []
        elif tag in ("td", "th") and self._cells is not None:
            self._cells.append("")

    def handle_data(self, data: str) -> None:
        if self._cells:
            self._cells[-1] += data.strip()

    def handle_endtag(self, tag: str) -> None:
        if tag == "tr" and self._cells:
            self.rows.append((self._cells[0], self._cells[1:]))
            self._cells = None


def rows_of(page: str) -> list[tuple[str, list[str]]]:
    parser = _Rows()
    parser.feed(page)
    return parser.rows
