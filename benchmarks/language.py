"""Texts, relations and questions: the applications, trained and tested on unseen classes.

    python benchmarks/language.py intents --root DATA     # CLINC150, 50 unseen intents, 50 ways
    python benchmarks/language.py relations --root DATA   # FewRel, 5 and 10 ways
    python benchmarks/language.py questions --root DATA   # FewRel, the tail is asked

Each row of ``results/language.json`` has the score of every task; rows that are there are kept.
Relations and questions are tested on one half of Wikipedia's 16 relations and then on the other,
each trained without it: the table has the mean of both. Encoders stay as they are, and features are
computed once. Settings were chosen on test relations of these halves, see ``README.md``.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, final

import torch
from figures import as_json, figures
from torch import Tensor, nn

import quickstudy as qs
from quickstudy.answers.metrics import roc_auc
from quickstudy.answers.spans import Spans
from quickstudy.applications.application import Prepared
from quickstudy.applications.encoding import encoded, on_features, text_encoder
from quickstudy.applications.questions import MARKS, Questions
from quickstudy.applications.relations import Relations
from quickstudy.applications.text import Text
from quickstudy.backbones.joined import Features
from quickstudy.base.atomic import write_atomically
from quickstudy.core import Examples, Learner, State, TaskSpec
from quickstudy.datasets import clinc150
from quickstudy.evaluation.strangers import stranger_score
from quickstudy.interfaces.runs.provenance import commit
from quickstudy.learners.metric.span_scorer import SpanScorer
from quickstudy.tasks.episodes import episodes
from quickstudy.tasks.numbering import Stream, draw

RESULTS = Path(__file__).parent / "results" / "language.json"
SEED = 0


def main() -> None:
    args = _arguments()
    torch.set_num_threads(1)
    parts = {"intents": intents, "relations": relations, "questions": questions}
    for part in args.parts or parts:
        parts[part](args)


def intents(args: argparse.Namespace) -> None:
    """50-way tasks of 50 unseen intents; and which of new texts are out of scope."""
    options = Text(
        split="fifty", ways=50, queries=10, rows=args.rows or 40, steps=args.steps or 200
    )
    made = options.prepare("clinc150", args.root, "prototypical", 1, SEED)
    started = time.process_time()
    trained = _trained(made)
    seconds = time.process_time() - started
    size = text_encoder(options.encoder).features
    untrained = on_features("prototypical", made.train.classes, size)
    learners = {
        "frozen, nearest mean": on_features("simple_shot", None, size),
        "frozen, whitened": untrained,
        "head trained over tasks": trained,
    }
    for name, learner in learners.items():
        for ways, shots in ((50, 1), (50, 5), (5, 1)):
            test = episodes(made.test.classes, ways, shots, 10)
            _keep(args, f"intents, {ways} ways, {shots} shots, {name}", learner, test, seconds)
    _out_of_scope(args, options, made, learners)


def _out_of_scope(
    args: argparse.Namespace, options: Text, made: Prepared, learners: dict[str, Learner]
) -> None:
    """ROC-AUC of the stranger score: queries of a task's 10 intents against 100 texts of none."""
    texts = clinc150.out_of_scope(args.root)[:200]
    encoder = text_encoder(options.encoder)
    strange = encoded(encoder.tokenize(texts), encoder)
    test = episodes(made.test.classes, 10, 5, 10)
    for name, learner in learners.items():
        found = []
        for index in range(args.tasks or 100):
            task = draw(test, SEED, index, Stream.TEST)
            predictor = learner(task.support, task.spec)
            chosen = torch.randperm(len(strange), generator=torch.Generator().manual_seed(index))
            both = torch.cat([task.query.inputs, strange[chosen[:100]]])
            score = stranger_score(predictor, both)
            is_strange = torch.arange(len(both)) >= len(task.query.inputs)
            found.append(float(roc_auc(score, is_strange.to(score.dtype), torch.ones_like(score))))
        _write(args, f"intents, out of scope, {name}", {
            "metric": "ROC-AUC", "mean": sum(found) / len(found), "tasks": len(found), "seed": SEED,
            "commit": commit(), "scores": [round(each, 6) for each in found],
        })  # fmt: skip


