"""Time of adapting and predicting for one task, compared with plain torch, in turns.

    python benchmarks/adaptation.py                      # every learner, some minutes
    python benchmarks/adaptation.py conv4 --learners maml prototypical --seconds 1
    python benchmarks/adaptation.py --table              # print the results

Every learner of the registry as a user runs it: saved and loaded, in evaluation mode, under
``no_grad``, with its default settings. ``predictor = learner(support, spec)`` and
``predictor(inputs)`` are each timed beside a floor in plain torch, on the same rows and weights:

    gradient learners  a copy of the network, as many steps of forward, backward and update in place
                       of the weights that adapt (torch's own Adam for Reptile); then the network
    others             the backbone on the rows

So the ratio includes quickstudy's checks and calls of operators, and for the others also what the
learner computes from the features. Rounds alternate; the ratio is that of the medians.
Results go to results/adaptation.json.
"""

from __future__ import annotations

import argparse
import copy
import inspect
import json
import tempfile
import time
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import quickstudy as qs
from quickstudy.base.atomic import write_atomically
from quickstudy.compute.memory import keep_freed_memory
from quickstudy.core import Examples, Learner
from quickstudy.files.registry import LEARNERS, resolve
from quickstudy.files.storage import load, save
from quickstudy.interfaces.runs.provenance import commit
from quickstudy.reports.tables import markdown_table

RESULTS = Path(__file__).parent / "results" / "adaptation.json"
WAYS, SHOTS, QUERIES, POINTS = 5, (1, 5), (1, 15, 256), 10
SHORTEST = 2e-3
"""Least seconds of one measured round: shorter work is repeated within it."""

Work = Callable[[], object]


def conv4(learner: str, outputs: int | None) -> nn.Module:
    """For images 28x28; feature maps where the learner needs them."""
    maps = LEARNERS[learner].maps
    return qs.backbones.Conv4(outputs=outputs, pools=2 if maps else 4, flat=not maps)


def perceptron(learner: str, outputs: int | None) -> nn.Module:
    """For 64 given features."""
    return qs.backbones.MLP(64, (64, 64), outputs=outputs)


def sinusoids(learner: str, outputs: int | None) -> nn.Module:
    """The network of sinusoid regression."""
    return qs.backbones.MLP(1, (40, 40), outputs=outputs)


BACKBONES = {
    "conv4": (conv4, (1, 28, 28)),
    "mlp": (perceptron, (64,)),
    "regression": (sinusoids, (1,)),
}
CLASSIFY_ONLY = {
    "prototypical", "siamese", "matching", "relation", "r2d2", "meta_opt_net", "proto_maml",
    "memory_network",
}  # fmt: skip


def learners_of(backbone: str) -> list[str]:
    """Names of the learners that can be measured on this backbone."""
    return [n for n in LEARNERS if backbone != "regression" or n not in CLASSIFY_ONLY]


def make_learner(name: str, backbone: str, support: int) -> Learner:
    """Loaded from a file, as a user runs it, for tasks with ``support`` support rows."""
    cls = resolve("learner", name, LEARNERS)
    outputs = 1 if backbone == "regression" else WAYS
    net = BACKBONES[backbone][0](name, outputs if LEARNERS[name].head else None)
    sizes = {"outputs": outputs, "length": support + 1}
    own = {k: v for k, v in sizes.items() if k in inspect.signature(cls).parameters}
    with tempfile.TemporaryDirectory() as folder:
        path = save(cls(net, **own), Path(folder) / "learner.safetensors")
        return load(path)


def make_support(backbone: str, shots: int) -> tuple[Examples, qs.TaskSpec]:
    """Random rows: the time does not depend on their values."""
    shape = BACKBONES[backbone][1]
    if backbone == "regression":
        inputs = torch.randn(POINTS, *shape)
        return qs.examples(inputs, inputs.sin()), qs.regression()
    ids = torch.arange(WAYS).repeat(shots)
    return qs.examples(torch.rand(len(ids), *shape), ids), qs.classification(WAYS)


def plain_adaptation(name: str, learner: Any, support: Examples) -> Work:
    """The floor for adapting, in plain torch."""
    inputs, targets = support.inputs, support.targets
    if LEARNERS[name].family != "gradient":
        return lambda: learner.backbone(inputs)
    net = network_of(name, learner)
    descend = partial(descended, targets=targets, steps=learner.steps_now, adam=name == "reptile")

    def all_weights() -> nn.Module:
        copied = copy.deepcopy(net)
        moved = [p for n, p in copied.named_parameters() if name != "boil" or "head" not in n]
        return descend(copied, moved, inputs)

    def head() -> nn.Module:
        copied, given = copy.deepcopy(net.head), []
        with net.head.register_forward_pre_hook(lambda _, rows: given.append(rows[0])):
            net(inputs)
        return descend(copied, copied.parameters(), given[0])

    def context() -> nn.Module:
        copied = copy.deepcopy(net)
        return descend(copied, [copied.context], inputs)

    def prototypes() -> nn.Module:
        last = nn.Linear(net.features, WAYS)
        means = net(inputs).unflatten(0, (-1, WAYS)).mean(0)
        last.weight.copy_(2 * means)
        last.bias.copy_(-means.square().sum(-1))
        copied = nn.Sequential(copy.deepcopy(net), last)
        return descend(copied, copied.parameters(), inputs)

    own = {"anil": head, "cavia": context, "proto_maml": prototypes}
    return own.get(name, all_weights)


