"""Damaged and hostile files: each is refused by an error that names it, or gives valid results.

    python benchmarks/mutated_files.py

Files of predictors, learners and checkpoints are changed at random, from a seed. "Damage" changes
bytes, or the text of the header; then anything but the original's results would be silent damage.
"Forgery" changes contents and computes the digest again, as only an attacker does; then results may
differ, but must be valid. Loading and predicting must take at most 2 s of CPU time and 300 MB.
"""

from __future__ import annotations

import argparse
import copy
import json
import random
import resource
import tempfile
import time
import warnings
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors.torch import load as tensors_in
from safetensors.torch import save as to_safetensors
from torch import nn

import quickstudy as qs
from quickstudy.base.trees import leaves
from quickstudy.files import trees
from quickstudy.learners.gradient.descend import Adam
from quickstudy.learners.gradient.meta_gradients import Implicit
from quickstudy.learners.metric.siamese import verification
from quickstudy.learners.transfer.linear_probe import logistic
from quickstudy.training.checkpoint import RunFolder
from quickstudy.balancing.combine import mean

SECONDS, MEGABYTES = 2.0, 300
WAYS, D = 3, 6


def deep(levels: int) -> Any:
    """A list in a list in a list …"""
    nested: Any = []
    for _ in range(levels):
        nested = [nested]
    return nested


HOSTILE: list[Any] = [
    -1, 0, 1, 2, 5, 7, 10**5, 10**9, 10**19, -(10**19), 2**63, 10**400, 0.0, -1.0, 0.5, 1e19, 1e300,
    1e-300, float("nan"), float("inf"), float("-inf"), True, False, None, "", "x", "x" * 10_000,
    "os:system", "prototypical", "mlp", [], {}, [1, 2], [5] * 20_000, [[]] * 100_000, deep(200),
    {"name": "mlp"}, {"function": "eval"}, {"kind": "classes", "ways": 10**9}, {"tensor": "00000"},
    {"tensor": "x"}, {"value": None}, {"list": []}, {"dict": []},
]  # fmt: skip


class File(NamedTuple):
    """An original: its bytes, and the results of what is loaded from a file like it."""

    kind: str
    content: bytes
    results: Callable[[Path], list[torch.Tensor]]


def learners() -> dict[str, qs.Learner]:
    """A small learner of every family, with several kinds of settings and parts."""
    mlp = lambda outputs=None: qs.backbones.MLP(D, (5, 4), outputs)  # noqa: E731
    conv = lambda norm, **more: qs.backbones.Conv4(2, norm, image_size=16, **more)  # noqa: E731
    return {
        "prototypical": qs.Prototypical(mlp(), scale=2.0),
        "prototypical, running norm": qs.Prototypical(conv("running")),
        "prototypical, support norm": qs.Prototypical(conv("support")),
        "siamese": qs.Siamese(mlp(), verification), "matching": qs.Matching(mlp(), reads=2),
        "relation": qs.Relation(conv("group", pools=2, flat=False), 2), "r2d2": qs.R2D2(mlp()),
        "metaoptnet": qs.MetaOptNet(mlp()), "maml": qs.MAML(mlp(WAYS), 2, learn_rates=True),
        "imaml": qs.MAML(mlp(WAYS), 2, 0.1, Implicit(1.5), update=Adam()),
        "anil": qs.ANIL(mlp(WAYS)), "boil": qs.BOIL(mlp(WAYS)), "meta-sgd": qs.MetaSGD(mlp(WAYS)),
        "reptile": qs.Reptile(mlp(WAYS), test_steps=3), "maml++": qs.MAMLPlusPlus(mlp(WAYS), 2),
        "cavia": qs.CAVIA(mlp(WAYS), film=True), "protomaml": qs.ProtoMAML(mlp()),
        "lstm": qs.LSTMMetaLearner(mlp(WAYS), 2, 3), "mann": qs.MANN(mlp(), WAYS, 4, 8, 4),
        "memory network": qs.MemoryNetwork(mlp()), "snail": qs.SNAIL(mlp(), WAYS, 4, 4),
        "meta networks": qs.MetaNetworks(mlp(), outputs=WAYS, hidden=4),
        "in context": qs.InContext(mlp(), size=8, layers=1, heads=2),
        "conditional process": qs.ConditionalNeuralProcess(mlp(), size=4),
        "attentive process": qs.AttentiveConditionalNeuralProcess(mlp(), size=4, heads=2),
        "own": qs.Prototypical(nn.Sequential(nn.Linear(D, 4), nn.LeakyReLU(0.2))),
        "ridge": qs.LinearProbe(mlp()), "logistic": qs.LinearProbe(mlp(), logistic),
    }  # fmt: skip


