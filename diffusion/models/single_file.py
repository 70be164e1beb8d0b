"""One file that holds a whole model, or its network alone, in the layout of its authors; converted by diffusers."""

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

AUTOENCODER = ("first_stage_model.", "vae.")  # what the keys of a VAE begin with
PREDICTS = {"v": "v_prediction", "v_prediction": "v_prediction", "epsilon": "epsilon"}  # modelspec's words
OF_STABLE_DIFFUSION = ("model.diffusion_model.input_blocks.", "input_blocks.")  # how a U-Net's names begin there
OTHER_WIDTHS = {1024: "Stable Diffusion 2", 1280: "the refiner of Stable Diffusion XL", 2048: "Stable Diffusion XL"}
PIXART_CHANNELS = 4  # of its latent; Sana's has 32
IMAGE_TOO = {  # what diffusers calls a network -> what it takes beside the text
    "inpainting": "a masked image", "inpainting_v2": "a masked image", "xl_inpaint": "a masked image",
    "flux-fill": "a masked image", "flux-depth": "an image that it follows", "instruct-pix2pix": "an image to change",
    "upscale": "a small image", "xl_refiner": "a score, since it refines images",
}  # fmt: skip
MIRRORS = {places[0]: places for places in ALIASES["text"].values()}


def looks_like(file: str) -> list[str]:
    """The hub ids, tried in order, of the model whose shapes the weights in a file have, as diffusers recognises it.

    diffusers 0.42.1 (`infer_diffusers_model_type`) takes what it does not recognise for Stable Diffusion 1, a PixArt
    for Sana, and every Stable Diffusion 2 for the one that predicts v, whose repository is gone. InputError where that
    may be: --config says what it is. Of the sizes of Sana it knows one: warns.
    """
    from diffusers.loaders.single_file_utils import DIFFUSERS_DEFAULT_PIPELINE_PATHS, infer_diffusers_model_type

    shapes = checkpoint.read([path_of(file)], header=True)
    try:
        kind = infer_diffusers_model_type(shapes)
    except Exception as error:  # it looks at shapes of weights that a foreign file has not, or has otherwise
        raise _unknown(file, f"diffusers cannot recognise its weights ({one_line(error, 80)})") from None
    default = DIFFUSERS_DEFAULT_PIPELINE_PATHS[kind]["pretrained_model_name_or_path"]
    if kind in IMAGE_TOO:
        raise _unknown(file, f"a network ({kind}) that takes {IMAGE_TOO[kind]} beside the text", "one of text alone")
    found = few(sorted(shapes), 2)
    if kind == "v1" and not any(key.startswith(OF_STABLE_DIFFUSION) for key in shapes):
        raise _unknown(
            file, f"holds weights ({found}) that diffusers does not recognise; it would take any for {default}"
        )
    if kind == "v1" and (width := _text_width(shapes)) in OTHER_WIDTHS:
        what = f"a U-Net of {OTHER_WIDTHS[width]} (its text is {width} wide), which diffusers takes for {default}"
        raise _unknown(file, what)
    if kind == "sana" and _channels(shapes) == PIXART_CHANNELS:
        raise _unknown(
            file, f"a PixArt (its latent has {PIXART_CHANNELS} channels), which diffusers takes for {default}"
        )
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


def _unknown(
    file: str, what: str, wanted: str = "the hub id or folder of a model of its kind in --config"
) -> InputError:
    return InputError(f"--version {file}", f"{what}; wanted {wanted}")


def _text_width(shapes: dict[str, Tensor]) -> int | None:
    """Of a U-Net in the layout of its authors how wide the text is that its attention reads."""
    return next((value.shape[-1] for key, value in shapes.items() if key.endswith(".attn2.to_k.weight")), None)


def _channels(shapes: dict[str, Tensor]) -> int | None:
    """How many channels of a latent a transformer's first layer reads."""
    return next((value.shape[1] for key, value in shapes.items() if key.endswith("x_embedder.proj.weight")), None)


def path_of(file: str) -> Path:
    return Path(os.path.expanduser(file))


