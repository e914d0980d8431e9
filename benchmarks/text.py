"""Requests of intents that training has not seen: CLINC150, 5-way 1-shot and 5-shot tasks.

    python benchmarks/text.py --root DATA
    python benchmarks/text.py --root DATA --only fine-tuned --tasks 100

Tasks are drawn from the 30 test intents of the split ``intents`` (15 queries a class) or, with
``--split domains``, from those of two domains. All rows are scored on the same tasks; results,
with the score of every task, go to ``results/text.json``. Inductive. Features are computed once.
``--choices 20`` adds how much the nearest mean depends on which 30 of the 150 intents are asked.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch
from figures import figures
from sklearn.feature_extraction.text import TfidfVectorizer
from torch import Tensor, nn

import quickstudy as qs
from quickstudy.interfaces.runs.provenance import commit
from quickstudy.learners.transfer.heads import logistic, ridge

RESULTS = Path(__file__).parent / "results" / "text.json"
WAYS, SHOTS, QUERIES = 5, (1, 5), 15
PIECE = 64  # texts per call of an encoder

Made = tuple[qs.Learner, qs.LabelledRows, float]
"""A learner, the test rows as it reads them, and the CPU milliseconds that each text took."""


class Features(NamedTuple):
    """Rows of features, and the CPU milliseconds that each text took."""

    rows: qs.LabelledRows
    ms: float


def main() -> None:
    args = _arguments()
    torch.set_num_threads(args.threads)
    data = qs.datasets.load("clinc150", args.root, split=args.split)
    texts = qs.datasets.load_texts("clinc150", args.root, split=args.split)
    made = Methods(data, texts, args.steps, args.rate)
    for name in args.only or [n for n in made.names if n != "fine-tuned"]:
        learner, rows, ms = made(name)
        for shots in SHOTS:
            _keep(args.out, f"{args.split} {name} {shots}", _result(learner, rows, shots, ms, args))
    if args.choices:
        _keep(args.out, "other choices of 30 intents", _choices(made, args))
    print(table(json.loads(args.out.read_text()), args.split))


class Methods:
    """What is compared, by name; features are computed when first asked for, and once."""

    def __init__(self, data: Any, texts: Any, steps: int, rate: float) -> None:
        self.data, self.texts, self.steps, self.rate = data, texts, steps, rate
        self._features: dict[tuple[str, str], Features] = {}
        self.names: dict[str, Callable[[], Made]] = {
            "tf-idf, nearest mean": lambda: self._on("tf-idf", qs.SimpleShot(nn.Identity())),
            "tf-idf, logistic": lambda: self._on("tf-idf", _probe(logistic)),
            "int8, nearest mean": lambda: self._on("minilm-int8", qs.SimpleShot(nn.Identity())),
            "MiniLM, nearest mean": lambda: self._on(MINILM, qs.SimpleShot(nn.Identity())),
            "MiniLM, centred nearest mean": self._centred,
            "MiniLM, logistic": lambda: self._on(MINILM, _probe(logistic)),
            "MiniLM, ridge": lambda: self._on(MINILM, _probe(ridge)),
            "fine-tuned": self._fine_tuned,
        }

    def __call__(self, name: str) -> Made:
        """The method ``name``."""
        return self.names[name]()

    def _centred(self) -> Made:
        """CL2N: the centre is the mean feature of the training intents."""
        learner = qs.SimpleShot(qs.backbones.Features(384), centred=True)
        learner.centre_on(self.features(MINILM, "train").rows.inputs)
        return self._on(MINILM, learner)

    def _on(self, name: str, learner: qs.Learner) -> Made:
        return learner, *self.features(name, "test")

    def features(self, name: str, part: str) -> Features:
        """The features ``name`` of one split, computed at the first call."""
        if (name, part) not in self._features:
            rows, start = self.data.splits[part], time.process_time()
            if name == "tf-idf":
                found = qs.LabelledRows(self._tf_idf(), rows.counts, rows.names)
            else:
                found = qs.featurise(rows, qs.pretrained(name), batch=PIECE, cache=False)
            ms = 1000 * (time.process_time() - start) / int(rows.counts.sum())
            self._features[name, part] = Features(found, ms)
        return self._features[name, part]

    def _tf_idf(self) -> Tensor:
        """Words and their frequencies are those of the training intents' texts."""
        vectorizer = TfidfVectorizer(sublinear_tf=True).fit(self.texts["train"].texts)
        test = self.texts["test"]
        by_class = sorted(range(len(test.labels)), key=lambda i: test.labels[i])  # as LabelledRows
        dense = vectorizer.transform([test.texts[i] for i in by_class]).toarray()
        return torch.from_numpy(dense).float()

    def _fine_tuned(self) -> Made:
        encoder = qs.pretrained(MINILM, frozen=False)
        learner = qs.FineTune(encoder, adapts="last:2", steps=self.steps, rate=self.rate)
        return learner, self.data.test, 0.0


