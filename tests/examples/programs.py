"""Runs the programs in examples/ as a user does, in processes of their own."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
EXAMPLES = ROOT / "examples"


def environment(**variables: str) -> dict[str, str]:
    own = {name: value for name, value in os.environ.items() if not name.startswith("ASM_")}
    return {**own, "PYTHONPATH": os.pathsep.join([str(ROOT), str(EXAMPLES)]), **variables}


def run(
    folder: Path, program: str, *arguments: str | Path, **variables: str
) -> subprocess.CompletedProcess[str]:
    """Run a program with `folder` as its working directory."""
    command = [sys.executable, str(EXAMPLES / program), *map(str, arguments)]
    return subprocess.run(
        command, cwd=folder, env=environment(**variables), capture_output=True, encoding="utf-8", timeout=240
    )


def printed(folder: Path, program: str, *arguments: str | Path, **variables: str) -> str:
    """What a program prints. It must succeed."""
    done = run(folder, program, *arguments, **variables)
    assert done.returncode == 0, done.stderr
    return done.stdout
