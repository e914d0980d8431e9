"""Training steps of MANN and SNAIL compared with a plain eager form, on one machine, in turns.

    python benchmarks/memory_learners.py                    # all workloads, some minutes
    python benchmarks/memory_learners.py mann snail_one_query --rounds 15 --threads 1

The plain eager form is written here, apart from the library: the same equations in ordinary torch
operations over a leading batch dimension, in float32, all sequences at once. It gives the loss, the
training score and the gradients, as a training step does. Before anything is timed, loss and
gradients of both must agree in float64. Rounds alternate; the ratio is that of the medians, its
spread the quartiles of the rounds' own ratios. Results go to results/memory_learners.json.
"""

from __future__ import annotations

import argparse
import copy
import json
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import quickstudy as qs
from quickstudy.base.atomic import write_atomically
from quickstudy.base.trees import map_tree
from quickstudy.compute.engine import accumulate
from quickstudy.compute.memory import keep_freed_memory
from quickstudy.compute.plan import Mapping, Plan
from quickstudy.compute.prepare import prepare_stack
from quickstudy.core import Examples, Learner, Task
from quickstudy.interfaces.runs.provenance import commit
from quickstudy.objectives import objective_of
from quickstudy.tasks.examples import one_place
from quickstudy.tasks.stacks import as_stack

TASKS, WAYS, FEATURES = 16, 5, 64


class Vectors(nn.Module):
    """Features as they are given."""

    features = FEATURES

    def forward(self, inputs: Tensor) -> Tensor:
        """(n, 64), unchanged."""
        return inputs


@dataclass(frozen=True)
class Workload:
    """``rows`` of support and query in each of 16 tasks, and quickstudy's mapping over tasks."""

    make: Callable[[], Learner]
    plain: Callable[[Learner, Task], tuple[Tensor, Tensor]]
    rows: tuple[int, int]
    inputs: tuple[int, ...] = (FEATURES,)
    mapping: Mapping = Mapping.VMAP


def plain_mann(m: qs.MANN, batch: Task) -> tuple[Tensor, Tensor]:
    """Loss and score of all tasks' sequences, row by row."""
    x, y = _centred(m, batch)
    labels = F.one_hot(y, m.outputs).to(x.dtype)
    tasks, n = y.shape
    h = c = x.new_zeros(tasks, m.hidden)
    memory, usage = x.new_zeros(tasks, m.slots, m.width), x.new_zeros(tasks, m.slots)
    addresses, reads = x.new_zeros(tasks, m.reads, m.slots), x.new_zeros(tasks, m.reads * m.width)
    label, predictions, support = torch.zeros_like(labels[:, 0]), [], batch.support.weights.shape[1]
    for t in range(n):
        if t == support:
            with torch.no_grad():
                states = (h, c, memory, usage, addresses, reads, label)
                query_logits = _predict_all(m, x[:, support:], states)
        h, c, memory, usage, addresses, reads = _mann_row(
            m, x[:, t], label, (h, c, memory, usage, addresses, reads)
        )
        predictions.append(m.output_layer(torch.cat([h, reads], -1)))
        label = labels[:, t]
    loss = F.cross_entropy(torch.stack(predictions, 1).flatten(0, 1), y.flatten())
    return loss, (query_logits.argmax(-1) == y[:, support:].flatten()).to(x.dtype).mean()


def _predict_all(m: qs.MANN, x: Tensor, states: tuple[Tensor, ...]) -> Tensor:
    queries = x.shape[1]
    *before, label = (part.repeat_interleave(queries, 0) for part in states)
    h, *_, reads = _mann_row(m, x.flatten(0, 1), label, tuple(before))
    return m.output_layer(torch.cat([h, reads], -1))


def _mann_row(
    m: qs.MANN, x: Tensor, label: Tensor, state: tuple[Tensor, ...]
) -> tuple[Tensor, ...]:
    h, c, memory, usage, addresses, reads = state
    i, f, o, new = m.controller.gates(torch.cat([x, label, reads, h], -1)).chunk(4, -1)
    c = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(new)
    h = torch.sigmoid(o) * torch.tanh(c)
    keys = m.key(torch.cat([h, x], -1)).unflatten(-1, (m.reads, m.width))
    delayed = m.delayed(torch.cat([h, label], -1)).unflatten(-1, (m.reads, m.width))
    gate = torch.sigmoid(m.gate(h)).unsqueeze(-1)
    lowest = torch.argsort(usage, dim=-1, stable=True)[:, : m.reads]
    least = F.one_hot(lowest, m.slots).to(x.dtype)
    to_old, to_new = gate * addresses, (1 - gate) * least
    memory = memory * (1 - least.sum(1)).unsqueeze(-1)
    memory = memory + torch.bmm(to_old.mT, delayed) + torch.bmm(to_new.mT, keys)
    unit_keys = keys / torch.sqrt((keys**2).sum(-1, keepdim=True) + 1e-12)
    unit_slots = memory / torch.sqrt((memory**2).sum(-1, keepdim=True) + 1e-12)
    cosines = torch.bmm(unit_keys, unit_slots.mT)
    addresses = torch.softmax(m.strength.unsqueeze(-1) * cosines, -1)
    usage = (m.decay * usage + (addresses + to_old + to_new).sum(1)).detach()
    return h, c, memory, usage, addresses, torch.bmm(addresses, memory).flatten(1)


