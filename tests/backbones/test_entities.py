"""Encoders of marked words, against the definitions computed token by token."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

import tiny_text
from quickstudy.backbones.text.encoder import TextEncoder
from quickstudy.backbones.text.entities import EntityEncoder, WordEncoder, between
from quickstudy.backbones.text.position_cnn import PositionCNN
from quickstudy.backbones.whitened import Whitened
from quickstudy.datasets.entity_tokens import entity_tokens, question_tokens, spans_of
from quickstudy.datasets.fewrel import Sentence
from quickstudy.datasets.tokenizer import TextTokenizer
from quickstudy.tasks.rows import LabelledRows

SENTENCES = [
    Sentence(("a", "b", "c", "d"), (0, 1), (3,), "x"),
    Sentence(("e", "f", "g"), (2,), (0,), "y"),
]


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> TextEncoder:
    pytest.importorskip("transformers")
    folder = tmp_path_factory.mktemp("tiny")
    tiny_text.tokenizer().save(str(folder / "tokenizer.json"))
    tokenizer = TextTokenizer(folder / "tokenizer.json", tiny_text.POSITIONS)
    return TextEncoder(tiny_text.model(), tokenizer).double().eval()


def unit(vector: Tensor) -> Tensor:
    return vector / vector.norm()


def test_entities_have_the_means_of_their_tokens(encoder: TextEncoder) -> None:
    tokens = entity_tokens(encoder.tokenizer, SENTENCES)
    found = EntityEncoder(encoder, last=2)(tokens)
    for row, (sentence, of_between) in enumerate(zip(SENTENCES, ([2], [1]), strict=True)):
        ids = tokens["ids"][row : row + 1, : len(sentence.words) + 2]
        states = encoder.model(input_ids=ids, output_hidden_states=True).hidden_states[-2:]
        parts = [
            range(len(sentence.words) + 2),  # the start and the end of a text are tokens too
            *([1 + place for place in part] for part in (sentence.head, sentence.tail, of_between)),
        ]
        expected = [
            unit(sum(unit(layer[0, [*part]].mean(0)) for layer in states)) for part in parts
        ]
        torch.testing.assert_close(found[row], torch.cat(expected))
    assert EntityEncoder(encoder).features == found.shape[1]


def test_padding_changes_no_features(encoder: TextEncoder) -> None:
    for network, make in (
        (EntityEncoder(encoder, last=2), entity_tokens),
        (WordEncoder(encoder, last=2), question_tokens),
    ):
        alone, both = make(encoder.tokenizer, SENTENCES[1:]), make(encoder.tokenizer, SENTENCES)
        found = network(both)[1:]
        torch.testing.assert_close(network(alone), found[:, : network(alone).shape[1]])


def test_nothing_is_between_neighbours() -> None:
    head, tail = torch.tensor([[False, True, False]]), torch.tensor([[False, False, True]])
    assert not bool(between(head, tail).any())


def test_words_have_the_means_of_their_tokens(encoder: TextEncoder) -> None:
    tokens = question_tokens(encoder.tokenizer, SENTENCES)
    tokens["place"][0, 2] = 0  # as if the first word had two tokens
    found = WordEncoder(encoder, last=2)(tokens)
    layers, _ = encoder.layers({name: tokens[name] for name in ("ids", "mask")}, 2)
    vectors = sum(layer / layer.norm(dim=-1, keepdim=True) for layer in layers) / 2
    torch.testing.assert_close(found[0, 0, :8], (vectors[0, 1] + vectors[0, 2]) / 2)
    torch.testing.assert_close(found[0, 3, :8], vectors[0, 4])
    assert found[0, :, 8].tolist() == [1, 0, 1, 1], "which are words"
    assert found[1, :, 8].tolist() == [1, 1, 1, 0]
    assert found[1, :, 9].tolist() == [0, 0, 1, 0], "which are of the head"


def test_spans_are_those_of_the_tail(encoder: TextEncoder) -> None:
    place = question_tokens(encoder.tokenizer, SENTENCES)["place"]
    assert spans_of(SENTENCES, place).tolist() == [[3, 3], [0, 0]]
    for tail, message in (
        ((4,), r"places of words must be 0 to 3.*found 4"),
        ((1, 3), r"words that follow one another; found \[1, 3\]"),
        ((), r"must have at least 1 word"),
    ):
        with pytest.raises(ValueError, match=message):
            spans_of([SENTENCES[0]._replace(tail=tail)], place[:1])


def test_an_entity_beyond_the_tokens_that_are_read_is_refused(encoder: TextEncoder) -> None:
    long = Sentence(tuple("abcdefgh"), (0,), (7,), "x")
    with (
        pytest.warns(UserWarning, match="Their ends are cut off"),
        pytest.raises(ValueError, match=r"within the 8 tokens.*the tail of sentence 0 is not"),
    ):
        entity_tokens(encoder.tokenizer, [long])


def test_a_question_stands_before_its_sentence(encoder: TextEncoder) -> None:
    with pytest.raises(ValueError, match="one question for each of 2 sentences; found 1"):
        encoder.tokenizer.of_words([("a",), ("b",)], ["z"])


def test_the_position_cnn_is_its_equations() -> None:
    torch.manual_seed(0)
    cnn = PositionCNN(30, 4, 2, 3, filters=6, hidden=5).double()
    ids = torch.tensor([[5, 6, 7, 8, 9, 0]])
    mask = torch.tensor([[True] * 5 + [False]])
    head, tail = torch.zeros_like(mask), torch.zeros_like(mask)
    head[0, 0] = tail[0, 2] = tail[0, 3] = True
    found = cnn({"ids": ids, "mask": mask, "head": head, "tail": tail})[0]
    e = cnn.embedding.weight
    rows = [
        torch.cat([e[ids[0, t]], cnn.to_head.weight[min(t, 3) + 3],
                   cnn.to_tail.weight[max(-3, min(t - 2, 3)) + 3]])
        for t in range(5)
    ]  # fmt: skip
    nothing = torch.zeros(8, dtype=torch.float64)
    padded = [nothing, *rows, nothing]
    maps = [cnn.convolution(torch.cat(padded[t : t + 3])) for t in range(5)]
    g = cnn.second(torch.stack(maps).max(0).values).tanh()
    none = torch.zeros(4, dtype=torch.float64)
    lexical = [e[5], none, e[6], (e[7] + e[8]) / 2, e[6], e[9]]
    torch.testing.assert_close(found, torch.cat([g, *lexical]))


def test_the_position_cnn_starts_from_embeddings() -> None:
    table = torch.randn(30, 8, generator=torch.Generator().manual_seed(0))
    cnn = PositionCNN(30, size=3).start_from(table)
    centred = (table - table.mean(0)).double()
    u, s, _ = torch.linalg.svd(centred, full_matrices=False)
    expected = u[:, :3] * s[:3]
    found = cnn.embedding.weight.double()
    cosines = torch.nn.functional.cosine_similarity(found, expected, dim=0)
    torch.testing.assert_close(cosines.abs(), torch.ones(3, dtype=torch.float64))
    with pytest.raises(ValueError, match="needs embeddings"):
        cnn.start_from(table[:5])


def test_whitened_features_vary_alike_within_classes() -> None:
    generator = torch.Generator().manual_seed(0)
    spread = torch.tensor([5.0, 1.0, 0.2])
    centres = torch.randn(4, 3, generator=generator)
    rows = torch.cat([c + spread * torch.randn(200, 3, generator=generator) for c in centres])
    base = LabelledRows(rows, torch.tensor([200] * 4), tuple("abcd"))
    network = Whitened(3, shrinkage=1e-6).fit_on(base)
    moved = (rows - network.mean) @ network.whitening
    within = torch.cat([part - part.mean(0) for part in moved.split(200)])
    covariance = within.mT @ within / len(within)
    torch.testing.assert_close(covariance / covariance[0, 0], torch.eye(3), atol=1e-3, rtol=1e-3)
    assert torch.allclose(network(rows).norm(dim=1), torch.ones(len(rows)))
    with pytest.raises(ValueError, match="needs rows of 3 features"):
        network.fit_on(LabelledRows(torch.ones(2, 2), torch.tensor([2]), ("a",)))
    with pytest.raises(ValueError, match="needs a class with 2 rows"):
        network.fit_on(LabelledRows(torch.ones(2, 3), torch.tensor([1, 1]), ("a", "b")))
