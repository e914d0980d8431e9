"""Archives, images, arrays, recipes and run files with random damage: each must be refused by name.

    python benchmarks/mutated_archives.py --files 20000

Each case takes an intact file and applies one to four mutations: changed bytes, bytes that readers
take for sizes (0xff, digits), a cut end, a part removed, repeated or taken from another place.
Reading it must give the content, or an error of quickstudy that names the file, in bounded time
and memory. Damage that no checksum covers, such as a digit in a recipe, is read as another value.
"""

from __future__ import annotations

import argparse
import bz2
import io
import json
import lzma
import random
import resource
import tarfile
import tempfile
import time
import warnings
import zipfile
import zlib
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict, fields
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image

import quickstudy as qs
from quickstudy import datasets
from quickstudy.datasets.archives import read_archive
from quickstudy.datasets.images import decode
from quickstudy.evaluation.evaluate import evaluate
from quickstudy.interfaces.runs.folder import Run
from quickstudy.interfaces.runs.provenance import Origin
from quickstudy.interfaces.runs.recipe import Recipe, read_recipe, read_recipe_file
from quickstudy.training.log import read_metrics


class Sample(NamedTuple):
    """An intact file, and how it is read: a function of its path."""

    name: str
    content: bytes
    read: Callable[[Path], object]


class Case(NamedTuple):
    """What one mutated file gave."""

    sample: str
    outcome: str  # "read", "refused", or the fault
    seconds: float


YAML = b"""# a recipe
data: omniglot
learner: maml
options: {steps: 5, rate: 0.4, meta_gradient: {name: implicit, strength: 2.0}}
ways: 5
shots: 1
rate: 1e-3
optimiser: adam
device: cpu
rotations: true
"""


def samples() -> list[Sample]:
    """One intact file of every kind that quickstudy takes from outside, predictors apart."""
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (24, 20, 3), dtype=np.uint8)
    members = {f"a/{'long ' * 30}/{i}.bin": rng.bytes(300 + i) for i in range(5)}
    members["a/text.txt"] = b"text " * 200
    plain = {"pax": _tar(members, tarfile.PAX_FORMAT), "gnu": _tar(members, tarfile.GNU_FORMAT)}
    packed = {
        "gz": zlib.compress(plain["pax"], 9, 31), "bz2": bz2.compress(plain["gnu"]),
        "xz": lzma.compress(plain["pax"]),
    }  # fmt: skip
    archives = {"tar": plain["pax"], "gnu.tar": plain["gnu"],
                "zip": _zip(members, zipfile.ZIP_DEFLATED), "stored.zip": _zip(members, 0),
                **{f"tar.{kind}": content for kind, content in packed.items()}}  # fmt: skip
    return [
        *(Sample(f"x.{kind}", content, _read_archive) for kind, content in archives.items()),
        *(Sample(f"x.{kind.lower()}", _image(pixels, kind), _read_image)
          for kind in ("PNG", "JPEG", "GIF", "BMP", "WEBP", "TIFF", "PPM")),
        Sample("x.npz", _arrays(), lambda path: datasets.load("arrays", path)),
        Sample("x.yaml", YAML, lambda path: read_recipe(read_recipe_file(path))),
        *_run_files(),
    ]  # fmt: skip


def _tar(members: dict[str, bytes], form: int) -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w", format=form) as archive:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return stream.getvalue()


def _zip(members: dict[str, bytes], method: int) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", method) as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return stream.getvalue()


def _image(pixels: np.ndarray, kind: str) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, kind)
    return stream.getvalue()


def _arrays() -> bytes:
    stream = io.BytesIO()
    y = np.repeat(np.arange(8), 3)
    np.savez_compressed(stream, X=np.arange(24 * 4, dtype=np.float32).reshape(24, 4), y=y)
    return stream.getvalue()


