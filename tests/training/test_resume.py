"""A run killed at any moment and resumed ends bit-equal to one that was not interrupted."""

from __future__ import annotations

import json
import multiprocessing
import os
import random
import signal
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch

import quickstudy as qs
from made_up import random_classes
from quickstudy.files.trees import load_tree
from quickstudy.learners.gradient.multi_step import MultiStep
from quickstudy.training.checkpoint import Progress
from quickstudy.training.fit import NonFiniteLoss
from quickstudy.training.log import read_metrics
from quickstudy.training.optimisers import adam
from quickstudy.training.schedules import cosine

KILLS = 3


def train(folder: Path | None, resume: bool) -> tuple[qs.Learner, object]:
    """A small run with everything that has state: Adam, a schedule, validation, running norm."""
    torch.manual_seed(0)
    learner = qs.Prototypical(qs.backbones.Conv4(4, "running", image_size=16))
    classes = random_classes()
    result = qs.fit(
        learner, qs.episodes(classes, 5, 1, 2), steps=24, tasks_per_step=2,
        optimiser=adam(1e-2), schedule=cosine, run=folder, resume=resume, checkpoint_every=5,
        log_every=5, validation=qs.Validation(qs.episodes(classes, 5, 1, 3), every=9, tasks=6),
        progress=False,
    )  # fmt: skip
    return learner, result


def child(folder: Path) -> None:
    train(folder, resume=True)


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    """The learner and the training of a whole run, and its seconds."""
    began = time.perf_counter()
    learner, training = train(tmp_path_factory.mktemp("run"), resume=False)
    return learner, training, time.perf_counter() - began


def test_killed_runs_equal_the_uninterrupted_run(tmp_path, uninterrupted):
    seconds = uninterrupted[2]
    context = multiprocessing.get_context("fork")
    moments = random.Random(0)
    killed = 0
    for attempt in range(4 * KILLS):
        folder = tmp_path / str(attempt)
        process = context.Process(target=child, args=(folder,))
        process.start()
        process.join(moments.uniform(0.02, seconds))
        if process.exitcode is None:
            os.kill(process.pid, signal.SIGKILL)
            process.join()
            killed += 1
        else:
            assert process.exitcode == 0
        if (folder / "checkpoint.safetensors").exists():
            load_tree(folder / "checkpoint.safetensors")  # raises on a partly written file
        compare(folder, uninterrupted)  # resumes, and ends
        if killed == KILLS:
            break
    assert killed == KILLS


def compare(folder: Path, uninterrupted) -> None:
    learner, result = train(folder, resume=True)
    expected, training, _ = uninterrupted
    for name, value in expected.state_dict().items():
        assert learner.state_dict()[name].equal(value), name
    timeless = [
        [{k: v for k, v in row.items() if k not in ("seconds", "tasks_per_second")} for row in rows]
        for rows in (result.rows, training.rows)
    ]
    assert timeless[0] == timeless[1]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_request_to_end_leaves_a_resumable_run(tmp_path, uninterrupted, number):
    context = multiprocessing.get_context("fork")
    process = context.Process(target=child, args=(tmp_path,))
    process.start()
    for _ in range(600):
        if (tmp_path / "checkpoint.safetensors").exists():
            break
        time.sleep(0.05)
    os.kill(process.pid, number)
    process.join(60)
    assert process.exitcode == 0, "an interrupted fit returns, it does not raise"
    _, about = load_tree(tmp_path / "checkpoint.safetensors")
    last = read_metrics(tmp_path / "metrics.jsonl")[-1]["step"]
    assert about["progress"]["step"] > 0
    assert last <= about["progress"]["step"]
    compare(tmp_path, uninterrupted)


