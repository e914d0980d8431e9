"""Models of the Hugging Face hub: their files in the local cache, and the hashes of these."""

from __future__ import annotations

import json
import re
from contextlib import suppress
from pathlib import Path

from quickstudy.base.atomic import write_atomically
from quickstudy.base.extras import optional
from quickstudy.base.hashes import sha256_of_files
from quickstudy.base.json_text import read_json
from quickstudy.base.shown import shown, told
from quickstudy.datasets.cache import user_cache

WANTED = (
    "config.json", "tokenizer.json", "modules.json", "sentence_bert_config.json",
    "1_Pooling/config.json", "*.safetensors", "*.safetensors.index.json",
)  # fmt: skip
"""What is downloaded of a model: no code and no pickle."""


def hub_folder(name: str, download: bool, who: str) -> Path:
    """The folder of the model ``name`` in the local cache of Hugging Face.

    ``download``  fetch it where it is not there, or is incomplete; else nothing is asked of the
                  network.

    Raises ValueError for what is no name of a model, FileNotFoundError where it is not in the cache
    and OSError where the download fails.
    """
    if not re.fullmatch(r"[\w][\w.-]*(/[\w][\w.-]*)?", name, re.ASCII) or ".." in name:
        raise ValueError(
            f"{who}: must name a model of the Hugging Face hub, 'owner/name'; found {shown(name)}. "
            "Copy the name from its page."
        )
    hub = optional("huggingface_hub", "text", who)
    patterns = [*WANTED]
    try:
        return Path(hub.snapshot_download(name, allow_patterns=patterns, local_files_only=True))
    except Exception as error:  # of types of the hub's own, not all of which are public
        if not download:
            raise FileNotFoundError(
                f"{who}: is not in the local cache of Hugging Face. Fetch it once in Python, by "
                f'qs.pretrained("hf:{name}", download=True), or put it there by `hf download`.'
            ) from error
    try:
        return Path(hub.snapshot_download(name, allow_patterns=patterns))
    except Exception as error:
        raise OSError(
            f"{who}: the download failed ({type(error).__name__}: {told(error)}). Check the name "
            "and the network, and that HF_HUB_OFFLINE is not set."
        ) from error


def same_as_before(name: str, folder: Path, who: str) -> str:
    """The SHA-256 of the weights in a ``folder`` of the cache, which is kept from its first use.

    It is kept for each version of a model, in the cache folder of quickstudy. Raises ValueError
    where it has changed since.
    """
    found = sha256_of_files(list(folder.glob("*.safetensors")))
    record = user_cache() / "pretrained" / f"hf--{name.replace('/', '--')}.json"
    kept = read_json(record) if record.is_file() else {}
    kept = kept if isinstance(kept, dict) else {}
    version = folder.name
    expected = kept.get(version)
    if expected is None:
        content = json.dumps({**kept, version: found}, indent=1, sort_keys=True)
        with suppress(OSError):  # without a folder that can be written there is nothing to keep
            write_atomically(record, content.encode())
    elif expected != found:
        raise ValueError(
            f"{who}: the weights of version {version[:12]} must be those of their first use, "
            f"SHA-256 {shown(expected)}; found {found}. Delete {folder} and download it again; if "
            f"you changed the weights yourself, delete {record}."
        )
    return found
