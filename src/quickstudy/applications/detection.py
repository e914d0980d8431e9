"""Detection: where are objects of which class in a picture?"""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from quickstudy.answers.specs import detection
from quickstudy.applications.application import Application, Prepared, Support
from quickstudy.applications.picture_inputs import (
    picture_files,
    refuse_out_of_range,
    size_of_file,
    unused_names,
)
from quickstudy.backbones.feature_maps import JoinedMaps
from quickstudy.backbones.joined import Chain
from quickstudy.backbones.pretrained.load import pretrained
from quickstudy.backbones.remembering import Remembering
from quickstudy.base.atomic import write_atomically
from quickstudy.core import Learner, Predictor
from quickstudy.datasets import blood_cells, playing_cards
from quickstudy.datasets.box_files import letterboxed, read_box_folder
from quickstudy.learners.transfer.centre_learner import CentreLearner
from quickstudy.learners.transfer.crop_detection import CropDetection, prototypes
from quickstudy.learners.transfer.two_stage_detection import TwoStageDetection
from quickstudy.tasks.boxes import BaseTasks, BoxedPictures, BoxTasks, painted_over
from quickstudy.tasks.examples import examples

BACKBONE = "efficientnet-lite0"
SHOTS = 5
EXEMPLARS = 50
"""Objects of each base class that are remembered."""
MATCHED = (2, 3, 4)
"""Which maps of the network the centre head reads: those at 1/8, 1/16 and 1/32."""
WIDTH = 64
LEAST_SHOWN = 0.3
"""Confidence of the boxes that are written."""
COLOURS = (
    (213, 94, 0),
    (0, 114, 178),
    (0, 158, 115),
    (204, 121, 167),
    (230, 159, 0),
    (86, 180, 233),
)
"""Of the classes, from Okabe and Ito (2008), which colour-blind people tell apart."""


