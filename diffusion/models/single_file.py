"""A single file with a whole model, or its network alone, in its authors' layout, which diffusers converts."""

import os
import warnings
from pathlib import Path

import torch
from safetensors import safe_open
from torch import Tensor

from diffusion import InputError, InputWarning, one_line
from diffusion.io.wording import few
from diffusion.models import checkpoint
from diffusion.models.aliases import ALIASES
from diffusion.models.internals import check_internals

AUTOENCODER = ("first_stage_model.", "vae.")  # prefixes of a VAE's tensors
PREDICTS = {"v": "v_prediction", "v_prediction": "v_prediction", "epsilon": "epsilon"}  # modelspec's words
OF_STABLE_DIFFUSION = ("model.diffusion_model.input_blocks.", "input_blocks.")  # prefixes of its U-Net
OTHER_WIDTHS = {1024: "Stable Diffusion 2", 1280: "the refiner of Stable Diffusion XL", 2048: "Stable Diffusion XL"}
PIXART_CHANNELS = 4  # its latent's; Sana's has 32
IMAGE_TOO = {  # diffusers' name of a network -> what it needs besides the text
    "inpainting": "a masked image", "inpainting_v2": "a masked image", "xl_inpaint": "a masked image",
    "flux-fill": "a masked image", "flux-depth": "an image that it follows", "instruct-pix2pix": "an image to change",
    "upscale": "a small image", "xl_refiner": "a score, since it refines images",
}  # fmt: skip
MIRRORS = {places[0]: places for places in ALIASES["text"].values()}


def looks_like(file: str) -> list[str]:
    """The hub ids, tried in order, of the model that diffusers recognises in the weights of a file.

    diffusers 0.42.1 (`infer_diffusers_model_type`) takes what it does not recognise for Stable Diffusion 1, a PixArt
    for Sana, and every Stable Diffusion 2 for the one that predicts v, whose repository is gone. If its guess may be
    one of these, InputError asks for --config. It knows one size of Sana: a warning.
    """
    check_internals()
    from diffusers.loaders.single_file_utils import DIFFUSERS_DEFAULT_PIPELINE_PATHS, infer_diffusers_model_type

    headers = checkpoint.read_headers([path_of(file)])
    try:
        kind = infer_diffusers_model_type(headers)
    except Exception as error:  # it indexes weights and shapes that a foreign file may not have
        raise _unknown(file, f"diffusers cannot recognise its weights ({one_line(error, 80)})") from None
    default = DIFFUSERS_DEFAULT_PIPELINE_PATHS[kind]["pretrained_model_name_or_path"]
    _check_guess(file, headers, kind, default)
    if kind == "sana":
        sizes = "Sana's networks for 512 and 1024 pixels have the same shapes"
        warnings.warn(f"{file}: {sizes}; taken for {default}, else give --config", InputWarning, stacklevel=3)
    if kind == "v2":
        predicts = trained_as(file).get("prediction_type")
        if predicts is None:
            which = "does not say whether it predicts epsilon, as 2-base, or v, as 2-1 of 768 pixels"
            raise _unknown(file, f"a Stable Diffusion 2 that {which}", "--config 2-1 for epsilon, --config 2-1-v for v")
        return ALIASES["text"]["2-1" if predicts == "epsilon" else "2-1-v"]
    return MIRRORS.get(default, [default])


