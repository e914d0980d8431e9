"""What ``docs/questions.md`` needs and no other script measures.

    python benchmarks/questions.py                 # all parts, about 6 CPU minutes on one thread
    python benchmarks/questions.py one_set size    # these; rows that are there are kept

    one_set  one set of tasks, learnt by multi-task learning, transfer and meta-learning: sinusoids
             of 20 rows each, 60 or 600 of them known by name. *Known* ones are scored on further
             rows of theirs, *new* ones after 10 rows. Every method has the same rows, a network of
             the same size, 1,000 steps of Adam at 0.003 along a cosine, 10 tasks or 200 rows a
             step; hard sharing, whose heads learn only from their own tasks, 60 tasks. Not tuned.
    growing  accuracy after more and more tasks and CPU seconds of one training
    classes  accuracy after as many tasks of fewer training classes
    size     accuracy and cost against the number of filters and of blocks

The last three: printed characters, 28x28, 5-way 1-shot, test characters of other scripts, MAML (1
step at 0.4, second order) and Prototypical with group norm, 5 queries in training and 15 at test, 4
tasks a step of Adam. Inductive; one training of seed 0. Each row is written as it ends, with all
scores.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import torch
from figures import as_json, figures
from torch import Tensor, nn

import quickstudy as qs
from quickstudy.base.atomic import write_atomically
from quickstudy.evaluation.intervals import half_width
from quickstudy.interfaces.runs.provenance import commit
from quickstudy.reports.tables import markdown_table
from quickstudy.training.log import Step
from quickstudy.training.optimisers import adam
from quickstudy.training.schedules import Schedule, constant, cosine

RESULTS = Path(__file__).parent / "results" / "questions.json"
TASKS_PER_STEP, TEST_TASKS = 4, 200
STOPS = (50, 100, 200, 400, 800)
"""Training tasks after which ``growing`` tests."""
CLASSES, CLASS_TASKS = (20, 200), 400
WIDTHS, DEPTHS, SIZE_TASKS = (4, 16, 64), (1, 2, 8), 400
KNOWN, NEW, ROWS, FEW = (60, 600), 200, 20, 10
"""Known and new sinusoids, rows of a known one in training and in test, and rows of a new one."""
SINUSOID_STEPS = 1000

Row = dict[str, Any]
Job = tuple[str, Callable[[], list[Row]]]
"""A key, and what measures its rows."""
Tasks = qs.tasks.NamedTasks


class Blocks(nn.Module):
    """Conv4 with another number of blocks: images (n, 1, 28, 28) -> features, or class scores.

    The first four blocks pool. As Conv4 with four.
    """

    def __init__(self, depth: int, channels: int, outputs: int | None) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for number in range(depth):
            inputs = channels if number else 1
            layers += [nn.Conv2d(inputs, channels, 3, padding=1), nn.GroupNorm(1, channels)]
            layers += [nn.MaxPool2d(2)] * (number < 4) + [nn.ReLU()]
        self.blocks = nn.Sequential(*layers, nn.Flatten())
        self.features = channels * (28 // 2 ** min(depth, 4)) ** 2
        self.depth, self.channels, self.outputs = depth, channels, outputs
        self.head = nn.Linear(self.features, outputs) if outputs else nn.Identity()

    def forward(self, images: Tensor) -> Tensor:
        """Features (n, features), or scores (n, outputs)."""
        found: Tensor = self.head(self.blocks(images))
        return found


LEARNERS: dict[str, Callable[[nn.Module], qs.Learner]] = {
    "MAML": lambda net: qs.MAML(net, 1, 0.4),
    "Prototypical": qs.Prototypical,
}


def learner_of(name: str, channels: int = 32, depth: int = 4) -> qs.Learner:
    """A new learner; its weights are those of seed 0."""
    torch.manual_seed(0)
    outputs = 5 if name == "MAML" else None
    if depth == 4:
        return LEARNERS[name](qs.backbones.Conv4(channels, outputs=outputs))
    return LEARNERS[name](Blocks(depth, channels, outputs))


def fit(
    learner: qs.Learner, train: qs.LabelledRows, tasks: int, schedule: Schedule = cosine,
    on_step: Callable[[Step], object] | None = None,
) -> float:  # fmt: skip
    """Train on this many tasks; returns CPU seconds."""
    steps, began = max(1, tasks // TASKS_PER_STEP), time.process_time()
    qs.fit(
        learner, qs.episodes(train, 5, 1, 5), steps, TASKS_PER_STEP, schedule=schedule,
        optimiser=adam(2e-3), progress=False, log_every=steps, on_step=on_step,
    )  # fmt: skip
    return time.process_time() - began


def tested(learner: qs.Learner, test: qs.LabelledRows) -> Row:
    """The figures of an evaluation, and the CPU time of a test task."""
    began = time.process_time()
    found = qs.evaluate(learner, qs.episodes(test, 5, 1, 15), TEST_TASKS, baselines=False)
    each = (time.process_time() - began) / TEST_TASKS
    return {**figures(found), "test_ms": round(1000 * each, 2)}


def growing(data: qs.datasets.Dataset) -> Iterator[Job]:
    """One training of each learner at a constant rate, tested on the way."""
    for name in LEARNERS:
        yield name, partial(_grown, name, data)


def _grown(name: str, data: qs.datasets.Dataset) -> list[Row]:
    learner, stops = learner_of(name), list(STOPS)
    rows = [{"learner": name, "train_tasks": 0, "train_seconds": 0.0, **tested(learner, data.test)}]
    tasks, spent = 0, -time.process_time()

    def test(step: Step) -> None:
        nonlocal tasks, spent
        tasks += TASKS_PER_STEP
        if stops and tasks >= stops[0]:
            del stops[0]
            spent += time.process_time()
            rows.append({"learner": name, "train_tasks": tasks, "train_seconds": round(spent, 1),
                         **tested(learner, data.test)})  # fmt: skip
            spent -= time.process_time()

    fit(learner, data.train, max(STOPS), constant, test)
    return rows


def classes(data: qs.datasets.Dataset) -> Iterator[Job]:
    """As many tasks of the first so many training classes, drawn once."""
    order = torch.randperm(len(data.train), generator=torch.Generator().manual_seed(0)).tolist()
    for count in (*CLASSES, len(data.train)):
        for name in LEARNERS:
            train = data.train.select(order[:count])
            yield f"{name} {count}", partial(_of_classes, name, train, data.test)


def _of_classes(name: str, train: qs.LabelledRows, test: qs.LabelledRows) -> list[Row]:
    learner = learner_of(name)
    seconds = fit(learner, train, CLASS_TASKS)
    return [{"learner": name, "classes": len(train), "train_tasks": CLASS_TASKS,
             "train_seconds": round(seconds, 1), **tested(learner, test)}]  # fmt: skip


def size(data: qs.datasets.Dataset) -> Iterator[Job]:
    """More filters in four blocks, and more blocks of 16 filters."""
    for channels, depth in dict.fromkeys([*((w, 4) for w in WIDTHS), *((16, d) for d in DEPTHS)]):
        for name in LEARNERS:
            yield f"{name} {channels} {depth}", partial(_of_size, name, channels, depth, data)


def _of_size(name: str, channels: int, depth: int, data: qs.datasets.Dataset) -> list[Row]:
    learner = learner_of(name, channels, depth)
    parameters = sum(p.numel() for p in learner.parameters())
    seconds = fit(learner, data.train, SIZE_TASKS)
    return [{"learner": name, "filters": channels, "blocks": depth, "parameters": parameters,
             "train_tasks": SIZE_TASKS, "train_seconds": round(seconds, 1),
             **tested(learner, data.test)}]  # fmt: skip


def sinusoids(count: int, rows: int, seed: int) -> Tasks:
    """Sinusoids of MAML's family by name, each with ``rows`` rows."""
    generator, family = torch.Generator().manual_seed(seed), qs.Sinusoids(rows, 1)
    drawn = [family(generator).support for _ in range(count)]
    spec = qs.regression()
    return qs.tasks.domains({f"{seed}-{n}": (r.inputs, r.targets, spec)
                             for n, r in enumerate(drawn)})  # fmt: skip


