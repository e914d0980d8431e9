"""The command that writes a predictor for other programs."""

from __future__ import annotations

from pathlib import Path

import click

from quickstudy.interfaces.cli.printing import json_option, print_json


@click.command()
@click.argument("predictor", type=click.Path(path_type=Path))
@click.option("-o", "--out", type=click.Path(path_type=Path), help="Where to write it.",
              default=Path("model.onnx"), show_default=True)  # fmt: skip
@json_option
def export(predictor: Path, out: Path, as_json: bool) -> None:
    """Write a PREDICTOR that `quickstudy adapt` made as an ONNX model, for other programs."""
    from quickstudy.files.storage import load
    from quickstudy.interfaces.runs.to_onnx import export_predictor

    if out.exists():
        raise FileExistsError(f"{out}: exists already. Give another name with -o.")
    about = export_predictor(load(predictor), out)
    if as_json:
        print_json({"model": str(out), **about})
        return
    shape = " × ".join(map(str, about["inputs"]))
    click.echo(f"{out}: maps pictures (n × {shape}, from 0 to 1) to logits of the classes")
    click.echo(f"{', '.join(about['classes'])}")
