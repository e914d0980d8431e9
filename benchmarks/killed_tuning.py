"""Whether tuning that is killed ends as tuning that is left alone.

One process tunes a recipe from start to end. Another is killed by SIGKILL at random moments, and
started again with the same command, as often as asked; the last one is left alone. Both must write
the same best recipe, and the same trials with the same scores.

    python benchmarks/killed_tuning.py --kills 20
"""

from __future__ import annotations

import argparse
import contextlib
import json
import multiprocessing
import os
import random
import sys
import tempfile
from pathlib import Path
from typing import Any

from quickstudy.base.atomic import write_atomically
from quickstudy.interfaces.cli import main as main_command

RESULTS = Path(__file__).parent / "results" / "killed_tuning.json"
RECIPE = """
learner: prototypical
channels: 8
ways: 5
train_ways: 5
steps: 8
validate_every: 2
seed: 3
threads: 1
"""


def tune(folder: Path, trials: int) -> None:
    """``quickstudy tune`` in ``folder``, whose results go to ``out.json``."""
    os.chdir(folder)
    for stream, name in ((sys.stdout, "out.json"), (sys.stderr, "errors.txt")):
        descriptor = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(descriptor, stream.fileno())
    words = ("tune", "r.yaml", "--trials", str(trials), "--tasks", "50", "--json")
    main_command(words, prog_name="quickstudy")


def started(folder: Path, trials: int) -> Any:
    """A process of its own, forked from this one, which has imported everything."""
    process = multiprocessing.get_context("fork").Process(target=tune, args=(folder, trials))
    process.start()
    return process


def done(folder: Path, trials: int) -> tuple[dict[str, Any], str]:
    """What a process that is left alone prints, and the best recipe."""
    process = started(folder, trials)
    process.join()
    if process.exitcode:
        raise RuntimeError((folder / "errors.txt").read_text())
    return json.loads((folder / "out.json").read_text()), (folder / "r.best.yaml").read_text()


def killed(folder: Path, trials: int, after: float) -> bool:
    """Start tuning, and kill it ``after`` seconds; whether it was still running."""
    process = started(folder, trials)
    process.join(after)
    running = bool(process.is_alive())
    process.kill()
    process.join()
    return running


def comparable(found: dict[str, Any]) -> dict[str, Any]:
    """What must be the same: all but times and the number of kills."""
    for row in found["trials"]:
        del row["seconds"], row["retries"]
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--trials", type=int, default=8)
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
        with contextlib.suppress(SystemExit):
            main_command(["tune", str(alone / "r.yaml"), "--explain", "--json"])  # imports all
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
