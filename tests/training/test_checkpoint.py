"""Checkpoints that are damaged or hostile are refused by an error that names the file."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch

import quickstudy as qs
from quickstudy.balancing.combine import mean
from quickstudy.compute.plan import Mapping, Plan
from quickstudy.files.trees import load_tree, save_tree
from quickstudy.training.checkpoint import Progress, RunFolder

BIAS, SETTINGS = "backbone.layers.0.bias", {"steps": 9, "tasks_per_step": 4}


class Running:
    """A combiner with a state."""

    reads = "losses"

    def __init__(self):
        self.state = {"steps": 0, "mean": None}

    def weights(self, losses, names):
        return torch.ones_like(losses)

    def state_dict(self):
        return self.state

    def load_state_dict(self, state):
        self.state = state


def parts():
    torch.manual_seed(0)
    learner = qs.Prototypical(qs.backbones.MLP(4, (3,)))
    optimiser = torch.optim.Adam(learner.parameters(), 1e-3)
    for parameter in learner.parameters():
        parameter.grad = torch.ones_like(parameter)
    return learner, optimiser, Running()


@pytest.fixture
def run(tmp_path) -> Path:
    """A run folder with the checkpoint of a run that has a best score, and states of all kinds."""
    learner, optimiser, combine = parts()
    optimiser.step()
    combine.state = {"steps": 1, "mean": torch.ones(3)}
    best = {name: tensor.clone() for name, tensor in learner.state_dict().items()}
    progress = Progress(5, 1.0, 2.0, 0.5, 4, 1, best, plan=Plan(Mapping.VMAP, "", 4))
    RunFolder(tmp_path, resume=False).save(learner, optimiser, combine, progress, SETTINGS)
    return tmp_path


def restored(run):
    learner, optimiser, combine = parts()
    before = copy.deepcopy(learner.state_dict())
    try:
        progress = RunFolder(run, resume=True).restore(learner, optimiser, combine, SETTINGS)
    except ValueError:
        assert all(tensor.equal(before[name]) for name, tensor in learner.state_dict().items())
        raise
    return progress, learner, optimiser, combine


def test_a_checkpoint_restores_every_part(run):
    progress, learner, optimiser, combine = restored(run)
    assert (progress.step, progress.best_score, progress.plan.chunk) == (5, 0.5, 4)
    assert all(t.equal(progress.best_weights[n]) for n, t in learner.state_dict().items())
    assert [float(s["step"]) for s in optimiser.state.values()] == [1.0, 1.0]
    assert combine.state["mean"].equal(torch.ones(3))


def moments(tree):
    return tree["optimiser"]["state"][0]


def group(tree):
    return tree["optimiser"]["param_groups"][0]


WRONG = {
    "no progress": lambda tree, about: about.pop("progress"),
    "no plan": lambda tree, about: about["progress"].pop("plan"),
    "an unknown fact": lambda tree, about: about["progress"].update(more=1),
    "a step that is no number": lambda tree, about: about["progress"].update(step="5"),
    "a step beyond the end": lambda tree, about: about["progress"].update(step=10**19),
    "a negative step": lambda tree, about: about["progress"].update(step=-1),
    "a step that is true": lambda tree, about: about["progress"].update(step=True),
    "seconds that are NaN": lambda tree, about: about["progress"].update(seconds=float("nan")),
    "a best score of NaN": lambda tree, about: about["progress"].update(best_score=float("nan")),
    "a best score without weights": lambda tree, about: tree.update(best={}),
    "weights without a best score": lambda tree, about: about["progress"].update(best_score=None),
    "an unknown mapping": lambda tree, about: about["progress"]["plan"].update(mapping="x"),
    "a chunk too large": lambda tree, about: about["progress"]["plan"].update(chunk=10**9),
    "too many workers": lambda tree, about: about["progress"]["plan"].update(workers=10**9),
    "a plan that is a list": lambda tree, about: about["progress"].update(plan=[]),
    "settings that are a list": lambda tree, about: about.update(settings=[1]),
    "no learner": lambda tree, about: tree.pop("learner"),
    "a learner of nothing": lambda tree, about: tree.update(learner={}),
    "another shape": lambda tree, about: tree["learner"].update({BIAS: torch.ones(4)}),
    "another type": lambda tree, about: tree["learner"].update({BIAS: torch.ones(3).double()}),
    "weights that are NaN": lambda tree, about: tree["learner"][BIAS].fill_(torch.nan),
    "best weights that are NaN": lambda tree, about: tree["best"][BIAS].fill_(torch.nan),
    "no optimiser": lambda tree, about: tree.update(optimiser=None),
    "no groups": lambda tree, about: tree["optimiser"].update(param_groups=[]),
    "other parameters": lambda tree, about: group(tree).update(params=[0]),
    "a rate that is no number": lambda tree, about: group(tree).update(lr="x"),
    "another setting": lambda tree, about: group(tree).update(weight_decay=0.5),
    "a state that is a list": lambda tree, about: tree["optimiser"].update(state=[]),
    "a state of a number": lambda tree, about: tree["optimiser"].update(state={0: 5}),
    "a state of another parameter": lambda tree, about: tree["optimiser"].update(state={7: {}}),
    "a moment of another shape": lambda tree, about: moments(tree).update(exp_avg=torch.ones(7)),
    "a moment that is missing": lambda tree, about: moments(tree).pop("exp_avg"),
    "a moment that is NaN": lambda tree, about: moments(tree)["exp_avg"].fill_(torch.nan),
    "a negative second moment": lambda tree, about: moments(tree)["exp_avg_sq"].fill_(-1),
    "no state of the combiner": lambda tree, about: tree.update(combine=None),
    "a wrong state of the combiner": lambda tree, about: tree["combine"].update(steps="x"),
}  # fmt: skip


@pytest.mark.parametrize("wrong", WRONG)
def test_a_wrong_checkpoint_is_refused_by_name_before_the_learner_changes(wrong, run):
    path = run / "checkpoint.safetensors"
    tree, about = load_tree(path)
    WRONG[wrong](tree, about)
    save_tree(path, tree, about)
    with pytest.raises(ValueError, match=rf"^{path}: .*new folder\.$"):
        restored(run)


def test_flipped_bits_and_cut_checkpoints_are_refused_by_name(run):
    path = run / "checkpoint.safetensors"
    right = path.read_bytes()
    for changed in (right[:-40], right[:100], b"", right[:-1] + bytes([right[-1] ^ 1])):
        path.write_bytes(changed)
        with pytest.raises(ValueError, match=rf"^{path}: not a file that quickstudy wrote"):
            restored(run)


def test_an_optimiser_that_cannot_be_copied_is_restored(run):
    class Locked(torch.optim.Adam):
        def __deepcopy__(self, memo):
            raise TypeError("cannot be copied")

    learner, _, _ = parts()
    optimiser = Locked(learner.parameters(), 1e-3)
    RunFolder(run, resume=True).restore(learner, optimiser, mean, SETTINGS)
    assert len(optimiser.state) == 2


def test_a_plan_is_checked_again_when_a_run_is_resumed(tmp_path):
    """One that maps tasks where that cannot be done, for an objective that uses numbers."""

    def objective(learner, task):
        loss = qs.objectives.query_loss(learner, task)
        assert float(loss.loss.detach()) >= 0
        return loss

    def fit(resume):
        torch.manual_seed(0)
        learner = qs.MAML(qs.backbones.MLP(1, (4,), 1), rate=0.01)
        qs.fit(learner, qs.Sinusoids(3, 3), 2, 2, objective=objective, run=tmp_path, resume=resume,
               progress=False)  # fmt: skip

    fit(resume=False)
    fit(resume=True)
    path = tmp_path / "checkpoint.safetensors"
    tree, about = load_tree(path)
    assert about["progress"]["plan"]["mapping"] == "loop"
    about["progress"]["plan"]["mapping"] = "vmap_grad"
    save_tree(path, tree, about)
    with pytest.raises(ValueError, match=rf"^{path}: .*vmap_grad cannot map it.*new folder"):
        fit(resume=True)
