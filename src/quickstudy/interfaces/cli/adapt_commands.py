"""The commands that adapt a trained learner to a user's images, and classify images."""

from __future__ import annotations

import json
from pathlib import Path

import click

from quickstudy.interfaces.cli.printing import print_rich


@click.command()
@click.argument("run", type=click.Path(path_type=Path))
@click.argument("folder", type=click.Path(path_type=Path))
@click.option("-o", "--out", "output", type=click.Path(path_type=Path), help="Where to save it.",
              default=Path("predictor.safetensors"), show_default=True)  # fmt: skip
@click.option("--strict", is_flag=True, help="Fail on the first unreadable image.")
def adapt(run: Path, folder: Path, output: Path, strict: bool) -> None:
    """Adapt the learner of a RUN to the classes of FOLDER (one folder of images per class)."""
    from quickstudy.files.storage import save
    from quickstudy.interfaces.runs.folder import Run
    from quickstudy.interfaces.runs.use import adapt_folder

    if output.exists():
        raise FileExistsError(f"{output}: exists already. Give another name with -o.")
    predictor = adapt_folder(Run.open(run), folder, strict=strict)
    save(predictor, output)
    names = predictor.info["names"]
    click.echo(f"{output}: distinguishes {len(names)} classes: {', '.join(names)}")


@click.command()
@click.argument("predictor", type=click.Path(path_type=Path))
@click.argument("images", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.option("--strict", is_flag=True, help="Fail on the first unreadable image.")
def predict(predictor: Path, images: tuple[Path, ...], as_json: bool, strict: bool) -> None:
    """Classify IMAGES (files or folders) with a PREDICTOR that `quickstudy adapt` made."""
    from quickstudy.files.storage import load
    from quickstudy.interfaces.runs.use import predict_files
    from quickstudy.reports.tables import predictions_table

    result = predict_files(load(predictor), images, strict=strict)
    if as_json:
        click.echo(json.dumps(result.to_json(), indent=1, ensure_ascii=False))
        return
    print_rich(predictions_table(result.files, result.names, result.probabilities.tolist()))
    click.echo(f"{click.style('protocol', dim=True)} {result.protocol}")
    if result.unreadable:
        click.echo(f"{len(result.unreadable)} files were left out.", err=True)
