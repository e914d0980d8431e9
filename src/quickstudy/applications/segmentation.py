"""Segmentation: which class does each pixel of a picture belong to?"""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from quickstudy.answers.specs import segmentation
from quickstudy.applications.application import Application, Prepared, Support
from quickstudy.applications.picture_inputs import (
    read_pictures,
    refuse_out_of_range,
    size_of_file,
    unused_names,
)
from quickstudy.applications.registry import OWN
from quickstudy.backbones.feature_maps import JoinedMaps, PixelMaps, PixelNet, resized
from quickstudy.backbones.joined import Chain
from quickstudy.backbones.pretrained.load import pretrained
from quickstudy.backbones.remembering import Remembering
from quickstudy.base.atomic import write_atomically
from quickstudy.core import Learner, Predictor
from quickstudy.datasets import emoji_masks, wbc
from quickstudy.datasets.images import opened_safely, upright
from quickstudy.datasets.mask_files import read_mask_folder
from quickstudy.learners.metric.dense_matching import DenseMatching
from quickstudy.learners.metric.prototypical_segmentation import PrototypicalSegmentation
from quickstudy.learners.transfer.pixel_head import PixelHead
from quickstudy.tasks.masks import MaskedPictures, ObjectTasks, mask_tasks

BACKBONE = "efficientnet-lite0"
SHOTS = 5
TRAINING_SHOTS = (1, 5)
STEPS = 1200
"""Of training over tasks: about 3 minutes of one processor with Lite0 at 128 pixels."""
SIDE, WIDTH = 32, 48
"""Of the maps that dense matching and prototypes learn over the frozen network."""
MATCHED = (1, 2, 3, 4)
"""Which maps of the network they read: all but the picture itself."""
SYMMETRIC_PICTURES = 256
"""The pixel head reads each picture of a support set again, in eight positions."""
FROM_SCRATCH = "small network from scratch"
AT_ONCE = 8

COLOURS = (
    (0, 0, 0), (230, 159, 0), (86, 180, 233), (0, 158, 115), (240, 228, 66), (0, 114, 178),
    (213, 94, 0), (204, 121, 167),
)  # fmt: skip
"""Of the classes in overlays, from Okabe and Ito (2008), which colour-blind people tell apart."""
OPACITY = 0.5