def _run_files() -> list[Sample]:
    source = qs.tasks.fixed([qs.Task(*[_examples(i)] * 2, qs.classification(2)) for i in range(3)])
    learner = qs.Prototypical(qs.backbones.MLP(2))
    evaluation = evaluate(learner, source, 3)
    log = [{"step": i, "loss": 1 / i, "score": 0.5} for i in range(1, 9)]

    def run(path: Path) -> Run:
        return Run(path.parent, Recipe())

    def text(value: object) -> bytes:
        return json.dumps(value, indent=1).encode()

    return [
        Sample("recipe.json", text(Recipe().to_json()), lambda path: Run.open(path.parent)),
        Sample("origin.json", text(asdict(Origin.of(Recipe(), "quickstudy run"))),
               lambda path: run(path).origin),
        Sample("evaluation.json", text(evaluation.to_json()), lambda path: run(path).evaluation()),
        Sample("metrics.jsonl", b"".join(json.dumps(row).encode() + b"\n" for row in log),
               read_metrics),
    ]  # fmt: skip


def _examples(seed: int) -> qs.Examples:
    x = torch.randn(6, 2, generator=torch.Generator().manual_seed(seed))
    return qs.examples(x, torch.arange(6) % 2)


def _read_archive(path: Path) -> object:
    return list(read_archive(path, lambda name: True))


def _read_image(path: Path) -> object:
    return decode(path, str(path), size=16, channels=3)


def mutated(content: bytes, rng: random.Random) -> bytes:
    """``content`` after one to four mutations."""
    data = bytearray(content)
    for _ in range(rng.randint(1, 4)):
        size = len(data) or 1
        at, length = rng.randrange(size), rng.choice([1, 2, 4, 8, 64, 512])
        kind = rng.randrange(7)
        if kind == 0:
            data[at : at + length] = rng.randbytes(length)
        elif kind == 1:
            data[at : at + length] = rng.choice([b"\xff", b"\0", b"9", b"7", b"["]) * length
        elif kind == 2:
            data[at : at + 1] = bytes(byte ^ (1 << rng.randrange(8)) for byte in data[at : at + 1])
        elif kind == 3:
            del data[at:]
        elif kind == 4:
            del data[at : at + length]
        elif kind == 5:
            data[at:at] = data[at : at + length] * rng.choice([1, 10, 100])
        else:
            other = rng.randrange(size)
            data[at : at + length] = data[other : other + length]
    return bytes(data)


def judge(sample: Sample, path: Path, content: bytes) -> Case:
    """Read ``content`` as the file ``path``."""
    path.write_bytes(content)
    began = time.perf_counter()
    try:
        sample.read(path)
        outcome = "read"
    except (ValueError, OSError) as error:
        text = str(error)
        # A recipe may come from a file and from options together: its errors name the setting.
        named = str(path) in text or (path.suffix == ".yaml" and _names_a_setting(text))
        outcome = "refused" if named and len(text) < 1500 else f"{type(error).__name__}: {text}"
    except Exception as error:
        outcome = f"{type(error).__name__}: {error}"
    return Case(sample.name, outcome, time.perf_counter() - began)


def _names_a_setting(text: str) -> bool:
    return text.startswith(
        ("recipe: ", "datasets: ", "split of ", *(f"{f.name}: " for f in fields(Recipe)))
    )


def cases(files: int, seed: int) -> list[Case]:
    """The outcomes of ``files`` mutated files, the kinds in turn."""
    rng, kinds, found = random.Random(seed), samples(), []
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # decoders warn of damage that they pass over
        for kind in kinds:
            intact = judge(kind, Path(folder) / kind.name, kind.content)
            assert intact.outcome == "read", intact
        for number in range(files):
            kind = kinds[number % len(kinds)]
            found.append(judge(kind, Path(folder) / kind.name, mutated(kind.content, rng)))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--files", type=int, default=20_000)
    parser.add_argument("--seed", type=int, default=0)
    chosen = parser.parse_args()
    torch.set_num_threads(1)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    found = cases(chosen.files, chosen.seed)
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    faults = [case for case in found if case.outcome not in ("read", "refused")]
    for sample in dict.fromkeys(case.sample for case in found):
        own = [case for case in found if case.sample == sample]
        counts = Counter(c.outcome if c.outcome in ("read", "refused") else "fault" for c in own)
        slowest = max(case.seconds for case in own)
        print(
            f"{sample:16} {len(own):6} files, {counts['refused']:6} refused, {counts['read']:6} "
            f"read, {counts['fault']:3} faults, {slowest:.2f} s at most"
        )
    print(f"{len(found)} files, {len(faults)} faults; peak memory grew by {grown / 1024:.0f} MiB")
    for case in faults[:20]:
        print(case.sample, case.outcome[:300])
    if faults:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