def _centred(m: qs.MANN, batch: Task) -> tuple[Tensor, Tensor]:
    x = _features(m, batch)
    x = x - x[:, : batch.support.weights.shape[1]].mean(1, keepdim=True)
    targets = torch.cat([batch.support.targets, batch.query.targets], 1)
    return F.layer_norm(x, x.shape[-1:]), targets


def _features(learner: qs.MANN | qs.SNAIL, batch: Task) -> Tensor:
    inputs = torch.cat([batch.support.inputs, batch.query.inputs], 1)
    features: Tensor = learner.backbone(inputs.flatten(0, 1)).unflatten(0, inputs.shape[:2])
    return features


def plain_snail(s: qs.SNAIL, batch: Task) -> tuple[Tensor, Tensor]:
    """Loss and score, with a separate sequence for each query, as the paper trains."""
    x = F.layer_norm(_features(s, batch), (s.backbone.features,))
    n = batch.support.targets.shape[1]
    queries = x.shape[1] - n
    labels = x.shape[-1] ** 0.5 * F.one_hot(batch.support.targets, s.outputs).to(x.dtype)
    support = torch.cat([x[:, :n], labels], -1).unsqueeze(1).expand(-1, queries, -1, -1)
    last = F.pad(x[:, n:], (0, s.outputs)).unsqueeze(2)
    rows = torch.cat([support, last], 2).flatten(0, 1)  # (tasks * queries, n + 1, size)
    future = torch.ones(n + 1, n + 1, dtype=torch.bool).triu(1)
    for block in s.blocks:
        if hasattr(block, "dilation"):
            kernel = torch.stack([block.before.weight, block.now.weight], -1)
            padded = F.pad(rows.mT, (block.dilation, 0))
            both = F.conv1d(padded, kernel, block.now.bias, dilation=block.dilation).mT
            filtered, gates = both.chunk(2, -1)
            rows = torch.cat([rows, torch.tanh(filtered) * torch.sigmoid(gates)], -1)
        else:
            query, key, value = block.query(rows), block.key(rows), block.value(rows)
            scores = torch.bmm(query, key.mT) / query.shape[-1] ** 0.5
            share = torch.softmax(scores.masked_fill(future, -torch.inf), -1)
            rows = torch.cat([rows, torch.bmm(share, value)], -1)
    logits, targets = s.head(rows[:, -1]), batch.query.targets.flatten()
    score = (logits.argmax(-1) == targets).to(x.dtype).mean()
    return F.cross_entropy(logits, targets), score


def mann(backbone: nn.Module) -> Learner:
    """With the sizes of its paper."""
    return qs.MANN(backbone, WAYS)


WORKLOADS = {
    "mann": Workload(lambda: mann(Vectors()), plain_mann, (5, 45)),
    "mann_conv4": Workload(
        lambda: mann(qs.backbones.Conv4()), plain_mann, (5, 45), (1, 28, 28), Mapping.FEATURES
    ),
    "snail_conv4": Workload(
        lambda: qs.SNAIL(qs.backbones.Conv4(), WAYS, length=26),
        plain_snail,
        (25, 5),
        (1, 28, 28),
        Mapping.FEATURES,
    ),
    "snail_five_queries": Workload(
        lambda: qs.SNAIL(Vectors(), WAYS, length=26), plain_snail, (25, 5)
    ),
    "snail_one_query": Workload(lambda: qs.SNAIL(Vectors(), WAYS, length=26), plain_snail, (25, 1)),
}


def draw(workload: Workload) -> Task:
    """Random inputs and labels: the time does not depend on their values."""
    noise = torch.Generator().manual_seed(0)

    def rows(n: int) -> Examples:
        targets = torch.stack([torch.randperm(n, generator=noise) % WAYS for _ in range(TASKS)])
        inputs = torch.randn(TASKS, n, *workload.inputs, generator=noise)
        weights = torch.ones(TASKS, n)
        return Examples(inputs, targets, weights, one_place(weights))

    return Task(rows(workload.rows[0]), rows(workload.rows[1]), qs.classification(WAYS))


