"""Seq2Seq equals a transformer written out place by place, and reads what it should alone."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from quickstudy.backbones import Seq2Seq

V, SIZE = 9, 8


def network(**options: bool) -> Seq2Seq:
    torch.manual_seed(0)
    made = Seq2Seq(V, SIZE, layers=2, heads=2, **options).double()
    with torch.no_grad():
        made.bias.normal_()
    return made


def inputs() -> dict[str, Tensor]:
    return {
        "source": torch.tensor([[4, 5, 6, 0], [7, 8, 0, 0]]),
        "before": torch.tensor([[1, 6, 5], [1, 7, 0]]),
    }


def norm(x: Tensor) -> Tensor:
    return (x - x.mean()) / ((x - x.mean()).square().mean() + 1e-5).sqrt()


def linear(layer: torch.nn.Linear, x: Tensor) -> Tensor:
    return layer.weight @ x + (0 if layer.bias is None else layer.bias)


def attend(part: torch.nn.Module, x: Tensor, memory: list[Tensor]) -> tuple[Tensor, Tensor]:
    """What one place reads in a list of places, head by head."""
    read, shares = [], []
    for head in range(2):
        of = slice(head * SIZE // 2, (head + 1) * SIZE // 2)
        query = linear(part.query, x)[of]
        scores = [query @ linear(part.key, m)[of] / math.sqrt(SIZE / 2) for m in memory]
        share = torch.stack(scores).exp() / torch.stack(scores).exp().sum()
        shares.append(share)
        read.append(sum(s * linear(part.value, m)[of] for s, m in zip(share, memory, strict=True)))
    return linear(part.mix, torch.cat(read)), torch.stack(shares).mean(0)


def perceptron(layer: torch.nn.Module, x: Tensor) -> Tensor:
    first, _, last = layer.feed_forward
    hidden = linear(first, x)
    return linear(last, hidden * 0.5 * (1 + torch.erf(hidden / math.sqrt(2))))


def embedded(net: Seq2Seq, token: int, place: int) -> Tensor:
    angles = [place / 10_000 ** (2 * i / SIZE) for i in range(SIZE // 2)]
    where = [f(a) for a in angles for f in (math.sin, math.cos)]
    return net.tokens.weight[token] * math.sqrt(SIZE) + torch.tensor(where).double()


def written_out(net: Seq2Seq, source: list[int], before: list[int]) -> Tensor:
    """Log-probabilities after the last token of ``before``."""
    read = [embedded(net, token, k) for k, token in enumerate(source)]
    for layer in net.encoder:
        normal = [norm(x) for x in read]
        read = [x + attend(layer.own, n, normal)[0] for x, n in zip(read, normal, strict=True)]
        read = [x + perceptron(layer, norm(x)) for x in read]
    memory = [norm(x) for x in read]
    rows = [embedded(net, token, k) for k, token in enumerate(before)]
    for layer in net.decoder:
        normal = [norm(x) for x in rows]
        rows = [x + attend(layer.own, normal[k], normal[: k + 1])[0] for k, x in enumerate(rows)]
        found = [attend(layer.other, norm(x), memory) for x in rows]
        rows = [x + of[0] for x, of in zip(rows, found, strict=True)]
        rows = [x + perceptron(layer, norm(x)) for x in rows]
    last = norm(rows[-1])
    scores = net.tokens.weight @ last + net.bias
    written = scores.exp() / scores.exp().sum()
    if not net.copies:
        return written.log()
    copied = torch.zeros(V).double()
    for token, share in zip(source, found[-1][1], strict=True):
        copied[token] += share
    gate = 1 / (1 + (-linear(net.gate, last)).exp())
    return (gate * written + (1 - gate) * copied + 1e-9).log()[:V]


@pytest.mark.parametrize("copies", [True, False])
def test_it_equals_the_transformer_written_out_for_each_place(copies: bool) -> None:
    net = network(copies=copies)
    found = net(inputs())
    for row, source in enumerate(([4, 5, 6], [7, 8])):
        before = [token for token in inputs()["before"][row].tolist() if token]
        for k in range(len(before)):
            expected = written_out(net, source, before[: k + 1])
            assert torch.allclose(found[row, k], expected, atol=1e-9), (row, k)


def test_probabilities_sum_to_one_and_tokens_of_the_source_alone_can_be_copied() -> None:
    net = network()
    with torch.no_grad():
        net.gate.weight.zero_()
        net.gate.bias.fill_(-40.0)  # it only copies
    found = net(inputs()).exp()
    assert torch.allclose(found.sum(-1), torch.ones(2, 3).double(), atol=1e-7)
    assert found[0, :, [4, 5, 6]].sum().item() == pytest.approx(3, abs=1e-6)


def test_padding_costs_nothing_and_changes_nothing() -> None:
    net, given = network(), inputs()
    wide = {name: torch.nn.functional.pad(ids, (0, 3)) for name, ids in given.items()}
    found = net(wide)
    assert found.shape == (2, 6, V)
    assert torch.allclose(found[:, :3], net(given), atol=1e-12)
    assert not found[:, 3:].any()


def test_second_derivatives_under_vmap_equal_those_of_a_loop() -> None:
    net, given = network(), inputs()
    weights = {n: p.detach() for n, p in net.named_parameters() if p.numel() < 200}

    def curved(ids: dict[str, Tensor]) -> Tensor:
        def gradient_norm(some: dict[str, Tensor]) -> Tensor:
            def loss(w: dict[str, Tensor]) -> Tensor:
                rows = {name: leaf[None] for name, leaf in ids.items()}
                return torch.func.functional_call(net, w, (rows,))[0, 0, 4]

            return sum(g.square().sum() for g in torch.func.grad(loss)(some).values())

        return torch.func.grad(gradient_norm)(weights)["gate.weight"]

    mapped = torch.func.vmap(curved)(given)
    looped = [curved({name: ids[row] for name, ids in given.items()}) for row in range(2)]
    assert torch.allclose(mapped, torch.stack(looped), atol=1e-10)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"source": torch.ones(1, 2).long()}, "source .n, s. and before .n, t."),
        ({"source": torch.ones(1, 2), "before": torch.ones(1, 2).long()}, "must be integers"),
        ({"source": torch.tensor([[9]]), "before": torch.ones(1, 1).long()}, "0 to 8; found 9"),
    ],
)
def test_what_is_no_tokens_is_refused(wrong: dict[str, Tensor], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        network()(wrong)


def test_sizes_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ValueError, match=r"even size that heads divide; found .*size=10"):
        Seq2Seq(V, size=10, heads=4)