def test_a_resumed_run_keeps_its_plan_whatever_memory_is_free(tmp_path):
    """Under vmap, other chunk sizes sum in another order, so the checkpoint holds the size."""

    def fit(steps_before_stop: int | None, memory: int | None, resume: bool):
        torch.manual_seed(0)
        learner = qs.MAML(qs.backbones.MLP(outputs=1), rate=0.01)
        source = qs.Sinusoids(5, 5)
        calls = 0

        def stopping(generator):
            nonlocal calls
            calls += 1
            if steps_before_stop and calls > 8 * steps_before_stop:
                raise InterruptedError
            return source(generator)

        result = qs.fit(
            learner, stopping, steps=12, tasks_per_step=8, run=tmp_path / f"{steps_before_stop}",
            resume=resume, checkpoint_every=2, compute=qs.Compute(memory=memory), progress=False,
        )  # fmt: skip
        return learner, result

    expected, uninterrupted = fit(None, None, resume=False)
    with pytest.raises(InterruptedError):
        fit(7, None, resume=False)
    (tmp_path / "7").rename(tmp_path / "None-broken")
    (tmp_path / "None").rename(tmp_path / "uninterrupted")
    (tmp_path / "None-broken").rename(tmp_path / "None")
    resumed, result = fit(None, 1, resume=True)
    assert result.plan == uninterrupted.plan
    assert result.plan.chunk == 8
    assert all(v.equal(resumed.state_dict()[k]) for k, v in expected.state_dict().items())


@pytest.mark.parametrize(("at", "in_folder", "finished"), [(0.5, 0, False), (0.75, 1, True)])
def test_a_request_that_fit_cannot_follow_acts_as_outside(tmp_path, at, in_folder, finished):
    """Without a folder, and in the last step, where nothing is left to resume."""
    acted = []
    previous = signal.signal(signal.SIGTERM, lambda number, _: acted.append(number))

    def schedule(progress):
        if progress == at:
            os.kill(os.getpid(), signal.SIGTERM)
        return 1.0

    try:
        learner = qs.LinearProbe(qs.backbones.MLP(1))
        training = qs.fit(learner, qs.Sinusoids(5, 5), 4, 2, schedule=schedule,
                          run=tmp_path if in_folder else None, progress=False)  # fmt: skip
        assert acted == [signal.SIGTERM]
        assert training.finished is finished
        os.kill(os.getpid(), signal.SIGTERM)
        assert len(acted) == 2, "the handler is the user's again"
    finally:
        signal.signal(signal.SIGTERM, previous)


def test_a_second_request_acts_at_once(tmp_path):
    steps = []

    def source(generator):
        if len(steps) == 3:  # while training, after the checks
            os.kill(os.getpid(), signal.SIGTERM)
            os.kill(os.getpid(), signal.SIGINT)
        return qs.Sinusoids(5, 5)(generator)

    learner = qs.LinearProbe(qs.backbones.MLP(1))
    with pytest.raises(KeyboardInterrupt):
        qs.fit(learner, source, 1000, 2, run=tmp_path, progress=False, on_step=steps.append)
    assert len(steps) == 3


def test_an_ignored_signal_stays_ignored():
    """As under ``nohup``, or for a job that a shell started in the background."""
    previous = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        source = qs.tasks.fixed([qs.Sinusoids(5, 5)(torch.Generator())])

        def hanging_up(generator):
            os.kill(os.getpid(), signal.SIGHUP)
            return source(generator)

        learner = qs.LinearProbe(qs.backbones.MLP(1))
        assert qs.fit(learner, hanging_up, 3, 2, progress=False).steps == 3
    finally:
        signal.signal(signal.SIGHUP, previous)


def test_ctrl_c_without_a_folder_raises_keyboard_interrupt():
    learner = qs.Prototypical(qs.backbones.Conv4(4, "running", image_size=16))
    source = qs.episodes(random_classes(), 5, 1, 2)
    calls = 0

    def interrupting(generator):
        nonlocal calls
        calls += 1
        if calls == 20:  # while training, after the checks
            os.kill(os.getpid(), signal.SIGINT)
        return source(generator)

    with pytest.raises(KeyboardInterrupt):
        qs.fit(learner, interrupting, steps=1000, tasks_per_step=2, progress=False)
    assert not learner.training
    assert float(learner.backbone.blocks[0].norm.mean.abs().sum()) > 0, "ready for use"


