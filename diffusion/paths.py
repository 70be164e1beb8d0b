"""Where the package's files lie, in a clone and as installed, and paths as people write them."""

import os
import re
from pathlib import Path


def expanded(text: str | Path) -> Path:
    """A path as people write it: ~ is their home, also where no shell has read it."""
    return Path(os.path.expanduser(text))


PACKAGE = Path(__file__).parent
INSTALLED = (PACKAGE / "assets").is_dir()
DATA = PACKAGE / "assets" if INSTALLED else PACKAGE.parent  # beside it in a clone
PROGRAMS = PACKAGE if INSTALLED else PACKAGE.parent  # where scripts/ lies


def script(name: str) -> str:
    """How a script of scripts/ is called: in a clone, or by what pip has installed."""
    return f"python -m diffusion.scripts.{name}" if INSTALLED else f"python scripts/{name}.py"


def called(text: str) -> str:
    """A text whose scripts are called as they are here: by their files in a clone, or by what pip has installed."""
    if not INSTALLED:
        return text
    ours = "|".join(path.stem for path in (PROGRAMS / "scripts").glob("*.py"))
    text = re.sub(rf"\bpython scripts/({ours})\.py", r"python -m diffusion.scripts.\1", text)
    text = re.sub(rf"(?<![\w/])scripts/({ours})\.py", r"diffusion.scripts.\1", text)
    commands = r"(?:\bpython )?(?<![\w/])(eval_prob_adaptive|eval_prob_dit|run_winoground)\.py"
    return re.sub(commands, lambda found: found[1].replace("_", "-"), text)


def program(name: str) -> Path:
    """The file of eval_prob_adaptive.py and the like, or of a script as scripts/print_acc.py."""
    return (PROGRAMS if name.startswith("scripts/") else PACKAGE.parent) / name


def shipped(path: str | Path) -> Path:
    """The file or folder at this path or, if there is none, the one that this package ships under it.

    So prompts/pets_prompts.csv is found from every working folder.
    """
    here = Path(path)
    ours = DATA / here
    if here.is_absolute() or os.path.exists(here) or not os.path.exists(ours):
        return here
    return ours
