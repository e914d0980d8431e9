"""A text encoder from a folder of files as Hugging Face publishes them."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from torch import nn

from quickstudy.backbones.text.encoder import (
    Pooling,
    TextEncoder,
    first_token,
    mean_of_tokens,
    to_unit_length,
)
from quickstudy.base.extras import optional
from quickstudy.base.json_text import read_json
from quickstudy.base.shown import shown, told
from quickstudy.base.words import first_few
from quickstudy.datasets.tokenizer import TextTokenizer

PICKLES = ("*.bin", "*.pth", "*.pt", "*.ckpt", "*.pkl")
"""Files of weights that may hold code."""


def encoder_of_folder(folder: Path, who: str, *, normalised: bool | None = None) -> TextEncoder:
    """The encoder in ``folder``: ``config.json``, ``tokenizer.json`` and weights as safetensors.

    How its vectors are pooled, whether they are normalised and how many tokens it reads are those
    that ``modules.json``, ``1_Pooling/config.json`` and ``sentence_bert_config.json`` say. Without
    these files, which a model that was not trained to embed texts lacks, it is the mean, not
    normalised, and all positions are read.

    Its dropout is set to 0: adapting twice must give the same, and the attention of transformers
    draws its masks from the global generator.

    ``who``         begins the messages of errors.
    ``normalised``  overrides what the files say.

    Raises ValueError for weights in a pickle, a model with code of its own, and files that do not
    fit one another; FileNotFoundError for a missing file; ImportError without the extra ``text``.
    """
    refuse_pickles(folder, who)
    pool, unit = _pooling(folder, who)
    model = _model(folder, who)
    tokenizer = TextTokenizer(folder / "tokenizer.json", _longest(folder, model))
    unit = unit if normalised is None else normalised
    encoder = TextEncoder(model, tokenizer, pool=pool, normalised=unit)
    _refuse_other_mask(encoder, who)
    return encoder


def _refuse_other_mask(encoder: TextEncoder, who: str) -> None:
    """ValueError where the model reads the encoder's mask in another way than its usual one.

    The encoder gives a mask of four dimensions, as vmap needs it. Some models do not know this
    kind; models that generate text take it in place of their own, and would look ahead.
    """
    tokens = {
        "ids": torch.tensor([[3, 2, 1, 0, 0], [3, 2, 1, 1, 2]]),
        "mask": torch.tensor([[True] * 3 + [False] * 2, [True] * 5]),
    }
    try:
        with torch.no_grad():
            usual = encoder.model(input_ids=tokens["ids"], attention_mask=tokens["mask"].long())
            expected = encoder.pool(usual.last_hidden_state, tokens["mask"])
            found = encoder(tokens)
    except Exception as error:  # of any type, from the model's own code
        raise ValueError(
            f"{who}: its model must read input_ids and a mask of attention, as encoders of text "
            f"do ({type(error).__name__}: {told(error)}). Give another model."
        ) from error
    expected = to_unit_length(expected) if encoder.normalised else expected
    if not torch.allclose(found, expected, rtol=1e-3, atol=1e-3 * float(expected.abs().max())):
        raise ValueError(
            f"{who}: its model must be an encoder that takes a mask of every pair of tokens, but "
            f"{type(encoder.model).__name__} gives other features with it than with a mask of "
            "tokens. Give another model, such as one of BERT's kind."
        )


def refuse_pickles(folder: Path, who: str) -> None:
    """ValueError where ``folder`` has weights, but none as safetensors."""
    if any(folder.glob("*.safetensors")):
        return
    pickles = sorted(path.name for kind in PICKLES for path in folder.glob(kind))
    if pickles:
        raise ValueError(
            f"{who}: its weights must be safetensors; found {first_few(pickles)}, which may hold "
            "code that runs when it is loaded. Ask for a version with model.safetensors, or "
            "convert it where you trust it."
        )
    raise FileNotFoundError(
        f"{who}: {folder} has no model.safetensors. Download it, or give another name."
    )


def _model(folder: Path, who: str) -> nn.Module:
    transformers = optional("transformers", "text", who)
    try:
        with _quiet():
            config = transformers.AutoConfig.from_pretrained(
                folder, local_files_only=True, trust_remote_code=False
            )
            for name, value in vars(config).items():
                if "dropout" in name and isinstance(value, float):
                    setattr(config, name, 0.0)
            model, report = transformers.AutoModel.from_pretrained(
                folder, config=config, attn_implementation="eager", dtype=torch.float32,
                use_safetensors=True, local_files_only=True, trust_remote_code=False,
                output_loading_info=True,
            )  # fmt: skip
    except Exception as error:  # a foreign file may raise anything
        raise ValueError(
            f"{who}: {folder} must hold a model of the package transformers "
            f"({type(error).__name__}: {told(error)}). Give another model, or update transformers."
        ) from error
    missing = sorted(name for name in report["missing_keys"] if not name.startswith("pooler."))
    if missing or report["mismatched_keys"]:
        raise ValueError(
            f"{who}: its weights do not fit its config.json: {first_few(missing) or 'shapes'} "
            f"{'are missing' if missing else 'differ'}. Download it again."
        )
    if getattr(model, "pooler", None) is not None:  # of the first token, for another task
        model.pooler = None
    encoder: nn.Module = model.eval()
    return encoder


def _pooling(folder: Path, who: str) -> tuple[Pooling, bool]:
    """How vectors are pooled, and whether they are normalised, by the files of the folder."""
    modules = [part for part in _json(folder / "modules.json", []) if isinstance(part, dict)]
    unit = any(str(part.get("type", "")).endswith("Normalize") for part in modules)
    others = [
        str(part.get("type")) for part in modules
        if not str(part.get("type", "")).endswith(("Transformer", "Pooling", "Normalize"))
    ]  # fmt: skip
    if others:
        raise ValueError(
            f"{who}: it ends in {first_few(others)}, which this library does not compute. Give a "
            "model of a transformer, a pooling and a normalisation, or build a TextEncoder."
        )
    config = _json(folder / "1_Pooling" / "config.json", {})
    prefix = "pooling_mode_"
    chosen = {str(config["pooling_mode"])} if "pooling_mode" in config else {
        name.removeprefix(prefix) for name, on in config.items() if name.startswith(prefix) and on
    }  # fmt: skip
    known: dict[str, Pooling] = {
        "mean_tokens": mean_of_tokens, "mean": mean_of_tokens,
        "cls_token": first_token, "cls": first_token,
    }  # fmt: skip
    if len(chosen) > 1 or not chosen <= known.keys():
        raise ValueError(
            f"{who}: its vectors are pooled by {first_few(sorted(chosen))}; known are the mean and "
            "the first token. Build a TextEncoder with a pool of your own."
        )
    return known[chosen.pop()] if chosen else mean_of_tokens, unit


def _longest(folder: Path, model: nn.Module) -> int:
    """The most tokens that the encoder reads: what its files say, else its positions."""
    positions = getattr(model.config, "max_position_embeddings", None)
    padding = getattr(model.config, "pad_token_id", None) or 0
    # Position numbers of RoBERTa's kind begin after the padding id.
    offset = padding + 1 if "roberta" in str(getattr(model.config, "model_type", "")) else 0
    said = _json(folder / "sentence_bert_config.json", {}).get("max_seq_length")
    sizes = [n for n in (said, positions and positions - offset) if isinstance(n, int)]
    return min(sizes, default=512)


def _json(path: Path, missing: Any) -> Any:
    """The JSON in ``path``, of the type of ``missing``, which stands for an absent file."""
    if not path.is_file():
        return missing
    found = read_json(path, most=2**20)
    if not isinstance(found, type(missing)):
        raise ValueError(f"{path}: must hold a {type(missing).__name__}; found {shown(found)}.")
    return found


@contextmanager
def _quiet() -> Iterator[None]:
    """A context in which transformers shows neither progress bars nor its report of loading."""
    own: Any = import_module("transformers.utils").logging
    level, bars = own.get_verbosity(), own.is_progress_bar_enabled()
    own.set_verbosity(logging.ERROR)
    own.disable_progress_bar()
    try:
        yield
    finally:
        own.set_verbosity(level)
        if bars:
            own.enable_progress_bar()