def test_other_settings_and_folders_in_use_are_refused(tmp_path):
    learner = qs.MAML(qs.backbones.MLP(outputs=1), rate=0.01)
    source = qs.Sinusoids(5, 5)

    def fit(**changes):
        settings = {"steps": 4, "tasks_per_step": 2, "run": tmp_path / "run", "progress": False,
                    "objective": MultiStep(0.1)}  # fmt: skip
        return qs.fit(learner, source, **{**settings, **changes})

    fit()
    with pytest.raises(FileExistsError, match="resume=True"):
        fit()
    with pytest.raises(ValueError, match=r"seed=0 \(now 1\)"):
        fit(resume=True, seed=1)
    for changes in (
        {"optimiser": adam(1e-2)},
        {"schedule": cosine},
        {"objective": MultiStep(0.2)},
        {"validation": qs.Validation(source, every=2, tasks=5)},
    ):
        with pytest.raises(ValueError, match=f"started with {next(iter(changes))}="):
            fit(resume=True, **changes)
    with pytest.raises(ValueError, match="started with first tasks="):
        qs.fit(learner, qs.Sinusoids(6, 5), 4, 2, objective=MultiStep(0.1), run=tmp_path / "run",
               resume=True)  # fmt: skip
    other = qs.MAML(qs.backbones.MLP(outputs=1), rate=0.02)
    with pytest.raises(ValueError, match="started with learner="):
        qs.fit(other, source, 4, 2, objective=MultiStep(0.1), run=tmp_path / "run", resume=True)
    with pytest.raises(ValueError, match="needs the run's folder"):
        fit(resume=True, run=None)
    (tmp_path / "run" / "checkpoint.safetensors").write_bytes(b"torn")
    with pytest.raises(ValueError, match="not a file that quickstudy wrote"):
        fit(resume=True)


def absolute(predicted, true):
    return (predicted - true).abs()


def squared(predicted, true):
    return (predicted - true).square()


def lines_with(*losses, start=0):
    """Fixed tasks of one input and one output, with these losses in turn."""
    x = torch.linspace(-1, 1, 6)[:, None]
    rows = [qs.examples(x, (i + 1) * x) for i in range(start, start + len(losses))]
    return qs.tasks.fixed([
        qs.Task(row, row, qs.spec(1, loss)) for row, loss in zip(rows, losses, strict=True)
    ])  # fmt: skip


def test_a_run_is_not_resumed_with_another_loss_of_the_users(tmp_path):
    def fit(source, validation, resume):
        torch.manual_seed(0)
        learner = qs.MAML(qs.backbones.MLP(1, outputs=1), rate=0.01)
        return qs.fit(
            learner, source, 2, 2, run=tmp_path, resume=resume, progress=False,
            validation=qs.Validation(validation, every=2, tasks=2),
        )  # fmt: skip

    one, late = lines_with(absolute, absolute), lines_with(absolute, squared)
    fit(one, one, resume=False)
    fit(one, one, resume=True)
    for source in (lines_with(squared, squared), late):
        with pytest.raises(ValueError, match="started with first tasks="):
            fit(source, one, resume=True)
    with pytest.raises(ValueError, match="started with validation="):
        fit(one, lines_with(squared, squared), resume=True)


class RunningMean:
    """Weighs tasks by their loss over its running mean, which is its state."""

    reads = "losses"

    def __init__(self):
        self.mean, self.steps = None, 0

    def weights(self, losses, names):
        self.mean = losses if self.mean is None else 0.9 * self.mean + 0.1 * losses
        self.steps += 1
        return (losses / self.mean).softmax(0) / self.steps

    def state_dict(self):
        return {"mean": self.mean, "steps": self.steps}

    def load_state_dict(self, state):
        self.mean, self.steps = state["mean"], state["steps"]


def interrupted_and_whole(folder, source, steps, tasks_per_step, **options):
    """(weights, log, finished) of a run interrupted half way and resumed, and of a whole one."""

    def fit(name, resume, stop=None):
        torch.manual_seed(0)
        learner = qs.LinearProbe(qs.backbones.MLP(1))

        def schedule(progress):
            if progress == stop:
                os.kill(os.getpid(), signal.SIGINT)
            return 1.0

        training = qs.fit(
            learner, source, steps, tasks_per_step, schedule=schedule, run=folder / name,
            resume=resume, log_every=1, progress=False,
            **{name: make() for name, make in options.items()},
        )  # fmt: skip
        log = [{k: row.get(k) for k in ("step", "loss", "score")} for row in training.rows]
        return [p.detach() for p in learner.parameters()], log, training.finished

    assert not fit("interrupted", False, stop=0.5)[2]
    return fit("interrupted", True), fit("whole", False)


