"""Whether tuning that is killed ends as tuning that is left alone.

One process tunes a recipe from start to end. Another is killed by SIGKILL at random moments, and
started again with the same command, as often as asked; the last one is left alone. Both must write
the same best recipe, and the same trials with the same scores.

    python benchmarks/killed_tuning.py --kills 20
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from quickstudy.base.atomic import write_atomically

RESULTS = Path(__file__).parent / "results" / "killed_tuning.json"
RECIPE = """
learner: prototypical
channels: 8
ways: 5
train_ways: 5
steps: 16
seed: 3
threads: 1
"""


def command(folder: Path, trials: int) -> list[str]:
    """Tune ``r.yaml`` in ``folder``."""
    words = ("tune", "r.yaml", "--trials", str(trials), "--tasks", "50", "--json")
    return [sys.executable, "-m", "quickstudy.interfaces.cli", *words]


def started(folder: Path, trials: int) -> subprocess.Popen[str]:
    return subprocess.Popen(
        command(folder, trials), cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        text=True, env={**os.environ, "PYTHONUNBUFFERED": "1"},
    )  # fmt: skip


def done(folder: Path, trials: int) -> tuple[dict[str, Any], str]:
    """What a process that is left alone prints, and the best recipe."""
    output, errors = started(folder, trials).communicate()
    if not output:
        raise RuntimeError(errors)
    return json.loads(output), (folder / "r.best.yaml").read_text()


def killed(folder: Path, trials: int, after: float) -> bool:
    """Start tuning and kill it ``after`` seconds of work; whether it was still running.

    Seconds count from the first line of the storage, since importing takes most of the time.
    """
    storage = folder / "r.trials"
    before = storage.stat().st_size if storage.exists() else 0
    process = started(folder, trials)
    while process.poll() is None and (
        not storage.exists() or storage.stat().st_size == before
    ):
        time.sleep(0.02)
    time.sleep(after)
    running = process.poll() is None
    process.send_signal(signal.SIGKILL)
    process.communicate()
    return running


def comparable(found: dict[str, Any]) -> dict[str, Any]:
    """What must be the same: all but times and the number of kills."""
    for row in found["trials"]:
        del row["seconds"], row["retries"]
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--trials", type=int, default=10)
    parser.add_argument("--longest", type=float, default=4.0, help="Seconds until a kill.")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=RESULTS)
    arguments = parser.parse_args()
    moments = random.Random(arguments.seed)
    with tempfile.TemporaryDirectory() as top:
        alone, restarted = Path(top) / "alone", Path(top) / "restarted"
        for folder in (alone, restarted):
            folder.mkdir()
            (folder / "r.yaml").write_text(RECIPE)
        expected, recipe = done(alone, arguments.trials)
        hits = sum(
            killed(restarted, arguments.trials, moments.uniform(0, arguments.longest))
            for _ in range(arguments.kills)
        )
        found, other = done(restarted, arguments.trials)
        retries = sum(row["retries"] for row in found["trials"])
        result = {
            "kills": arguments.kills, "running when killed": hits, "trials": arguments.trials,
            "trials done again": retries, "same recipe": recipe == other,
            "same trials": comparable(expected) == comparable(found), "seed": arguments.seed,
        }  # fmt: skip
    print(json.dumps(result, indent=1))
    write_atomically(arguments.out, (json.dumps(result, indent=1) + "\n").encode())
    if not (result["same recipe"] and result["same trials"]):
        sys.exit(1)


if __name__ == "__main__":
    main()
