"""Feature maps of a pretrained network, joined or read from coarse to fine; remembered features."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import quickstudy as qs
from quickstudy.backbones import JoinedMaps, PixelMaps, PixelNet, Remembering
from quickstudy.backbones.feature_maps import unpacked

SHAPES = ((3, 8, 8), (2, 4, 4))


def vectors(n: int = 2) -> Tensor:
    return torch.randn(n, 3 * 64 + 2 * 16, generator=torch.Generator().manual_seed(0))


def test_maps_are_the_picture_and_the_outputs_of_the_last_blocks_of_a_resolution() -> None:
    plain, mapped = (qs.pretrained("efficientnet-lite0", size=64, maps=m) for m in (False, True))
    pictures, seen = torch.rand(2, 3, 64, 64), {}
    for place in (2, 4, 10, 15):  # the blocks before one that halves the side, and the last
        plain.blocks[place].register_forward_hook(
            lambda _, __, output, place=place: seen.update({place: output})
        )
    plain(pictures)
    maps = unpacked(mapped(pictures), mapped.map_shapes)
    assert [tuple(m.shape[1:]) for m in maps] == [
        (3, 32, 32), (24, 16, 16), (40, 8, 8), (112, 4, 4), (320, 2, 2),
    ]  # fmt: skip
    for found, place in zip(maps[1:], (2, 4, 10, 15), strict=True):
        assert torch.equal(found, seen[place])
    small = F.avg_pool2d((255 * pictures - 127) / 128, 2)
    torch.testing.assert_close(maps[0], small)
    assert mapped.features == mapped(pictures).shape[1]
    with pytest.raises(ValueError, match="maps leave no place for a head"):
        qs.backbones.EfficientNetLite(outputs=3, maps=True)


def test_joined_maps_have_length_one_at_each_position_before_they_are_resized() -> None:
    big, small = unpacked(vectors(), SHAPES)
    found = JoinedMaps(SHAPES, side=8)(vectors())
    torch.testing.assert_close(found[:, :3], big / big.norm(dim=1, keepdim=True))
    expected = F.interpolate(small / small.norm(dim=1, keepdim=True), (8, 8), mode="bilinear")
    torch.testing.assert_close(found[:, 3:], expected)
    assert JoinedMaps(SHAPES, side=4, chosen=(1,))(vectors()).shape == (2, 2, 4, 4)
    assert JoinedMaps(SHAPES, side=4, width=6)(vectors()).shape == (2, 6, 4, 4)
    assert JoinedMaps(SHAPES, side=8)(torch.zeros(1, 224)).isfinite().all()


@pytest.mark.parametrize("make", [lambda: JoinedMaps((), 4), lambda: JoinedMaps(SHAPES, 4, (2,))])
def test_maps_that_are_not_there_are_refused(make) -> None:
    with pytest.raises(ValueError, match="JoinedMaps: needs at least one map"):
        make()


def test_pixel_maps_and_the_small_net_give_the_finest_size() -> None:
    assert PixelMaps(SHAPES, width=8)(vectors()).shape == (2, 8, 8, 8)
    found = PixelNet(in_channels=1, width=8)(torch.rand(2, 1, 22, 18))
    assert found.shape == (2, 8, 11, 9)


class Counting(nn.Module):
    """The mean pixel; counts the rows that it computes."""

    features = 1

    def __init__(self) -> None:
        super().__init__()
        self.scale, self.rows = nn.Parameter(torch.ones(()), requires_grad=False), 0

    def forward(self, inputs: Tensor) -> Tensor:
        self.rows += len(inputs)
        return self.scale * inputs.flatten(1).mean(1, keepdim=True)


def test_each_input_is_computed_once_until_it_is_forgotten() -> None:
    counting = Counting().eval()
    backbone, inputs = Remembering(counting, most=3), torch.rand(4, 2)
    first = backbone(inputs[[0, 1, 0]])
    assert counting.rows == 2
    torch.testing.assert_close(first, inputs[[0, 1, 0]].mean(1, keepdim=True))
    backbone(inputs[[1, 2]])
    assert counting.rows == 3
    backbone(inputs[3:])  # the first is forgotten
    backbone(inputs[1:])
    assert counting.rows == 4
    backbone(inputs[:1])
    assert counting.rows == 5
    assert len(copy.deepcopy(backbone)._known.rows) == 0


def test_changed_weights_and_gradients_are_not_remembered() -> None:
    counting = Counting().eval()
    backbone, inputs = Remembering(counting), torch.rand(2, 2)
    backbone(inputs)
    with torch.no_grad():
        counting.scale.fill_(2.0)
    torch.testing.assert_close(backbone(inputs), 2 * inputs.mean(1, keepdim=True))
    counting.scale.requires_grad_(True)
    assert backbone(inputs).requires_grad
    counting.scale.requires_grad_(False)
    mapped = torch.func.vmap(backbone)(inputs[None])
    torch.testing.assert_close(mapped[0], 2 * inputs.mean(1, keepdim=True))


def test_what_normalises_over_rows_is_refused() -> None:
    with pytest.raises(ValueError, match="must not depend on other inputs"):
        Remembering(qs.backbones.Conv4(norm="batch"))
    with pytest.raises(ValueError, match="most must be at least 0; found -1"):
        Remembering(Counting(), most=-1)
