"""MAML on sinusoid regression: error after 0 to 10 gradient steps, as in its paper's figure 3.

    python benchmarks/sinusoid.py

One network (two hidden layers of 40) is trained three times on the same numbered tasks:

* MAML: one inner step at rate 0.01, second order, 25 tasks per step, Adam at 1e-3;
* baseline: one regression on all tasks together, the paper's "pretrained on all tasks";
* oracle: with each task's amplitude and phase as two more inputs.

MAML and the baseline are then fine-tuned on 5, 10 and 20 points of new tasks. MAML's rate stays
0.01; the baseline takes, for each number of points and steps, the best of several rates on
validation tasks, so its rate never explains a larger error. The best *possible* error is 0: two
points off the zeros of the function determine amplitude and phase.
"""

from __future__ import annotations

import argparse
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from figures import as_json
from torch import Tensor, nn

import quickstudy as qs
from quickstudy.base.atomic import write_atomically
from quickstudy.base.version import __version__
from quickstudy.core import Examples, Learner, State, Task, TaskSource, TaskSpec
from quickstudy.reports.tables import markdown_table
from quickstudy.training.optimisers import adam
from quickstudy.training.schedules import constant, cosine

RESULTS = Path(__file__).parent / "results"
SHOTS, STEPS, QUERIES = (5, 10, 20), range(11), 100
RATES = (0.001, 0.003, 0.01, 0.02, 0.05, 0.1)
SCHEDULES = {"constant": constant, "cosine": cosine}
VALIDATION_SEED, TEST_SEED = 1_000_001, 1_000_002


class Unadapted(Learner):
    """Ignores the support set and predicts with the backbone: a joint regression of all tasks."""

    def __init__(self, backbone: nn.Module) -> None:
        super().__init__()
        self.backbone = backbone

    def adapt(self, support: Examples, spec: TaskSpec) -> State:
        """The empty state: the support set is ignored."""
        return {}

    def predict(self, state: State, inputs: Any, spec: TaskSpec) -> Tensor:
        """Predictions (n, outputs) of the backbone."""
        predictions: Tensor = self.backbone(inputs)
        return predictions


@dataclass(frozen=True)
class WithParameters:
    """The tasks of ``family`` with amplitude and phase as inputs beside x: inputs (n, 3)."""

    family: qs.Sinusoids

    def __call__(self, generator: torch.Generator) -> Task:
        """The task that ``family`` gives of this generator state, with its parameters as inputs."""
        again = torch.Generator().set_state(generator.get_state())
        parameters = torch.stack(self.family.parameters(again))
        task = self.family(generator)

        def with_parameters(rows: Examples) -> Examples:
            repeated = parameters.expand(len(rows.inputs), -1)
            return rows._replace(inputs=torch.cat([rows.inputs, repeated], dim=1))

        return task._replace(
            support=with_parameters(task.support), query=with_parameters(task.query)
        )


def main() -> None:
    args = _arguments()
    torch.set_num_threads(1)
    family = qs.Sinusoids(args.shots, queries=args.shots)  # the paper: as many of each
    net, joint, oracle = (_net(args.seed, n) for n in (1, 1, 3))
    learner = qs.MAML(net, steps=1, rate=args.inner_rate)
    training = {
        "MAML": _trained(learner, family, args.steps, args),
        "baseline": _trained(Unadapted(joint), family, args.other_steps, args),
        "oracle": _trained(Unadapted(oracle), WithParameters(family), args.other_steps, args),
    }
    results = [_tested(net, joint, oracle, shots, args) for shots in SHOTS]
    about = {
        "settings": vars(args) | {"out": None}, "threads": 1,
        "training": training, "results": results,
        "test": {"tasks": args.test_tasks, "queries": QUERIES, "seed": TEST_SEED,
                 "protocol": "inductive", "interval": "95%, Student's t over tasks"},
        "baseline_rates": {"candidates": RATES, "validation_tasks": args.validation_tasks,
                           "validation_seed": VALIDATION_SEED},
        "version": __version__, "torch": torch.__version__,
    }  # fmt: skip
    RESULTS.mkdir(exist_ok=True)
    target = args.out or RESULTS / "sinusoid.json"
    write_atomically(target, as_json(about))
    print(markdown_table(_table(results)))
    print(f"written to {target}")


