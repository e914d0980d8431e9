"""Emoji pasted over photographs: the mask is where the emoji is opaque."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from quickstudy.datasets import cache, emoji_masks
from quickstudy.datasets.emoji_masks import SIZE, paste


def test_a_picture_shows_the_emoji_where_its_mask_is() -> None:
    """Two emoji of one colour, of which the right half is transparent."""
    ground = torch.full((3, SIZE, SIZE), 100, dtype=torch.uint8)
    red, green = torch.zeros(2, 4, 32, 32, dtype=torch.uint8)
    red[0], green[1] = 255, 255
    for each in (red, green):
        each[3, :, :16] = 255
    for seed in range(5):
        picture, places = paste(ground, [red, green], torch.Generator().manual_seed(seed))
        assert set(places.unique().tolist()) == {0, 1, 2}
        for number, channel in ((1, 0), (2, 1)):
            inside = picture[:, places == number].float().mean(1)
            assert inside[channel] > 240
            columns = (places == number).any(0).sum()
            rows = (places == number).any(1).sum()
            assert 28 <= rows <= 56
            assert abs(float(columns) - float(rows) / 2) <= 1
        assert (picture[:, places == 0].float() - 100).abs().mean() < 2
    assert (ground == 100).all()


def test_pictures_of_a_split_show_two_classes_each_in_all_designs(
    shared_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cache, "user_cache", lambda: tmp_path)
    monkeypatch.setenv("QUICKSTUDY_DATA", str(shared_data))
    found, again = (emoji_masks.load(None, "val", pictures=130, size=64) for _ in range(2))
    assert torch.equal(found.pictures, again.pictures)
    assert found.pictures.shape == (130, 3, 64, 64)
    assert len(found.names) == 252
    pairs = found.objects.unflatten(0, (130, 2))
    assert (pairs[:, 0, 2] != pairs[:, 1, 2]).all()
    assert set(found.objects[:, 3].tolist()) == {0, 1, 2, 3}
    assert len(found.objects[:, 2].unique()) == 252
    for picture, number, _, _ in found.objects[:20].tolist():
        assert (found.places[picture] == number).any()


def test_other_splits_are_refused() -> None:
    with pytest.raises(ValueError, match="split must be one of train, val, test"):
        emoji_masks.load(None, "all")
