"""A comparison killed twenty times at random moments ends in the same bytes as one that was not.

    python benchmarks/killed_comparisons.py            # a few minutes
    python benchmarks/killed_comparisons.py --quick    # two kills

`quickstudy compare` runs in a process of its own, is killed by SIGKILL at a random moment, and is
started again by the same command. Once it ends, it begins anew, until there were so many kills.
Each time comparison.json and scores.csv must be those of a comparison that was never killed, byte
for byte.
Results go to results/killed_comparisons.json: when each kill came, and how far it was.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import random
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from quickstudy.base.atomic import write_atomically
from quickstudy.interfaces.runs.provenance import commit

RESULTS = Path(__file__).parent / "results" / "killed_comparisons.json"
FILES = ("comparison.json", "scores.csv")


def points(path: Path) -> Path:
    """Sixteen classes of points in the plane."""
    y = np.repeat(np.arange(16), 12)
    noise = np.random.default_rng(0).normal(size=(len(y), 2))
    np.savez(path, X=(noise + 2 * y[:, None]).astype(np.float32), y=y)
    return path


def command(data: Path, folder: Path, steps: int) -> list[str]:
    """The comparison: three learners of three families, two seeds."""
    return [
        sys.executable, "-m", "quickstudy.interfaces.cli", "compare", "--learners",
        "prototypical,maml,mann", "--data", "arrays", "--root", str(data), "--backbone", "mlp",
        "--ways", "2", "--queries", "5", "--train-queries", "5", "--steps", str(steps), "--seeds",
        "2", "--tasks", "48", "--device", "cpu", "--threads", "1", "-o", str(folder),
    ]  # fmt: skip


def digests(folder: Path) -> dict[str, str]:
    """SHA-256 of each file that must be the same."""
    return {name: hashlib.sha256((folder / name).read_bytes()).hexdigest() for name in FILES}


def state_of(folder: Path) -> str:
    """How far a comparison is, in words."""
    learners = len(list(folder.glob("*/learner.safetensors")))
    tested = len(list(folder.glob("*/evaluation.json")))
    begun = len(list(folder.glob("*/recipe.json")))
    return f"{begun} runs begun, {learners} trained, {tested} tested"


def measure(kills: int, steps: int, place: Path) -> dict[str, object]:
    """Kill a comparison so often, and compare its files with those of a whole one."""
    data = points(place / "points.npz")
    began = time.perf_counter()
    subprocess.run(command(data, place / "whole", steps), check=True, capture_output=True)
    seconds = time.perf_counter() - began
    moments, made, wholes = random.Random(0), [], {str(digests(place / "whole"))}
    while len(made) < kills:
        process = subprocess.Popen(
            command(data, place / "killed", steps), stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )  # fmt: skip
        wait = moments.uniform(0.1, 0.9) * seconds
        try:
            code = process.wait(wait)
            if code:
                raise RuntimeError(f"the comparison ended with exit code {code}")
            wholes.add(_finished(place / "killed"))
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            made.append({"after": round(wait, 2), "was": state_of(place / "killed")})
            print(made[-1], flush=True)
    subprocess.run(command(data, place / "killed", steps), check=True, capture_output=True)
    wholes.add(_finished(place / "killed"))
    return {
        "kills": kills,
        "same": len(wholes) == 1,
        "digests": digests(place / "whole"),
        "seconds": round(seconds, 1),
        "made": made,
    }


def _finished(folder: Path) -> str:
    """The digests of a comparison that ended; it is removed, so that another can be killed."""
    found = str(digests(folder))
    shutil.rmtree(folder)
    return found


def main() -> None:
    """Measure, print and keep."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="two kills of a short comparison")
    parser.add_argument("--out", type=Path, default=RESULTS)
    given = parser.parse_args()
    kills, steps = (2, 4) if given.quick else (20, 60)
    with tempfile.TemporaryDirectory() as place:
        found = measure(kills, steps, Path(place))
    print(json.dumps(found, indent=1))
    if not found["same"]:
        raise SystemExit("the files differ")
    content = json.dumps({"commit": commit(), **found}, indent=1) + "\n"
    write_atomically(given.out, content.encode())


if __name__ == "__main__":
    main()