@dataclass(frozen=True)
class Segmentation(Application):
    """Classes of pixels, from a few pictures with masks.

    ``size``      side in pixels of pictures and masks as the learner sees them; what is written has
                  the size of the user's picture.
    ``queries``   pictures of a task that are predicted.
    ``steps``     of the pixel head on a support set; those of a run are of training over tasks.
    ``colours``   how far it changes the colours of the support's copies.
    ``pictures``  of ``emoji_masks`` to train on.
    ``strict``    whether a picture that cannot be read raises an error when predicting; masks of a
                  support set always do.

    Raises ValueError for numbers out of range.
    """

    size: int = 128
    queries: int = 8
    steps: int = 80
    colours: float = 0.3
    pictures: int = emoji_masks.PICTURES["train"]
    strict: bool = False

    name: ClassVar[str] = "segmentation"
    learners: ClassVar[tuple[str, ...]] = (
        "pixel_head", "dense_matching", "prototypical_segmentation", "pixel_head_from_scratch",
    )  # fmt: skip

    def __post_init__(self) -> None:
        for name, least, most in (
            ("size", 32, 2048), ("queries", 1, 10_000), ("steps", 0, 100_000),
            ("pictures", 1, 1_000_000),
        ):  # fmt: skip
            refuse_out_of_range("segmentation", name, getattr(self, name), least, most)

    def prepare(
        self, data: str, root: Path | None, learner: str, shots: int | None, seed: int
    ) -> Prepared:
        """The parts of a run on ``cells``, ``emoji_masks`` or the folder ``root``.

        Only on ``emoji_masks`` is anything trained over tasks: dense matching and prototypes.
        """
        if data == "emoji_masks":
            return self._on_emoji(root, learner, 1 if shots is None else shots, seed)
        cells = data != OWN
        held = wbc.load_masks(root, size=self.size) if cells else self._own(root)
        n = min(SHOTS, len(held) - 1) if shots is None else shots
        queries = min(self.queries, max(1, len(held) - n))
        about = (
            "Which region each pixel of a white blood cell belongs to. Every task draws new cells; "
            "nothing was trained on cells before."
            if cells
            else f"Which class each pixel belongs to, in your {len(held)} pictures. Every task "
            f"draws {n} of them as support; nothing was trained on the others before."
        )
        return Prepared(
            self.learner(learner, seed, trained=False),
            train=None,
            validation=None,
            test=mask_tasks(held, n, queries),
            about=about,
            names=lambda _: held.names,
            baselines=self._baselines(learner, seed),
            test_tasks=20,
        )

    def _on_emoji(self, root: Path | None, learner: str, shots: int, seed: int) -> Prepared:
        test = ObjectTasks(emoji_masks.load(root, "test", size=self.size), shots, 3)
        trained = learner in ("dense_matching", "prototypical_segmentation")
        train = validation = None
        if trained:
            pool = emoji_masks.load(root, "train", pictures=self.pictures, size=self.size)
            train = ObjectTasks(pool, TRAINING_SHOTS, 2)
        return Prepared(
            self.learner(learner, seed, trained=trained),
            train,
            validation,
            test,
            about="Where an emoji is, in pictures with another emoji beside it. The classes of the "
            "test were not trained on; queries show the emoji in a design that the support does "
            "not have.",
            steps=STEPS if trained else 0,
            tasks_per_step=1,
            rate=2e-3,
            names=test.names,
            baselines=self._baselines(learner, seed),
            test_tasks=100,
            clip=1.0,
        )

    def learner(self, name: str, seed: int, trained: bool) -> Learner:
        """The learner of this ``name`` on Lite0's maps.

        ``trained``  whether dense matching and prototypes have layers of their own, to be trained.
        """
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return self._made(name, seed, trained)

    def _made(self, name: str, seed: int, trained: bool) -> Learner:
        if name == "pixel_head_from_scratch":
            return self._pixel_head(PixelNet(), seed)
        network = pretrained(BACKBONE, size=self.size, maps=True)
        shapes: Any = network.map_shapes
        if name == "pixel_head":
            maps = Remembering(network, most=SYMMETRIC_PICTURES)
            return self._pixel_head(Chain(maps, PixelMaps(shapes)), seed)
        joined = JoinedMaps(shapes, SIDE * self.size // 128, MATCHED, WIDTH if trained else None)
        backbone = Chain(Remembering(network), joined)
        if name == "dense_matching":
            return DenseMatching(backbone) if trained else DenseMatching(backbone, width=0)
        return PrototypicalSegmentation(backbone)

    def _pixel_head(self, network: torch.nn.Module, seed: int) -> PixelHead:
        return PixelHead(network, steps=self.steps, colours=self.colours, seed=seed)

    def _baselines(self, learner: str, seed: int) -> dict[str, Learner]:
        found = {
            f"{name.replace('_', ' ')}, untrained": self.learner(name, seed, trained=False)
            for name in ("prototypical_segmentation", "dense_matching")
        }
        if learner == "pixel_head":
            found[FROM_SCRATCH] = self.learner("pixel_head_from_scratch", seed, trained=False)
        return found

    def _own(self, root: Path | None) -> MaskedPictures:
        if root is None:
            raise ValueError(
                "segmentation: needs the folder that holds images/ and masks/. Give it as root "
                "(--root FOLDER), or choose other data, such as --data cells."
            )
        held = read_mask_folder(root, self.size).data
        if len(held) < 2:
            raise ValueError(
                f"{root}: a run needs two pictures with masks or more, to learn from one and test "
                f"on another; found {len(held)}. Add pictures, or use quickstudy adapt."
            )
        return held

    def support(self, path: Path, learner: Learner) -> Support:
        """The pictures and masks in ``path/images`` and ``path/masks``."""
        found = read_mask_folder(path, self.size)
        data = found.data
        about = {
            "names": list(data.names),
            "values": list(found.values),
            "size": self.size,
            "files": list(found.files),
        }
        return Support(data.examples(torch.arange(len(data))), segmentation(len(data.names)), about)

    def inputs(self, paths: Sequence[Path], predictor: Predictor) -> tuple[Any, list[str]]:
        """The pictures among ``paths``, stretched to ``size``; their names are their paths."""
        size = int(predictor.info.get("size", self.size))
        return read_pictures(paths, size, self.strict)

    def written(
        self, predictor: Predictor, inputs: Any, names: list[str], out: Path | None
    ) -> list[dict[str, Any]]:
        """The share of each class in each picture; masks and overlays in ``out``.

        A mask has the size of the picture and the values of the masks that the predictor was
        adapted to, an overlay the picture in grey under the colours of its classes.
        """
        classes, values = predictor.info["names"], predictor.info["values"]
        files = unused_names(names)
        rows = []
        for name, file, logits in zip(names, files, _logits(predictor, inputs), strict=True):
            ids = enlarged_classes(logits.movedim(-1, 0), size_of_file(name)).numpy()
            shares = np.bincount(ids.ravel(), minlength=len(classes)) / ids.size
            row: dict[str, Any] = {
                "name": name,
                "shares": {c: round(float(s), 4) for c, s in zip(classes, shares, strict=True)},
            }
            if out is not None:
                row["mask"] = str(_save(out / f"{file}_mask.png", _as_values(ids, values)))
                row["overlay"] = str(_save(out / f"{file}_overlay.png", overlaid(name, ids)))
            rows.append(row)
        return rows


def _logits(predictor: Predictor, inputs: Tensor) -> list[Tensor]:
    with torch.no_grad():
        return [row for part in inputs.split(AT_ONCE) for row in predictor(part)]


def enlarged_classes(logits: Tensor, size: tuple[int, int]) -> Tensor:
    """(height, width): the class of greatest logit, of (k, h, w) that are resized to ``size``.

    Class by class: many classes of a large picture would not fit into memory together.
    """
    best = resized(logits[None, :1], size)[0, 0]
    ids = torch.zeros(size, dtype=torch.long)
    for k in range(1, len(logits)):
        of_class = resized(logits[None, k : k + 1], size)[0, 0]
        ids[of_class > best] = k
        best = torch.maximum(best, of_class)
    return ids


def _as_values(ids: np.ndarray, values: Sequence[int]) -> np.ndarray:
    """(height, width) uint8: the value in mask files of each id."""
    found: np.ndarray = np.asarray(values, np.uint8)[ids]
    return found


def overlaid(picture: str, ids: np.ndarray) -> np.ndarray:
    """(height, width, 3) uint8: the picture in grey under the colours of its classes.

    The first class, as a rule the background, is left as it is.
    """
    with opened_safely(Path(picture), picture) as opened:
        grey = np.asarray(upright(opened, 1), np.float32)[..., None]
    colours = np.asarray(COLOURS, np.float32)[1 + (ids - 1) % (len(COLOURS) - 1)]
    opacity = np.float32(OPACITY) * (ids > 0)[..., None]
    result: np.ndarray = (opacity * colours + (1 - opacity) * grey).round().astype(np.uint8)
    return result


def _save(path: Path, pixels: np.ndarray) -> Path:
    from PIL import Image

    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "PNG")
    return write_atomically(path, stream.getvalue())