def _net(seed: int, in_features: int) -> nn.Module:
    torch.manual_seed(seed)
    return qs.backbones.MLP(in_features, (40, 40), outputs=1)


def _trained(
    learner: Learner, source: TaskSource, steps: int, args: argparse.Namespace
) -> dict[str, Any]:
    cpu = time.process_time()
    training = qs.fit(
        learner, source, steps=steps, tasks_per_step=args.tasks_per_step,
        optimiser=adam(args.rate), schedule=SCHEDULES[args.schedule], seed=args.seed,
        log_every=max(1, steps // 20), progress=False,
    )  # fmt: skip
    minutes = (time.process_time() - cpu) / 60
    print(f"{type(learner).__name__}: {steps} steps, {minutes:.1f} minutes of CPU time", flush=True)
    return {
        "steps": steps, "cpu_minutes": round(minutes, 2), "engine": str(training.plan),
        "loss": [[row["step"], row["loss"]] for row in training.rows if "loss" in row],
    }  # fmt: skip


def _tested(
    net: nn.Module, joint: nn.Module, oracle: nn.Module, shots: int, args: argparse.Namespace
) -> dict[str, Any]:
    family = qs.Sinusoids(shots, QUERIES)

    def mse(
        learner: Learner, source: TaskSource = family, validation: bool = False
    ) -> qs.Evaluation:
        tasks = args.validation_tasks if validation else args.test_tasks
        seed = VALIDATION_SEED if validation else TEST_SEED
        return qs.evaluate(learner, source, tasks, seed=seed, tasks_per_batch=100)

    def best_rate(steps: int) -> float:
        def error(rate: float) -> float:
            return mse(_fine_tuned(joint, steps, rate), validation=True).mean

        return min(RATES, key=error)

    rates = [best_rate(steps) if steps else 0.0 for steps in STEPS]
    maml = [mse(_fine_tuned(net, steps, args.inner_rate)) for steps in STEPS]
    baseline = [mse(_fine_tuned(joint, k, rate)) for k, rate in zip(STEPS, rates, strict=True)]
    return {
        "shots": shots,
        "fingerprint": maml[0].fingerprint,
        "maml": [_row(steps, e) for steps, e in zip(STEPS, maml, strict=True)],
        "baseline": [
            _row(steps, e) | {"rate": rate}
            for steps, e, rate in zip(STEPS, baseline, rates, strict=True)
        ],
        "oracle": _row(0, mse(Unadapted(oracle), WithParameters(family))),
    }


def _fine_tuned(net: nn.Module, steps: int, rate: float) -> Learner:
    return qs.MAML(net, steps=steps, rate=rate) if steps else Unadapted(net)


def _row(steps: int, evaluation: qs.Evaluation) -> dict[str, Any]:
    mean, half_width = round(evaluation.mean, 4), round(evaluation.half_width, 4)
    median = round(float(evaluation.scores.median()), 4)
    scores = [round(score, 6) for score in evaluation.scores.tolist()]
    return {"steps": steps, "mse": mean, "half_width": half_width, "median": median,
            "scores": scores}  # fmt: skip


def _table(results: list[dict[str, Any]]) -> list[dict[str, object]]:
    def cell(row: dict[str, Any]) -> str:
        return f"{row['mse']:.3f} ± {row['half_width']:.3f}"

    return [
        {"shots": r["shots"], "gradient steps": k, "MAML": cell(r["maml"][k]),
         "pre-trained on all tasks": cell(r["baseline"][k]), "given the answer": cell(r["oracle"])}
        for r in results
        for k in (0, 1, 5, 10) if k in STEPS
    ]  # fmt: skip


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--shots", type=int, default=10, help="support points while training")
    parser.add_argument("--steps", type=int, default=70000, help="training steps of MAML")
    parser.add_argument("--other-steps", type=int, default=20000, help="of baseline and oracle")
    parser.add_argument("--tasks-per-step", type=int, default=25)
    parser.add_argument("--rate", type=float, default=1e-3, help="learning rate of Adam")
    parser.add_argument("--schedule", choices=sorted(SCHEDULES), default="constant")
    parser.add_argument("--inner-rate", type=float, default=0.01)
    parser.add_argument("--test-tasks", type=int, default=1000)
    parser.add_argument("--validation-tasks", type=int, default=300)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=None, help="default results/sinusoid.json")
    return parser.parse_args()


if __name__ == "__main__":
    main()