def _check_guess(file: str, headers: dict[str, Tensor], kind: str, default: str) -> None:
    """Raise InputError if diffusers' `kind` of a file is unsupported, or if its guess may be wrong."""
    if kind in IMAGE_TOO:
        raise _unknown(file, f"a network ({kind}) that takes {IMAGE_TOO[kind]} beside the text", "one of text alone")
    if kind == "v1":
        if not any(key.startswith(OF_STABLE_DIFFUSION) for key in headers):
            found = few(sorted(headers), 2)
            wrong = f"holds weights ({found}) that diffusers does not recognise; it would take any for {default}"
            raise _unknown(file, wrong)
        width = _size(headers, ".attn2.to_k.weight", -1)  # of the text that the attention of a U-Net reads
        if width in OTHER_WIDTHS:
            found = f"a U-Net of {OTHER_WIDTHS[width]} (its text is {width} wide)"
            raise _unknown(file, f"{found}, which diffusers takes for {default}")
    if kind != "sana":
        return
    channels = _size(headers, "x_embedder.proj.weight", 1)  # of the latent that a transformer reads
    if channels == PIXART_CHANNELS:
        found = f"a PixArt (its latent has {PIXART_CHANNELS} channels)"
        raise _unknown(file, f"{found}, which diffusers takes for {default}")


def _unknown(
    file: str, found: str, wanted: str = "the hub id or folder of a model of its kind in --config"
) -> InputError:
    return InputError(f"--version {file}", f"{found}; wanted {wanted}")


def _size(headers: dict[str, Tensor], suffix: str, axis: int) -> int | None:
    """The size along an axis of the first tensor whose name ends with `suffix`; None if there is none."""
    for key, value in headers.items():
        if key.endswith(suffix):
            return value.shape[axis]
    return None


def path_of(file: str) -> Path:
    return Path(os.path.expanduser(file))


def read_headers(file: str) -> dict[str, Tensor]:
    """The tensors that `read` would return, by name and shape: zeros that take no memory.

    Not on the meta device, since diffusers looks at values when it converts text encoders. Raises InputError if the
    file holds a quantisation that is unsupported.
    """
    headers = checkpoint.read_headers([path_of(file)])
    try:
        headers = checkpoint.without_scales(headers)
    except checkpoint.Misfit as misfit:
        raise InputError(file, misfit) from None
    return {key: torch.zeros(()).expand(value.shape) for key, value in headers.items()}


def read(file: str, dtype: torch.dtype) -> dict[str, Tensor]:
    """The tensors of a file, float8 ones multiplied by their scales and rounded to `dtype`, a VAE's to float32.

    Raises InputError if the file is damaged, or holds a quantisation that is unsupported.
    """
    tensors = checkpoint.read([path_of(file)])
    vae = {key: value for key, value in tensors.items() if key.startswith(AUTOENCODER)}
    others = {key: value for key, value in tensors.items() if key not in vae}
    try:
        return checkpoint.dequantised(vae, torch.float32) | checkpoint.dequantised(others, dtype)
    except checkpoint.Misfit as misfit:
        raise InputError(file, misfit) from None


def trained_as(file: str) -> dict:
    """How a file says that it was trained, as settings of a scheduler: prediction type, zero terminal SNR.

    It says so by modelspec's or kohya's metadata, or by the empty tensors `v_pred` and `ztsnr`.
    """
    with checkpoint.library_reads(), safe_open(path_of(file), "pt") as opened:
        metadata, keys = opened.metadata() or {}, set(opened.keys())
    predicts = "v" if "v_pred" in keys else metadata.get("modelspec.prediction_type")
    found: dict[str, object] = {}
    if predicts in PREDICTS:
        found["prediction_type"] = PREDICTS[predicts]
    if "ztsnr" in keys or metadata.get("ss_zero_terminal_snr") == "True":
        found["rescale_betas_zero_snr"] = True
    return found


def holds(cls, tensors: dict[str, Tensor]) -> bool:
    """Whether a file has the tensors of a part of this class; a network's it always has."""
    from diffusers.loaders.single_file_utils import is_clip_model_in_single_file, is_t5_in_single_file

    if cls.__module__.startswith("transformers"):
        return is_clip_model_in_single_file(cls, tensors) or ("T5" in cls.__name__ and is_t5_in_single_file(tensors))
    return "Autoencoder" not in cls.__name__ or any(key.startswith(AUTOENCODER) for key in tensors)