def originals(folder: Path, names: set[str] | None = None) -> list[File]:
    """Files of a predictor and of a learner of each kind, and of three checkpoints."""
    torch.manual_seed(0)
    found = []
    for name, learner in learners().items():
        if names is None or name in names:
            found += _of_learner(learner.eval(), folder / "file")
    optimisers = {
        "adam": lambda p: torch.optim.Adam(p, 1e-3),
        "momentum": lambda p: torch.optim.SGD(p, 1e-2, momentum=0.9),
        "adamw": lambda p: torch.optim.AdamW(p, 1e-3, amsgrad=True),
    }
    for name in list(optimisers)[: 1 if names else None]:
        found.append(_checkpoint(optimisers[name], folder / name))
    return found


def _of_learner(learner: qs.Learner, path: Path) -> list[File]:
    shape = getattr(learner.backbone, "input_shape", (D,))
    own = None if hasattr(learner.backbone, "input_shape") else learner
    targets, spec = [0, 1, 2] * 2, qs.classification(WAYS)
    if not issubclass(qs.answers.Classes, learner.answers):
        targets, spec = torch.randn(6, 1), qs.regression(1)
    support, queries = qs.examples(torch.randn(6, *shape), targets), torch.randn(4, *shape)

    def predicted(file: Path) -> list[torch.Tensor]:
        with torch.no_grad():
            loaded = qs.load(file, copy.deepcopy(own))
            if isinstance(loaded, qs.Learner):
                loaded = loaded(support, spec)
            return [loaded(queries)]

    contents = [qs.save(t, path).read_bytes() for t in (learner(support, spec), learner)]
    return [File(k, c, predicted) for k, c in zip(("predictor", "learner"), contents, strict=True)]


def _checkpoint(optimiser: Callable[..., torch.optim.Optimizer], run: Path) -> File:
    def fit(run: Path, resume: bool, steps: int = 4) -> qs.Learner:
        torch.manual_seed(0)
        learner = qs.MAML(qs.backbones.MLP(1, (4,), 1), rate=0.01)
        source = qs.Sinusoids(3, 3)
        qs.fit(
            learner, source, steps, 2, optimiser=optimiser, run=run, resume=resume, progress=False,
            validation=qs.Validation(source, every=2, tasks=2), checkpoint_every=1,
        )  # fmt: skip
        return learner

    fit(run, resume=False)
    settings = trees.load_tree(run / "checkpoint.safetensors")[1]["settings"]

    def resumed(file: Path) -> list[torch.Tensor]:
        """Reading is tried alone first, since a whole run takes longer."""
        learner = qs.MAML(qs.backbones.MLP(1, (4,), 1), rate=0.01)
        folder = RunFolder(file.parent, resume=True)
        folder.restore(learner, optimiser(list(learner.parameters())), mean, settings)
        return [p.detach() for p in fit(file.parent, resume=True).parameters()]

    return File("checkpoint", (run / "checkpoint.safetensors").read_bytes(), resumed)


def damaged(content: bytes, draws: random.Random) -> bytes:
    """``content`` with bytes changed, as by a disk or a broken copy."""
    data, at = bytearray(content), draws.randrange(len(content))
    match draws.randrange(6):
        case 0:
            data[at] ^= 1 << draws.randrange(8)
        case 1:
            for place in draws.sample(range(len(data)), 16):
                data[place] = draws.randrange(256)
        case 2:
            del data[at:]
        case 3:
            data += draws.randbytes(draws.randrange(1, 64))
        case 4:
            data[at : at + 64] = bytes(len(data[at : at + 64]))
        case _:
            return _with_header(content, draws, sealed=False)
    return bytes(data)


def forged(content: bytes, draws: random.Random) -> bytes:
    """``content`` with other values, or other tensors, and the digest of these."""
    return _with_header(content, draws, sealed=True)


def _with_header(content: bytes, draws: random.Random, sealed: bool) -> bytes:
    length = int.from_bytes(content[:8], "little")
    metadata = json.loads(content[8 : 8 + length])["__metadata__"]
    tensors, header = tensors_in(content), json.loads(metadata["quickstudy"])
    if draws.random() < 0.4:
        _change_tensor(tensors, draws)
    else:
        _change_value(header, draws)
    metadata["quickstudy"] = json.dumps(header)
    if sealed:
        metadata["sha256"] = trees._digest(metadata["quickstudy"], tensors)
    return to_safetensors(tensors, metadata=metadata)


