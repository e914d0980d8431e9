"""White blood cells: pictures and labels are those published, in whatever packing."""

from __future__ import annotations

import io
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from quickstudy import datasets
from quickstudy.datasets import cache, wbc
from quickstudy.datasets.limits import ArchiveError


@pytest.fixture
def root(shared_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(cache, "user_cache", lambda: tmp_path / "cache")
    return shared_data


def repacked(root: Path, to: Path) -> Path:
    """The folder of the publication: BMP pictures beside PNG masks, and both tables."""
    folder = to / "wbc" / "Dataset 1"
    folder.mkdir(parents=True)
    with zipfile.ZipFile(root / "wbc" / "wbc_dataset1.zip") as archive:
        for name in archive.namelist():
            data = archive.read(name)
            if "/images/" in name:
                Image.open(io.BytesIO(data)).save(folder / f"{Path(name).stem}.bmp")
            elif "/masks/" in name:
                (folder / Path(name).name).write_bytes(data)
            else:
                (to / "wbc" / "Class Labels of Dataset 1.csv").write_bytes(data)
    (to / "wbc" / "Class Labels of Dataset 2.csv").write_text("image ID,class label\n1,5\n")
    return to


def test_all_four_types_are_test_classes(root: Path, tmp_path: Path) -> None:
    data = datasets.load("wbc", root, size=16)
    assert data.test.counts.tolist() == [176, 53, 48, 22]
    assert len(data.train) == len(data.val) == 0
    assert data.test.inputs.shape == (299, 3, 16, 16)
    with zipfile.ZipFile(root / "wbc" / "wbc_dataset1.zip") as archive:
        first = Image.open(io.BytesIO(archive.read("dataset1/images/002.png"))).convert("RGB")
    expected = torch.from_numpy(np.asarray(first, dtype=np.float32)).mean((0, 1))
    found = data.test.inputs[0].float().mean((1, 2))  # picture 002 is the first of label 1
    torch.testing.assert_close(found, expected, atol=4.0, rtol=0)
    unpacked = datasets.load("wbc", repacked(root, tmp_path / "own"), size=16)
    assert torch.equal(unpacked.test.inputs, data.test.inputs)


def test_masks_are_those_of_the_pictures_and_whole(root: Path, tmp_path: Path) -> None:
    data = wbc.load_masks(root, size=32)
    assert data.names == ("background", "cytoplasm", "nucleus")
    assert len(data) == 300
    with zipfile.ZipFile(root / "wbc" / "wbc_dataset1.zip") as archive:
        for row in (0, 150, 299):
            with archive.open(f"dataset1/masks/{row + 1:03d}.png") as stream:
                mask = np.asarray(Image.open(stream))
            for k, grey in enumerate((0, 128, 255)):
                share = float((data.masks[row] == k).float().mean())
                assert share == pytest.approx((mask == grey).mean(), abs=0.02)
    own = repacked(root, tmp_path / "own")  # masks beside BMP pictures
    (own / "wbc" / "Dataset 1" / "002.png").write_bytes(
        (own / "wbc" / "Dataset 1" / "001.png").read_bytes()
    )
    with pytest.raises(ArchiveError, match="the masks differ from the published ones"):
        wbc.load_masks(own, size=16)
    (own / "wbc" / "Dataset 1" / "002.png").unlink()
    with pytest.raises(FileNotFoundError, match=r"a mask for each of the 300 pictures.*found 299"):
        wbc.load_masks(own, size=16)


def test_altered_and_missing_data_are_refused(root: Path, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="Get Dataset 1"):
        datasets.load("wbc", tmp_path / "none")
    own = repacked(root, tmp_path)
    picture = own / "wbc" / "Dataset 1" / "017.bmp"
    Image.new("RGB", (120, 120)).save(picture)
    with pytest.raises(ArchiveError, match="differ from the published ones"):
        datasets.load("wbc", own, size=16)
    picture.unlink()
    with pytest.raises(ArchiveError, match="found 299 pictures and 300 labels"):
        datasets.load("wbc", own, size=16)
