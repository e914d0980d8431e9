from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from quickstudy.reports.tensorboard import to_tensorboard
from quickstudy.training.log import read_metrics

ROWS = [
    {"step": 100, "loss": 0.5, "score": 0.8, "tasks_per_second": 90.0, "seconds": 2.0},
    {"step": 100, "validation": 0.7, "half_width": 0.01, "seconds": 3.0},
    {"step": 200, "loss": 0.25, "score": 0.9, "tasks_per_second": 91.0, "seconds": 5.0},
]


def write(run: Path, text: str) -> Path:
    run.mkdir(exist_ok=True)
    (run / "metrics.jsonl").write_text(text, encoding="utf-8")
    return run


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return write(tmp_path / "run", "".join(json.dumps(row) + "\n" for row in ROWS))


def test_rows_are_read_as_written(run: Path) -> None:
    assert read_metrics(run / "metrics.jsonl") == ROWS


def test_an_incomplete_last_line_is_left_out(run: Path) -> None:
    with (run / "metrics.jsonl").open("a") as log:
        log.write('{"step": 300, "lo')
    assert read_metrics(run / "metrics.jsonl") == ROWS


def test_other_errors_in_a_log_are_refused(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"no training log at .*nowhere"):
        read_metrics(tmp_path / "nowhere")
    write(tmp_path, '{"step": 1}\nnot json\n{"step": 2}\n')
    with pytest.raises(ValueError, match=r"line 2 of .* is not JSON"):
        read_metrics(tmp_path / "metrics.jsonl")
    write(tmp_path, '{"loss": 1}\n')
    with pytest.raises(ValueError, match=r"line 1 of .* integer step"):
        read_metrics(tmp_path / "metrics.jsonl")


def test_tensorboard_reads_the_logged_values(run: Path) -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    target = to_tensorboard(run)
    assert target == run / "tensorboard"
    events = EventAccumulator(str(target))
    events.Reload()
    assert set(events.Tags()["scalars"]) == {
        "train/loss", "train/score", "train/tasks_per_second",
        "validation/score", "validation/half_width",
    }  # fmt: skip
    losses = events.Scalars("train/loss")
    assert [(e.step, e.value, e.wall_time) for e in losses] == [(100, 0.5, 2.0), (200, 0.25, 5.0)]
    assert [e.value for e in events.Scalars("validation/score")] == [pytest.approx(0.7)]
    with pytest.raises(FileExistsError, match="name another target"):
        to_tensorboard(run)
    assert to_tensorboard(run, run / "deep" / "other").is_dir()
    assert not list(run.glob(".tensorboard-*"))


def test_the_missing_extra_is_named(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with pytest.raises(ImportError, match=r"quickstudy\[tensorboard\]"):
        to_tensorboard(run)
    assert [p.name for p in run.iterdir()] == ["metrics.jsonl"]
