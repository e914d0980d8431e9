"""The folder of a comparison: the same bytes after a kill, and edits that are noticed."""

from __future__ import annotations

import csv
import json
import multiprocessing
import os
import random
import signal
import time
from pathlib import Path

import pytest

import quickstudy as qs
from made_up import clouds
from quickstudy.selection.comparison import Comparison
from quickstudy.selection.stored import Folder, decoded, encoded

KILLS = 3


def compare(folder: Path, **changes) -> qs.Comparisons:
    learners = {
        "one": lambda: qs.Prototypical(qs.backbones.MLP(4, (8,))),
        "other one": lambda: qs.R2D2(qs.backbones.MLP(4, (8,))),
    }
    given = {"budget": 24, "tasks_per_step": 2, "seeds": 2, "tasks": 20, "run": folder,
             "progress": False, **changes}  # fmt: skip
    return qs.compare(learners, clouds(), clouds(queries=5), **given)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The folder of a comparison, and how long it took."""
    folder = tmp_path_factory.mktemp("whole") / "comparison"
    began = time.perf_counter()
    found = compare(folder)
    return folder, found, time.perf_counter() - began


def test_a_killed_comparison_ends_with_the_same_bytes(whole, tmp_path):
    """Three kills at random moments; benchmarks/killed_comparisons.py makes twenty."""
    folder, _, seconds = whole
    moments = random.Random(0)
    context = multiprocessing.get_context("fork")
    killed = 0
    for _ in range(4 * KILLS):
        process = context.Process(target=compare, args=(tmp_path,))
        process.start()
        process.join(moments.uniform(0.05, 0.6 * seconds))
        if process.exitcode is not None:
            break
        os.kill(process.pid, signal.SIGKILL)
        process.join()
        killed += 1
        if killed == KILLS:
            break
    assert killed
    compare(tmp_path)
    for name in ("comparison.json", "scores.csv"):
        assert (tmp_path / name).read_bytes() == (folder / name).read_bytes()


def test_what_was_written_reads_back(whole):
    folder, found, _ = whole
    again = Folder(folder).read()
    assert encoded(again) == (folder / "comparison.json").read_bytes()
    assert again.main.entry("one").train_time == found.main.entry("one").train_time
    assert str(again) == str(found)
    json.loads((folder / "comparison.json").read_text(), parse_constant=pytest.fail)
    with (folder / "scores.csv").open() as file:
        rows = list(csv.DictReader(file))
    of_one = [float(r["score"]) for r in rows if r["name"] == "one" and r["seed"] == "1"]
    assert of_one == pytest.approx(found.main.entry("one").results[1].values.tolist())


def test_a_finished_comparison_trains_nothing_again(whole, monkeypatch):
    folder, found, _ = whole
    monkeypatch.setattr("quickstudy.selection.fitting.fit", lambda *_, **__: pytest.fail("trained"))
    assert str(compare(folder)) == str(found)


def test_other_settings_are_refused(whole):
    with pytest.raises(
        ValueError, match=r"holds a comparison with seeds 2; found 3\. Give the same"
    ):
        compare(whole[0], seeds=3)


def test_a_folder_of_other_files_is_refused(tmp_path):
    (tmp_path / "notes.txt").touch()
    with pytest.raises(FileExistsError, match="holds no comparison"):
        compare(tmp_path)


def edited(whole, tmp_path, change) -> Path:
    values = json.loads((whole[0] / "comparison.json").read_text())
    change(values["inductive"])
    file = tmp_path / "comparison.json"
    file.write_text(json.dumps(values))
    return file


EDITS = {
    r"the mean of one is 0\.99, but": lambda table: table["entries"][0]["evaluations"][0]["rows"][
        0
    ].update(mean=0.99),
    "its digest is no longer": lambda table: table["figures"]["one"].update(mean=0.99),
    "was edited": lambda table: table["pairs"][0].update(difference=0.5),
    "a damaged one": lambda table: table.pop("entries"),
}


@pytest.mark.parametrize("message", EDITS)
def test_a_file_edited_by_hand_is_noticed(whole, tmp_path, message):
    with pytest.raises(ValueError, match=message):
        decoded(edited(whole, tmp_path, EDITS[message]))


def test_a_comparison_reads_from_json_alone(whole):
    table = whole[1].main
    again = Comparison.from_json(json.loads(json.dumps(table.to_json())))
    assert [entry.name for entry in again.ranking] == [entry.name for entry in table.ranking]
    assert [pair.verdict for pair in again.pairs] == [pair.verdict for pair in table.pairs]


def test_measured_steps_are_kept(tmp_path):
    """A second call in the same folder takes the steps that the first one measured."""
    Folder.of_settings(tmp_path, json.loads(json.dumps({
        "learners": ["one", "other one"], "seeds": 1, "tasks": 20, "test_seed": 0,
        "tasks_per_step": 2, "matters": 0.005, "budget": {"minutes": 100.0},
    }))).keep_steps({"one": 3, "other one": 2})  # fmt: skip
    table = compare(tmp_path, budget=qs.Minutes(100.0), seeds=1).main
    assert [entry.steps for entry in table.learners] == [3, 2]
