"""Cross-validation over classes, fitted defaults, and the record of a run's split."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from urllib.parse import unquote

import numpy as np
import pytest
from scipy import stats

from quickstudy.interfaces.runs.again import report_again
from quickstudy.interfaces.runs.assemble import load_data, make_test_source, prepare
from quickstudy.interfaces.runs.execute import begin, execute
from quickstudy.interfaces.runs.fitted import classes_of, keep_split
from quickstudy.interfaces.runs.folder import Run
from quickstudy.interfaces.runs.folds import cross_validate, stored
from quickstudy.interfaces.runs.recipe import Recipe


def save_points(path: Path, classes: int, rows: int = 10) -> Path:
    y = np.repeat(np.arange(classes), rows)
    noise = np.random.default_rng(0).normal(size=(len(y), 2))
    np.savez(path, X=(noise + 4 * y[:, None]).astype(np.float32), y=y)
    return path


@pytest.fixture(scope="module")
def crossed(tmp_path_factory) -> Run:
    """A finished cross-validation of ten classes in three folds."""
    folder = tmp_path_factory.mktemp("crossed")
    root = save_points(folder / "points.npz", 10)
    recipe = Recipe(data="arrays", root=str(root), backbone="mlp", ways=2, queries=3,
                    train_queries=3, steps=4, test_tasks=6, device="cpu", folds=3)  # fmt: skip
    run, parts = begin(recipe, folder / "run")
    assert len(parts.data.train) == 10
    assert cross_validate(run, parts, progress=False) is not None
    return run


def test_every_class_is_tested_on_once_by_a_learner_that_did_not_see_it(crossed):
    result = stored(crossed)
    assert sorted(name for fold in result.folds for name in fold.classes) == list("0123456789")
    for number, fold in enumerate(result.folds, 1):
        split = json.loads((crossed.path / f"fold-{number}" / "split.json").read_text())
        assert set(split["test"]) == set(fold.classes)
        assert set(split["train"]) == set("0123456789") - set(fold.classes)
        assert not split["val"]
    own = json.loads((crossed.path / "split.json").read_text())
    assert len(own["train"]) == 10
    assert (crossed.path / "learner.safetensors").is_file()


def test_the_interval_is_over_folds(crossed):
    result = stored(crossed)
    means = [fold.evaluation.mean for fold in result.folds]
    low, high = stats.t.interval(0.95, 2, loc=np.mean(means), scale=stats.sem(means))
    assert result.mean == pytest.approx(np.mean(means), abs=1e-7)
    assert result.half_width == pytest.approx((high - low) / 2, abs=1e-6)
    assert "approximate, because folds share training classes" in result.explanation


def test_baselines_are_compared_over_folds(crossed):
    result = stored(crossed)
    chance = next(baseline for baseline in result.baselines if baseline.name == "chance")
    own = [fold.evaluation.mean for fold in result.folds]
    others = [
        next(b.mean for b in fold.evaluation.main.baselines if b.name == "chance")
        for fold in result.folds
    ]
    assert chance.mean == pytest.approx(np.mean(others), abs=1e-6)
    assert chance.gain == pytest.approx(np.mean(own) - np.mean(others), abs=1e-6)
    expected = stats.ttest_rel(own, others).confidence_interval(0.95)
    assert chance.gain_half_width == pytest.approx((expected.high - expected.low) / 2, abs=1e-6)
    assert chance.sentence in str(result)
    assert "beside baselines" in (crossed.path / "report.html").read_text()


def test_resuming_a_finished_cross_validation_gives_the_same(crossed):
    before = (crossed.path / "cross_validation.json").read_bytes()
    again = cross_validate(Run.open(crossed.path), resume=True, progress=False)
    assert again is not None
    assert again.mean == pytest.approx(json.loads(before)["mean"], abs=1e-7)
    assert (crossed.path / "cross_validation.json").read_bytes() == before


def test_a_cross_validation_that_was_interrupted_continues(crossed, tmp_path):
    run, _ = begin(crossed.recipe, tmp_path / "run")
    first, fold_parts = begin(replace(run.recipe, fold=1), tmp_path / "run" / "fold-1")
    assert execute(first, fold_parts, progress=False) is not None  # killed after the first fold
    result = cross_validate(Run.open(run.path), resume=True, progress=False)
    assert result is not None
    assert [f.evaluation.fingerprint for f in result.folds] == [
        f.evaluation.fingerprint for f in stored(crossed).folds
    ]
    assert result.mean == stored(crossed).mean


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"ways": 4}, "test classes: episodes: 4 ways asked, but the split has 3 classes"),
        ({"queries": 10}, "test classes: episodes: 1 shot [+] 10 queries need 11 rows"),
        (
            {"train_ways": 7},
            "train classes: episodes: 7 ways asked, but the split has 6 classes.* are train_ways",
        ),
        ({"folds": 6}, "class_folds: .* folds=6 for 10 classes. Give 2 to 5 folds"),
    ],
)
def test_folds_that_cannot_run_are_refused_before_the_first(crossed, tmp_path, changes, message):
    with pytest.raises(ValueError, match=message):
        begin(replace(crossed.recipe, **changes), tmp_path / "run")
    assert not list(tmp_path.iterdir())


def test_a_learner_of_all_classes_cannot_be_tested(crossed):
    learner, _ = crossed.learner()
    with pytest.raises(ValueError, match=r"none is left for a test\. Evaluate one of the folds"):
        make_test_source(crossed.recipe, load_data(crossed.recipe), learner)


def test_reports_are_written_again(crossed):
    def without_coordinates(page: str) -> str:  # the loaded weights may round otherwise
        return re.sub(r"<svg.*?</svg>", "", page, flags=re.DOTALL)

    for path in (crossed.path, crossed.path / "fold-1"):
        before = (path / "report.html").read_text()
        (path / "report.html").unlink()
        report_again(Run.open(path))
        after = (path / "report.html").read_text()
        assert without_coordinates(after) == without_coordinates(before)
        assert after.count("<svg") == before.count("<svg")


def test_a_report_elsewhere_has_links_to_the_folds(crossed, tmp_path):
    written = report_again(crossed, tmp_path / "a folder" / "again.html")
    links = re.findall(r'href="([^"]*report.html)"', written.read_text())
    assert len(links) == crossed.recipe.folds
    assert all((written.parent / unquote(link)).is_file() for link in links)


def test_a_report_without_its_data_has_no_pictures_and_says_so(crossed, tmp_path):
    run = Run.open(crossed.path / "fold-2")
    gone = Run(run.path, replace(run.recipe, root=str(tmp_path / "gone.npz")))
    with pytest.warns(UserWarning, match=r"no pictures of test tasks, because .*no such file"):
        written = report_again(gone, tmp_path / "again.html")
    assert "test classes do not occur in training" in written.read_text()


def test_a_run_without_a_result_has_no_report(short, tmp_path):
    run, _ = begin(short, tmp_path / "run")
    with pytest.raises(FileNotFoundError, match="has no result yet"):
        report_again(run)


def test_ten_classes_fit_without_options(tmp_path):
    root = save_points(tmp_path / "ten.npz", 10)
    recipe = Recipe(data="arrays", root=str(root), backbone="mlp", steps=4, device="cpu")
    with pytest.warns(UserWarning, match=r"3 ways instead of 5, 9 queries .* instead of 15"):
        parts = prepare(recipe)
    assert (parts.recipe.ways, parts.recipe.queries, parts.recipe.train_ways) == (3, 9, 5)
    assert classes_of(parts.data) == "10 classes, 5 to train on, 2 to validate and 3 to test"
    assert parts.sources.val is not None
    assert parts.sources.val.ways == (2, 2), "as many as there are"
    five = prepare(replace(recipe, ways=5, queries=5, train_queries=5))
    assert [len(part) for part in five.data.splits.values()] == [3, 2, 5]


@pytest.mark.filterwarnings("default::UserWarning")
def test_two_classes_are_trained_on_and_tested_on_other_rows(tmp_path):
    root = save_points(tmp_path / "two.npz", 2, rows=30)
    recipe = Recipe(data="arrays", root=str(root), backbone="mlp", steps=4, device="cpu",
                    test_tasks=4)  # fmt: skip
    with pytest.warns(UserWarning, match="nothing about new classes"):
        run, parts = begin(recipe, tmp_path / "run")
    assert execute(run, parts, progress=False) is not None
    page = (run.path / "report.html").read_text()
    assert "test rows do not occur in training, but their classes do" in page
    assert "test classes do not occur" not in page


def test_data_that_changed_are_refused(short, tmp_path):
    root = save_points(tmp_path / "points.npz", 12)
    recipe = replace(short, root=str(root))
    run, parts = begin(recipe, tmp_path / "run")
    keep_split(run.path, parts.data)
    keep_split(run.path, load_data(run.recipe))  # unchanged
    for classes, rows, found in (
        (13, 10, "class '12' is new"),
        (11, 10, "class '11' is gone"),
        (12, 11, r"class '\d+' had 10 rows to train, and has 11"),
    ):
        save_points(root, classes, rows)
        with pytest.raises(ValueError, match=rf"no longer those of this run \({found}\)"):
            keep_split(run.path, load_data(run.recipe))
    (run.path / "split.json").write_text("[1]")
    with pytest.raises(ValueError, match=r"split\.json: not a file that quickstudy wrote"):
        keep_split(run.path, load_data(run.recipe))
