"""Shifts and masks of spectrograms, against loops over numpy arrays."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from quickstudy.tasks.augmentation import Chain, augmentation
from quickstudy.tasks.numbering import generator
from quickstudy.tasks.spectrogram_augmentation import Masks, Shifts

PICTURES = 0.1 + 0.9 * torch.rand(400, 1, 20, 30, generator=generator(7))


def moved(picture: np.ndarray, down: int, right: int) -> np.ndarray:
    """``picture`` moved, with zeros where nothing was."""
    result = np.zeros_like(picture)
    height, width = picture.shape
    for y in range(max(0, down), min(height, height + down)):
        for x in range(max(0, right), min(width, width + right)):
            result[y, x] = picture[y - down, x - right]
    return result


def test_a_shift_moves_whole_bands_and_frames_and_brings_in_silence() -> None:
    shifted = Shifts(time=0.1, bands=0.1)(PICTURES[:60], generator(0)).numpy()
    found = set()
    for before, after in zip(PICTURES[:60, 0].numpy(), shifted[:, 0], strict=True):
        hits = [
            (down, right) for down in range(-2, 3) for right in range(-3, 4)
            if np.array_equal(moved(before, down, right), after)
        ]  # fmt: skip
        assert len(hits) == 1
        found.add(hits[0])
    assert len(found) > 15  # of 35
    assert torch.equal(Shifts(0, 0)(PICTURES, generator(0)), PICTURES)


def test_masks_erase_one_range_of_each_kind() -> None:
    masked = Masks(time=0.2, bands=0.3)(PICTURES, generator(0))
    widths, ends = {"bands": [], "time": []}, np.zeros((2, 2), int)
    for before, after in zip(PICTURES[:, 0], masked[:, 0], strict=True):
        erased = after != before
        assert torch.allclose(after[erased], before.mean())
        rows, columns = erased.all(1), erased.all(0)
        assert torch.equal(erased, rows[:, None] | columns[None])
        ends += np.array([[rows[0], rows[-1]], [columns[0], columns[-1]]], int)
        for name, lines in (("bands", rows), ("time", columns)):
            where = lines.nonzero().flatten()
            assert len(where) == 0 or len(where) == where[-1] - where[0] + 1  # one range
            widths[name].append(len(where))
    for found, most in ((widths["bands"], 6), (widths["time"], 6)):
        counts = np.bincount(found, minlength=most + 1)
        assert len(counts) == most + 1
        assert counts.min() > 25  # 57 each are expected, with a deviation of about 7
    assert ends.min() > 5  # about 25 reach each end
    assert ((Masks(count=3)(PICTURES, generator(0)) != PICTURES).float().mean()
            > (Masks()(PICTURES, generator(0)) != PICTURES).float().mean())  # fmt: skip


def test_the_same_generator_state_gives_the_same_pictures() -> None:
    both = augmentation("shifts+masks")
    assert isinstance(both, Chain)
    assert torch.equal(both(PICTURES, generator(3)), both(PICTURES, generator(3)))
    assert not torch.equal(both(PICTURES, generator(3)), both(PICTURES, generator(4)))


@pytest.mark.parametrize(
    "wrong", [lambda: Shifts(time=1.5), lambda: Masks(bands=-0.1), lambda: Masks(count=0)]
)
def test_settings_out_of_range_are_refused(wrong) -> None:
    with pytest.raises(ValueError, match="must be"):
        wrong()
    with pytest.raises(ValueError, match="masks: needs images"):
        Masks()(torch.rand(3, 5), generator(0))
