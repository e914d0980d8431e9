"""A training log as TensorBoard files; needs ``pip install 'quickstudy[tensorboard]'``."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

from quickstudy.training.log import read_metrics


def to_tensorboard(run: str | Path, target: str | Path | None = None) -> Path:
    """Write ``run/metrics.jsonl`` as TensorBoard event files, and return their folder.

    ``target``  a folder that does not exist yet; ``run/tensorboard`` by default.

    Training values are under ``train/``, validation values under ``validation/``; the time axis
    shows seconds since the run started. Show them with ``tensorboard --logdir FOLDER``.

    Raises ImportError without the extra, FileNotFoundError without a log, FileExistsError where
    the target exists: TensorBoard would draw old and new values as one line.
    """
    run = Path(run)
    target = run / "tensorboard" if target is None else Path(target)
    rows = read_metrics(run / "metrics.jsonl")
    if target.exists():
        raise FileExistsError(
            f"to_tensorboard: {target} exists already. Remove it, or name another target."
        )
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise ImportError(
            "to_tensorboard: the tensorboard package is not installed. "
            "Install it with: pip install 'quickstudy[tensorboard]'"
        ) from error

    target.parent.mkdir(parents=True, exist_ok=True)
    unfinished = Path(tempfile.mkdtemp(prefix=".tensorboard-", dir=target.parent))
    try:
        writer = SummaryWriter(str(unfinished))
        for row in rows:
            group = "validation" if "validation" in row else "train"
            for key, value in row.items():
                if key not in ("step", "seconds"):
                    name = "score" if key == "validation" else key
                    writer.add_scalar(
                        f"{group}/{name}", value, int(row["step"]), walltime=row.get("seconds")
                    )
        writer.close()
        unfinished.chmod(0o755)  # mkdtemp's folder is for one user only; a run folder is not
        unfinished.replace(target)
    except BaseException:
        shutil.rmtree(unfinished, ignore_errors=True)
        raise
    return target
