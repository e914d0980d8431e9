"""Translation of made-up languages: rules, memory, tasks; adapting and predicting from files."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

import quickstudy as qs
from quickstudy.answers.tokens import Tokens, written
from quickstudy.applications.languages import split_messages
from quickstudy.applications.rewriting import Rewriting
from quickstudy.applications.translation import Translation
from quickstudy.applications.translation_baselines import NearestLanguage, english
from quickstudy.applications.translation_data import TranslationData
from quickstudy.core import Learner, Predictor, Task
from quickstudy.datasets.django_messages import Messages
from quickstudy.datasets.sentence_pairs import read_pairs, read_sources
from quickstudy.datasets.subwords import PLACEHOLDER

pytest.importorskip("tokenizers", reason="needs the package tokenizers")
VERBS = ["open", "close", "add", "copy", "move", "print"]
THINGS = ["file", "table", "page", "user", "group", "date", "log"]
SMALL = Translation(
    protocol="nearest", held_out="c", messages=8, subwords=330, size=16, layers=1, steps=2, tuning=4
)


def endings(verb: str, thing: str) -> list[str]:
    """The phrase in languages that differ in the ends of their words."""
    return [f"{verb}{a} {thing}{b} %(n)s" for a, b in (("ar", "on"), ("er", "an"), ("ur", "un"))]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("languages")
    phrases = [(f"{v} {t} %(n)s", endings(v, t)) for v in VERBS for t in THINGS]
    for k, name in enumerate("abc"):
        lines = ["source\ttarget", *(f"{english}\t{texts[k]}" for english, texts in phrases)]
        (made / f"{name}.tsv").write_text("\n".join(lines) + "\n")
    return made


def decoded(learner: Learner, task: Task) -> list[str]:
    answer = task.spec.answer
    assert isinstance(answer, Tokens)
    rows = answer.decode(learner(task.support, task.spec), task.query.inputs)
    return [written(row, answer.pieces) for row in rows.tolist()]


def test_rules_rewrite_words_that_no_pair_has() -> None:
    pairs = [tuple(endings(v, t)[::2]) for v, t in zip(VERBS, THINGS, strict=False)]
    rules = Rewriting.learn(pairs)  # type: ignore[arg-type]
    assert rules("Lockar boxon %(n)s!") == "Lockur boxun %(n)s!"
    assert rules(pairs[0][0].upper()) == pairs[0][1]  # a whole text that it knows
    assert rules("OPENAR") == "OPENUR"


def test_rules_leave_placeholders_as_they_are() -> None:
    pairs = [("%Y on %s", "am %s"), ("the %Y on %s now", "das %s nun")]
    rules = Rewriting.learn([*pairs, ("%s", "%d")])
    for text in ("at %Y", "%(Name)s {X}", "<B> %s"):
        found = Counter(re.findall(PLACEHOLDER, rules(text)))
        assert found == Counter(re.findall(PLACEHOLDER, text))


def test_baselines_write_the_memory_the_nearest_text_and_the_rewritten_one(folder: Path) -> None:
    made = SMALL.prepare("own", folder, "early_stopping", 20, 0)
    task = made.test.at(0)  # type: ignore[attr-defined]
    answer = task.spec.answer
    true = [written(row, answer.pieces) for row in task.query.targets.tolist()]
    near = decoded(made.baselines["nearest language copied"], task)
    assert all(text.split()[0].endswith(("ar", "er")) for text in near)
    assert decoded(made.baselines["nearest language rewritten by rules"], task) == true
    support = [written(row, answer.pieces) for row in task.support.targets.tolist()]
    remembered = decoded(made.baselines["translation memory"], task)
    assert set(remembered) <= set(support)
    shared = [bool(set(one.split()) & set(two.split()[:2]))
              for one, two in zip(remembered, true, strict=True)]  # fmt: skip
    assert all(shared)  # the most similar message has one of its words at least


def test_no_test_message_is_in_the_training_of_an_unseen_protocol(folder: Path) -> None:
    unseen = Translation("unseen", "c", messages=8, subwords=330, size=16, layers=1)
    made = unseen.prepare("own", folder, "maml", 20, 0)
    asked = {tuple(row) for row in made.test.at(0).query.inputs["source"][:, 1:6].tolist()}  # type: ignore[attr-defined]
    for seed in range(20):
        task = made.train(torch.Generator().manual_seed(seed))  # type: ignore[misc]
        for rows in (task.support, task.query):
            assert not asked & {tuple(row) for row in rows.inputs["source"][:, 1:6].tolist()}


def test_a_language_of_the_test_teaches_neither_subwords_nor_its_own_queries(
    folder: Path, tmp_path: Path
) -> None:
    """Texts that training must not read are other ones in a second folder: all else is the same."""
    unseen = replace(SMALL, protocol="unseen")
    found = TranslationData.of(unseen, "own", folder, 20, 0)
    asked = {found.messages.english[i] for i in found.test}
    for name in "abc":
        head, *lines = (folder / f"{name}.tsv").read_text().splitlines()
        pairs = [line.split("\t") for line in lines]
        texts = [
            f"{source}\t{'жук' if name == 'c' or source in asked else target}"
            for source, target in pairs
        ]
        (tmp_path / f"{name}.tsv").write_text("\n".join([head, *texts]))
    again = TranslationData.of(unseen, "own", tmp_path, 20, 0)
    assert (again.test, again.subwords) == (found.test, found.subwords)
    for protocol in ("unseen", "seen", "nearest"):
        data = TranslationData.of(replace(SMALL, protocol=protocol), "own", folder, 20, 0)
        task = data.task("c", 0)
        given, asked_for = (
            {data.subwords.decode(english(row)) for row in part.inputs["source"].tolist()}
            for part in (task.support, task.query)
        )
        assert asked_for == asked
        assert not given & asked


def test_the_nearest_language_is_chosen_without_the_translations_that_are_asked(
    folder: Path, tmp_path: Path
) -> None:
    """In a second folder these are in the other language, which looking at them would choose."""
    found = TranslationData.of(SMALL, "own", folder, 20, 0)
    near, other = found.near("c", found.train)
    asked = {found.messages.english[i]: str(found.messages.translations[other][i])
             for i in found.test}  # fmt: skip
    for name in "abc":
        head, *lines = (folder / f"{name}.tsv").read_text().splitlines()
        pairs = [line.split("\t") for line in lines]
        texts = [f"{one}\t{asked.get(one, two) if name == 'c' else two}" for one, two in pairs]
        (tmp_path / f"{name}.tsv").write_text("\n".join([head, *texts]))
    again = TranslationData.of(SMALL, "own", tmp_path, 20, 0)
    assert again.near("c", again.test)[0] == other != near
    one, two = found.task("c", 0), again.task("c", 0)
    assert torch.equal(one.support.inputs["source"], two.support.inputs["source"])
    assert torch.equal(one.query.inputs["source"], two.query.inputs["source"])


def test_the_same_seed_prepares_the_same_bits(folder: Path) -> None:
    one, two = (SMALL.prepare("own", folder, "maml", 20, 3) for _ in range(2))
    for a, b in zip(one.learner.parameters(), two.learner.parameters(), strict=True):
        assert torch.equal(a, b)
    tasks = [p.train(torch.Generator().manual_seed(1)) for p in (one, two)]  # type: ignore[misc]
    assert torch.equal(tasks[0].query.targets, tasks[1].query.targets)


def test_a_file_is_translated_after_adapting_to_pairs_and_saving(
    folder: Path, tmp_path: Path
) -> None:
    made = SMALL.prepare("own", folder, "early_stopping", 20, 0)
    pairs = tmp_path / "new.tsv"
    pairs.write_text("source\tnearest\ttarget\nopen file\topenar filon\topenor filen\n")
    support = SMALL.support(pairs, made.learner)
    adapted = made.learner(support.examples, support.spec)
    predictor = Predictor(made.learner, adapted.state, support.spec, support.info)
    qs.save(predictor, tmp_path / "predictor.safetensors")
    loaded = qs.load(tmp_path / "predictor.safetensors")
    lines = tmp_path / "lines.csv"
    lines.write_text("source,nearest\nclose page,closar pageon\nadd {},addar {}\n")
    inputs, names = SMALL.inputs([lines], loaded)
    with pytest.warns(UserWarning, match=r"1 text of 2 lack a placeholder.*line 3: \{\}"):
        rows = SMALL.written(loaded, inputs, names, None)
    assert [row["source"] for row in rows] == ["close page", "add {}"]
    assert [row["name"].rsplit(", ", 1)[1] for row in rows] == ["line 2", "line 3"]
    with pytest.warns(UserWarning, match="lack a placeholder"):
        assert rows == SMALL.written(predictor, inputs, names, None)
    for tag in (None, "<zz>", "<end>"):
        with pytest.raises(ValueError, match="must name the tag of a language"):
            SMALL.inputs([lines], replace(loaded, info={"tag": tag, "nearest": True}))


def test_decoding_writes_what_greedy_steps_write(folder: Path) -> None:
    """Written out: one row at a time, the whole text again for each token."""
    made = SMALL.prepare("own", folder, "early_stopping", 20, 0)
    task = made.test.at(0)  # type: ignore[attr-defined]
    predictor = made.learner(task.support, task.spec)
    answer = task.spec.answer
    found = answer.decode(predictor, task.query.inputs)
    for row in range(3):
        text = [1]
        for _ in range(found.shape[1]):
            inputs = {"source": task.query.inputs["source"][row : row + 1],
                      "before": torch.tensor([text])}  # fmt: skip
            token = int(predictor(inputs)[0, -1].argmax())
            if token == 2:
                break
            text.append(token)
        assert [t for t in found[row].tolist() if t >= 0] == text[1:]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"protocol": "all"}, "protocol must be one of unseen, seen, nearest; found 'all'"),
        ({"held_out": "xx"}, "codes of the data; found 'xx'"),
        ({"held_out": "c", "languages": "a,c"}, "c cannot be both trained and tested on"),
        ({"held_out": "a,b,c"}, "needs a language to train on.*found a, b, c held out"),
        ({"messages": 0}, "messages must be at least 1"),
    ],
)
def test_options_that_do_not_fit_are_refused(
    folder: Path, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        Translation(**options).prepare("own", folder, "maml", None, 0)


def test_more_shots_than_pairs_are_refused_and_by_default_all_are_given(folder: Path) -> None:
    with pytest.raises(ValueError, match=r"shots: a language of the test has 34 pairs.*found 35"):
        SMALL.prepare("own", folder, "maml", 35, 0)
    assert "of which 34 pairs are given" in SMALL.prepare("own", folder, "maml", None, 0).about


def test_a_run_on_texts_that_are_too_long_is_refused(tmp_path: Path) -> None:
    for name in "abc":
        lines = [f"{'w ' * 70}{k}\tb{k}" for k in range(30)]
        (tmp_path / f"{name}.tsv").write_text("\n".join(["source\ttarget", *lines]))
    with pytest.raises(ValueError, match="needs a pair of at most 64 tokens"):
        replace(SMALL, protocol="seen").prepare("own", tmp_path, "maml", None, 0)
    path = tmp_path / "c.tsv"
    path.write_text(path.read_text().replace("\tb", "\t" + "\u4e9c" * 100))
    with pytest.raises(ValueError, match="translation: c: a text may have 256 tokens at most"):
        replace(SMALL, protocol="seen").prepare("own", tmp_path, "maml", None, 0)


def test_lines_may_end_in_any_way_and_invisible_ones_are_empty(tmp_path: Path) -> None:
    path = tmp_path / "lines.txt"
    path.write_bytes(b"one\r\ntwo\r\n\r\n")
    assert [pair.source for pair in read_sources([path])] == ["one", "two"]
    path.write_text("one\n\u200b\ntwo\n")
    with pytest.raises(ValueError, match="line 2: is empty"):
        read_sources([path])
    pairs = tmp_path / "pairs.tsv"
    pairs.write_text("source\ttarget\none\t\u200b\n")
    with pytest.raises(ValueError, match="line 2: a pair needs source and target; found nothing"):
        read_pairs(pairs)


def test_a_learner_without_subwords_and_too_long_texts_are_refused(
    folder: Path, tmp_path: Path
) -> None:
    pairs = tmp_path / "new.tsv"
    pairs.write_text(f"source\tnearest\ttarget\n{'word ' * 300}\tb\tc\n")
    with pytest.raises(ValueError, match="needs a learner with a Seq2Seq network"):
        SMALL.support(pairs, NearestLanguage(""))
    learner = SMALL.prepare("own", folder, "maml", 20, 0).learner
    with pytest.raises(ValueError, match=r"new.tsv, line 2: a text may have 256 tokens at most"):
        SMALL.support(pairs, learner)


def test_messages_that_are_almost_equal_are_on_one_side() -> None:
    english = tuple(f"Message {i // 2}{'.' if i % 2 else ''}" for i in range(80))
    train, test = split_messages(Messages(english, {}), 20, 0)
    assert sorted(train + test) == list(range(80))
    assert len(test) == 20
    assert all((i ^ 1) in test for i in test)
