"""chrF equals sacrebleu's, for texts of subwords in any script."""

from __future__ import annotations

import random

import pytest
import torch

from quickstudy.answers.tokens import ChrF, Tokens, written
from quickstudy.core import Examples
from quickstudy.datasets.subwords import Subwords, padded

sacrebleu = pytest.importorskip("sacrebleu", reason="needs the package sacrebleu")
pytest.importorskip("tokenizers", reason="needs the package tokenizers")

TEXTS = [
    "Please correct the error below.", "Corrixe o erro de abaixo.", "Виправте помилку нижче",
    "a", "", "ab  c", "%(name)s – {}", "Ні", "请改正错误", "\U0001f600 ok",
    "Vær så god å rette feilen",
    "ab c d", "Corrixe os erros de abaixo", "b",
]  # fmt: skip
SUBWORDS = Subwords.learn(TEXTS, 300)


def score(predicted: list[str], true: list[str]) -> float:
    """The answer's chrF, in %."""
    answer = Tokens(SUBWORDS.size, "before", 1, 2, SUBWORDS.pieces)
    rows = [
        padded([SUBWORDS.encode(text) + end for text in texts], -1, 60)
        for texts, end in ((predicted, []), (true, [2]))
    ]
    query = Examples({}, rows[1], torch.ones(len(true)), torch.zeros(len(true)).long())
    (chrf,) = (each for each in answer.scores if isinstance(each, ChrF))
    return 100 * float(chrf.value(chrf.statistic(rows[0], query)))


@pytest.mark.parametrize("seed", range(10))
def test_it_equals_that_of_sacrebleu(seed: int) -> None:
    """Rows of different lengths; some shorter than the longest n-grams, on either side.

    One true row is the longest text, since generated ones are scored up to the longest true one.
    """
    draw = random.Random(seed)
    predicted, true = ([draw.choice(TEXTS) for _ in range(7)] for _ in range(2))
    predicted[:3] = [text[:-1] for text in true[:3]]
    true.append(max(TEXTS, key=lambda text: len(SUBWORDS.encode(text))))
    predicted.append(draw.choice(TEXTS))
    expected = sacrebleu.corpus_chrf(predicted, [true]).score
    assert score(predicted, true) == pytest.approx(expected, abs=1e-9)
    one = sacrebleu.sentence_chrf(predicted[0], [true[0]]).score
    assert score(predicted[:1], true[:1]) == pytest.approx(one, abs=1e-9)


def test_tokens_are_written_as_the_subwords_write_them() -> None:
    for text in TEXTS:
        ids = SUBWORDS.encode(text)
        assert written(ids, SUBWORDS.pieces) == text == SUBWORDS.decode(ids)
    assert (
        written([1, 2, -1, *SUBWORDS.encode("é")[:1]], SUBWORDS.pieces) == "�"
    )  # half of a letter


def test_pieces_must_be_one_for_each_token() -> None:
    with pytest.raises(ValueError, match=r"pieces must be 3, one for each token.*found 2"):
        Tokens(3, "before", pieces="a b")