def read(file: str, dtype: torch.dtype | None) -> dict[str, Tensor]:
    """The tensors of a file, float8 ones as weights.dequantised gives them, a VAE's in float32; None: the header.

    InputError: the file is not whole, or holds a quantisation that is unsupported.
    """
    path = path_of(file)
    tensors = checkpoint.read([path], header=dtype is None)
    encoder = {key: value for key, value in tensors.items() if key.startswith(AUTOENCODER)}
    others = {key: value for key, value in tensors.items() if key not in encoder}
    try:
        wide = None if dtype is None else torch.float32
        return checkpoint.dequantised(encoder, wide) | checkpoint.dequantised(others, dtype)
    except checkpoint.Misfit as misfit:
        raise InputError(file, misfit) from None


def trained_as(file: str) -> dict:
    """What a file says about its own training, as a scheduler's configuration: prediction type, zero terminal SNR.

    By modelspec's or kohya's metadata, or by the empty tensors `v_pred` and `ztsnr`.
    """
    with checkpoint.library_reads(), safe_open(path_of(file), "pt") as opened:
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
    config = checkpoint.read_config(cls, folder)
    try:
        if cls.__module__.startswith("transformers"):
            return _text_encoder(cls, folder, tensors, dtype)
        return checkpoint.build(cls, config, _converted(cls, config, tensors), dtype)[0]
    except checkpoint.Misfit as misfit:
        wanted = "wanted a whole file, and in --config a model of its kind"
        raise InputError(file, f"not the weights of the {part} ({cls.__name__}): {misfit}; {wanted}") from None


def _converted(cls, config: dict, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """The tensors of a module under diffusers' names."""
    from diffusers.loaders.single_file_model import SINGLE_FILE_LOADABLE_CLASSES

    known = checkpoint.empty(cls, config).state_dict().keys()
    if len(known & tensors.keys()) > len(known) / 2 or cls.__name__ not in SINGLE_FILE_LOADABLE_CLASSES:
        return tensors
    if any(key.startswith("input_blocks.") for key in tensors):  # a U-Net alone, without what is before it in a whole
        tensors = {f"model.diffusion_model.{key}": value for key, value in tensors.items()}
    convert = SINGLE_FILE_LOADABLE_CLASSES[cls.__name__]["checkpoint_mapping_fn"]
    with checkpoint.library_reads():
        try:
            return convert(config=config, checkpoint=dict(tensors))
        except (KeyError, IndexError, AttributeError) as error:  # of a key that is not there
            raise checkpoint.Misfit(f"some are missing: {error}") from None


def _text_encoder(cls, folder: Path, tensors: dict[str, Tensor], dtype: torch.dtype | None) -> torch.nn.Module:
    from diffusers.loaders import single_file_utils as utils

    build = utils.create_diffusers_t5_model_from_checkpoint
    if utils.is_clip_model_in_single_file(cls, tensors) and "T5" not in cls.__name__:
        build = utils.create_diffusers_clip_model_from_ldm
    as_it_is = next(value.dtype for value in tensors.values() if value.is_floating_point())  # so nothing is copied
    place = {"config": str(folder.parent), "subfolder": folder.name}
    with checkpoint.library_reads():
        module = build(cls, dict(tensors), **place, torch_dtype=dtype or as_it_is)
    module.tie_weights()  # a T5's file may hold its embeddings once; diffusers 0.42.1 leaves the other on "meta"
    there = module.state_dict()
    if missing := [key for key, value in there.items() if value.is_meta]:
        raise checkpoint.Misfit(f"{len(missing)} of {len(there)} weights are missing: {few(sorted(missing))}")
    return module.eval()  # diffusers 0.42.1 leaves a T5 training: dropout would change it from call to call


def warn_of_rest(file: str, source: str, parts: list[str]) -> None:
    """Say which parts are not in a file, and come from the model that --config names."""
    if parts:
        warnings.warn(f"{file}: holds no {', no '.join(parts)}: from {source}", InputWarning, stacklevel=3)
