"""What result files keep of an evaluation: its figures, without every task's statistic."""

from __future__ import annotations

from typing import Any

import quickstudy as qs


def figures(evaluation: qs.Evaluation) -> dict[str, Any]:
    """The first score's mean and interval, and what they depend on, as JSON."""
    about = evaluation.to_json()
    del about["rows"]
    main = evaluation.main
    return {"metric": main.score, "mean": main.mean, "half_width": main.half_width, **about}
