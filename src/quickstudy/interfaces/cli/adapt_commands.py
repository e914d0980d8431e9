"""The commands that adapt a trained learner to a user's images, and classify images."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import click

from quickstudy.base.words import count
from quickstudy.interfaces.cli import application_commands
from quickstudy.interfaces.cli.printing import (
    is_given,
    json_option,
    print_fact,
    print_json,
    print_rich,
)

if TYPE_CHECKING:
    from quickstudy.core import Predictor


@click.command()
@click.argument("start", metavar="RUN_OR_BACKBONE")
@click.argument("folder", type=click.Path(path_type=Path))
@click.option("--learner", help="On a backbone: which learner.  [the best of simple_shot and "
              "linear_probe on your images]")  # fmt: skip
@click.option("--set", "options", multiple=True, metavar="NAME=VALUE",
              help="An argument of that learner, such as scale=20; may be repeated.")  # fmt: skip
@click.option("--size", type=int, help="On a backbone: side of the images in pixels.  [its own]")
@click.option("-o", "--out", "output", type=click.Path(path_type=Path), help="Where to save it.",
              default=Path("predictor.safetensors"), show_default=True)  # fmt: skip
@click.option("--invert/--no-invert", default=None,
              help="Swap black and white in all images, or in none.  [in those whose background is "
              "the opposite of the training images']")  # fmt: skip
@click.option("--check/--no-check", default=True, show_default=True,
              help="Predict each image by a predictor that was adapted without it.")  # fmt: skip
@json_option
@click.option("--strict", is_flag=True, help="Fail on the first unreadable image.")
@click.pass_context
def adapt(
    ctx: click.Context, /, start: str, folder: Path, learner: str | None,
    options: tuple[str, ...], size: int | None, output: Path, invert: bool | None, check: bool,
    as_json: bool, strict: bool,
) -> None:  # fmt: skip
    """Adapt to the classes of FOLDER (one folder of images per class).

    With the run of an application, FOLDER is the file or folder of labelled examples that the
    application reads: pictures with masks or boxes, texts, molecules.

    RUN_OR_BACKBONE is the folder of a run, whose learner is adapted, or the name of a pretrained
    backbone such as efficientnet-lite0 (see `quickstudy backbones`), which needs no run.
    """
    from quickstudy.files.storage import save
    from quickstudy.interfaces.application_runs.folder import is_application_run
    from quickstudy.interfaces.runs.adapting import adapt_folder
    from quickstudy.interfaces.runs.recipe import read_options
    from quickstudy.interfaces.runs.starts import find_start

    if output.exists():
        raise FileExistsError(f"{output}: exists already. Give another name with -o.")
    if is_application_run(start):
        names = ("learner", "options", "size", "invert", "check")
        given = {n: ctx.params[n] for n in names if is_given(ctx, n)}
        application_commands.adapt_run(Path(start), folder, output, given, strict, as_json)
        return
    found = find_start(start, learner, read_options(options), size)
    predictor = adapt_folder(found, folder, strict=strict, invert=invert, check=check)
    save(predictor, output)
    info = predictor.info
    if as_json:
        support = {k: v for k, v in info["support"].items() if k != "digests"}
        shown = {k: v for k, v in info.items() if k != "calibration"}
        print_json({"predictor": str(output), **shown, "support": support})
        return
    click.echo(f"{output}: distinguishes {len(info['names'])} classes: {', '.join(info['names'])}")
    print_fact("images", _made_alike(info))
    if "backbone" in info:
        print_fact("weights", f"{info['backbone']}, which has seen {info['seen']}")
        print_fact("learner", f"{info['learner']['name']} ({info['learner']['why']})")
    if check:
        print_fact("check", info["check"]["summary"])


def _made_alike(info: Mapping[str, Any]) -> str:
    """What was done to the images of a support set, in words."""
    made, support = info["pictures"], info["support"]
    if "seconds" in made:  # of sounds
        return f"{support['images']} spectrograms of {made['size']} mel bands and frames"
    kind = "grey" if made["channels"] == 1 else "RGB"
    text = f"{kind}, {made['size']} × {made['size']} pixels ({made['resize']} filter)"
    if not support["inverted"]:
        return f"{text}, none inverted"
    reason = "as asked"
    if info["invert"] is None:
        reason = f"since the learner was trained on a {made['background']} background"
    return f"{text}, {support['inverted']} of {support['images']} inverted {reason}"


@click.command()
@click.argument("predictor", type=click.Path(path_type=Path))
@click.argument("paths", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("--coverage", type=float, metavar="SHARE", help="Also give the classes that each "
              "image may show, so that this share of sets contains the true one.")  # fmt: skip
@click.option("--out", type=click.Path(path_type=Path), metavar="FOLDER",
              help="For masks, pictures and other files, of an application.")  # fmt: skip
@json_option
@click.option("--strict", is_flag=True, help="Fail on the first unreadable image.")
@click.pass_context
def predict(
    ctx: click.Context, /, predictor: Path, paths: tuple[Path, ...], coverage: float | None,
    out: Path | None, as_json: bool, strict: bool,
) -> None:  # fmt: skip
    """Predict PATHS (files or folders) with a PREDICTOR that `quickstudy adapt` made.

    Images are classified. A predictor of an application, such as segmentation, reads that
    application's files, and writes masks and the like to --out.

    For a folder with one folder per class, named as in the predictor, the accuracy and a table of
    confusions are given too. With --coverage 0.9, the set of an image has one class where the
    predictor is sure, several where it is undecided, and none where it is "not sure".
    """
    from quickstudy.files.storage import load
    from quickstudy.interfaces.application_runs.adapting import is_of_application
    from quickstudy.interfaces.runs.predicting import predict_files
    from quickstudy.reports.tables import confusion_table, predictions_table

    loaded = load(predictor)
    if is_of_application(loaded):
        given = {n: ctx.params[n] for n in ("coverage",) if is_given(ctx, n)}
        application_commands.predict_with(
            cast("Predictor", loaded), paths, out, given, strict, as_json
        )
        return
    if out is not None:
        raise ValueError(
            "predict: --out is for the files that an application's predictor writes, but this one "
            "tells classes apart. Leave --out out; --json gives the result as text."
        )
    result = predict_files(loaded, paths, strict=strict, coverage=coverage)
    if as_json:
        print_json(result.to_json())
        return
    sets = None if result.sets is None else result.sets.named(result.names)
    probabilities = result.probabilities.tolist()
    print_rich(predictions_table(result.files, result.names, probabilities, sets=sets))
    if result.sets is not None:
        share = f"{100 * result.sets.coverage:g}%"
        print_fact("sets", f"of coverage {share} for images like those adapted to")
    print_fact("protocol", result.protocol)
    if inverted := int(result.inverted.sum()):
        print_fact("images", f"{inverted} of {len(result.files)} inverted")
    if result.confusion is not None:
        print_rich(confusion_table(result.confusion))
        print_fact("accuracy", str(result.confusion))
    if result.other_folders:
        others = ", ".join(result.other_folders[:5])
        print_fact("not scored", f"folders without the name of a class: {others}")
    if result.unreadable:
        click.echo(f"{count(len(result.unreadable), 'file')} left out.", err=True)