def steps(
    workload: Workload, learner: Learner, batch: Task
) -> tuple[Callable[[], Tensor], Callable[[], Tensor]]:
    """One training step of quickstudy and of the plain form; each returns one gradient vector."""
    plan = Plan(workload.mapping, "benchmark", len(batch.support.weights))
    objective, stack = objective_of(learner), as_stack(batch)

    def ours() -> Tensor:
        accumulate(learner, [prepare_stack(learner, stack)], objective, plan)
        return taken(learner)

    def plain() -> Tensor:
        workload.plain(learner, batch)[0].backward()
        return taken(learner)

    return ours, plain


def taken(learner: Learner) -> Tensor:
    """The gradient, which is then cleared."""
    gradients = [p.grad for p in learner.parameters() if p.grad is not None]
    learner.zero_grad()
    return torch.cat([g.flatten() for g in gradients])


def error(found: Tensor, expected: Tensor) -> float:
    """Relative distance."""
    return float((found.double() - expected).norm() / expected.norm())


def measure(workload: Workload, rounds: int) -> dict[str, object]:
    """Checks agreement, then measures times and the operators that take the most time."""
    torch.manual_seed(0)
    learner, batch = workload.make(), draw(workload)
    exact = copy.deepcopy(learner).double()
    few = 2 if len(workload.inputs) > 1 else TASKS  # float64 convolutions are slow

    def part(leaf: Tensor) -> Tensor:
        return leaf[:few]

    def double(leaf: Tensor) -> Tensor:
        return leaf[:few].double() if leaf.is_floating_point() else leaf[:few]

    small = Task(map_tree(part, batch.support), map_tree(part, batch.query), batch.spec)
    in_double = Task(map_tree(double, batch.support), map_tree(double, batch.query), batch.spec)
    ours_exact, plain_exact = (step() for step in steps(workload, exact, in_double))
    agreement = error(ours_exact, plain_exact)
    if agreement > 1e-9:
        raise RuntimeError(f"gradients differ by {agreement:.1g} in float64: nothing is timed.")
    ours_single, plain_single = (step() for step in steps(workload, learner, small))
    ours, plain = steps(workload, learner, batch)
    times: dict[str, list[float]] = {"ours": [], "plain": []}
    for _ in range(rounds + 1):
        for name, step in (("ours", ours), ("plain", plain)):
            start = time.perf_counter()
            step()
            times[name].append(1e3 * (time.perf_counter() - start))
    times = {name: values[1:] for name, values in times.items()}  # the first warms up
    ratios = [p / o for o, p in zip(times["ours"], times["plain"], strict=True)]
    low, _, high = statistics.quantiles(ratios, n=4)
    medians = {name: statistics.median(values) for name, values in times.items()}
    return {
        "mapping": workload.mapping.value,
        "rows": workload.rows,
        "rounds": rounds,
        "ours_ms": round(medians["ours"], 2),
        "plain_ms": round(medians["plain"], 2),
        "ratio": round(medians["plain"] / medians["ours"], 3),
        "ratio_quartiles": [round(low, 3), round(high, 3)],
        "difference_in_float64": agreement,
        "error_of_float32": {
            "ours": error(ours_single, ours_exact), "plain": error(plain_single, ours_exact)
        },
        "operators": {"ours": operators(ours), "plain": operators(plain)},
    }  # fmt: skip


def operators(step: Callable[[], Tensor], most: int = 8) -> list[dict[str, object]]:
    """The operators of one step that take the most time, and how often each is called."""
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
        step()
    events = sorted(profile.key_averages(), key=lambda e: -e.self_cpu_time_total)[:most]
    return [
        {"name": e.key, "calls": e.count, "ms": round(e.self_cpu_time_total / 1e3, 2)}
        for e in events
    ]


def main() -> None:
    """Measure the given workloads; keep earlier results of the others."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("workloads", nargs="*", help=f"of {', '.join(WORKLOADS)}; all by default")
    parser.add_argument("--rounds", type=int, default=11)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    keep_freed_memory()  # as fit does
    path = Path(__file__).parent / "results" / "memory_learners.json"
    results = json.loads(path.read_text()) if path.exists() else {}
    for name in arguments.workloads or WORKLOADS:
        found = measure(WORKLOADS[name], arguments.rounds)
        found["threads"], found["torch"] = arguments.threads, torch.__version__
        found["commit"] = commit()
        results[name] = found
        low, high = found["ratio_quartiles"]
        print(
            f"{name:16} ours {found['ours_ms']} ms, plain {found['plain_ms']} ms, "
            f"ratio {found['ratio']} ({low} to {high})", flush=True,
        )  # fmt: skip
        write_atomically(path, (json.dumps(results, indent=1) + "\n").encode())


if __name__ == "__main__":
    main()
