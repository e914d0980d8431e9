"""Fixtures that all tests share."""

from __future__ import annotations

import os
import signal
from pathlib import Path

# Before any import: the extras look for networks and write to the home folder otherwise.
os.environ |= {"ORT_DISABLE_TELEMETRY": "1", "HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1"}

import pytest
import torch

import quickstudy as qs
from made_up import random_classes

torch.set_num_threads(1)  # the tests run in two processes already

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    # A shell starts jobs in the background so. Tests send SIGINT to themselves, and fit leaves an
    # ignored signal ignored: a second request, by SIGTERM, would then end the whole worker.
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real test data: $QUICKSTUDY_DATA, or ``../shared/data`` beside the checkout."""
    beside = Path(__file__).resolve().parents[2] / "shared" / "data"
    root = Path(os.environ.get("QUICKSTUDY_DATA", beside))
    if not (root / "omniglot").is_dir():
        pytest.skip(f"no real data: {root} has no omniglot folder; set QUICKSTUDY_DATA")
    return root


@pytest.fixture
def classes() -> qs.LabelledRows:
    return random_classes()
