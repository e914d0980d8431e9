"""The folder of a comparison: the same bytes after a kill, and edits that are noticed."""

from __future__ import annotations

import csv
import json
import os
import signal
from dataclasses import replace
from pathlib import Path

import pytest

import quickstudy as qs
from made_up import clouds
from quickstudy.base import atomic
from quickstudy.selection.comparing.budget import Pace
from quickstudy.selection.comparing.compared import Comparisons
from quickstudy.selection.comparing.comparison import Comparison
from quickstudy.selection.comparing.stored import Folder, decoded, encoded, scores_csv


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
    """The folder of a comparison, and what was found."""
    folder = tmp_path_factory.mktemp("whole") / "comparison"
    return folder, compare(folder)


def killed(folder: Path, write: int) -> bool:
    """Compare in a process that is killed at its write number ``write``; whether it came so far."""
    if (child := os.fork()) == 0:
        flush, left = atomic._flush, iter(range(write))

        def counted(temporary):
            flush(temporary)
            if next(left, None) is None:
                os.kill(os.getpid(), signal.SIGKILL)

        atomic._flush = counted
        compare(folder)
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL


def test_a_killed_comparison_ends_with_the_same_bytes(whole, tmp_path):
    """Kills at single writes; benchmarks/killed_comparisons.py makes twenty at random moments."""
    for write in (1, 3, 7):
        assert killed(tmp_path, write)
    compare(tmp_path)
    for name in ("comparison.json", "scores.csv"):
        assert (tmp_path / name).read_bytes() == (whole[0] / name).read_bytes()


def test_what_was_written_reads_back(whole):
    folder, found = whole
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
    folder, found = whole
    monkeypatch.setattr(
        "quickstudy.selection.comparing.fitting.fit", lambda *_, **__: pytest.fail("trained")
    )
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


def first_row(table):
    return table["entries"][0]["evaluations"][0]["rows"][0]


EDITS = {
    r"the mean must be that of .* found 0\.99": lambda table: first_row(table).update(mean=0.99),
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


def test_measured_steps_are_kept(tmp_path, monkeypatch):
    """A second call in the same folder takes the steps that the first one measured."""

    def measured(budget, trainings, folder, display):
        folder.keep_paces({"one": Pace(3, False), "other one": Pace(2)})
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("quickstudy.selection.comparing.compare.paces_of", measured)
        with pytest.raises(KeyboardInterrupt):
            compare(tmp_path, budget=qs.Minutes(100.0), seeds=1)
    table = compare(tmp_path, budget=qs.Minutes(100.0), seeds=1).main
    assert [entry.steps for entry in table.learners] == [3, 2]
    assert table.settings["not_validated"] == ["one"]


def test_no_name_is_computed_by_a_spreadsheet(whole, tmp_path):
    values = json.loads((whole[0] / "comparison.json").read_text())
    table = Comparison.from_json(values["inductive"])
    bad = ["=1+1", "+1", "-1", "@SUM(1)", "\tx"]
    for name in bad:
        entries = (replace(table.entries[0], name=name),)
        text = scores_csv(Comparisons(replace(table, entries=entries), None))
        names = {row["name"] for row in csv.DictReader(text.splitlines())}
        assert names == {f"'{name}"}


def test_a_mean_that_was_edited_away_is_noticed(whole, tmp_path):
    values = json.loads((whole[0] / "comparison.json").read_text())
    values["inductive"]["entries"][0]["evaluations"][0]["rows"][0]["mean"] = None
    file = tmp_path / "comparison.json"
    file.write_text(json.dumps(values))
    with pytest.raises(ValueError, match=r"the mean must be that of .* found nan"):
        decoded(file)
