"""One file that holds a whole model, or its network alone, in the layout of its authors; converted by diffusers."""

import os
import warnings
from pathlib import Path

import torch
from safetensors import safe_open
from torch import Tensor

from diffusion import InputError, InputWarning, weights
from diffusion.names import few

AUTOENCODER = ("first_stage_model.", "vae.")  # what the keys of a VAE begin with
PREDICTS = {"v": "v_prediction", "v_prediction": "v_prediction", "epsilon": "epsilon"}  # modelspec's words


def looks_like(file: str) -> str:
    """The hub id of the model whose shapes the weights in a file have."""
    from diffusers.loaders.single_file_utils import fetch_diffusers_config

    tensors = weights.read([path_of(file)], header=True)
    with weights.library_reads():
        return fetch_diffusers_config(tensors)["pretrained_model_name_or_path"]


def path_of(file: str) -> Path:
    return Path(os.path.expanduser(file))


def read(file: str, dtype: torch.dtype | None) -> dict[str, Tensor]:
    """The tensors of a file, float8 ones as weights.dequantised gives them, a VAE's in float32; None: the header.

    InputError: the file is not whole, or holds a quantisation that is unsupported.
    """
    path = path_of(file)
    tensors = weights.read([path], header=dtype is None)
    encoder = {key: value for key, value in tensors.items() if key.startswith(AUTOENCODER)}
    others = {key: value for key, value in tensors.items() if key not in encoder}
    try:
        wide = None if dtype is None else torch.float32
        return weights.dequantised(encoder, wide) | weights.dequantised(others, dtype)
    except weights.Misfit as misfit:
        raise InputError(f"{file}: {misfit}") from None


def trained_as(file: str) -> dict:
    """What a file says about its own training, as a scheduler's configuration: prediction type, zero terminal SNR.

    By modelspec's or kohya's metadata, or by the empty tensors `v_pred` and `ztsnr`.
    """
    with weights.library_reads(), safe_open(path_of(file), "pt") as opened:
        told, keys = opened.metadata() or {}, set(opened.keys())
    said = "v" if "v_pred" in keys else told.get("modelspec.prediction_type")
    found = {"prediction_type": PREDICTS[said]} if said in PREDICTS else {}
    zero = "ztsnr" in keys or told.get("ss_zero_terminal_snr") == "True"
    return found | ({"rescale_betas_zero_snr": True} if zero else {})


def holds(cls, tensors: dict[str, Tensor]) -> bool:
    """Whether a file's tensors are also those of a part; a network's always."""
    from diffusers.loaders.single_file_utils import is_clip_model_in_single_file, is_t5_in_single_file

    if cls.__module__.startswith("transformers"):
        return is_clip_model_in_single_file(cls, tensors) or ("T5" in cls.__name__ and is_t5_in_single_file(tensors))
    return "Autoencoder" not in cls.__name__ or any(key.startswith(AUTOENCODER) for key in tensors)


def load_part(
    part: str, cls, folder: Path, tensors: dict[str, Tensor], file: str, dtype: torch.dtype | None
) -> torch.nn.Module:
    """A part from the tensors of a file and the configuration in a folder; as weights.load_part."""
    config = weights.read_config(cls, folder)
    try:
        if cls.__module__.startswith("transformers"):
            return _text_encoder(cls, folder, tensors, dtype)
        return weights.build(cls, config, _converted(cls, config, tensors), dtype)[0]
    except weights.Misfit as misfit:
        wanted = "wanted a whole file, and in --config a model of its kind"
        raise InputError(f"{file}: not the weights of the {part} ({cls.__name__}): {misfit}; {wanted}") from None


def _converted(cls, config: dict, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """The tensors of a module under diffusers' names."""
    from diffusers.loaders.single_file_model import SINGLE_FILE_LOADABLE_CLASSES

    known = weights.empty(cls, config).state_dict().keys()
    if len(known & tensors.keys()) > len(known) / 2 or cls.__name__ not in SINGLE_FILE_LOADABLE_CLASSES:
        return tensors
    if any(key.startswith("input_blocks.") for key in tensors):  # a U-Net alone, without what is before it in a whole
        tensors = {f"model.diffusion_model.{key}": value for key, value in tensors.items()}
    convert = SINGLE_FILE_LOADABLE_CLASSES[cls.__name__]["checkpoint_mapping_fn"]
    with weights.library_reads():
        try:
            return convert(config=config, checkpoint=dict(tensors))
        except (KeyError, IndexError, AttributeError) as error:  # of a key that is not there
            raise weights.Misfit(f"some are missing: {error}") from None


def _text_encoder(cls, folder: Path, tensors: dict[str, Tensor], dtype: torch.dtype | None) -> torch.nn.Module:
    from diffusers.loaders import single_file_utils as utils

    build = utils.create_diffusers_t5_model_from_checkpoint
    if utils.is_clip_model_in_single_file(cls, tensors) and "T5" not in cls.__name__:
        build = utils.create_diffusers_clip_model_from_ldm
    as_it_is = next(value.dtype for value in tensors.values() if value.is_floating_point())  # so nothing is copied
    place = {"config": str(folder.parent), "subfolder": folder.name}
    with weights.library_reads():
        module = build(cls, dict(tensors), **place, torch_dtype=dtype or as_it_is)
    module.tie_weights()  # a T5's file may hold its embeddings once; diffusers 0.42.1 leaves the other on "meta"
    there = module.state_dict()
    if missing := [key for key, value in there.items() if value.is_meta]:
        raise weights.Misfit(f"{len(missing)} of {len(there)} weights are missing: {few(sorted(missing))}")
    return module.eval()  # diffusers 0.42.1 leaves a T5 training: dropout would change it from call to call


def warn_of_rest(file: str, source: str, parts: list[str]) -> None:
    """Say which parts are not in a file, and come from the model that --config names."""
    if parts:
        warnings.warn(f"{file}: holds no {', no '.join(parts)}: from {source}", InputWarning, stacklevel=3)