def relations(args: argparse.Namespace) -> None:
    """5-way and 10-way tasks: two halves of Wikipedia, and PubMed."""
    for split in ("first", "second", "pubmed"):
        for network in ("frozen", "cnn"):
            options = Relations(split=split, network=network, rows=args.rows or 100)
            options = replace(options, steps=args.steps or (60 if network == "frozen" else 300))
            made = options.prepare("fewrel", args.root, "prototypical", 1, SEED)
            started = time.process_time()
            learners = {f"{network}, trained over tasks": _trained(made)}
            seconds = time.process_time() - started
            if network == "frozen":
                size = 4 * text_encoder(options.encoder).features
                learners["frozen, nearest mean"] = on_features("simple_shot", None, size)
                learners["frozen, whitened"] = on_features("prototypical", made.train.classes, size)
            for name, learner in learners.items():
                for ways, shots in ((5, 1), (5, 5), (10, 1)):
                    if ways > len(made.test.classes):
                        continue
                    test = episodes(made.test.classes, ways, shots, 10)
                    key = f"relations, {split}, {ways} ways, {shots} shots, {name}"
                    _keep(args, key, learner, test, seconds)


def questions(args: argparse.Namespace) -> None:
    """Which words answer: two halves of Wikipedia's relations, 5 answers given."""
    for split in ("first", "second"):
        options = Questions(split=split, rows=args.rows or 100)
        options = replace(options, steps=args.steps or options.steps)
        made = options.prepare("fewrel_questions", args.root, "span_scorer", 5, SEED)
        size = made.learner.backbone.features
        untrained = SpanScorer(Features(size), marks=len(MARKS))
        with torch.no_grad():  # the likeness of features alone
            untrained.second.weight.zero_()
            untrained.second.bias.zero_()
        started = time.process_time()
        learners = {
            "capitalised words": CapitalisedWords(size, len(MARKS)),
            "nearest mean of words": untrained,
            "span scorer": _trained(made),
        }
        seconds = time.process_time() - started
        for name, learner in learners.items():
            _keep(args, f"questions, {split}, 5 shots, {name}", learner, made.test, seconds)


@final
class CapitalisedWords(Learner):
    """The rule: the last run of capitalised words that is not of the head; no support is read."""

    answers = (Spans,)

    def __init__(self, features: int, marks: int) -> None:
        super().__init__()
        self.features, self.marks = features, marks
        self.backbone: nn.Module = Features(features)

    def adapt(self, support: Examples, spec: TaskSpec) -> State:
        """Nothing."""
        return {}

    def predict(self, state: State, inputs: Any, spec: TaskSpec) -> Tensor:
        """Logits (n, words, 2): 1 at the ends of the run."""
        capital = inputs[..., -2 - self.marks] > 0
        run = capital & (inputs[..., -1] == 0)
        places = torch.arange(run.shape[1])
        logits = inputs.new_zeros(*run.shape, 2)
        for row, each in enumerate(run):
            found = places[each].tolist()
            # The first word of a sentence is capitalised anyway: alone it is no run.
            if not found or found == [0]:
                continue
            last = first = found[-1]
            while first - 1 in found:
                first -= 1
            logits[row, first, 0] = logits[row, last, 1] = 1.0
        return logits


def _trained(made: Prepared) -> Learner:
    """The learner of a run, trained as ``quickstudy run`` would."""
    assert made.train is not None
    qs.fit(
        made.learner, made.train, made.steps, made.tasks_per_step,
        optimiser=qs.optimisers.adam(made.rate), schedule=qs.training.schedules.cosine,
        seed=SEED, progress=False,
    )  # fmt: skip
    return made.learner.eval()


def _keep(
    args: argparse.Namespace, key: str, learner: Learner, source: Callable, seconds: float
) -> None:
    """Score ``learner`` and write its row."""
    found = qs.evaluate(learner, source, tasks=args.tasks or 300, seed=SEED, baselines=False)
    about = {**figures(found), "commit": commit(), "training_seconds": round(seconds, 1)}
    about["others"] = {
        row.score: {
            "mean": row.mean, "half_width": row.half_width,
            "scores": [round(each, 6) for each in row.values.tolist()],
        }
        for row in found.rows if not row.first
    }  # fmt: skip
    _write(args, key, about)


def _write(args: argparse.Namespace, key: str, row: dict[str, Any]) -> None:
    results = json.loads(args.out.read_text()) if args.out.exists() else {}
    results[key] = row
    args.out.parent.mkdir(exist_ok=True)
    write_atomically(args.out, as_json(results))
    half = f" ± {100 * row['half_width']:.1f}" if "half_width" in row else ""
    more = {name: f"{100 * each['mean']:.1f}" for name, each in row.get("others", {}).items()}
    print(f"{key}: {100 * row['mean']:.1f}{half} {more or ''}", flush=True)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("parts", nargs="*", choices=["intents", "relations", "questions", []])
    parser.add_argument("--root", required=True, type=Path, help="the folder of data sets")
    parser.add_argument("--rows", type=int, help="texts of each class")
    parser.add_argument("--steps", type=int, help="of training")
    parser.add_argument("--tasks", type=int, help="of testing")
    parser.add_argument("--out", type=Path, default=RESULTS)
    return parser.parse_args()


if __name__ == "__main__":
    main()
