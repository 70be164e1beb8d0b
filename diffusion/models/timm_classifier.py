"""Trained classifiers of ImageNet, as baselines. A thin layer over timm, imported only when used."""

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
    """timm's name of a model, and how many classes it knows, from its own name or a folder that timm saved.

    Raises InputError when timm has no such model, or none with weights, or the folder is not one of timm's.
    """
    timm = _import()
    folder = Path(os.path.expanduser(name))
    if os.path.isfile(folder / "config.json"):
        try:
            config = json.loads((folder / "config.json").read_text())
            known = config["architecture"], int(config["num_classes"])
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise InputError(f"--model {name}", f"config.json is not timm's ({one_line(error)})") from None
        if not timm.is_model(known[0]) or not (folder / "model.safetensors").is_file():
            raise InputError(
                f"--model {name}", f"wanted an architecture of timm's, not {known[0]}, and model.safetensors"
            )
        return f"local-dir:{folder}", known[1]
    if not timm.is_model(name) or not (config := timm.get_pretrained_cfg(name)):
        near = ", ".join(timm.list_models(f"{name[:6]}*", pretrained=True)[:5]) or "resnet50, vit_base_patch16_224, ..."
        raise InputError(f"--model timm:{name}", f"timm has no such model with weights; it has {near}")
    return name, config.num_classes


def timm_weights(name: str) -> dict[str, str]:
    """What weights are known by, of what find_timm gives: a folder's by their bytes, timm's own by their tag."""
    if name.startswith("local-dir:"):
        return {"weights of the classifier": fingerprint([Path(name.removeprefix("local-dir:"), "model.safetensors")])}
    config = _import().get_pretrained_cfg(name)
    return {"weights of the classifier": f"{config.architecture}.{config.tag}"}


def load_timm(name: str, n_classes: int, *, dtype: torch.dtype, device) -> Callable[[Image.Image], Tensor]:
    """A function of an RGB image -> log probabilities of the model's classes [n] float64. InputError: no weights."""
    timm = _import()
    try:
        # timm gives a last layer of another size random weights, without a word
        model = timm.create_model(name, pretrained=True, num_classes=n_classes).eval().to(device, dtype)
    except Exception as error:  # no network, and whatever a broken or foreign file makes the readers say
        why = one_line(error, 300)
        raise InputError(name, f"cannot load its weights; a folder that timm saved will do as well: {why}") from error
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
