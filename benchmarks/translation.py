"""Translation into languages of which 200 pairs are given: `docs/applications/translation.md`.

    python benchmarks/translation.py --root DATA                      # all, hours on one thread
    python benchmarks/translation.py nearest --root DATA --only rules # baselines of one protocol

Each protocol of :data:`quickstudy.applications.translation_data.PROTOCOLS` is measured on the same
messages of the five held-out languages. ``pretrained`` and ``meta-learnt`` networks take the same
number of tasks of training languages (Adam along a cosine from 0.002), and are then fine-tuned with
early stopping, as is the network that was not trained (``support alone``). One training of seed 0.

The results keep the n-gram counts of every message, from which any chrF follows, the number of its
English subwords, and whether its placeholders were all written. Rows that are there are kept.
"""

from __future__ import annotations

import argparse
import json
import re
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

import quickstudy as qs
from quickstudy.answers.metrics import chrf, ngram_counts
from quickstudy.answers.tokens import Tokens, written
from quickstudy.applications.application import Prepared
from quickstudy.applications.translation import Translation
from quickstudy.applications.translation_baselines import english
from quickstudy.applications.translation_data import PROTOCOLS
from quickstudy.base.atomic import write_atomically
from quickstudy.core import Learner, Task
from quickstudy.datasets.subwords import PLACEHOLDER
from quickstudy.interfaces.runs.provenance import commit
from quickstudy.training.schedules import cosine

RESULTS = Path(__file__).parent / "results" / "translation.json"
SHORT = 8
"""Subwords of a short English message, at most."""
RULES = {
    "translation memory": "translation memory",
    "nearest language copied": "nearest language copied",
    "nearest language rewritten by rules": "nearest language rewritten by rules",
}
TRAINED = {"pretrained": "early_stopping", "meta-learnt": "maml"}
SCRATCH = "support alone"

Row = dict[str, Any]


def main(argv: Sequence[str] | None = None) -> None:
    options = _options(argv)
    torch.set_num_threads(1)
    found = json.loads(options.results.read_text()) if options.results.exists() else {}
    for protocol in options.protocols or PROTOCOLS:
        app = Translation(
            protocol, options.held_out, options.languages, options.messages, steps=options.steps,
            tuning=options.tuning,
        )  # fmt: skip
        made = app.prepare("messages", options.root, "early_stopping", 200, 0)
        rows = found.setdefault(protocol, {})
        for name in _methods(made, options.only):
            tasks = [task for task in made.test if name not in rows.get(task.spec.name, {})]  # type: ignore[attr-defined]
            if not tasks:
                continue
            learner = _learner(name, app, made, options)
            for task in tasks:
                of = rows.setdefault(task.spec.name, {})
                if name in of:  # another draw of the pairs of one language
                    continue
                of[name] = scored(learner, task)
                text = json.dumps(found | {"commit": commit()}, separators=(",", ":"))
                write_atomically(options.results, text.encode())
        print(table({protocol: rows}))


def scored(learner: Learner, task: Task) -> Row:
    """What ``learner`` says about each message of the test: counts, and how long it took."""
    answer, start = task.spec.answer, time.process_time()
    assert isinstance(answer, Tokens)
    learner.eval()
    with torch.no_grad():
        predictor = learner(task.support, task.spec)
        rows = answer.decode(predictor, task.query.inputs).tolist()
    said = [written(row, answer.pieces) for row in rows]
    true = [written(row, answer.pieces) for row in task.query.targets.tolist()]
    sources = [english(row) for row in task.query.inputs["source"].tolist()]
    asked = [placeholders(written(source, answer.pieces)) for source in sources]
    return {
        "counts": [counts(s, t) for s, t in zip(said, true, strict=True)],
        "english": [len(source) - 1 for source in sources],
        "placeholders": [
            [sum((of & placeholders(s)).values()), of.total()]
            for of, s in zip(asked, said, strict=True)
        ],
        "support": len(task.support.weights),
        "steps": int(predictor.state["stopped"]) if "stopped" in predictor.state else None,
        "cpu_s": round(time.process_time() - start, 1),
    }