def one_set(data: object = None) -> Iterator[Job]:
    """Every method with 60 and with 600 known tasks."""
    for count in KNOWN:
        for method in METHODS:
            yield f"{method} {count}", partial(_of_method, method, count)


def _of_method(method: str, count: int) -> list[Row]:
    known, new = sinusoids(count, 2 * ROWS, seed=0), sinusoids(NEW, FEW + ROWS, seed=1)
    train, test = _cut(known, 0, ROWS), _cut(known, ROWS, None)
    make, kind = METHODS[method]
    torch.manual_seed(0)
    began = time.process_time()
    learner = make(train)
    seconds = time.process_time() - began
    errors = {
        "known": _errors(learner, train, test),
        "new": _errors(_for_new(learner), _cut(new, 0, FEW), _cut(new, FEW, None)),
    }
    return [{"method": method, "kind": kind, "known_tasks": count,
             "train_seconds": round(seconds, 1), "errors": errors}]  # fmt: skip


def _cut(tasks: Tasks, first: int, last: int | None) -> Tasks:
    return qs.tasks.domains({
        name: (rows.inputs[first:last], rows.targets[first:last], tasks.specs[name])
        for name, rows in tasks.items()
    })  # fmt: skip


def _errors(learner: qs.Learner, support: Tasks, test: Tasks) -> list[float]:
    """The mean squared error of each task on its test rows, after its support rows."""
    found = []
    learner.eval()
    with torch.no_grad():
        for name, rows in test.items():
            predictor = learner(support[name], support.specs[name])
            found.append(float((predictor(rows.inputs) - rows.targets).square().mean()))
    return [round(error, 6) for error in found]


def _for_new(learner: qs.Learner) -> qs.Learner:
    """For tasks without a head, a ridge head on the trunk, as HardSharing's page says."""
    return _probe(learner.backbone) if isinstance(learner, qs.HardSharing) else learner