def test_a_combiner_continues_from_its_state(tmp_path):
    (found, *_), (expected, *_) = interrupted_and_whole(
        tmp_path, qs.Sinusoids(5, 5), 6, 4, combine=RunningMean
    )
    assert all(map(torch.equal, found, expected))


def test_the_log_of_a_resumed_run_is_that_of_an_uninterrupted_one(tmp_path):
    """Also where a task of another kind, whose scores have no mean with the others', was early."""
    x, ids = torch.linspace(-1, 1, 6)[:, None], torch.tensor([0, 1] * 3)
    classes = qs.Task(*[qs.examples(x, ids)] * 2, qs.classification(2))
    reals = qs.Task(*[qs.examples(x, x)] * 2, qs.regression())
    mixed = qs.tasks.fixed([classes, reals, *[classes] * 4])
    for source, scored in ((mixed, False), (qs.tasks.fixed([classes]), True)):
        (_, found, _), (_, expected, _) = interrupted_and_whole(
            tmp_path / str(scored), source, 6, 1
        )
        assert found == expected
        assert all((row["score"] is not None) == scored for row in found)


def test_a_loss_that_is_not_finite_stops_and_saves_the_task(tmp_path):
    clean = qs.Sinusoids(5, 5)

    def source(generator):
        seed = generator.initial_seed()
        task = clean(generator)
        if seed == bad:
            task.query.targets[0] = float("inf")
        return task

    bad = qs.tasks.task_seed(0, 7)
    learner = qs.MAML(qs.backbones.MLP(outputs=1), rate=0.01)
    with pytest.raises(NonFiniteLoss, match=r"at step 3; .*draw\(source, 0, i\) for i in \[7\]"):
        qs.fit(learner, source, steps=10, tasks_per_step=2, progress=False)
    assert all(p.isfinite().all() for p in learner.parameters())


def test_a_gradient_that_is_not_finite_stops_before_the_weights_change():
    class Kinked(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.linear = torch.nn.Linear(256, 4)

        def forward(self, x):
            features = self.linear(x.flatten(1))
            return features + (features * 0).sqrt()  # finite, with an infinite derivative

    learner = qs.Prototypical(Kinked())
    with pytest.raises(NonFiniteLoss, match="gradient of a task became nan at step 0"):
        qs.fit(learner, qs.episodes(random_classes(), 5, 1, 2), 5, 2, progress=False)
    assert all(p.isfinite().all() for p in learner.parameters())


def test_early_stopping_keeps_the_best_weights():
    torch.manual_seed(0)
    learner = qs.MAML(qs.backbones.MLP(outputs=1), rate=0.01)
    kept = {}

    def rate(progress):  # a schedule that destroys the weights after half of the steps
        if progress == 0.5:
            kept.update({k: v.clone() for k, v in learner.state_dict().items()})
        return 1.0 if progress < 0.5 else 1e3

    validation = qs.Validation(qs.Sinusoids(5, 20), every=50, tasks=50, patience=2)
    result = qs.fit(
        learner, qs.Sinusoids(5, 20), steps=200, tasks_per_step=4, schedule=rate,
        validation=validation, progress=False,
    )  # fmt: skip
    assert (result.best_step, result.steps) == (100, 200)
    assert all(v.equal(kept[k]) for k, v in learner.state_dict().items())
    assert result.best_score == min(r["validation"] for r in result.rows if "validation" in r)
    assert not learner.training


def test_a_validation_score_that_is_not_finite_is_never_the_best():
    progress, learner = Progress(), qs.MAML(qs.backbones.MLP(outputs=1), rate=0.01)
    validation = qs.evaluate(learner, qs.Sinusoids(5, 5), 5).main
    progress.record_validation(replace(validation, mean=float("nan")), learner, patience=None)
    assert progress.best_score is None
    progress.record_validation(validation, learner, patience=None)
    assert progress.best_score == validation.mean


def test_the_log_is_json_lines(tmp_path):
    train(tmp_path, resume=False)
    rows = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [r["step"] for r in rows if "loss" in r] == [5, 10, 15, 20, 24]
    assert [r["step"] for r in rows if "validation" in r] == [9, 18, 24]