def check_part(part: str, cls, folder: Path, headers: dict[str, Tensor], file: str) -> torch.nn.Module:
    """Compare the tensors of `read_headers` with the configuration in a folder; the part without its weights.

    Raises InputError unless every weight of the part is there.
    """
    config = checkpoint.read_config(cls, folder)
    try:
        if cls.__module__.startswith("transformers"):
            return _text_encoder(cls, folder, headers, torch.float32)
        module, _ = checkpoint.check_fit(cls, config, _converted(cls, config, headers))
    except checkpoint.Misfit as misfit:
        raise _other_weights(part, cls, file, misfit) from None
    return module


def load_part(
    part: str, cls, folder: Path, tensors: dict[str, Tensor], file: str, dtype: torch.dtype
) -> torch.nn.Module:
    """Load a part in `dtype` from the tensors of `read` and the configuration in a folder.

    Raises InputError as `check_part`.
    """
    config = checkpoint.read_config(cls, folder)
    try:
        if cls.__module__.startswith("transformers"):
            return _text_encoder(cls, folder, tensors, dtype)
        module, _ = checkpoint.build(cls, config, _converted(cls, config, tensors), dtype)
    except checkpoint.Misfit as misfit:
        raise _other_weights(part, cls, file, misfit) from None
    return module


def _other_weights(part: str, cls, file: str, misfit: checkpoint.Misfit) -> InputError:
    wanted = "wanted a whole file, and in --config a model of its kind"
    return InputError(file, f"not the weights of the {part} ({cls.__name__}): {misfit}; {wanted}")


def _converted(cls, config: dict, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """The tensors of a module under diffusers' names."""
    from diffusers.loaders.single_file_model import SINGLE_FILE_LOADABLE_CLASSES

    wanted = checkpoint.empty(cls, config).state_dict().keys()
    if len(wanted & tensors.keys()) > len(wanted) / 2 or cls.__name__ not in SINGLE_FILE_LOADABLE_CLASSES:
        return tensors
    if any(key.startswith("input_blocks.") for key in tensors):  # a U-Net alone, without its prefix in a full file
        tensors = {f"model.diffusion_model.{key}": value for key, value in tensors.items()}
    convert = SINGLE_FILE_LOADABLE_CLASSES[cls.__name__]["checkpoint_mapping_fn"]
    with checkpoint.library_reads():
        try:
            return convert(config=config, checkpoint=dict(tensors))
        except (KeyError, IndexError, AttributeError) as error:  # a name that the file does not have
            raise checkpoint.Misfit(f"some are missing: {error}") from None


def _text_encoder(cls, folder: Path, tensors: dict[str, Tensor], dtype: torch.dtype) -> torch.nn.Module:
    """A text encoder as diffusers converts it. Raises Misfit if a weight is missing."""
    from diffusers.loaders import single_file_utils as utils

    if utils.is_clip_model_in_single_file(cls, tensors) and "T5" not in cls.__name__:
        convert = utils.create_diffusers_clip_model_from_ldm
    else:
        convert = utils.create_diffusers_t5_model_from_checkpoint
    with checkpoint.library_reads():
        module = convert(cls, dict(tensors), config=str(folder.parent), subfolder=folder.name, torch_dtype=dtype)
    module.tie_weights()  # a T5's file may hold its embeddings once; diffusers 0.42.1 leaves the other on "meta"
    weights = module.state_dict()
    missing = [key for key, value in weights.items() if value.is_meta]
    if missing:
        raise checkpoint.Misfit(f"{len(missing)} of {len(weights)} weights are missing: {few(sorted(missing))}")
    return module.eval()  # diffusers 0.42.1 leaves a T5 in training mode: dropout would change each prompt's embedding


def warn_of_rest(file: str, source: str, parts: list[str]) -> None:
    """Warn of the parts that are not in a file, and come from the model that --config names."""
    if parts:
        warnings.warn(f"{file}: holds no {', no '.join(parts)}: from {source}", InputWarning, stacklevel=3)
