"""The applications of texts, relations and questions, from users' files to what is written."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

import quickstudy as qs
from quickstudy.applications.application import Application
from quickstudy.applications.questions import MARKS, Questions, marks_of
from quickstudy.applications.relations import Relations
from quickstudy.applications.text import Text
from quickstudy.backbones.joined import Features
from quickstudy.base.skipped import SkippedInput
from quickstudy.core import Learner, Predictor
from quickstudy.datasets.fewrel import Sentence
from quickstudy.reports.marked_texts import task_pictures
from quickstudy.reports.view_types import SpansView
from quickstudy.reports.views import view
from quickstudy.tasks.numbering import Stream, draw, task_seed

pytest.importorskip("transformers")

MINILM = 384


@pytest.fixture(autouse=True)
def kept_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("QUICKSTUDY_DATA", str(tmp_path / "kept"))


def write(folder: Path, name: str, lines: list[str]) -> Path:
    path = folder / name
    path.write_text("\n".join(lines))
    return path


def adapted(application: Application, path: Path, learner: Learner) -> Predictor:
    found = application.support(path, learner)
    return replace(learner(found.examples, found.spec), info=found.info)


def said(application: Application, predictor: Predictor, *paths: Path) -> list[dict]:
    inputs, names = application.inputs(paths, predictor)
    return application.written(predictor, inputs, names, None)


REQUESTS = [
    "text,label",
    *(f"{text},refund" for text in (
        "I want my money back", "Please pay me back for the shoes", "Give me a refund",
        "Return what I paid", "My card was charged twice so refund one", "Refund my order",
    )),
    *(f"{text},delivery" for text in (
        "Where is my parcel", "When will the package arrive", "My delivery is late",
        "Track my order", "The courier did not come", "Has my shipment left yet",
    )),
]  # fmt: skip


def test_texts_get_a_class_and_strangers_are_said_to_be_such(tmp_path: Path) -> None:
    application = Text(false_alarms=0.2)
    learner = qs.SimpleShot(Features(MINILM))
    predictor = adapted(application, write(tmp_path, "requests.csv", REQUESTS), learner)
    new = write(
        tmp_path, "new.txt",
        ["Where is the package that I bought?", "", "I would like to get a refund",
         "The violinist tuned her instrument before the concert"],
    )  # fmt: skip
    rows = said(application, predictor, new)
    assert [row["name"].rsplit(", ")[-1] for row in rows] == ["line 1", "line 3", "line 4"]
    assert [row["class"] for row in rows[:2]] == ["delivery", "refund"]
    assert [row["stranger"] for row in rows] == [False, False, True]


def test_a_run_on_own_texts_trains_on_some_classes_and_tests_on_others(tmp_path: Path) -> None:
    for number in range(8):
        write(tmp_path, f"class{number}.txt", [f"text {number} about {n}" for n in range(6)])
    made = Text(ways=2, queries=2).prepare("own", tmp_path, "prototypical", 1, 0)
    assert made.train is not None
    train, test = draw(made.train, 0, 0), draw(made.test, 0, 0)
    assert train.support.inputs.shape[1] == MINILM
    assert (test.spec.outputs, len(test.query.weights)) == (2, 4)
    again = Text(ways=2, queries=2).prepare("own", tmp_path, "prototypical", 1, 0)
    pairs = zip(
        made.learner.state_dict().values(), again.learner.state_dict().values(), strict=True
    )
    assert all(torch.equal(a, b) for a, b in pairs)
    assert made.train.classes.names[0] not in made.test.classes.names


def test_strict_texts_must_be_whole(tmp_path: Path) -> None:
    path = write(tmp_path, "long.csv", ["text,label", "word " * 300 + ",a", "short,b"])
    learner = qs.SimpleShot(Features(MINILM))
    with pytest.warns(UserWarning, match="Their ends are cut off"):
        Text().support(path, learner)
    with pytest.raises(ValueError, match="Their ends are cut off"):
        Text(strict=True).support(path, learner)
    empty = write(tmp_path, "empty.csv", ["text,label", "one,a", ",b", "two,b"])
    with pytest.warns(SkippedInput, match="left out 1 of 3 texts"):
        Text().support(empty, learner)
    with pytest.raises(ValueError, match="one class alone"):
        Text().support(write(tmp_path, "one.csv", ["text,label", "one,a"]), learner)


RELATIONS = [
    "text,head,tail,relation",
    "Marie was the mother of Irene.,Irene,Marie,mother",
    "Ada's mother was Anne Milbanke.,Ada,Anne Milbanke,mother",
    "The bridge crosses the River Tay.,bridge,River Tay,crosses",
    "A viaduct over the Tyne carries trains.,viaduct,Tyne,crosses",
]


@pytest.mark.parametrize("network", ["frozen", "cnn"])
def test_relations_of_new_sentences(tmp_path: Path, network: str) -> None:
    application = Relations(network=network)
    learner = application._learner("prototypical", None).eval()
    predictor = adapted(application, write(tmp_path, "relations.csv", RELATIONS), learner)
    new = write(
        tmp_path, "new.csv",
        ["text,head,tail", "Eve is the mother of Abel.,Abel,Eve",
         "The old bridge spans the Thames.,old bridge,Thames"],
    )  # fmt: skip
    rows = said(application, predictor, new)
    assert {row["relation"] for row in rows} <= {"mother", "crosses"}
    if network == "frozen":
        assert [row["relation"] for row in rows] == ["mother", "crosses"]


QUESTIONS = [
    "text,head,answer",
    "Marie was the mother of Irene.,Irene,Marie",
    "Ada's mother was Anne Milbanke.,Ada,Anne Milbanke",
]


def test_answers_are_words_of_the_text(tmp_path: Path) -> None:
    application = Questions()
    learner = qs.SpanScorer(Features(MINILM + len(MARKS) + 2), marks=len(MARKS)).eval()
    predictor = adapted(application, write(tmp_path, "questions.csv", QUESTIONS), learner)
    text = "Eve Smith is the mother of Abel ."
    (tmp_path / "new: a").mkdir()  # a folder's name is no part of a text
    new = write(tmp_path / "new: a", "new.csv", ["text,head", f"{text},Abel"])
    (row,) = said(application, predictor, new)
    assert row["name"] == f"{new}, line 2"
    words = text.split(" ")[row["first"] : row["last"] + 1]
    assert row["answer"] == " ".join(words)
    assert 1 <= len(words) <= application.longest


def test_an_answer_beyond_the_tokens_that_are_read_is_refused(tmp_path: Path) -> None:
    text = "Jo " + "and " * 300 + "Al"
    path = write(tmp_path, "long.csv", ["text,head,answer", f"{text},Jo,Al"])
    learner = qs.SpanScorer(Features(MINILM + len(MARKS) + 2), marks=len(MARKS))
    with (
        pytest.warns(UserWarning, match="Their ends are cut off"),
        pytest.raises(ValueError, match=r"long.csv, line 2: must be within the tokens.*word 301"),
    ):
        Questions().support(path, learner)


def test_an_answer_that_could_not_be_predicted_is_refused(tmp_path: Path) -> None:
    lines = ["text,head,answer", "Jo met Al,Jo,Al", "Jo met Al and Bo,Jo,Al and Bo"]
    path = write(tmp_path, "q.csv", lines)
    learner = qs.SpanScorer(Features(MINILM + len(MARKS) + 2), marks=len(MARKS))
    with pytest.raises(ValueError, match=r"line 3, answer: may have 2 words.*found 3"):
        Questions(longest=2).support(path, learner)


def test_an_entity_beyond_the_tokens_is_refused_with_its_line(tmp_path: Path) -> None:
    long = f"Jo {'and ' * 300}Al,Jo,Al,b"
    path = write(tmp_path, "far.csv", ["text,head,tail,relation", "Jo met Al,Jo,Al,a", long])
    application = Relations(network="cnn")
    with (
        pytest.warns(UserWarning, match="Their ends are cut off"),
        pytest.raises(ValueError, match=r"the tail of .*far.csv, line 3 is not"),
    ):
        application.support(path, qs.SimpleShot(Features(MINILM)))


def test_marks_are_those_of_each_word() -> None:
    found = marks_of([Sentence(("Jo", "has", "12", "-"), (0,), (2,), "")], 5)
    assert found[0].tolist() == [[1, 0, 0], [0, 0, 0], [0, 1, 0], [0, 0, 1], [0, 0, 0]]


def test_the_report_marks_the_words_of_an_answer(tmp_path: Path) -> None:
    names = ["Ann Lee", "Jo", "Mary", "Eve Smith", "Ruth", "Nan Bo"]
    lines = ["text,head,answer,question"]
    for number in range(6):
        for child, mother in zip("ABCDEF", names, strict=True):
            lines.append(f"{mother} bore {child}{number}.,{child}{number},{mother},who {number}")
    path = write(tmp_path, "q.csv", lines)
    made = Questions(queries=3).prepare("own", path, "span_scorer", 2, 0)
    assert "Test tasks have questions that training has not seen" in made.about
    assert made.names is not None
    task = draw(made.test, 0, 0)
    texts = made.names(torch.Generator().manual_seed(task_seed(0, 0, Stream.TRAINING)))
    seen = view(made.learner, task, texts)
    assert isinstance(seen, SpansView)
    assert seen.texts == tuple(texts)
    for text, (first, last) in zip(texts, seen.true.tolist(), strict=True):
        assert " ".join(text.split(" ")[first : last + 1]) in names
    html = str([str(part) for part in task_pictures([seen])])
    assert all(word in html for word in texts[0].split(" "))
