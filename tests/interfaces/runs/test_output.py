"""What commands print, where, and with which exit code."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner, Result
from PIL import Image

import quickstudy as qs
from quickstudy.applications.registry import DATA
from quickstudy.datasets.registry import CARDS
from quickstudy.files.registry import LEARNERS
from quickstudy.interfaces.cli import main
from quickstudy.interfaces.cli.printing import print_rich
from quickstudy.interfaces.runs import to_onnx
from quickstudy.reports.tables import predictions_table

FAST = ["--data", "arrays", "--backbone", "mlp", "--ways", "2", "--queries", "3",
        "--train-queries", "3", "--steps", "4", "--test-tasks", "5", "--device", "cpu"]  # fmt: skip


def call(*words: str | Path, columns: int = 80) -> Result:
    return CliRunner(env={"COLUMNS": str(columns)}).invoke(main, [str(word) for word in words])


def strict(text: str) -> object:
    """The JSON in ``text``, which must hold nothing else, and neither NaN nor infinity."""

    def refuse(constant: str) -> object:
        raise ValueError(f"{constant} is no JSON")

    return json.loads(text, parse_constant=refuse)


@pytest.fixture(scope="module")
def run(points, tmp_path_factory) -> tuple[Path, Result]:
    """A finished run, and what its command printed with --json."""
    out = tmp_path_factory.mktemp("output") / "run"
    return out, call("run", "--root", points, *FAST, "-o", out, "--json")


@pytest.mark.parametrize("columns", [72, 80, 100])
def test_lists_never_break_names(columns):
    for command, names in (("datasets", {**CARDS, **DATA}), ("learners", LEARNERS)):
        lines = call(command, columns=columns).stdout.splitlines()
        assert {line.split()[0] for line in lines if not line.startswith(" ")} == set(names)
        assert max(map(len, lines)) <= columns


def test_words_are_not_broken_at_80_columns():
    for command, cards in (("datasets", CARDS), ("learners", LEARNERS)):
        printed = set(re.findall(r"\w+", call(command).stdout))
        texts = " ".join(
            f"{card.name} {card.title if command == 'learners' else card.summary}"
            for card in cards.values()
        )
        assert set(re.findall(r"\w+", texts)) <= printed


@pytest.mark.parametrize("columns", [20, 40, 80])
def test_a_table_is_wider_than_the_terminal_before_it_breaks_a_name(columns, monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", str(columns))
    file = "pictures/of my/" + "very_" * 20 + "long name.png"
    names = ["a class of several words", "incomprehensibilities"]
    print_rich(predictions_table([file], names, [[0.9, 0.1]]))
    printed = capsys.readouterr().out
    for whole in (file, names[0], names[1]):
        assert whole in printed


@pytest.mark.parametrize("name", CARDS)
def test_the_facts_of_a_data_set_are_texts(name):
    printed = call("datasets", name).stdout
    assert name in printed
    assert not re.search(r"size +0 MB", printed)
    for python in ("None", "False", "True", "frozenset", "()"):
        assert python not in printed
    facts = strict(call("datasets", name, "--json").stdout)
    assert facts["name"] == name
    assert facts["classes"] == (None if CARDS[name].classes is None else [*CARDS[name].classes])


def test_lists_are_json_where_asked():
    listed = [card["name"] for card in strict(call("datasets", "--json").stdout)]
    assert sorted(listed) == sorted({**CARDS, **DATA})
    assert [card["name"] for card in strict(call("learners", "--json").stdout)] == list(LEARNERS)


def test_a_run_prints_its_result_as_json_and_nothing_else(run):
    out, printed = run
    assert printed.exit_code == 0, printed.output
    values = strict(printed.stdout)
    stored = json.loads((out / "evaluation.json").read_text())
    assert values["evaluation"] == stored
    assert (values["run"], values["report"]) == (str(out), str(out / "report.html"))
    assert values["recipe"]["ways"] == 2
    assert str(out) in printed.stderr, "where the run is, also while it runs"
    again = strict(call("run", "--resume", out, "--json").stdout)
    assert again["evaluation"]["rows"] == stored["rows"]


def test_evaluations_and_reports_are_json_where_asked(run, tmp_path):
    out, _ = run
    assert strict(call("evaluate", out, "--tasks", "2", "--json").stdout)["tasks"] == 2
    page = tmp_path / "page.html"
    assert strict(call("report", out, "-o", page, "--json").stdout)["report"] == str(page)
    assert page.read_text().startswith("<!DOCTYPE html>")


def test_an_explanation_is_json_where_asked(points):
    printed = call("run", "--root", points, *FAST, "--explain", "--json").stdout
    assert "mapping" in strict(printed)["explanation"]


def test_an_error_leaves_standard_output_empty(tmp_path):
    for words in (["run", "--data", "arrays", "--root", tmp_path / "none.npz"],
                  ["evaluate", tmp_path], ["report", tmp_path], ["datasets", "nothing"],
                  ["export", tmp_path / "none"]):  # fmt: skip
        refused = call(*words, "--json")
        assert (refused.exit_code, refused.stdout) == (1, ""), words
        assert refused.stderr.startswith("Error: ")


def test_a_cross_validation_prints_every_fold(points, tmp_path):
    printed = call("run", "--root", points, *FAST, "--folds", "2", "-o", tmp_path / "run")
    assert printed.exit_code == 0, printed.output
    assert "95% interval over 2 folds" in printed.stdout
    assert "Cross-validation over classes: 12 classes in 2 folds." in " ".join(
        printed.stdout.split()
    )
    assert "Fold 2 of 2, to test on " in printed.stderr
    refused = call("evaluate", tmp_path / "run")
    assert "none is left for a test" in refused.stderr


def test_fractions_are_three_numbers(points):
    for wrong in ("0.6,0.2", "a,b,c", "0.6;0.2;0.2", ""):
        refused = call("run", "--root", points, *FAST, "--fractions", wrong)
        assert refused.exit_code in (1, 2)
        assert "numbers" in refused.stderr


def make_pictures(top: Path) -> Path:
    rng = np.random.default_rng(0)
    for kind in "abcdef":
        (top / kind).mkdir(parents=True)
        for i in range(6):
            pixels = rng.integers(0, 256, (8, 8, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(top / kind / f"{i}.png")
    return top


@pytest.mark.filterwarnings("default::UserWarning")
def test_a_run_that_left_inputs_out_ends_with_exit_code_3(tmp_path):
    top = make_pictures(tmp_path / "pictures")
    words = ["run", "--data", "folder", "--root", top, "--size", "8", *FAST[2:], "--json"]
    (top / "c" / "broken.png").write_bytes(b"no picture")
    printed = call(*words, "-o", tmp_path / "run")
    assert printed.exit_code == 3, printed.output
    assert strict(printed.stdout)["evaluation"]["tasks"] == 5, "done nevertheless"
    assert "left out 1 of 37 files" in printed.stderr
    refused = call(*words, "--strict", "-o", tmp_path / "strict")
    assert (refused.exit_code, refused.stdout) == (1, "")


def test_an_export_needs_no_example_of_the_inputs(tmp_path, monkeypatch):
    given = []
    monkeypatch.setattr(to_onnx, "export", lambda predictor, path, inputs: given.append(inputs))
    learner = qs.Prototypical(qs.backbones.MLP(48))
    support = qs.examples(torch.rand(4, 3, 4, 4), torch.tensor([0, 0, 1, 1]))
    predictor = learner(support, qs.classification(2))
    info = {"names": ["a", "b"], "pictures": {"channels": 3, "size": 4}}
    file = tmp_path / "p.safetensors"
    qs.save(predictor, file, info)
    printed = call("export", file, "-o", tmp_path / "p.onnx", "--json")
    assert printed.exit_code == 0, printed.output
    model = {"model": str(tmp_path / "p.onnx"), "inputs": [3, 4, 4], "classes": ["a", "b"]}
    assert strict(printed.stdout) == model
    assert given[0].shape == (2, 3, 4, 4)
    qs.save(predictor, tmp_path / "other")
    assert "was not made for image files" in call("export", tmp_path / "other").stderr
    qs.save(learner, tmp_path / "learner")
    assert "Adapt it with `quickstudy adapt` first" in call("export", tmp_path / "learner").stderr


def test_a_missing_picture_is_called_missing(tmp_path):
    from quickstudy.datasets.images import ImageError, decode

    gone = tmp_path / "gone.png"
    with pytest.raises(ImageError, match=r"gone\.png: there is no such file\. Check the path\."):
        decode(gone, str(gone), size=8, channels=3)


def test_ctrl_c_ends_with_130_and_a_broken_pipe_without_a_message(monkeypatch):
    def raising(error: BaseException) -> Result:
        def learners(**_: object) -> None:
            raise error

        monkeypatch.setattr(main.commands["learners"], "callback", learners)
        return call("learners")

    assert raising(KeyboardInterrupt()).exit_code == 130
    broken = raising(BrokenPipeError(32, "Broken pipe"))
    assert broken.exit_code == 1
    assert "Error" not in broken.output
