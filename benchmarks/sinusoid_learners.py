"""Sinusoid regression by every learner that regresses: the same tasks and CPU budget for each.

    python benchmarks/sinusoid_learners.py                 # all, about 50 minutes on one core
    python benchmarks/sinusoid_learners.py maml reptile    # these; other results are kept

Tasks of MAML's paper (section 5.1): 10 support points, as many queries in training, 100 in testing.
Every learner has a perceptron with two hidden layers of 40 as its backbone, and trains for the same
CPU time on one thread, 25 tasks a step, with Adam at 1e-3 and a cosine schedule (Reptile with its
paper's outer step). All are tested, inductively, on the same 1000 tasks.
"""

from __future__ import annotations

import argparse
import copy
import json
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import torch
from budget import steps_within
from figures import as_json, figures
from torch import Tensor
from torch.optim import Optimizer

import quickstudy as qs
from quickstudy.base.atomic import write_atomically
from quickstudy.interfaces.runs.provenance import commit
from quickstudy.learners.gradient.descend import sgd as plain_descent
from quickstudy.learners.gradient.meta_gradients import FiniteDifference, FirstOrder, Implicit
from quickstudy.reports.tables import markdown_table
from quickstudy.training.log import Training
from quickstudy.training.optimisers import adam, sgd
from quickstudy.training.schedules import cosine

RESULTS = Path(__file__).parent / "results" / "sinusoid_learners.json"
TEST_SEED = 1_000_002
SHOTS = 10


def _net(inputs: int = 1, outputs: int | None = 1) -> qs.backbones.MLP:
    return qs.backbones.MLP(inputs, (40, 40), outputs=outputs)


LEARNERS: dict[str, Callable[[], qs.Learner]] = {
    "maml": lambda: qs.MAML(_net(), 1, 0.01),
    "maml, first order": lambda: qs.MAML(_net(), 1, 0.01, FirstOrder()),
    "maml, finite differences": lambda: qs.MAML(_net(), 1, 0.01, FiniteDifference(0.3)),
    "maml, implicit": lambda: qs.MAML(_net(), 10, 0.02, Implicit(strength=0.5)),
    "anil": lambda: qs.ANIL(_net(), 1, 0.01),
    "boil": lambda: qs.BOIL(_net(), 1, 0.01),
    "maml_plus_plus": lambda: qs.MAMLPlusPlus(_net(), 5, 0.01),
    "reptile": lambda: qs.Reptile(_net(), 10, 0.02, plain_descent, test_steps=32),
    "meta_sgd": lambda: qs.MetaSGD(_net()),
    "cavia": lambda: qs.CAVIA(_net()),
    "lstm_meta_learner": lambda: qs.LSTMMetaLearner(_net()),
    "meta_networks": lambda: qs.MetaNetworks(_net(outputs=None), outputs=1, rate=0.01),
    "in_context": lambda: qs.InContext(_net(outputs=None)),
    "conditional_neural_process": lambda: qs.ConditionalNeuralProcess(_net(outputs=None)),
    "attentive_conditional_neural_process": lambda: qs.AttentiveConditionalNeuralProcess(
        _net(outputs=None)
    ),
    "linear_probe": lambda: qs.LinearProbe(_net(outputs=None)),
}
OPTIMISERS: dict[str, Callable[[Iterable[Tensor]], Optimizer]] = {"reptile": sgd(1.0)}


def main() -> None:
    args = _arguments()
    torch.set_num_threads(1)
    results = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    for name in args.learners or LEARNERS:
        results[name] = _measured(name, args)
        ordered = {n: results[n] for n in LEARNERS if n in results}
        write_atomically(RESULTS, as_json(ordered))
    print(markdown_table(_table(results)))


def _measured(name: str, args: argparse.Namespace) -> dict[str, Any]:
    torch.manual_seed(args.seed)
    learner = LEARNERS[name]()
    steps = args.steps or steps_within(
        args.minutes, lambda n: _fit(name, copy.deepcopy(learner), n, 0, trial=True)
    )
    cpu = time.process_time()
    training = _fit(name, learner, steps, args.seed)
    minutes = (time.process_time() - cpu) / 60
    evaluation = qs.evaluate(
        learner, qs.Sinusoids(SHOTS, 100), tasks=args.test_tasks, seed=TEST_SEED
    )
    print(f"{name}: {evaluation}, {minutes:.1f} CPU minutes", flush=True)
    return {"steps": steps, "cpu_minutes": round(minutes, 1), "engine": str(training.plan),
            "seed": args.seed, "commit": commit(), "torch": torch.__version__,
            **figures(evaluation)}  # fmt: skip


def _fit(name: str, learner: qs.Learner, steps: int, seed: int, trial: bool = False) -> Training:
    return qs.fit(
        learner, qs.Sinusoids(SHOTS, SHOTS), steps=steps, tasks_per_step=25,
        optimiser=OPTIMISERS.get(name, adam(1e-3)), schedule=cosine, seed=seed, log_every=steps,
        progress=not trial,
    )  # fmt: skip


def _table(results: dict[str, Any]) -> list[dict[str, object]]:
    return [
        {"learner": name, "mean squared error": f"{r['mean']:.4f} ± {r['half_width']:.4f}",
         "protocol": r["protocol"], "training tasks": f"{25 * r['steps']:,}",
         "CPU minutes": r["cpu_minutes"]}
        for name, r in results.items()
    ]  # fmt: skip


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("learners", nargs="*", help="all by default")
    parser.add_argument("--minutes", type=float, default=3.0, help="CPU time of each training")
    parser.add_argument("--steps", type=int, default=None, help="instead of --minutes")
    parser.add_argument("--test-tasks", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    for name in args.learners:
        if name not in LEARNERS:
            parser.error(f"{name!r} is not one of {', '.join(LEARNERS)}")
    return args


if __name__ == "__main__":
    main()
