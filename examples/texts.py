"""Sort texts into classes of your own from three examples of each, and save what was learnt."""

from pathlib import Path

import quickstudy as qs

SHOWN = {
    "refund": [
        "I want my money back for the broken lamp",
        "Please return what I paid, the shoes do not fit",
        "How do I get reimbursed for order 1182?",
    ],
    "delivery": [
        "My parcel has not arrived yet",
        "When will the package be here?",
        "The courier left it at the wrong house",
    ],
    "login": [
        "I forgot my password",
        "The site does not let me sign in",
        "My account is locked after three attempts",
    ],
}
NEW = ["Where is my order?", "I cannot log in any more", "I would like to be paid back"]


def main(path: Path = Path("requests.safetensors")) -> list[str]:
    texts = [text for shown in SHOWN.values() for text in shown]
    labels = [number for number, shown in enumerate(SHOWN.values()) for _ in shown]

    encoder = qs.pretrained("all-MiniLM-L6-v2")
    support = qs.examples(encoder.tokenize(texts), labels)
    predictor = qs.SimpleShot(encoder)(support, qs.classification(ways=len(SHOWN)))
    qs.save(predictor, path, info={"classes": list(SHOWN)})  # a few kB: it names the weights

    loaded = qs.load(path)
    probabilities = loaded(encoder.tokenize(NEW)).softmax(-1)
    found = [loaded.info["classes"][k] for k in probabilities.argmax(-1).tolist()]
    for text, name, row in zip(NEW, found, probabilities, strict=True):
        print(f"{text:35} {name:10} {row.max():.0%}")
    return found


if __name__ == "__main__":
    main()