def _probe(backbone: nn.Module) -> qs.Learner:
    return qs.LinearProbe(backbone, l2=0.1)


def _net(outputs: int | None = None) -> qs.backbones.MLP:
    return qs.backbones.MLP(1, (40, 40), outputs=outputs)


def _trained(learner: qs.Learner, train: Tasks, tasks_per_step: int = 10) -> qs.Learner:
    """Each task equally often, 10 rows as support and 10 as queries."""
    source = train.batches(rows=ROWS - FEW, support=FEW, temperature=float("inf"))
    qs.fit(
        learner, source, SINUSOID_STEPS, tasks_per_step, optimiser=adam(3e-3), schedule=cosine,
        progress=False, clip=10.0,
    )  # fmt: skip
    return learner


def _one_network(train: Tasks) -> qs.backbones.MLP:
    """One network for the rows of all tasks, by Adam on batches of 200."""
    net = _net(1)
    x, y = (torch.cat([getattr(rows, part) for rows in train.values()]) for part in
            ("inputs", "targets"))  # fmt: skip
    optimiser = torch.optim.Adam(net.parameters(), 3e-3)
    generator = torch.Generator().manual_seed(0)
    for _ in range(SINUSOID_STEPS):
        batch = torch.randint(len(x), (200,), generator=generator)
        optimiser.zero_grad()
        (net(x[batch]) - y[batch]).square().mean().backward()
        optimiser.step()
    return net


def _without_head(net: qs.backbones.MLP) -> qs.backbones.MLP:
    features = _net()
    features.layers.load_state_dict(net.layers.state_dict())
    return features


METHODS: dict[str, tuple[Callable[[Tasks], qs.Learner], str]] = {
    "ridge on random features": (lambda train: _probe(_net()), "each task alone"),
    "one network, 20 steps of fine-tuning": (
        lambda train: qs.MAML(_one_network(train), 20, 0.01), "transfer"
    ),
    "one network, a ridge head": (
        lambda train: _probe(_without_head(_one_network(train))), "transfer"
    ),
    "HardSharing": (
        lambda train: _trained(qs.HardSharing(_net(), train.outputs), train, 60), "multi-task"
    ),
    "MAML, 5 steps": (lambda train: _trained(qs.MAML(_net(1), 5, 0.01), train), "meta-learning"),
    "ridge head, learnt features": (lambda train: _trained(_probe(_net()), train), "meta-learning"),
    "conditional neural process": (
        lambda train: _trained(qs.ConditionalNeuralProcess(_net()), train), "meta-learning"
    ),
}  # fmt: skip

PARTS: dict[str, Callable[[Any], Iterator[Job]]] = {
    "one_set": one_set, "growing": growing, "size": size, "classes": classes,
}  # fmt: skip


def tables(found: dict[str, list[Row]]) -> dict[str, list[dict[str, object]]]:
    """The rows of each part's table, with figures computed from the scores."""

    def of(scores: list[float], scale: float, digits: int) -> str:
        values = scale * torch.tensor(scores, dtype=torch.float64)
        return f"{float(values.mean()):.{digits}f} ± {half_width(values):.{digits}f}"

    result: dict[str, list[dict[str, object]]] = {}
    for part, rows in found.items():
        if part == "one_set":
            result[part] = [
                {"method": row["method"], "kind": row["kind"], "known tasks": row["known_tasks"],
                 **{f"{which} tasks, error": of(errors, 1, 2)
                    for which, errors in row["errors"].items()},
                 "CPU s": row["train_seconds"]}
                for row in rows
            ]  # fmt: skip
        else:
            keys = {"growing": ("train_tasks",), "size": ("filters", "blocks", "parameters"),
                    "classes": ("classes",)}[part]  # fmt: skip
            result[part] = [
                {"learner": row["learner"], **{key: row[key] for key in keys},
                 "accuracy": of(row["scores"], 100, 1), "CPU s of training": row["train_seconds"],
                 "CPU ms a test task": row["test_ms"]}
                for row in rows
            ]  # fmt: skip
    return result


def main() -> None:
    """Measure the rows that are missing, part by part."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("parts", nargs="*", help=f"of {', '.join(PARTS)}; all by default")
    parser.add_argument("--out", type=Path, default=RESULTS)
    args = parser.parse_args()
    if unknown := sorted(set(args.parts) - set(PARTS)):
        parser.error(f"parts are {', '.join(PARTS)}; found {', '.join(unknown)}")
    torch.set_num_threads(1)
    found: dict[str, Any] = json.loads(args.out.read_text()) if args.out.exists() else {}
    for part in args.parts or PARTS:
        data = None if part == "one_set" else qs.datasets.load("glyphs")
        for key, measure in PARTS[part](data):
            rows = found.setdefault(part, [])
            if key in {row["key"] for row in rows}:
                continue
            rows += [{"key": key, **row, "commit": commit()} for row in measure()]
            write_atomically(args.out, as_json(found))
            print(list(tables({part: rows})[part][-1].values()), flush=True)
    for part, rows in tables(found).items():
        print(f"{part}\n\n{markdown_table(rows)}")


if __name__ == "__main__":
    main()
