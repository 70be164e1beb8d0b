"""Diffusion Classifier: a diffusion model's prediction errors, read as a classifier.

from diffusion import classify, load_model, score
"""

import re
from pathlib import Path

__path__.append(str(Path(__file__).parent / "moved"))  # modules of 1.0 by their old names, for one more version

# Control characters, of which a terminal makes commands, but for line break and tab; and those that turn text around.
_COMMANDS = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")


class InputError(ValueError):
    """The user's input cannot work. The message is one line: where (a file, a flag), and the problem there.

    The problem says what was found and what was wanted.
    """

    def __init__(self, where: object, problem: object):
        super().__init__(where, problem)
        self.where, self.problem = str(where), str(problem)

    def __str__(self) -> str:
        return f"{self.where}: {self.problem}"


class InputWarning(UserWarning):
    """What the user gave works, but perhaps not as meant; one line too."""


def printable(text: str) -> str:
    """A text that commands no terminal: control characters become escapes such as \\x1b."""
    return _COMMANDS.sub(lambda found: found[0].encode("unicode_escape").decode(), text)


def one_line(error: Exception | str, most: int | None = 160) -> str:
    """What an error says, without its line breaks and control characters, cut after so many characters."""
    return printable(" ".join(str(error).split()))[:most]


def __getattr__(name: str):
    """`load_model`, `classify` and `score`, whose modules are only imported when they are asked for; `__version__`.

    The version is that of the installed package, which pyproject.toml sets.
    """
    import importlib
    import importlib.metadata
    import warnings

    if name == "__version__":
        return importlib.metadata.version("diffusion-classifier")

    module = {"load_model": "models.loading", "classify": "api", "score": "api"}.get(name)
    if module:
        with warnings.catch_warnings():  # scipy and others add filters when they are imported
            return getattr(importlib.import_module(f"diffusion.{module}"), name)
    raise AttributeError(f"module 'diffusion' has no attribute {name!r}")
