"""Pictures with PNG masks from a folder: ``images/cell.jpg`` and ``masks/cell.png``.

A mask has one value for each pixel of its picture. ``classes.txt`` beside the two folders names
the values, one a line, such as ``128 cytoplasm``. Without it, the values that occur are the
classes; 255 beside 0, 1, 2, … marks pixels that are unknown, as in PASCAL VOC.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from quickstudy.base.names import warn_of_alike
from quickstudy.base.shown import shown
from quickstudy.base.words import count, first_few
from quickstudy.datasets.images import (
    EXIF_ON_ITS_SIDE,
    EXIF_ORIENTATION,
    SUFFIXES,
    ImageError,
    decode,
    opened_safely,
)
from quickstudy.datasets.row_files import read_utf8
from quickstudy.tasks.masks import MaskedPictures

IMAGES, MASKS, CLASSES = "images", "masks", "classes.txt"
UNKNOWN = 255
MOST_CLASSES = 256
MOST_BYTES = 2**20
"""Of ``classes.txt``."""


class MaskError(ImageError):
    """A file that cannot be used as the mask of a picture."""


@dataclass(frozen=True)
class MaskFolder:
    """What a folder of pictures and masks holds.

    ``data``    the pictures and masks, all of one size.
    ``values``  of each class in the mask files.
    ``files``   the names of the pictures.
    """

    data: MaskedPictures
    values: tuple[int, ...]
    files: tuple[str, ...]


def read_mask_folder(path: str | Path, size: int) -> MaskFolder:
    """The pictures in ``path/images`` with the masks of the same name in ``path/masks``.

    Pictures of all formats, masks as PNG. Whole pictures and masks are stretched to ``size`` x
    ``size`` pixels: pictures bicubic, masks by the nearest pixel, so that no class is made up.

    Raises FileNotFoundError for a missing folder, file or mask; ImageError or :class:`MaskError`
    (both ValueError) for a picture or mask that cannot be read, a mask of another size than its
    picture, values that ``classes.txt`` does not name, a class of which no pixel is left at this
    size; and ValueError for masks of a single class, and a wrong line of ``classes.txt``.
    """
    top = Path(path).expanduser()
    pictures = _by_stem(top / IMAGES, SUFFIXES, "pictures")
    masks = _by_stem(top / MASKS, (".png",), "PNG masks")
    _refuse_unpaired(top, pictures, masks)
    named = _named_values(top / CLASSES)
    rows, ids, shown_values = [], [], set()
    for stem, picture in pictures.items():
        rows.append(decode(picture, str(picture), size=size, channels=3, whole=True))
        mask = decode_mask(masks[stem], str(masks[stem]))
        _refuse_other_size(picture, masks[stem], mask)
        if named is not None:
            _refuse_unnamed(masks[stem], mask, named, top / CLASSES)
        shown_values |= {int(value) for value in np.unique(mask)}
        ids.append(nearest(mask, size))
    _refuse_lost(top, shown_values, ids, size)
    values, names = _classes(top, ids, named)
    warn_of_alike(str(top / CLASSES), names)
    data = MaskedPictures(
        torch.from_numpy(np.stack(rows)),
        torch.from_numpy(np.stack([_numbered(mask, values) for mask in ids])),
        names,
    )
    return MaskFolder(data, values, tuple(picture.name for picture in pictures.values()))


def decode_mask(source: Path | bytes, name: str) -> np.ndarray:
    """(height, width) uint8: the value of each pixel of a mask.

    Grey masks of 1, 8 or 16 bits, and palettes, whose numbers are the values. Raises
    :class:`MaskError`, naming the file, for colours, values above 255, and files that are no PNG.
    """
    try:
        with opened_safely(source, name, ("PNG",)) as opened:
            mode, values = opened.mode, np.asarray(opened)
    except ImageError as error:
        raise MaskError(str(error)) from error
    if mode not in ("1", "L", "P", "I;16", "I"):
        raise MaskError(
            f"{name}: a mask must have one value a pixel; found colours ({mode}). Save it as a "
            "grey picture or with a palette, the class as the value."
        )
    if values.size and int(values.max()) > UNKNOWN:
        raise MaskError(
            f"{name}: values of a mask must be 0 to {UNKNOWN}; found {int(values.max())}. Renumber "
            "the classes."
        )
    return values.astype(np.uint8)


def nearest(mask: np.ndarray, size: int) -> np.ndarray:
    """(size, size): the value nearest to the middle of each new pixel."""
    return at_size(mask, (size, size))


def at_size(mask: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """A mask (height, width) at another size, by the nearest pixel."""
    rows, columns = (
        ((np.arange(new) + 0.5) * old / new).astype(np.intp)
        for old, new in zip(mask.shape, size, strict=True)
    )
    result: np.ndarray = mask[rows][:, columns]
    return result


def _by_stem(folder: Path, suffixes: Sequence[str], what: str) -> dict[str, Path]:
    """The files of a folder by their names without suffix."""
    if not folder.is_dir():
        raise FileNotFoundError(
            f"{folder}: must be a folder of {what}; there is none. Put pictures into {IMAGES}/ and "
            f"a mask of the same name for each into {MASKS}/."
        )
    found: dict[str, Path] = {}
    for path in sorted(folder.iterdir()):
        if path.name.startswith(".") or path.suffix.lower() not in suffixes:
            continue
        if path.stem in found:
            raise ValueError(
                f"{folder}: names without their endings must differ; found {found[path.stem].name} "
                f"and {path.name}. Rename one of them, and its mask."
            )
        found[path.stem] = path
    if not found:
        raise FileNotFoundError(
            f"{folder}: must hold {what} ({', '.join(suffixes)}); it is empty. Add one for each "
            "picture."
        )
    return found


def _refuse_unpaired(top: Path, pictures: Mapping[str, Path], masks: Mapping[str, Path]) -> None:
    alone = [pictures[stem].name for stem in pictures if stem not in masks]
    if alone:
        raise FileNotFoundError(
            f"{top}: every picture needs a mask of its name in {MASKS}/; found none for "
            f"{first_few(alone, 3)} ({len(alone)} of {count(len(pictures), 'picture')}). Add the "
            "masks, or move these pictures away."
        )
    alone = [masks[stem].name for stem in masks if stem not in pictures]
    if alone:
        raise FileNotFoundError(
            f"{top}: every mask needs a picture of its name in {IMAGES}/; found none for "
            f"{first_few(alone, 3)} ({count(len(alone), 'mask')}). Add the pictures, or remove the "
            "masks."
        )


def _refuse_other_size(picture: Path, file: Path, mask: np.ndarray) -> None:
    with opened_safely(picture, str(picture)) as opened:
        width, height = opened.size
        if opened.getexif().get(EXIF_ORIENTATION, 1) in EXIF_ON_ITS_SIDE:  # decode turns it upright
            width, height = height, width
    if mask.shape != (height, width):
        raise MaskError(
            f"{file}: a mask must have the size of its picture, {width} x {height} pixels; found "
            f"{mask.shape[1]} x {mask.shape[0]}. Save it again for {picture.name}, unscaled."
        )


def _refuse_lost(top: Path, given: set[int], masks: Sequence[np.ndarray], size: int) -> None:
    left = {int(value) for mask in masks for value in np.unique(mask)}
    lost = sorted(given - left - {UNKNOWN})
    if lost:
        raise MaskError(
            f"{top / MASKS}: every class must keep a pixel where masks are reduced to {size} x "
            f"{size}; found none of the value {first_few([str(value) for value in lost], 4)}. Its "
            "objects are too small: raise the size, or cut the pictures into tiles."
        )


def _named_values(path: Path) -> dict[int, str] | None:
    """The name of each value in ``classes.txt``; None where there is no such file."""
    if not path.exists():
        return None
    if path.stat().st_size > MOST_BYTES:
        raise ValueError(f"{path}: must have one class a line; found over {MOST_BYTES:,} bytes.")
    found: dict[int, str] = {}
    for number, line in enumerate(read_utf8(path).splitlines(), 1):
        if not line.strip():
            continue
        match = re.fullmatch(r"\s*(\d{1,3})[\s,:]+(\S.*?)\s*", line)
        value = int(match[1]) if match else -1
        if match is None or value > UNKNOWN or value in found or match[2] in found.values():
            raise ValueError(
                f"{path}, line {number}: must be a value of the masks from 0 to 255 and the name "
                f"of its class, each given once, such as `128 cytoplasm`; found {shown(line)}. "
                "Correct the line."
            )
        found[value] = match[2]
    if len(found) < 2:
        raise ValueError(
            f"{path}: needs two classes or more; found {len(found)}. Name the background too."
        )
    return found


def _refuse_unnamed(file: Path, mask: np.ndarray, named: Mapping[int, str], classes: Path) -> None:
    strange = [int(v) for v in np.unique(mask) if int(v) not in named and v != UNKNOWN]
    if strange:
        raise MaskError(
            f"{file}: values of masks must be those of {classes.name} "
            f"({first_few([str(v) for v in named], 8)}) or {UNKNOWN} for unknown; found "
            f"{first_few([str(v) for v in strange], 4)}. Correct the mask, or add the value to "
            f"{classes.name}."
        )


def _classes(
    top: Path, masks: Sequence[np.ndarray], named: Mapping[int, str] | None
) -> tuple[tuple[int, ...], tuple[str, ...]]:
    """The values of the classes and their names."""
    if named is not None:
        values = sorted(named)
        return tuple(values), tuple(named[v] for v in values)
    values = sorted({int(v) for mask in masks for v in np.unique(mask)})
    others = [v for v in values if v != UNKNOWN]
    if len(others) > 1 and others == list(range(len(others))):
        values = others  # 0, 1, 2, ...: 255 is unknown
    if len(values) < 2:
        raise ValueError(
            f"{top}: masks must show two classes or more; found the value "
            f"{values[0] if values else UNKNOWN} alone. Mark the objects with a value of their own."
        )
    return tuple(values), tuple("background" if v == 0 else f"class {v}" for v in values)


def _numbered(mask: np.ndarray, values: Sequence[int]) -> np.ndarray:
    """The place of each value among ``values``; -1 for others."""
    table = np.full(MOST_CLASSES, -1, np.int64)
    table[list(values)] = np.arange(len(values))
    numbered: np.ndarray = table[mask]
    return numbered
