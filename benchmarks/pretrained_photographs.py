"""Frozen pretrained features against learning from scratch: photographs, and pictures unlike them.

    python benchmarks/pretrained_photographs.py --root DATA

Every method is scored on the same tasks: 5-way, 1 and 5 shots, 15 queries a class (emoji: 3, cells:
4-way). EfficientNet-Lite0, trained on ImageNet, gives the features, which are computed once.
Learners have their default settings; nothing was chosen by test tasks. Inductive.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import nn

import quickstudy as qs
from quickstudy import datasets
from quickstudy.base.atomic import replace_atomically
from quickstudy.evaluation.intervals import half_width
from quickstudy.interfaces.runs.provenance import commit
from quickstudy.learners.transfer.heads import logistic
from quickstudy.training.optimisers import adam

RESULTS = Path(__file__).parent / "results" / "pretrained_photographs.json"
BACKBONE, FEATURES = "efficientnet-lite0", 1280
SIDES = (224, 128)
SHOTS = (1, 5)
DRAWN = {"omniglot": 1, "glyphs": 1, "emoji": 5}
PARTS = ("frozen", "unlike", "trained", "moved", "time")
UNLIKE = ("emoji", "glyphs", "omniglot", "wbc")
CLASSES = {"train": 60, "test": 60}
"""Classes of Omniglot and glyphs in use, at random; of emoji, with fewer rows, five times as many.
Features of all would take an hour."""

Made = tuple[str, str, qs.Learner]
"""The domain that a trained learner is for, its method, and the learner."""


class Domain(NamedTuple):
    """The splits of one data set, as pictures and as features, and the size of its tasks."""

    pictures: dict[str, qs.LabelledRows]
    features: dict[str, qs.LabelledRows]
    ways: int = 5
    queries: int = 15

    def tasks(self, split: str, shots: int, of: str = "features") -> qs.TaskSource:
        """Tasks of one split, of features or of the pictures themselves."""
        rows = getattr(self, of)[split]
        return qs.episodes(rows, self.ways, shots, self.queries)

    def tasks_of_many_shots(self) -> qs.TaskSource:
        """Training tasks of 1 to 5 shots, or as many as leave a query of each class."""
        rows = self.features["train"]
        most = min(5, int(rows.counts.min()) - 1)
        return qs.episodes(rows, 5, (1, most), min(5, int(rows.counts.min()) - most))

    @property
    def shots(self) -> list[int]:
        """Those that its classes have rows enough for."""
        rows = int(self.features["test"].counts.min())
        return [shots for shots in SHOTS if shots + self.queries <= rows]


Domains = Callable[[str, int, Sequence[str]], Domain]
"""Name, side and splits -> the domain with those of the splits that it has."""


def domain(name: str, root: str, side: int, splits: Sequence[str]) -> Domain:
    """Pictures and features at ``side`` pixels, to which drawings and emoji are enlarged."""
    takes_size = name in ("caltech101", "wbc")
    data = datasets.load(name, root, size=side) if takes_size else datasets.load(name, root)
    pictures = {split: data.splits[split] for split in splits if len(data.splits[split])}
    if name in DRAWN:
        pictures = {s: some_classes(rows, DRAWN[name] * CLASSES[s]) for s, rows in pictures.items()}
    backbone = qs.pretrained(BACKBONE, size=side)
    features = {split: qs.featurise(rows, backbone) for split, rows in pictures.items()}
    sizes = {"emoji": (5, 3), "wbc": (4, 15)}.get(name, (5, 15))
    return Domain(pictures, features, *sizes)


def some_classes(rows: qs.LabelledRows, number: int) -> qs.LabelledRows:
    """A random choice of ``number`` classes, in their order."""
    order = torch.randperm(len(rows), generator=torch.Generator().manual_seed(0))
    return rows.select(order[:number].sort().values)


def features_as_they_are() -> nn.Module:
    """The backbone of learners whose inputs are features already."""
    backbone = nn.Identity()
    backbone.features = FEATURES  # type: ignore[assignment]
    return backbone


def on_features(
    base: qs.LabelledRows | None, few: bool = False
) -> Iterator[tuple[str, qs.Learner]]:
    """Learners that adapt to the features of a task and were trained on no other."""
    features = features_as_they_are()
    yield "SimpleShot, L2N", qs.SimpleShot(features)
    if base is not None:
        yield "SimpleShot, CL2N", qs.SimpleShot(features, centred=True).centre_on(base)
    yield "linear probe, ridge", qs.LinearProbe(features)
    if few:
        return
    yield "Baseline++", qs.BaselinePlusPlus(features)
    first = qs.SimpleShot(nn.Identity())
    yield "SimpleShot, UN", qs.SimpleShot(features, normalise=False)
    yield "feature cache alone", qs.FeatureCache(features)
    yield "feature cache + SimpleShot", qs.FeatureCache(features, first)
    yield "feature cache + SimpleShot, keys learnt", qs.FeatureCache(features, first, steps=20)
    yield "linear probe, logistic", qs.LinearProbe(features, logistic)


def trained_on_features(caltech: Domain, steps: int) -> Iterator[Made]:
    """Learners trained over tasks of Caltech's training classes, on the frozen features."""
    torch.manual_seed(0)
    many = qs.episodes(caltech.features["train"], 20, (1, 5), 5)
    few = qs.episodes(caltech.features["train"], 5, (1, 5), 10)
    select = qs.Validation(caltech.tasks("val", 1), every=max(1, steps // 10), tasks=100)
    head = nn.Linear(FEATURES, 5)
    with torch.no_grad():
        head.weight.zero_()
    small = qs.backbones.MLP(FEATURES, (512,))
    with_head = qs.backbones.MLP(FEATURES, (256,), outputs=5)
    for name, learner, source, rate in (
        ("Prototypical, a layer of 512 trained", qs.Prototypical(small), many, 1e-3),
        ("MAML, a linear head, 5 steps", qs.MAML(head, 5, 0.1), few, 1e-3),
        ("ANIL, a layer of 256 and a head, 5 steps", qs.ANIL(with_head, 5, 0.1), few, 1e-3),
    ):
        qs.fit(learner, source, steps, tasks_per_step=4, optimiser=adam(rate), validation=select)
        yield "caltech101", name, learner


def across_domains(domains: dict[str, Domain], steps: int) -> Iterator[Made]:
    """For each domain, an in-context learner trained once on the others; and one after all."""
    train = {name: each for name, each in domains.items() if "train" in each.features}
    kinds: dict[str, dict[str, Any]] = {"In-context": {}, "In-context, equiangular": {"ways": 5}}
    for left_out in domains:
        for label, options in kinds.items():
            sources = {
                name: each.tasks_of_many_shots()
                for name, each in train.items() if name != left_out
            }  # fmt: skip
            torch.manual_seed(0)
            learner = qs.InContext(features_as_they_are(), size=128, layers=2, **options)
            mixed = qs.tasks.mixture(sources)
            qs.fit(learner, mixed, steps, tasks_per_step=4, optimiser=adam(3e-4))
            yield left_out, f"{label}, trained on {', '.join(sources)}", learner


def from_scratch(domains: dict[str, Domain], steps: int) -> Iterator[Made]:
    """Prototypical with Conv4 on each domain's own training classes, at 28 or 32 pixels."""
    for name, each in domains.items():
        if name == "caltech101" or "train" not in each.pictures:
            continue  # its photographs: benchmarks/photographs.py
        rows = each.pictures["train"]
        torch.manual_seed(0)
        channels = rows.inputs.shape[1]
        learner = qs.Prototypical(qs.backbones.Conv4(in_channels=channels, channels=32))
        source = qs.episodes(rows, min(20, len(rows)), 1, min(5, each.queries))
        qs.fit(learner, source, steps, tasks_per_step=1)
        yield name, "Prototypical, Conv4 from scratch on its own training classes", learner


def moved_on_pictures() -> Iterator[tuple[str, qs.Learner]]:
    """Learners that move weights of the backbone, and the head that they start from."""
    usual: dict[str, Any] = {"steps": 20, "rate": 1e-3, "feature_length": 1.0, "l2": 0.01}

    def backbone() -> nn.Module:
        return qs.pretrained(BACKBONE, size=SIDES[1], frozen=False)

    yield (
        "the start of fine-tuning: a logistic head",
        qs.FineTune(backbone(), "head", **usual | {"steps": 0}),
    )
    yield "fine-tuned, last 3 layers", qs.FineTune(backbone(), "last:3", **usual)
    yield "fine-tuned, all layers", qs.FineTune(backbone(), "all", **usual | {"rate": 1e-4})
    yield "LoRA, rank 4", qs.LoRA(backbone(), rank=4, **usual)


def score(learner: qs.Learner, source: qs.TaskSource, tasks: int) -> dict[str, Any]:
    """The accuracy of every task, their mean and interval, and CPU time for a task."""
    learner.eval()
    start = time.process_time()
    result = qs.evaluate(learner, source, tasks, baselines=False)
    seconds = time.process_time() - start
    values = result.main.values
    assert values is not None
    return {
        "mean": float(values.mean()), "half_width": half_width(values), "tasks": len(values),
        "fingerprint": result.fingerprint, "ms_per_task": round(1000 * seconds / tasks, 2),
        "ms_per_adaptation": round(1000 * result.seconds_per_adaptation, 2),
        "scores": [round(float(value), 4) for value in values],
    }  # fmt: skip


def seconds_per_picture(rows: qs.LabelledRows, side: int, number: int = 32) -> float:
    """CPU time of the backbone for one picture."""
    few = qs.LabelledRows.from_labels(rows.inputs[:number].clone(), [0] * number)
    start = time.process_time()
    qs.featurise(few, qs.pretrained(BACKBONE, size=side), cache=False)
    return (time.process_time() - start) / number


class Table:
    """The rows of the result in one file, which every part adds to and is kept after each row."""

    def __init__(self, path: Path, tasks: int) -> None:
        self.path, self.tasks = path, tasks
        self.result: dict[str, Any] = {"rows": [], "training_cpu_seconds": {}}
        if path.exists():
            self.result = json.loads(path.read_text())
        self.result |= {"backbone": BACKBONE, "seed": 0, "protocol": "inductive"}

    def add(
        self, name: str, each: Domain, method: str, learner: qs.Learner, side: int,
        of: str = "features", only: int | None = None, tasks: int | None = None,
    ) -> None:  # fmt: skip
        """Rows for ``learner`` on the test tasks of domain ``name``, in place of earlier ones.

        ``only``   the shots, for learners that take long; all by default.
        ``tasks``  the first so many tasks; all by default.
        """
        for shots in each.shots if only is None else [only]:
            key = {"domain": name, "method": method, "side": side, "shots": shots}
            figures = score(learner, each.tasks("test", shots, of), tasks or self.tasks)
            row = key | {"ways": each.ways, "commit": commit()} | figures
            others = [r for r in self.result["rows"] if any(r[k] != v for k, v in key.items())]
            self.keep(rows=[*others, row])
            print(line(row), flush=True)

    def keep(self, **entries: Any) -> None:
        """Set ``entries`` of the result, and write it."""
        self.result |= entries
        text = json.dumps(self.result)
        replace_atomically(self.path, lambda path: path.write_text(text + "\n"))

    def timed(self, made: Iterator[Made]) -> Iterator[Made]:
        """What ``made`` gives; the time it takes is kept under the method and the domain."""
        start = time.process_time()
        for name, method, learner in made:
            seconds = {f"{method}, for {name}": round(time.process_time() - start, 1)}
            self.keep(training_cpu_seconds=self.result["training_cpu_seconds"] | seconds)
            yield name, method, learner
            start = time.process_time()


PIXELS = "nearest mean of pixels"


def frozen_part(table: Table, domains: Domains) -> None:
    """Caltech at both sizes, by learners that were trained on no other task."""
    large = domains("caltech101", SIDES[0], ("test",))
    for method, learner in on_features(None):
        table.add("caltech101", large, method, learner, SIDES[0])
    small = domains("caltech101", SIDES[1], ("train", "test"))
    for method, learner in on_features(small.features["train"], few=True):
        table.add("caltech101", small, method, learner, SIDES[1])
    pixels = qs.SimpleShot(nn.Flatten(), normalise=False)
    table.add("caltech101", small, PIXELS, pixels, SIDES[1], "pictures")


def unlike_part(table: Table, domains: Domains) -> None:
    """Pictures unlike those of ImageNet, by the same learners."""
    for name in UNLIKE:
        each = domains(name, SIDES[1], ("train", "test"))
        for method, learner in on_features(each.features.get("train"), few=True):
            table.add(name, each, method, learner, SIDES[1])
        pixels = qs.SimpleShot(nn.Flatten(), normalise=False)
        table.add(name, each, PIXELS, pixels, SIDES[1], "pictures")


def trained_part(table: Table, domains: Domains, steps: int) -> None:
    """Learners trained over tasks: on Caltech's features, across domains, and from scratch."""
    caltech = domains("caltech101", SIDES[1], ("train", "val", "test"))
    for _, method, learner in table.timed(trained_on_features(caltech, steps)):
        table.add("caltech101", caltech, method, learner, SIDES[1])
    all_of_them = {"caltech101": caltech}
    all_of_them |= {name: domains(name, SIDES[1], ("train", "test")) for name in UNLIKE}
    for name, method, learner in table.timed(across_domains(all_of_them, steps)):
        table.add(name, all_of_them[name], method, learner, SIDES[1])
    for name, method, learner in table.timed(from_scratch(all_of_them, steps)):
        table.add(name, all_of_them[name], method, learner, SIDES[1], "pictures")


def moved_part(table: Table, domains: Domains, tasks: int) -> None:
    """Weights that move, on Caltech's photographs; a few tasks, since each takes seconds."""
    caltech = domains("caltech101", SIDES[1], ("test",))
    for method, learner in moved_on_pictures():
        name = f"{method} ({tasks} tasks)"
        table.add("caltech101", caltech, name, learner, SIDES[1], "pictures", 5, tasks)


def line(row: dict[str, Any]) -> str:
    figure = f"{100 * row['mean']:.1f} ± {100 * row['half_width']:.1f}"
    task = f"{row['domain']:10} {row['side']} {row['shots']} shot"
    return f"{task}  {row['method']:50} {figure}  {row['ms_per_task']} ms"


def markdown(rows: list[dict[str, Any]]) -> str:
    """The rows as a table: one line for each method, size and domain, one column a shot."""
    lines = [
        "| tasks | pixels | method | 1 shot | 5 shots | ms a task |",
        "| --- | ---: | --- | --- | --- | ---: |",
    ]
    keys = dict.fromkeys((r["domain"], r["side"], r["method"]) for r in rows)
    for key in keys:
        of = {r["shots"]: r for r in rows if (r["domain"], r["side"], r["method"]) == key}
        cells = [
            f"{100 * of[k]['mean']:.1f} ± {100 * of[k]['half_width']:.1f}" if k in of else "–"
            for k in SHOTS
        ]
        lines.append(
            f"| {key[0]} | {key[1]} | {key[2]} | {' | '.join(cells)} "
            f"| {next(iter(of.values()))['ms_per_task']:.0f} |"
        )
    return "\n".join(lines)


def main() -> None:
    """Run the parts that were asked for."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--root", required=True, help="the folder of data sets")
    parser.add_argument("--parts", nargs="+", default=PARTS, choices=PARTS)
    parser.add_argument("--tasks", type=int, default=600)
    parser.add_argument("--steps", type=int, default=200, help="of training, where there is any")
    parser.add_argument("--moved-tasks", type=int, default=40, help="of the part moved")
    parser.add_argument("--out", type=Path, default=RESULTS)
    parser.add_argument("--table", action="store_true", help="print the results that are there")
    args = parser.parse_args()
    torch.set_num_threads(1)
    table = Table(args.out, args.tasks)
    if args.table:
        print(markdown(table.result["rows"]))
        return

    def domains(name: str, side: int, splits: Sequence[str]) -> Domain:
        return domain(name, args.root, side, splits)

    if "frozen" in args.parts:
        frozen_part(table, domains)
    if "unlike" in args.parts:
        unlike_part(table, domains)
    if "trained" in args.parts:
        trained_part(table, domains, args.steps)
    if "moved" in args.parts:
        moved_part(table, domains, args.moved_tasks)
    if "time" in args.parts:
        test = datasets.load("caltech101", args.root, size=SIDES[0]).test
        times = {side: round(1000 * seconds_per_picture(test, side), 1) for side in SIDES}
        table.keep(cpu_ms_per_picture=times)


if __name__ == "__main__":
    main()
