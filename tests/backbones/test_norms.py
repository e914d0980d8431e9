"""The norms and the backbones: statistics, row weights and shapes."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import quickstudy as qs
from quickstudy.backbones.norms import (
    BatchNorm,
    RunningNorm,
    SupportNorm,
    counting,
    embed_query,
    embed_support,
    estimating,
    make_norm,
    norm_policy,
)
from quickstudy.base.weighting import uniform_weights


def rows(n: int = 6) -> torch.Tensor:
    return torch.randn(n, 8, 5, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(n))


def test_batch_norm_equals_torchs():
    torch.testing.assert_close(
        BatchNorm(8).double()(rows()), F.batch_norm(rows(), None, None, training=True)
    )


def test_batch_norm_weights_rows():
    layer, x = BatchNorm(8).double(), rows()
    weights = torch.tensor([2.0, 1, 1, 0, 1, 0], dtype=torch.float64)
    repeated = torch.cat([x[:1], x[[0, 1, 2, 4]]])
    with counting(weights):
        weighted = layer(x)
    torch.testing.assert_close(weighted[[0, 1, 2, 4]], layer(repeated)[1:])
    with uniform_weights(), counting(torch.ones(6)):
        torch.testing.assert_close(layer(x), F.batch_norm(x, None, None, training=True))


def test_support_norm_reuses_the_supports_statistics():
    layer, support, query = SupportNorm(8).double(), rows(), rows(9)
    examples = qs.Examples(support, torch.zeros(6), torch.ones(6, dtype=torch.float64),
                           torch.zeros(6).long())  # fmt: skip
    features, statistics = embed_support(layer, examples)
    torch.testing.assert_close(features, F.batch_norm(support, None, None, training=True))
    mean, variance = support.mean((0, 2, 3)), support.var((0, 2, 3), correction=0)
    expected = F.batch_norm(query, mean, variance)
    torch.testing.assert_close(embed_query(layer, query, statistics), expected)
    with pytest.raises(RuntimeError, match="embed_support and embed_query"):
        layer(query)


def test_running_norm_updates_statistics_only_when_estimating():
    layer = RunningNorm(8).double()
    parts = [rows(n) * n + n for n in (3, 4, 5)]
    before = layer.mean.clone()
    for part in parts:
        layer(part)
    assert layer.mean.equal(before)
    with torch.no_grad(), estimating():
        for part in parts:
            layer(part)
    all_rows = torch.cat(parts)
    torch.testing.assert_close(layer.mean, all_rows.mean((0, 2, 3)))
    torch.testing.assert_close(layer.variance, all_rows.var((0, 2, 3), correction=0))
    layer.eval()
    expected = F.batch_norm(parts[0], layer.mean, layer.variance)
    torch.testing.assert_close(layer(parts[0]), expected)
    assert not layer.sees_other_rows


def test_rows_of_weight_0_are_not_in_the_population():
    layer, x = RunningNorm(8).double(), rows()
    weights = torch.tensor([2.0, 1, 1, 0, 1, 0], dtype=torch.float64)
    with torch.no_grad(), estimating(), counting(weights):
        layer(x)
    expected = torch.cat([x[:1], x[[0, 1, 2, 4]]])
    torch.testing.assert_close(layer.mean, expected.mean((0, 2, 3)))
    torch.testing.assert_close(layer.variance, expected.var((0, 2, 3), correction=0))


def test_unknown_norms_are_refused_and_known_ones_reported():
    with pytest.raises(ValueError, match="'layer'"):
        make_norm("layer", 8)
    for norm in ("group", "batch", "support", "running"):
        assert norm_policy(qs.backbones.Conv4(8, norm)) == norm
    assert norm_policy(qs.backbones.MLP()) == "none"
    assert norm_policy(nn.Sequential(nn.LayerNorm(3))) == "torch LayerNorm"


@pytest.mark.parametrize("channels", [8, 12, 64])
def test_group_norm_takes_any_width(channels):
    assert make_norm("group", channels)(torch.randn(2, channels, 3, 3)).isfinite().all()


@pytest.mark.parametrize(
    ("net", "shape", "features"),
    [
        (qs.backbones.Conv4(), (1, 28, 28), 64),
        (qs.backbones.Conv4(32, in_channels=3, image_size=84), (3, 84, 84), 800),
        (qs.backbones.Conv4(8, image_size=16, outputs=5), (1, 16, 16), 5),
        (qs.backbones.ResNet12((8, 8, 16, 16)), (3, 32, 32), 16),
        (qs.backbones.ResNet12((8, 8, 16, 16), outputs=7), (3, 84, 84), 7),
        (qs.backbones.MLP(12, (6, 5)), (3, 4), 5),
        (qs.backbones.MLP(), (1,), 40),
    ],
    ids=str,
)
def test_backbones_output_as_many_features_as_they_declare(net, shape, features):
    assert net(torch.rand(2, *shape)).shape == (2, features)
    assert net.outputs == features if net.outputs else net.features == features


def test_conv4_has_the_papers_size():
    # 1*64*9 + 3*64*64*9 weights, 4*64 biases, 4*2*64 of the norm
    assert sum(p.numel() for p in qs.backbones.Conv4().parameters()) == 111_936


def test_impossible_backbones_are_refused():
    with pytest.raises(ValueError, match="16 pixels or more; found 12"):
        qs.backbones.Conv4(image_size=12)
    with pytest.raises(ValueError, match="4 blocks"):
        qs.backbones.ResNet12((8, 8))
    with pytest.raises(ValueError, match="at least one hidden layer"):
        qs.backbones.MLP(hidden=())