@dataclass(frozen=True)
class Detection(Application):
    """Boxes of objects of new classes, after training on pictures of base classes.

    ``split``    of ``playing_cards``: 0, 1 or 2, which two ranks are new.
    ``novel``    names of the new classes of your own data, separated by commas; by default the
                 rarer half.
    ``size``     of the square that a picture fills, in pixels; ``seen`` that of the square that the
                 centre head reads, ``crop`` that of a crop.
    ``queries``  most pictures of a test task.
    ``steps``    of training, each of ``batch`` pictures, where the run does not say how many.
    ``strict``   whether a picture that cannot be read raises an error when predicting; boxes of a
                 support set always do.

    Raises ValueError for numbers out of range.
    """

    split: int = 0
    novel: str = ""
    size: int = 320
    seen: int = 256
    crop: int = 128
    queries: int = 100
    steps: int = 600
    batch: int = 4
    strict: bool = False

    name: ClassVar[str] = "detection"
    learners: ClassVar[tuple[str, ...]] = (
        "crop_detection", "two_stage_detection", "crop_prototypes",
    )  # fmt: skip

    def __post_init__(self) -> None:
        for name, least, most in (
            ("size", 32, 4096), ("seen", 32, 1024), ("crop", 32, 1024), ("queries", 1, 10_000),
            ("steps", 0, 2**31), ("batch", 2, 1024),
        ):  # fmt: skip
            refuse_out_of_range("detection", name, getattr(self, name), least, most)

    def prepare(
        self, data: str, root: Path | None, learner: str, shots: int | None, seed: int
    ) -> Prepared:
        """The parts of a run: a centre head to be trained on base classes, and tasks of all."""
        held, novel = self._data(data, root)
        base = [k for k in range(len(held.names)) if k not in novel]
        train, _ = self._parts(held)
        taught = held
        if data == "blood_cells":  # hardly a picture shows red cells alone
            taught = painted_over(held, novel)
        rows = train[~taught.showing(novel)[train] & taught.showing(base)[train]]
        tasks = BaseTasks(taught, base, rows, self.batch)
        test = self._test(held, novel, SHOTS if shots is None else shots)
        made = self.learner(learner, seed, len(base))
        made.remember(tasks.all_rows())
        named = ", ".join(held.names[k] for k in novel)
        return Prepared(
            made,
            tasks,
            None,
            test,
            about=f"Where objects are and of which class. New, and not trained on: {named}. A "
            "support set has as many objects of each class, base classes too.",
            steps=self.steps,
            tasks_per_step=1,
            rate=2e-3,
            names=test.names,
            test_tasks=10,
            clip=10.0,
        )

    def prepare_test(self, data: str, root: Path | None, shots: int) -> BoxTasks:
        """The test tasks of a run alone."""
        return self._test(*self._data(data, root), shots)

    def _test(self, held: BoxedPictures, novel: Sequence[int], shots: int) -> BoxTasks:
        base = [k for k in range(len(held.names)) if k not in novel]
        train, query = self._parts(held)
        return BoxTasks(held, base, novel, shots, train, query, self.queries)

    def learner(self, name: str, seed: int, base: int) -> CentreLearner:
        """The learner of this ``name`` on the frozen network, for ``base`` base classes."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            network = pretrained(BACKBONE, size=self.seen, maps=True)
            shapes: Any = network.map_shapes
            side = shapes[MATCHED[0]][-1]
            backbone = Chain(Remembering(network, 1024), JoinedMaps(shapes, side, MATCHED, WIDTH))
            encoder = Remembering(pretrained(BACKBONE, size=self.crop))
            kept = EXEMPLARS if base else 0
            if name == "two_stage_detection":
                return TwoStageDetection(
                    backbone, encoder, base=base, exemplars=kept, side=self.crop
                )
            if name == "crop_prototypes":
                return CropDetection(
                    backbone, encoder, prototypes, 0.05, base, kept, side=self.crop
                )
            return CropDetection(backbone, encoder, base=base, exemplars=kept, side=self.crop)

    def _data(self, data: str, root: Path | None) -> tuple[BoxedPictures, list[int]]:
        """The pictures, and the ids of the new classes."""
        if data == "playing_cards":
            if self.split not in range(len(playing_cards.SPLITS)):
                raise ValueError(
                    f"detection: split must be 0, 1 or 2; found {self.split}. See "
                    "docs/applications/detection.md for the ranks."
                )
            return playing_cards.load(root, size=self.size), list(playing_cards.SPLITS[self.split])
        if data == "blood_cells":
            return blood_cells.load(root, size=self.size), [1, 2]
        if root is None:
            raise ValueError(
                "detection: needs the folder that holds images/ and their boxes. Give it as root "
                "(--root FOLDER), or choose other data, such as --data playing_cards."
            )
        held = read_box_folder(root, self.size)
        return held, self._novel(held)

    def _novel(self, held: BoxedPictures) -> list[int]:
        if self.novel:
            asked = list(dict.fromkeys(name.strip() for name in self.novel.split(",")))
            unknown = [name for name in asked if name not in held.names]
            if unknown or len(asked) >= len(held.names):
                raise ValueError(
                    f"detection: novel must name some of the classes {', '.join(held.names)}, not "
                    f"all; found {self.novel!r}. Correct --set novel=NAME,NAME."
                )
            return [held.names.index(name) for name in asked]
        if len(held.names) < 2:
            raise ValueError(
                "detection: a run trains on base classes and tests on new ones, so it needs 2 "
                f"classes or more; found {', '.join(held.names)}. Add boxes of another class, or "
                "adapt a run on other data."
            )
        counts = torch.stack([(held.classes == k).sum() for k in range(len(held.names))])
        rare = counts.argsort(stable=True)[: len(held.names) // 2]
        return sorted(int(k) for k in rare)

    def _parts(self, held: BoxedPictures) -> tuple[Tensor, Tensor]:
        """The numbers of the pictures for training and supports, and of those for queries."""
        train, query = held.rows_of("train"), held.rows_of("test")
        if len(train):
            return train, query
        order = torch.randperm(len(held), generator=torch.Generator().manual_seed(0))
        cut = max(1, len(held) // 4)
        return order[cut:].sort().values, order[:cut].sort().values

    def support(self, path: Path, learner: Learner) -> Support:
        """The pictures in ``path/images`` and their boxes; their classes are new ones."""
        held = read_box_folder(path, self.size)
        rows = examples(held.pictures, {"boxes": held.boxes, "classes": held.classes})
        info = {"names": list(held.names), "size": self.size, "support": list(held.files)}
        return Support(rows, detection(len(held.names)), info)

    def inputs(self, paths: Sequence[Path], predictor: Predictor) -> tuple[Any, list[str]]:
        """The pictures among ``paths``; their names are their paths."""
        size = int(predictor.info.get("size", self.size))

        def read(file: Path) -> np.ndarray:
            return letterboxed(file, str(file), size)[0]

        found, names = picture_files(paths, read, self.strict)
        return torch.from_numpy(np.stack(found)) / 255, names

    def written(
        self, predictor: Predictor, inputs: Any, names: list[str], out: Path | None
    ) -> list[dict[str, Any]]:
        """The boxes in each picture, in its pixels; pictures with their boxes drawn in ``out``."""
        classes = predictor.info["names"]
        rows = []
        for name, file, picture in zip(names, unused_names(names), inputs, strict=True):
            height, width = size_of_file(name)
            found = _objects(predictor, picture, classes, (width, height))
            row: dict[str, Any] = {"name": name, "boxes": found}
            if out is not None:
                row["picture"] = str(_drawn(Path(name), found, classes, out / f"{file}_boxes.png"))
            rows.append(row)
        return rows


def _objects(
    predictor: Predictor, picture: Tensor, classes: Sequence[str], size: tuple[int, int]
) -> list[dict[str, Any]]:
    """Boxes of a confidence of 0.3 or more, the most certain first; each box once."""
    with torch.no_grad():
        predictions = predictor(picture[None])
    confidence, ids = predictions["logits"][0].softmax(-1)[:, :-1].max(-1)
    edges = (predictions["boxes"][0] * max(size)).clamp_min(0).minimum(torch.tensor([*size, *size]))
    found: list[dict[str, Any]] = []
    for slot in confidence.argsort(descending=True, stable=True).tolist():
        box = [round(float(edge), 1) for edge in edges[slot]]
        if confidence[slot] < LEAST_SHOWN or box in [each["box"] for each in found]:
            continue
        found.append({
            "class": classes[int(ids[slot])], "confidence": round(float(confidence[slot]), 3),
            "box": box,
        })  # fmt: skip
    return found


def _drawn(
    picture: Path, found: Sequence[dict[str, Any]], classes: Sequence[str], path: Path
) -> Path:
    """The picture, of at most 1024 pixels, with its boxes, classes and confidences."""
    from PIL import Image, ImageDraw

    height, width = size_of_file(str(picture))
    side = min(max(height, width), 1024)
    scale = side / max(height, width)
    pixels, _ = letterboxed(picture, str(picture), side)
    inside = pixels[:, : max(1, round(height * scale)), : max(1, round(width * scale))]
    image = Image.fromarray(np.ascontiguousarray(inside.transpose(1, 2, 0)))
    draw = ImageDraw.Draw(image)
    for each in reversed(found):
        colour = COLOURS[classes.index(each["class"]) % len(COLOURS)]
        left, top, right, bottom = (scale * edge for edge in each["box"])
        draw.rectangle((left, top, max(left, right), max(top, bottom)), outline=colour, width=3)
        text = f"{each['class']} {100 * each['confidence']:.0f}%"
        at = (left + 4, max(top - 12, 0))
        draw.rectangle(draw.textbbox(at, text), fill=colour)
        draw.text(at, text, fill=(255, 255, 255))
    stream = io.BytesIO()
    image.save(stream, "PNG")
    return write_atomically(path, stream.getvalue())