def _change_value(header: Any, draws: random.Random) -> None:
    """Replace, delete, double or swap one value anywhere in the header."""
    places = [
        (parent, key) for parent in _containers(header)
        for key in (parent if isinstance(parent, dict) else range(len(parent)))
    ]  # fmt: skip
    parent, key = draws.choice(places)
    match draws.randrange(8):
        case 0:
            del parent[key]
        case 1:
            other, place = draws.choice(places)
            parent[key], other[place] = copy.deepcopy(other[place]), copy.deepcopy(parent[key])
        case 2 if isinstance(parent, list):
            parent.insert(key, copy.deepcopy(parent[key]))
        case 2:
            parent[f"{key}_"] = copy.deepcopy(parent[key])
        case _:
            parent[key] = draws.choice(HOSTILE)


def _containers(node: Any) -> list[Any]:
    if not isinstance(node, (dict, list)) or not node:
        return []
    children = node.values() if isinstance(node, dict) else node
    return [node, *(inner for child in children for inner in _containers(child))]


def _change_tensor(tensors: dict[str, torch.Tensor], draws: random.Random) -> None:
    name, other = draws.choice(list(tensors)), draws.choice(list(tensors))
    tensor = tensors[name]
    floats = tensor.is_floating_point() and tensor.numel()
    match draws.randrange(9):
        case 0:
            del tensors[name]
        case 1:
            tensors[name], tensors[other] = tensors[other].clone(), tensor.clone()
        case 2:
            tensors["more"] = tensor.clone()
        case 3 if floats:
            tensor.view(-1)[draws.randrange(tensor.numel())] = draws.choice(
                [float("nan"), float("inf"), float("-inf"), 3e38, -3e38]
            )
        case 4 if floats:
            tensors[name] = torch.full_like(tensor, draws.choice([0.0, 1e20, -1e20, 3e38]))
        case 5:
            tensors[name] = tensor.to(draws.choice([torch.float64, torch.int64, torch.bool]))
        case 6:
            tensors[name] = torch.zeros(draws.choice([(), (0,), (0, 10**9), (10**9, 0), (1, 7)]))
        case 7:
            tensors[name] = tensor.flatten().clone()
        case _:
            tensors[name] = torch.cat([tensor.flatten(), tensor.flatten()])


def outcome(file: File, content: bytes, forgery: bool, path: Path, expected: Any) -> str:
    """What loading ``content`` leads to; the names of failures begin with "FAILED"."""
    path.write_bytes(content)
    (path.parent / "metrics.jsonl").unlink(missing_ok=True)
    try:
        found = file.results(path)
    except ValueError as error:
        if str(path) in str(error):
            return "refused"
        if forgery and "NaN or infinite" in str(error):  # numbers that are large, but finite
            return "refused when predicting"
        return f"FAILED, an error without the file: {error}"
    except Exception as error:
        return f"FAILED, {type(error).__name__}: {error}"
    if len(found) == len(expected) and all(map(torch.equal, found, expected)):
        return "results as of the original"
    if not forgery:
        return "FAILED, other results without a word"
    valid = all(bool(leaf.isfinite().all()) for leaf in leaves(found))
    return "other valid results" if valid else "FAILED, results that are not finite"


def run(mutations: int, seed: int, names: set[str] | None = None) -> dict[str, Any]:
    """Counts of outcomes by kind of file and of change, the greatest time, and the memory."""
    draws, counts, slowest = random.Random(seed), Counter[tuple[str, str, str]](), 0.0
    failures: list[str] = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        files = originals(folder, names)
        path = folder / "mutated" / "checkpoint.safetensors"
        path.parent.mkdir()
        expected = {}
        for file in files:
            path.write_bytes(file.content)
            expected[file] = file.results(path)
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        for number in range(mutations):
            file, forgery = files[number % len(files)], draws.random() < 0.6
            content = (forged if forgery else damaged)(file.content, draws)
            began = time.process_time()
            found = outcome(file, content, forgery, path, expected[file])
            seconds = time.process_time() - began
            slowest = max(slowest, seconds)
            if seconds > SECONDS:
                found = f"FAILED, {seconds:.1f} s ({found})"
            if found.startswith("FAILED"):
                failures.append(f"{number} {file.kind}: {found[:300]}")
            counts[file.kind, "forgery" if forgery else "damage", found.split(",")[0]] += 1
    memory = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    if memory > MEGABYTES:
        failures.append(f"{memory:.0f} MB of memory")
    return {
        "counts": {", ".join(key): count for key, count in sorted(counts.items())},
        "slowest_seconds": round(slowest, 2), "megabytes": round(memory), "failures": failures,
    }  # fmt: skip


def main() -> None:
    """Print the counts; exit with 1 where a file was handled wrongly."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--mutations", type=int, default=24_000)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")  # of parameters that are frozen in the file alone
    result = run(args.mutations, args.seed)
    print(json.dumps(result, indent=1))
    raise SystemExit(bool(result["failures"]))


if __name__ == "__main__":
    main()
