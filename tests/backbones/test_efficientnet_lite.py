"""EfficientNet-Lite against the package efficientnet-lite-pytorch, and on any picture."""

from __future__ import annotations

import pytest
import torch
from efficientnet_lite_pytorch import EfficientNet
from torch import nn

from quickstudy.backbones import EfficientNetLite
from quickstudy.backbones.norms import norm_policy, rows_see_one_another
from quickstudy.backbones.pretrained.lite import renamed


def reference(version: int, size: int) -> EfficientNet:
    """The package's network, with random weights and statistics."""
    torch.manual_seed(version)
    net = EfficientNet.from_name(f"efficientnet-lite{version}", image_size=size).eval()
    for name, buffer in net.named_buffers():
        if buffer.is_floating_point():
            buffer.uniform_(0.5, 1.5) if name.endswith("var") else buffer.normal_(0, 0.1)
    return net


@pytest.mark.parametrize(("version", "size"), [(0, 64), (1, 75), (2, 65)])
def test_logits_are_those_of_the_reference_package(version, size):
    # In float64 with random weights; odd sizes pad both sides, even ones only the end.
    other = reference(version, size).double()
    ours = EfficientNetLite(version, size=size, outputs=1000).double()
    ours.load_state_dict(renamed(other.state_dict()))
    images = torch.rand(1, 3, size, size, dtype=torch.float64)
    expected = other(ours.prepared(images))
    assert expected.std() > 1e-3
    torch.testing.assert_close(ours(images), expected, rtol=1e-9, atol=1e-9)


def test_pixels_are_scaled_as_published():
    images = torch.tensor([0, 127, 255]).view(1, 1, 1, 3) / 255
    prepared = EfficientNetLite(size=32).prepared(images.expand(1, 3, 32, 3).repeat(1, 1, 1, 11))
    assert prepared.shape == (1, 3, 32, 32)
    net = EfficientNetLite(size=33)
    exact = net.prepared(images.repeat(1, 3, 33, 11))[0, 0, 0, :3]
    assert torch.allclose(exact, torch.tensor([-127.0, 0.0, 128.0]) / 128, atol=1e-6)


def test_grey_pictures_are_colour_pictures_of_equal_channels():
    net = EfficientNetLite(size=32)
    grey = torch.rand(2, 1, 28, 40)
    assert torch.equal(net(grey), net(grey.expand(-1, 3, -1, -1)))


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (torch.rand(2, 4, 32, 32), "1 or 3 channels; found shape \\(2, 4, 32, 32\\)"),
        (torch.rand(2, 32, 32), "found shape \\(2, 32, 32\\)"),
        (torch.rand(2, 3, 0, 32), "found shape \\(2, 3, 0, 32\\)"),
        (torch.full((1, 3, 32, 32), 200.0), r"in \[0, 1\]; found 200 to 200.*by 255"),
        (torch.linspace(-2, 2, 3072).view(1, 3, 32, 32), "found -2 to 2.*do not standardise"),
        (torch.full((1, 3, 32, 32), torch.nan), "found nan to nan"),
        (torch.zeros(1, 3, 32, 32, dtype=torch.uint8), "found torch.uint8"),
        (torch.zeros(1, 3, 32, 32, dtype=torch.complex64), "found torch.complex64"),
    ],
)
def test_other_inputs_are_refused(images, message):
    with pytest.raises(ValueError, match=message):
        EfficientNetLite(size=32)(images)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_pictures_are_resized_in_every_type_of_number(dtype):
    net = EfficientNetLite(size=32).eval()
    images = torch.rand(2, 3, 40, 24)
    found = net.to(dtype).prepared(images.to(dtype))
    assert found.dtype == dtype
    torch.testing.assert_close(found.float(), net.prepared(images), atol=0.02, rtol=0)
    assert net(images.to(dtype)).isfinite().all()


def test_other_versions_and_sizes_are_refused():
    with pytest.raises(ValueError, match="0, 1 or 2; found 3"):
        EfficientNetLite(3)
    with pytest.raises(ValueError, match="32 pixels or more"):
        EfficientNetLite(size=16)


def test_rows_do_not_see_one_another_in_training_either():
    net = EfficientNetLite(size=32).train()
    images = torch.rand(3, 3, 32, 32)
    assert not rows_see_one_another(net)
    assert norm_policy(net) == "stored"
    torch.testing.assert_close(net(images)[:1], net(images[:1]), rtol=1e-4, atol=1e-5)


def test_vmap_equals_a_loop_in_values_and_second_derivatives():
    # The first blocks, which have every kind of layer: those after them are more of the same.
    whole = EfficientNetLite(size=32).double()
    net = nn.Sequential(whole.stem, *whole.blocks[:3])
    images = torch.rand(2, 2, 3, 20, 20, dtype=torch.float64)
    scale = net[2].expand.scale

    def stepped(x):
        # The gradient of the loss after one step on the loss: a second derivative.
        def loss(scale):
            weights = {"2.expand.scale": scale}
            return torch.func.functional_call(net, weights, whole.prepared(x)).square().mean()

        return torch.func.grad(lambda s: loss(s - 0.1 * torch.func.grad(loss)(s)))(scale)

    expected = torch.stack([stepped(x) for x in images])
    torch.testing.assert_close(torch.vmap(stepped)(images), expected, rtol=1e-9, atol=1e-12)
    assert expected.abs().max() > 0


def test_parameters_are_as_many_as_published():
    # Millions with the head of 1,000 classes, as the authors list them: 4.7, 5.4 and 6.1.
    counts = [
        sum(p.numel() for p in EfficientNetLite(v, outputs=1000).parameters()) for v in (0, 1, 2)
    ]
    assert [round(n / 1e6, 1) for n in counts] == [4.7, 5.4, 6.1]
