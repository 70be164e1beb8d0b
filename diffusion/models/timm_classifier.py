"""Trained ImageNet classifiers, as baselines. A thin layer over timm, imported only when used."""

import json
import os
from collections.abc import Callable
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor

from diffusion import InputError, one_line
from diffusion.models.checkpoint import fingerprint


def find_timm(name: str) -> tuple[str, int]:
    """timm's name of a model and the number of its classes, from that name or from a folder that timm saved.

    Raises InputError if timm has no such model, or none with weights, or if the folder is not one of timm's.
    """
    timm = _import()
    folder = Path(os.path.expanduser(name))
    if os.path.isfile(folder / "config.json"):
        return _find_folder(timm, folder, name)
    config = timm.get_pretrained_cfg(name) if timm.is_model(name) else None
    if not config:
        near = ", ".join(timm.list_models(f"{name[:6]}*", pretrained=True)[:5]) or "resnet50, vit_base_patch16_224, ..."
        raise InputError(f"--model timm:{name}", f"timm has no such model with weights; it has {near}")
    return name, config.num_classes


def _find_folder(timm, folder: Path, name: str) -> tuple[str, int]:
    """As `find_timm`, for a folder."""
    try:
        config = json.loads((folder / "config.json").read_text())
        architecture, n_classes = config["architecture"], int(config["num_classes"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"--model {name}", f"config.json is not timm's ({one_line(error)})") from None
    if not timm.is_model(architecture) or not (folder / "model.safetensors").is_file():
        wanted = f"wanted an architecture of timm's, not {architecture}, and model.safetensors"
        raise InputError(f"--model {name}", wanted)
    return f"local-dir:{folder}", n_classes


def timm_weights(name: str) -> dict[str, str]:
    """The fingerprint of the weights that find_timm names: a folder's by their bytes, timm's own by their tag."""
    if name.startswith("local-dir:"):
        return {"weights of the classifier": fingerprint([Path(name.removeprefix("local-dir:"), "model.safetensors")])}
    config = _import().get_pretrained_cfg(name)
    return {"weights of the classifier": f"{config.architecture}.{config.tag}"}


def load_timm(name: str, n_classes: int, *, dtype: torch.dtype, device) -> Callable[[Image.Image], Tensor]:
    """Load a classifier: a function of an RGB image -> log probabilities of the model's classes [n] float64.

    Raises InputError if its weights cannot be loaded.
    """
    timm = _import()
    try:
        # n_classes are the weights' own: timm silently gives a last layer of another size random weights
        model = timm.create_model(name, pretrained=True, num_classes=n_classes).eval().to(device, dtype)
    except Exception as error:  # without a network, or for a damaged file, timm raises nearly any class
        reason = one_line(error, 300)
        raise InputError(
            name, f"cannot load its weights; a folder that timm saved will do as well: {reason}"
        ) from error
    preprocess = timm.data.create_transform(**timm.data.resolve_model_data_config(model), is_training=False)

    @torch.inference_mode()
    def log_probabilities(image: Image.Image) -> Tensor:
        return model(preprocess(image)[None].to(device, dtype))[0].double().log_softmax(0).cpu()

    return log_probabilities


def _import():
    try:
        import timm
    except ImportError:
        raise InputError("--model timm:... needs the package 'timm'", "pip install timm") from None
    return timm
