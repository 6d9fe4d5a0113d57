"""A sample of each format, for tests of what all importers promise."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import NamedTuple

DATA = Path(__file__).parents[1] / "data"

MODIFIED_AT = 1_770_000_000
"""The time of the files: the sessions in them are completed."""


CODEX = "019c2300-0000-7000-8000-000000000001"

OPENHANDS_EVENT = (
    DATA
    / "openhands"
    / "0c9e5a412f7b4d18b3a65e8d7c1f9a20"
    / "events"
    / "event-00000-7d1c4b01-0000-4000-8000-000000000001.json"
)


class Sample(NamedTuple):
    """A file of a format, in a folder with the files that are read with it."""

    name: str
    path: Path
    grows: bool = False
    """Whether it is a log, to which lines are appended."""

    def copied(self, folder: Path) -> Path:
        """The file in a copy of its folder."""
        folder.mkdir(exist_ok=True)
        if self.path.parent.name == "events":
            # One file for each event, in a folder of the conversation.
            conversation = self.path.parent.parent
            shutil.copytree(conversation, folder / conversation.name)
            copy = folder / self.path.relative_to(conversation.parent)
            return _modified(folder, copy)
        beside = self.path.with_suffix("")
        if beside.is_dir():
            shutil.copytree(beside, folder / beside.name, dirs_exist_ok=True)
        return _modified(folder, shutil.copyfile(self.path, folder / self.path.name))


def _modified(folder: Path, copy: Path) -> Path:
    for file in folder.rglob("*"):
        os.utime(file, (MODIFIED_AT, MODIFIED_AT))
    return copy


SAMPLES = (
    Sample("Claude Code", DATA / "claude-code" / "5e1f0c2a-7b3d-4c8e-9a61-2f4d8b7c1e90.jsonl", grows=True),
    Sample("Gemini CLI", DATA / "gemini-cli" / "session-2026-02-03T09-00-6d1f0c2a.jsonl", grows=True),
    Sample("Gemini CLI (2025)", DATA / "gemini-cli" / "session-2025-10-18T14-57-91ff4a35.json"),
    Sample("Gemini CLI checkpoint", DATA / "gemini-cli" / "checkpoint-before.json"),
    Sample("opencode", DATA / "opencode" / "ses_3d9f1c7a2ffe8Kq2mVb5xYtRw1.json"),
    Sample("opencode database", DATA / "opencode" / "opencode.db"),
    Sample(
        "Codex",
        DATA / "codex" / "rollout-2026-02-03T09-00-00-019c2300-0000-7000-8000-000000000001.jsonl",
        grows=True,
    ),
    Sample("OpenAI Agents database", DATA / "openai-agents" / "sessions.db"),
    Sample("mini-swe-agent trajectory", DATA / "mini-swe-agent" / "ada__sums-1.traj.json"),
    Sample("OpenHands", DATA / "openhands" / "events.jsonl", grows=True),
    Sample("OpenHands conversation", OPENHANDS_EVENT),
    Sample("OpenHands trajectory", DATA / "openhands" / "trajectory.json"),
    Sample("OpenHands evaluation", DATA / "openhands" / "output.jsonl"),
    Sample("SWE-agent trajectory", DATA / "small.traj"),
    Sample("ATIF", DATA / "atif" / "trajectory.json"),
)
LOGS = [sample for sample in SAMPLES if sample.grows]
