"""The baselines: how alike CLIP finds an image and captions. A thin layer over open_clip, imported only when used."""

import logging
import os
from collections.abc import Callable
from pathlib import Path

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from diffusion import InputError, one_line
from diffusion.files import check_pt
from diffusion.names import EMBEDDED
from diffusion.weights import fingerprint

DEFAULTS = {  # --model -> version, and the tag of the weights that go with it
    "clip": ("ViT-L/14", "openai"),
    "openclip": ("ViT-H-14", "laion2b_s32b_b79k"),
    "siglip": ("ViT-SO400M-14-SigLIP-384", "webli"),
}
PRECISION = {"float32": "fp32", "float16": "fp16", "bfloat16": "bf16"}


def find_clip(
    model: str, version: str | None, pretrained: str | None, flag: str = "--version "
) -> tuple[str, str | None]:
    """open_clip's name of a model and the tag or file of its weights, from --model, --version and --pretrained.

    `version` may also be "digits" or a folder in open_clip's layout, which holds its weights; `flag` is what it was
    given by. InputError: unknown.
    """
    open_clip = _import()
    default, default_tag = DEFAULTS[model]
    version = version or default
    folder = EMBEDDED / "digits-clip" if version == "digits" else Path(os.path.expanduser(version))
    if os.path.isfile(folder / "open_clip_config.json"):
        if pretrained is not None:
            raise InputError(f"--pretrained {pretrained}: {flag}{version} brings its own weights")
        return f"local-dir:{folder}", None
    name = version.replace("/", "-")
    if name not in open_clip.list_models():
        near = ", ".join(known for known in open_clip.list_models() if known.startswith(name[:5])) or "ViT-L-14, ..."
        raise InputError(
            f"{flag}{version}: open_clip has no such model (it has {near}), and no folder of that name holds"
            " open_clip_config.json"
        )
    pretrained = pretrained and os.path.expanduser(pretrained)
    tags = open_clip.list_pretrained_tags_by_model(name)
    if pretrained is None and default_tag in tags:
        return name, default_tag
    if pretrained not in tags and not os.path.isfile(pretrained or ""):
        given = f"--pretrained {pretrained}" if pretrained else f"{flag}{version} needs --pretrained"
        known = f" or, for {name}, {', '.join(tags)}" if tags else ""
        raise InputError(f"{given}: wanted a file of weights{known}")
    return name, pretrained


def _local_files(name: str, pretrained: str | None) -> list[Path]:
    """The local files of weights, of what find_clip gives; [] of open_clip's own."""
    if pretrained is not None:
        return [Path(pretrained)] if os.path.isfile(pretrained) else []
    folder = Path(name.removeprefix("local-dir:"))
    return [path for path in sorted(folder.iterdir()) if path.suffix in (".safetensors", ".bin", ".pt")]


def clip_weights(name: str, pretrained: str | None) -> dict[str, str]:
    """What local weights are known by, of what find_clip gives; open_clip's own are known by their tag, so nothing."""
    files = _local_files(name, pretrained)
    return {"weights of CLIP": fingerprint(files)} if files else {}


def load_clip(
    name: str, pretrained: str | None, *, dtype: str, device
) -> tuple[Callable[[Image.Image], Tensor], Callable[[list[str]], Tensor]]:
    """Two functions: an RGB image -> its features [d], n texts -> theirs [n, d]; float64, of length 1.

    So `texts @ image` are cosine similarities [n]. Raises InputError: no weights.
    """
    from transformers import dynamic_module_utils

    open_clip = _import()
    for file in _local_files(name, pretrained):
        check_pt(file)
    dynamic_module_utils.TIME_OUT_REMOTE_CODE = 0  # else transformers asks whether to run a folder's code
    logging.disable(logging.CRITICAL)
    config = open_clip.get_pretrained_cfg(name, pretrained) if pretrained else {}
    try:
        model, preprocess = open_clip.create_model_from_pretrained(
            name,
            pretrained,
            precision=PRECISION[dtype],
            device=device,
            force_quick_gelu=config.get("quick_gelu", False),  # as those weights were trained
        )
        tokenizer = open_clip.get_tokenizer(name)
    except Exception as error:  # no network, and whatever a broken or foreign file makes the readers say
        why = one_line(error, 300)
        raise InputError(f"{name}, {pretrained}: cannot load its weights; --pretrained takes a file: {why}") from error
    finally:
        logging.disable(logging.NOTSET)
    model.eval()

    @torch.inference_mode()
    def of_image(image: Image.Image) -> Tensor:
        x = preprocess(image)[None].to(device, open_clip.get_input_dtype(PRECISION[dtype]))
        return F.normalize(model.encode_image(x).double(), dim=-1)[0].cpu()

    @torch.inference_mode()
    def of_texts(texts: list[str]) -> Tensor:
        chunks = [tokenizer(texts[k : k + 64]).to(device) for k in range(0, len(texts), 64)]
        return torch.cat([F.normalize(model.encode_text(chunk).double(), dim=-1).cpu() for chunk in chunks])

    return of_image, of_texts


def _import():
    try:
        import open_clip
    except ImportError:
        raise InputError("CLIP needs the package 'open_clip_torch': pip install open_clip_torch") from None
    return open_clip
