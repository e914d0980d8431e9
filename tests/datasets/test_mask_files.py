"""Pictures with PNG masks from a folder: what the values mean, and what is refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from quickstudy.datasets.mask_files import MaskError, at_size, decode_mask, read_mask_folder


def write(folder: Path, name: str, mask: np.ndarray | None, size=(10, 8), mode="L") -> None:
    """A picture of (width, height), and its mask."""
    for part in ("images", "masks"):
        (folder / part).mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(0).integers(0, 256, (size[1], size[0], 3), np.uint8)
    Image.fromarray(pixels).save(folder / "images" / f"{name}.png")
    if mask is not None:
        Image.fromarray(mask).convert(mode).save(folder / "masks" / f"{name}.png")


def halves(left: int, right: int, size=(10, 8)) -> np.ndarray:
    mask = np.full((size[1], size[0]), left, np.uint8)
    mask[:, size[0] // 2 :] = right
    return mask


def test_named_values_become_ids_in_their_order(tmp_path: Path) -> None:
    write(tmp_path, "a", halves(128, 0))
    write(tmp_path, "b", halves(255, 0), size=(10, 8))
    (tmp_path / "classes.txt").write_text("0 background\n255 nucleus\n\n128, cell body\n")
    found = read_mask_folder(tmp_path, 4)
    assert found.data.names == ("background", "cell body", "nucleus")
    assert found.values == (0, 128, 255)
    assert found.files == ("a.png", "b.png")
    assert found.data.masks.tolist() == [[[1, 1, 0, 0]] * 4, [[2, 2, 0, 0]] * 4]
    assert found.data.pictures.shape == (2, 3, 4, 4)


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ((0, 255), [(0, 255), (0, 1)]),
        ((0, 1), [(0, 1), (0, 1)]),
        ((3, 7), [(3, 7), (0, 1)]),
    ],
)
def test_without_names_the_values_that_occur_are_the_classes(tmp_path, values, expected) -> None:
    write(tmp_path, "a", halves(*values))
    found = read_mask_folder(tmp_path, 2)
    assert found.values == expected[0]
    assert found.data.masks[0, 0].tolist() == list(expected[1])


def test_255_beside_0_1_2_is_unknown(tmp_path: Path) -> None:
    write(tmp_path, "a", halves(0, 1))
    write(tmp_path, "b", halves(2, 255))
    found = read_mask_folder(tmp_path, 2)
    assert found.values == (0, 1, 2)
    assert found.data.masks[1, 0].tolist() == [2, -1]


def test_palettes_keep_their_numbers_and_masks_are_not_blurred(tmp_path: Path) -> None:
    image = Image.fromarray(halves(1, 2))
    image.putpalette([0, 0, 0, 200, 0, 0, 0, 200, 0])
    image.save(tmp_path / "p.png")
    assert np.array_equal(decode_mask(tmp_path / "p.png", "p"), halves(1, 2))
    assert set(np.unique(at_size(halves(0, 9, (7, 5)), (31, 3)))) == {0, 9}


def refused(tmp_path: Path, message: str, kind: type[Exception] = ValueError) -> None:
    with pytest.raises(kind, match=message):
        read_mask_folder(tmp_path, 4)


def test_a_mask_of_another_size_than_its_picture_is_refused(tmp_path: Path) -> None:
    write(tmp_path, "a", halves(0, 1, (5, 4)))
    refused(tmp_path, r"masks/a.png: .* size of its picture, 10 x 8 .*; found 5 x 4", MaskError)


def test_a_picture_stored_on_its_side_has_a_mask_of_its_upright_size(tmp_path: Path) -> None:
    write(tmp_path, "a", halves(0, 1, (8, 10)))
    exif = Image.Exif()
    exif[0x0112] = 6
    with Image.open(tmp_path / "images" / "a.png") as opened:
        opened.save(tmp_path / "images" / "a.png", exif=exif)
    assert read_mask_folder(tmp_path, 4).data.masks.shape == (1, 4, 4)


def test_values_without_a_name_are_refused(tmp_path: Path) -> None:
    write(tmp_path, "a", halves(0, 7))
    (tmp_path / "classes.txt").write_text("0 nothing\n1 cell\n")
    refused(tmp_path, r"a.png: .* those of classes.txt \(0, 1\) or 255 .*; found 7", MaskError)


@pytest.mark.parametrize("line", ["cell", "300 cell", "0 again", "1 nothing"])
def test_wrong_lines_of_classes_are_refused(tmp_path: Path, line: str) -> None:
    write(tmp_path, "a", halves(0, 1))
    (tmp_path / "classes.txt").write_text(f"0 nothing\n{line}\n")
    refused(tmp_path, r"classes.txt, line 2: must be a value of the masks from 0 to 255")


def test_missing_folders_files_and_pairs_are_refused(tmp_path: Path) -> None:
    refused(tmp_path, r"images: must be a folder of pictures; there is none", FileNotFoundError)
    write(tmp_path, "a", None)
    refused(tmp_path, r"masks: must hold PNG masks \(.png\); it is empty", FileNotFoundError)
    write(tmp_path, "b", halves(0, 1))
    refused(tmp_path, r"needs a mask of its name .* none for a.png \(1 of 2", FileNotFoundError)
    write(tmp_path, "a", halves(0, 1))
    (tmp_path / "images" / "b.png").unlink()
    refused(tmp_path, r"every mask needs a picture .* none for b.png", FileNotFoundError)


def test_a_corrupt_mask_is_refused_by_name(tmp_path: Path) -> None:
    write(tmp_path, "a", halves(0, 1))
    path = tmp_path / "masks" / "a.png"
    path.write_bytes(path.read_bytes()[:60])
    refused(tmp_path, r"masks/a.png: cannot be read", MaskError)
    path.write_bytes(b"GIF89a no mask")
    refused(tmp_path, r"masks/a.png: not an image. Known formats: PNG", MaskError)


def test_colours_and_single_classes_are_refused(tmp_path: Path) -> None:
    write(tmp_path, "a", halves(0, 1), mode="RGB")
    refused(tmp_path, r"one value a pixel; found colours \(RGB\)", MaskError)
    write(tmp_path, "a", halves(5, 5))
    refused(tmp_path, r"two classes or more; found the value 5 alone")


def test_classes_in_another_encoding_are_refused_with_the_line(tmp_path: Path) -> None:
    write(tmp_path, "a", halves(0, 1))
    (tmp_path / "classes.txt").write_bytes(b"0 rien\n1 \xe9toile\n")
    refused(tmp_path, r"classes.txt, line 2: must be in UTF-8; found the byte 0xe9")


def test_names_that_differ_in_capital_letters_alone_are_warned_of(tmp_path: Path) -> None:
    write(tmp_path, "a", halves(0, 1))
    (tmp_path / "classes.txt").write_text("0 Cell\n1 cell\n")
    with pytest.warns(UserWarning, match=r"classes.txt: names .* 'Cell' and 'cell'"):
        assert read_mask_folder(tmp_path, 4).data.names == ("Cell", "cell")


def test_a_class_of_which_no_pixel_is_left_is_refused(tmp_path: Path) -> None:
    mask = halves(0, 1)
    mask[0, 0] = 3  # between the pixels that are taken at size 2
    write(tmp_path, "a", mask)
    with pytest.raises(MaskError, match=r"reduced to 2 x 2; found none of the value 3\..*tiles"):
        read_mask_folder(tmp_path, 2)
    assert read_mask_folder(tmp_path, 10).values == (0, 1, 3)
