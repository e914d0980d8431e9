"""Encoders of text by name, for :func:`quickstudy.pretrained`."""

from __future__ import annotations

from quickstudy.backbones.pretrained.registry import card
from quickstudy.backbones.pretrained.weights import package_file
from quickstudy.backbones.text.encoder import TextEncoder
from quickstudy.backbones.text.hub import hub_folder, same_as_before
from quickstudy.backbones.text.onnx_encoder import OnnxTextEncoder
from quickstudy.backbones.text.transformer import encoder_of_folder, refuse_pickles
from quickstudy.base.hashes import refuse_other_hash
from quickstudy.datasets.tokenizer import MINILM_SHA256, minilm_tokenizer


def minilm(name: str, *, normalised: bool | None = None) -> TextEncoder:
    """all-MiniLM-L6-v2: the mean of the tokens, by default of length 1, as its card says.

    Raises ValueError for files of another hash than the published ones, and ImportError where the
    extra ``text`` is not installed.
    """
    facts = card(name)
    path = package_file(facts)
    refuse_other_hash(path, facts.sha256, f"pretrained: {name}")
    refuse_other_hash(path.parent / "tokenizer.json", MINILM_SHA256, f"pretrained: {name}")
    return encoder_of_folder(path.parent, f"pretrained: {name}", normalised=normalised)


def int8(name: str, *, normalised: bool | None = None) -> OnnxTextEncoder:
    """all-MiniLM-L6-v2 with weights of 8 bits, a quarter of the size, and without gradient.

    Raises as :func:`minilm`.
    """
    facts = card(name)
    path = package_file(facts)
    refuse_other_hash(path, facts.sha256, f"pretrained: {name}")
    return OnnxTextEncoder(path, minilm_tokenizer(), normalised=normalised is not False)


def hub(name: str, *, normalised: bool | None = None, download: bool = False) -> TextEncoder:
    """``hf:OWNER/NAME``: a model of the Hugging Face hub, from the local cache.

    ``download``  fetch it if it is not there.

    Raises ValueError for weights of another hash than at their first use and for weights in a
    pickle; FileNotFoundError where it is not in the cache, OSError where the download fails.
    """
    who = f"pretrained: {name}"
    repository = name.removeprefix("hf:")
    folder = hub_folder(repository, download, who)
    refuse_pickles(folder, who)
    same_as_before(repository, folder, who)
    return encoder_of_folder(folder, who, normalised=normalised)