def counts(said: str, true: str) -> list[list[int]]:
    """N-gram counts (6, 3) of two texts, without spaces."""
    ours, theirs = ([ord(c) for c in text if not c.isspace()] for text in (said, true))
    return ngram_counts(ours, theirs, 6)


def placeholders(text: str) -> Counter[str]:
    return Counter(re.findall(PLACEHOLDER, text))


def chrf_of(row: Row, short: bool = False, chosen: Any = None) -> float:
    """chrF in %, of all messages, of short ones, or of those ``chosen`` by number."""
    numbers = np.arange(len(row["counts"])) if chosen is None else chosen
    if short:
        numbers = numbers[np.array(row["english"])[numbers] <= SHORT]
    return 100 * float(chrf(torch.tensor(np.array(row["counts"])[numbers].sum(0))))


def half_width(row: Row, other: Row | None = None, short: bool = False, draws: int = 300) -> float:
    """Half the 95% interval of chrF, or of the difference, over messages drawn again."""
    generator, n = np.random.default_rng(0), len(row["counts"])
    values = []
    for _ in range(draws):
        chosen = generator.integers(n, size=n)
        value = chrf_of(row, short, chosen)
        values.append(value - (chrf_of(other, short, chosen) if other else 0.0))
    low, high = np.quantile(values, [0.025, 0.975])
    return float(high - low) / 2


def table(found: dict[str, dict[str, dict[str, Row]]]) -> str:
    """A Markdown table: chrF of all messages and of short ones, for each language."""
    lines = []
    for protocol, rows in found.items():
        if protocol == "commit":
            continue
        heads = " | ".join(["method", *rows])
        lines += [f"Protocol `{protocol}`", "", f"| {heads} |", "|---" * (len(rows) + 1) + "|"]
        for name in dict.fromkeys(name for of in rows.values() for name in of):
            cells = [_cell(of.get(name)) for of in rows.values()]
            lines.append(f"| {name} | " + " | ".join(cells) + " |")
        lines.append("")
    return "\n".join(lines)


def _cell(row: Row | None) -> str:
    if row is None:
        return "–"
    return f"{chrf_of(row):.1f} ± {half_width(row):.1f} ({chrf_of(row, short=True):.1f})"


def _methods(made: Prepared, only: Sequence[str]) -> list[str]:
    names = [name for name in RULES if name in made.baselines] + [SCRATCH, *TRAINED]
    groups = {"rules": list(RULES), "networks": [SCRATCH, *TRAINED]}
    wanted = [name for each in only for name in groups.get(each, [each])]
    return [name for name in names if not only or name in wanted]


def _learner(name: str, app: Translation, made: Prepared, options: Any) -> Learner:
    """The learner of a method, after training over languages where it has any."""
    if name in RULES:
        return made.baselines[name]
    if name == SCRATCH:
        return made.baselines["from the support alone"]
    trained = app.prepare("messages", options.root, TRAINED[name], 200, 0)
    assert trained.train is not None
    qs.fit(
        trained.learner, trained.train, options.steps, trained.tasks_per_step,
        optimiser=lambda weights: torch.optim.Adam(weights, lr=trained.rate), schedule=cosine,
        clip=trained.clip, seed=0, progress=False,
    )  # fmt: skip
    if name == "pretrained":
        return trained.learner
    return qs.EarlyStopping(trained.learner.backbone, options.tuning)  # type: ignore[arg-type]


def _options(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("protocols", nargs="*", help=", ".join(PROTOCOLS))
    parser.add_argument("--root", type=Path)
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--only", nargs="*", default=[], help="rules, networks, or names of rows")
    parser.add_argument("--held-out", default="", help="codes of languages to test on")
    parser.add_argument("--languages", default="", help="codes of languages to train on")
    parser.add_argument("--messages", type=int, default=150, help="for the test")
    parser.add_argument("--steps", type=int, default=3000)
    parser.add_argument("--tuning", type=int, default=200)
    return parser.parse_args(argv)


if __name__ == "__main__":
    main()
