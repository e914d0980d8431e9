"""`quickstudy evaluate RUN --data lake_runs`, on learners that need no training for it."""

import json

import pytest
import torch
from click.testing import CliRunner

import quickstudy as qs
from quickstudy.interfaces.cli import main
from quickstudy.interfaces.runs.folder import Run
from quickstudy.interfaces.runs.recipe import Recipe


@pytest.fixture
def run_of(tmp_path, shared_data):
    """A function that makes a run with an untrained learner."""
    if not (shared_data / "lake_runs").is_dir():
        pytest.skip(f"no real data: {shared_data} has no lake_runs folder")

    def run(split, shape=(1, 28, 28), learner=None):
        torch.manual_seed(0)
        recipe = Recipe(data="omniglot", split=split, root=str(shared_data))
        learner = learner or qs.Prototypical(qs.backbones.Conv4(8, image_size=shape[-1]))
        made = Run.create(recipe, tmp_path / f"{split}-{shape[0]}-{type(learner).__name__}")
        qs.save(learner, made.path / "learner.safetensors", {"shape": list(shape)})
        return made.path

    return run


def call(*words):
    return CliRunner().invoke(main, [str(word) for word in words])


def test_the_error_stands_beside_published_ones(run_of, shared_data):
    path = run_of("lake")
    shown = call("evaluate", path, "--data", "lake_runs")
    assert shown.exit_code == 0, shown.output
    for words in ("20 tasks", "38.8", "Siamese", "8.0", "people", "4.5", "3.3", "this run"):
        assert words in shown.output
    stored = json.loads(call("evaluate", path, "--data", "lake_runs", "--json").stdout)
    assert stored["published_errors"]["people"] == 4.5
    assert not stored["trained_on_classes_of_these_tasks"]
    learner, _ = Run.open(path).learner()
    runs = qs.datasets.load_tasks("lake_runs", shared_data)
    expected = qs.evaluate(learner, runs.source)
    assert stored["fingerprint"] == expected.fingerprint
    assert stored["rows"][0]["values"] == pytest.approx(expected.scores.tolist())


@pytest.mark.filterwarnings("default::UserWarning")
@pytest.mark.parametrize("split", [None, "vinyals"])
def test_a_learner_trained_on_these_alphabets_is_not_compared_silently(run_of, split):
    stored = call("evaluate", run_of(split), "--data", "lake_runs", "--json")
    assert "Warning: evaluate: this run was trained on classes of lake_runs" in stored.stderr
    assert json.loads(stored.stdout)["trained_on_classes_of_these_tasks"]


def test_what_does_not_fit_is_refused(run_of):
    path = run_of("lake")
    for words, message in (
        (["--data", "lake_runs", "--ways", 5], "tasks of --data lake_runs are fixed; found --ways"),
        (["--data", "lake_runs", "--tasks", 600], "are fixed; found --tasks"),
        (["--data", "omniglot"], "omniglot has classes, not published test tasks"),
        (["--data", "lake_rums"], "did you mean"),
        (["--root", "somewhere"], "Give --data lake_runs too"),
    ):
        refused = call("evaluate", path, *words)
        assert refused.exit_code == 1
        assert message.lower() in refused.output.lower()
    colour = qs.Prototypical(qs.backbones.Conv4(8, in_channels=3))
    path = run_of("lake", (3, 28, 28), colour)
    refused = call("evaluate", path, "--data", "lake_runs")
    assert "takes inputs of shape (3, 28, 28)" in refused.output
    assert "glyphs has classes, not" in call("evaluate", path, "--data", "glyphs").output
