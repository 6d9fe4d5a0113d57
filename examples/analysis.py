"""Sessions in pandas and duckdb: ASM_DSN=sqlite:///asm-demo.db python examples/analysis.py

`# %%` begins a cell: VS Code, Spyder and Jupyter (with jupytext) run the file cell by cell. `make demo` or
`python examples/demo.py` stores a session to look at.
"""

# %% Open the store.
import os
import subprocess
import sys
import tempfile
from datetime import timedelta
from pathlib import Path

import duckdb
import pandas as pd

import asm

pd.set_option("display.width", 110, "display.max_columns", 12, "display.max_colwidth", 40)
dsn = os.environ.setdefault("ASM_DSN", "sqlite:///asm-demo.db")
store = asm.SessionStore(dsn)

# %% Models are dataclasses, so a list of them is a table.
sessions = pd.DataFrame(list(store.query.iter_sessions()))
print(sessions[["id", "agent_id", "status", "created_at"]])

# %% The events of the newest session, with the seconds that passed before each.
events = pd.DataFrame(store.get_events(sessions["id"].iloc[0])).set_index("sequence_number")
events["seconds"] = events["timestamp"].diff().dt.total_seconds()
print(events[["type", "seconds", "data"]])

# %% Keys of `data` become columns.
print(pd.json_normalize(events["data"].tolist()).head())

# %% How often each type occurs, counted by the database: it sends one number per type.
counts = {type.value: store.query.count_events(types=type) for type in asm.EventType}
print(pd.Series(counts, name="events").loc[lambda count: count > 0])

# %% The cost of each of the last 30 days in UTC. Runs without a price are counted as `unmapped`.
today = pd.Timestamp.now("UTC").floor("D")
days = [day.to_pydatetime() for day in pd.date_range(end=today, periods=30)]
costs = [store.query.get_cost_summary(since=day, until=day + timedelta(days=1)) for day in days]
by_day = pd.DataFrame(
    {
        "usd": [cost.total_cost_usd for cost in costs],
        "runs": [cost.run_count for cost in costs],
        "unmapped": [cost.unmapped_runs for cost in costs],
    },
    index=pd.DatetimeIndex(days, name="day"),
)
print(by_day[by_day["runs"] > 0])

# %% An export has one JSON object per line, whose first key names its kind. duckdb reads it.
# The command gets the DSN from the environment, where other users of the machine cannot read its password.
folder = tempfile.TemporaryDirectory()
export = Path(folder.name) / "agents.jsonl"
subprocess.run([sys.executable, "-m", "asm", "export", "--all", "--output", str(export)], check=True)
print(
    duckdb.sql(
        f"""
        select event->>'type' as type, event->'data'->>'name' as tool, count(*) as number
        from read_json('{export}', format = 'newline_delimited', columns = {{'event': 'JSON'}})
        where event is not null
        group by all
        order by number desc, type
        """
    )
)

# %% A query of duckdb can use the DataFrames above by their names.
print(duckdb.sql("select type, count(*) as number, avg(seconds) as seconds from events group by type"))

# %% Close the store.
store.close()
folder.cleanup()
