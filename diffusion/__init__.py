"""Diffusion Classifier: a diffusion model's prediction errors, read as a classifier.

from diffusion import classify, load_model
"""


class InputError(ValueError):
    """What the user gave cannot work; the message is one line that says what was found and what was wanted."""


class InputWarning(UserWarning):
    """What the user gave works, but perhaps not as meant; one line too."""


def one_line(error: Exception | str, most: int | None = 160) -> str:
    """What an error says, without its line breaks, cut after so many characters."""
    return " ".join(str(error).split())[:most]


def __getattr__(name: str):
    """`load_model` and `classify`, whose modules are only imported when they are asked for."""
    if name == "load_model":
        from diffusion.models import load_model

        return load_model
    if name == "classify":
        from diffusion.decide import classify

        return classify
    raise AttributeError(f"module 'diffusion' has no attribute {name!r}")