def network_of(name: str, learner: Any) -> Any:
    """The network that plain torch calls: with CAVIA's context, without Proto-MAML's head."""
    return learner.network if name == "cavia" else learner.backbone


def descended(
    net: nn.Module,
    moved: Iterable[Tensor],
    inputs: Tensor,
    targets: Tensor,
    steps: int,
    adam: bool,
    rate: float = 0.01,
) -> nn.Module:
    """``net`` after ``steps`` of descent, in place, on the weights in ``moved``."""
    loss = F.mse_loss if targets.is_floating_point() else F.cross_entropy
    moved = [p.requires_grad_() for p in moved]
    optimiser = torch.optim.Adam(moved, rate, (0.0, 0.999)) if adam else None
    for _ in range(steps):
        with torch.enable_grad():
            gradients = torch.autograd.grad(loss(net(inputs), targets), moved)
        for p, gradient in zip(moved, gradients, strict=True):
            if optimiser is None:
                p.sub_(gradient, alpha=rate)
            else:
                p.grad = gradient
        if optimiser is not None:
            optimiser.step()
    return net


def measure(name: str, backbone: str, shots: int, seconds: float) -> dict[str, Any]:
    """Milliseconds of quickstudy and of the floor, and their ratio, for adapting and predicting."""
    torch.manual_seed(0)
    support, spec = make_support(backbone, shots)
    learner = make_learner(name, backbone, len(support.targets))
    found: dict[str, Any] = {}
    with torch.no_grad():
        predictor = learner(support, spec)
        plain = plain_adaptation(name, learner, support)
        found["adapt"] = timed(lambda: learner(support, spec), plain, seconds)
        net = network_of(name, learner)
        for n in QUERIES:
            rows = torch.rand(n, *BACKBONES[backbone][1])
            found[f"predict {n}"] = timed(
                lambda rows=rows: predictor(rows), lambda rows=rows: net(rows), seconds
            )
    return found


def timed(ours: Work, floor: Work, seconds: float) -> dict[str, float]:
    """Both in alternating rounds for some seconds, at least three."""
    works = (ours, floor)
    repeats = [max(1, round(SHORTEST / min(once(work, 1) for _ in range(3)))) for work in works]
    times: tuple[list[float], list[float]] = ([], [])
    began = time.perf_counter()
    while len(times[0]) < 3 or time.perf_counter() - began < seconds:
        for found, work, count in zip(times, works, repeats, strict=True):
            found.append(once(work, count))
    a, b = median(times[0]), median(times[1])
    return {"ours_ms": _short(1e3 * a), "floor_ms": _short(1e3 * b), "ratio": round(a / b, 2)}


def once(work: Work, count: int) -> float:
    """Seconds of one call, the mean of ``count``."""
    start = time.perf_counter()
    for _ in range(count):
        work()
    return (time.perf_counter() - start) / count


def _short(value: float) -> float:
    return float(f"{value:.3g}")


def table(result: dict[str, Any]) -> str:
    """A table for each backbone; ratios of predicting are those after the most shots."""
    parts = []
    for backbone in (b for b in BACKBONES if b in result):
        lines = []
        for name, by_shots in result[backbone]["learners"].items():
            line: dict[str, object] = {"learner": LEARNERS[name].title}
            for shots, found in by_shots.items():
                what = f"{shots}-shot" if backbone != "regression" else f"{POINTS} points"
                at = found["adapt"]
                line[f"adapt, {what}: ms (× floor)"] = f"{at['ours_ms']:g} ({at['ratio']:.2f})"
            last = list(by_shots.values())[-1]
            for n in QUERIES:
                at = last[f"predict {n}"]
                rows = "1 row" if n == 1 else f"{n} rows"
                line[f"predict {rows}"] = f"{at['ours_ms']:g} ({at['ratio']:.2f})"
            lines.append(line)
        parts.append(f"### {backbone}\n\n{markdown_table(lines)}")
    return "\n\n".join(parts)


def main() -> None:
    """Measure the selected learners; keep earlier results of the others."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("backbones", nargs="*", help=f"of {', '.join(BACKBONES)}; all by default")
    parser.add_argument("--learners", nargs="*", choices=list(LEARNERS), help="all by default")
    parser.add_argument("--seconds", type=float, default=0.5, help="for each comparison")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--table", action="store_true", help="print the results")
    parser.add_argument("--results", type=Path, default=RESULTS, help="the JSON file")
    args = parser.parse_args()
    result = json.loads(args.results.read_text()) if args.results.exists() else {}
    if args.table:
        print(table(result))
        return
    torch.set_num_threads(args.threads)
    keep_freed_memory()  # as fit does
    for backbone in args.backbones or BACKBONES:
        part = result.setdefault(backbone, {"learners": {}})
        part |= {"threads": args.threads, "torch": torch.__version__, "commit": commit()}
        known = learners_of(backbone)
        for name in (n for n in args.learners or known if n in known):
            shots = (0,) if backbone == "regression" else SHOTS
            found = {str(s): measure(name, backbone, s, args.seconds) for s in shots}
            part["learners"][name] = found
            print(backbone, name, {s: {k: v["ratio"] for k, v in f.items()}
                                   for s, f in found.items()}, flush=True)  # fmt: skip
            write_atomically(args.results, (json.dumps(result, indent=1) + "\n").encode())


if __name__ == "__main__":
    main()