MINILM = "all-MiniLM-L6-v2"


def _probe(head: Any) -> qs.Learner:
    return qs.LinearProbe(nn.Identity(), head=head, l2=1.0)


def _result(
    learner: qs.Learner, rows: qs.LabelledRows, shots: int, ms: float, args: argparse.Namespace
) -> dict[str, Any]:
    source = qs.episodes(rows, ways=WAYS, shots=shots, queries=QUERIES)
    start = time.process_time()
    found = qs.evaluate(learner, source, tasks=args.tasks, seed=args.seed, baselines=False)
    return {
        **figures(found), "commit": commit(), "ways": WAYS, "shots": shots, "queries": QUERIES,
        "encoding_ms": round(ms, 2),
        "task_ms": round(1000 * (time.process_time() - start) / args.tasks, 2),
    }  # fmt: skip


def _choices(made: Methods, args: argparse.Namespace) -> dict[str, Any]:
    """The nearest mean's accuracy for random choices of 30 of all 150 intents.

    The encoder is not trained here, so all intents are equally unseen.
    """
    parts = [made.features(MINILM, part).rows for part in ("train", "val", "test")]
    rows = qs.LabelledRows(
        torch.cat([part.inputs for part in parts]),
        torch.cat([part.counts for part in parts]),
        tuple(name for part in parts for name in part.names),
    )
    generator = torch.Generator().manual_seed(args.seed)
    means: dict[int, list[float]] = {shots: [] for shots in SHOTS}
    for _ in range(args.choices):
        chosen = rows.select(torch.randperm(len(rows), generator=generator)[:30].tolist())
        for shots, found in means.items():
            source = qs.episodes(chosen, ways=WAYS, shots=shots, queries=QUERIES)
            learner = qs.SimpleShot(nn.Identity())
            of = qs.evaluate(learner, source, tasks=args.tasks, seed=args.seed, baselines=False)
            found.append(round(of.mean, 4))
    return {"tasks": args.tasks, "seed": args.seed, "commit": commit(), "means": means}


def _keep(out: Path, key: str, result: dict[str, Any]) -> None:
    """Add ``result`` to the file, one line for each."""
    results = json.loads(out.read_text()) if out.exists() else {}
    results[key] = result
    lines = ",\n".join(f"{json.dumps(k)}: {json.dumps(v)}" for k, v in results.items())
    out.parent.mkdir(exist_ok=True)
    out.write_text("{\n" + lines + "\n}\n")
    figure = (
        ""
        if "mean" not in result
        else (f"{100 * result['mean']:.1f}% ± {100 * result['half_width']:.1f}")
    )
    print(f"{key}: {figure or result['means']}", flush=True)


def table(results: dict[str, Any], split: str) -> str:
    """The rows of ``split`` as Markdown, without the scores of single tasks."""
    names = dict.fromkeys(k.rsplit(" ", 1)[0] for k in results if k.startswith(f"{split} "))
    lines = [
        "| method | 1 shot | 5 shots | ms a text | ms a task (1 / 5) | tasks |",
        "| --- | --- | --- | ---: | ---: | ---: |",
    ]
    for name in names:
        one, five = (results.get(f"{name} {shots}") for shots in SHOTS)
        if not one or not five:
            continue
        cells = [f"{100 * r['mean']:.1f} ± {100 * r['half_width']:.1f}" for r in (one, five)]
        lines.append(
            f"| {name.removeprefix(split).strip()} | {cells[0]} | {cells[1]} | "
            f"{one['encoding_ms']:.1f} | {one['task_ms']:.1f} / {five['task_ms']:.1f} | "
            f"{len(one['scores']):,} |"
        )
    return "\n".join(lines)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--root", required=True, help="the folder that holds clinc150/")
    parser.add_argument("--split", default="intents", choices=("intents", "domains"))
    parser.add_argument("--only", nargs="+", help="methods; by default all but fine-tuned")
    parser.add_argument("--tasks", type=int, default=600)
    parser.add_argument("--steps", type=int, default=20, help="of fine-tuning")
    parser.add_argument("--rate", type=float, default=1e-4, help="of fine-tuning")
    parser.add_argument("--choices", type=int, default=0, help="random choices of 30 intents")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path, default=RESULTS)
    return parser.parse_args()


if __name__ == "__main__":
    main()
