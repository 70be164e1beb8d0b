"""The configuration of a model, found from its name and read before any weight is loaded."""

import importlib.util
import inspect
import math
import os
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
from safetensors import SafetensorError

from diffusion import InputError, InputWarning, one_line
from diffusion.core.process import Process
from diffusion.io import hub
from diffusion.io.wording import count, split_weight
from diffusion.models import aliases, checkpoint, single_file
from diffusion.models.families import FAMILIES, PACKED, SHARED
from diffusion.models.internals import check_internals
from diffusion.models.scheduler import flow_scheduler, scheduler_of
from diffusion.models.unsupported import why_unsupported
from diffusion.settings import quiet_libraries

UNREADABLE = (OSError, ValueError, KeyError, TypeError, AttributeError, SafetensorError)  # not there, or damaged
UNUSED = {  # parts of pipelines that classification does not use
    "safety_checker", "feature_extractor", "image_encoder", "watermarker", "pe", "pe_tokenizer", "guider", "ocr_guider",
}  # fmt: skip
T5 = {"text_encoder_3", "tokenizer_3"}  # of Stable Diffusion 3, which was trained to do without it too
OPTIONAL_TEXT = {  # pipeline -> parts that read prompts, and that it does without
    "StableDiffusion3Pipeline": T5,
    "StableDiffusionXLPipeline": {"text_encoder", "tokenizer"},
}
AUTOENCODERS = ("vae", "vqvae", "movq")
LIBRARIES = {  # a part's library in model_index.json -> the module that has its classes
    "diffusers": "diffusers",
    "transformers": "transformers",
    "kolors": "diffusers.pipelines.kolors",
    "prx": "diffusers.pipelines.prx",
}
SCRIPTS = {"text": "eval_prob_adaptive.py", "class": "eval_prob_dit.py"}  # which script a model is for
TEXT_PARTS = ("text_encoder", "tokenizer", "processor")  # prefixes of the names of parts that read prompts
TEXT_ONLY = {"addition_embed_type": {None, "text"}, "encoder_hid_dim_type": {None, "text_proj"}}  # of a U-Net
SIZED = {"StableDiffusionXLPipeline", "KolorsPipeline"}  # pipelines whose U-Net takes the size of the image
CLIPS = {"CLIPTextModel", "CLIPTextModelWithProjection"}


@dataclass(frozen=True)
class Card:
    """The configuration of a model, read before any weight is loaded."""

    source: str  # hub id or folder that holds the configuration
    pipeline: str  # the diffusers class
    parts: dict[str, tuple[str, str]]  # the parts that are loaded: name -> library and class
    n_levels: int  # T
    latent: tuple[int, int, int]  # c, h, w
    image_size: int  # pixels
    classes: int | None = None  # the number of class ids, if the model is conditioned on them
    called: tuple[str, ...] = ()  # the names of these classes, if the folder has them
    autoencoder: str | None = "vae"  # the part that encodes images; None: the network works in pixels
    has_bound: bool = False  # predicts epsilon and a variance
    vae: str | None = None  # hub id or folder of a VAE that replaces the pipeline's
    lora: tuple[str, ...] = ()  # hub ids or files that are added to the weights, perhaps with :WEIGHT
    embeddings: tuple[str, ...] = ()  # hub ids or files of tokens that the tokenizer does not have
    prompt_loras: tuple[str, ...] = ()  # as `lora`, but each for some prompts alone
    prompt_tokens: tuple[tuple[str, str], ...] = ()  # as `embeddings`, each with the new name of its token
    lacks_t5: bool = False  # the folder has a T5, which is not loaded
    file: str | None = None  # the single file, or the folder of some parts, that holds the weights
    home: hub.Source | None = field(default=None, repr=False, compare=False)  # the files of `source`
    places: dict[str, tuple[hub.Source, str]] = field(
        default_factory=dict, repr=False, compare=False
    )  # part with weights -> where its files lie, and the folder there
    scheduler: object = field(default=None, repr=False, compare=False)


@quiet_libraries()
def read_card(
    name: str | Path,
    image_size: int | None = None,
    *,
    conditioned_on: str | None = "text",
    vae: str | Path | None = None,
    lora: str | Path | Sequence[str | Path] | None = None,
    embeddings: str | Path | Sequence[str | Path] | None = None,
    t5: bool = False,
    config: str | Path | None = None,
) -> Card:
    """Read the configuration of an alias, a hub id, a local folder in diffusers layout or a single file; no weights.

    conditioned_on  "text" or "class", the kind of the caller's arms; None: as the configuration says
    image_size      in pixels, by default the model's own
    vae             the hub id or folder of a VAE that replaces the pipeline's
    lora            one LoRA or several, by hub ids, folders or files, each perhaps with a weight as in A:0.7
    embeddings      files or hub ids of tokens that prompts may use
    t5              with the T5 of Stable Diffusion 3
    config          the alias, hub id or folder with the configuration of a single file, by default the one that
                    diffusers recognises in it; or with the other parts of a folder of some parts

    Raises InputError if the model cannot be reached, is no supported pipeline, needs code of its own, is conditioned on
    something else, or does not take that image size or that VAE.
    """
    name = os.fspath(name)
    vae = vae and os.fspath(vae)
    config = config and os.fspath(config)
    loras, tokens = _as_texts(lora), _as_texts(embeddings)
    for each in loras:
        split_weight(each)
    single = name.endswith(".safetensors")
    folder = os.path.expanduser(name)
    partial = os.path.isdir(folder) and not os.path.isfile(os.path.join(folder, "model_index.json"))
    if name.endswith((".gguf", ".ckpt")):
        wanted = "single files are read as .safetensors only; convert it, or take that one"
        raise InputError(f"--version {name}", wanted)
    if config is not None and not (single or partial):
        raise InputError(f"--config {config}", f"is for a --version that is a single .safetensors file, not for {name}")
    reasons = []
    for source in _sources(name, single, config, conditioned_on):
        try:
            card = _card(name, source, image_size, conditioned_on, vae, t5)
            card = replace(card, lora=loras, embeddings=tokens)
            if single:
                return _in_file(card, name)
            if partial and config:
                return _in_folder(card, name)
            return card
        except InputError:
            raise
        except UNREADABLE as error:  # a foreign configuration may lack any key, or hold any type there
            reasons.append(f"{source} ({_described(error)})")
    if single:
        wanted = "wanted a single file and, in --config, the hub id or folder of a model of its kind"
        found = f"its configuration could not be read from {'; '.join(reasons)}"
        raise InputError(f"--version {name}", f"{found}; {wanted}")
    hint = ""
    if partial:
        hint = " (a folder of some parts wants --config too, the model that has the others)"
    raise aliases.unreadable(name, conditioned_on, reasons, hint)


def _as_texts(names: str | Path | Sequence[str | Path] | None) -> tuple[str, ...]:
    """One name or several, or none."""
    if isinstance(names, str | os.PathLike):
        return (os.fspath(names),)
    return tuple(map(os.fspath, names or ()))


def _described(error: Exception) -> str:
    """An error with its class, unless its message was written by this package."""
    if isinstance(error, hub.Unreachable | checkpoint.Unreadable):
        return one_line(error)
    return f"{type(error).__name__}: {one_line(error)}"


def _sources(name: str, single: bool, config: str | None, conditioned_on: str | None) -> list[str]:
    """The hub ids or folders that may have a model's configuration, in the order in which they are tried."""
    if not single or config:
        return aliases.sources_of(config or name, conditioned_on)
    try:
        return single_file.looks_like(name)
    except OSError as error:
        raise InputError(f"--version {name}", f"cannot be read: {type(error).__name__}: {one_line(error)}") from error


def _card(
    name: str, source: str, image_size: int | None, conditioned_on: str | None, vae: str | None, t5: bool
) -> Card:
    """The card of one source. Raises InputError, or one of UNREADABLE if the source may be missing or damaged."""
    home = hub.look(source)
    if "modular_model_index.json" in home.names and "model_index.json" not in home.names:
        modular = "a modular repository (modular_model_index.json), whose pipeline is put together by code"
        raise InputError(f"--version {name}", f"{source} is {modular}; wanted one with model_index.json")
    pipeline, parts, config, declared = _read_configs(home)
    _check_pipeline(name, source, pipeline, conditioned_on)
    family = FAMILIES[pipeline]
    part, takes = family.network, family.condition
    has_t5 = pipeline == "StableDiffusion3Pipeline" and parts.keys() >= T5
    if t5 and not has_t5:
        wanted = "is for Stable Diffusion 3 with a third text encoder"
        raise InputError("--t5", f"{wanted}; {source} is a {pipeline} without")
    left_out = set(UNUSED)
    if pipeline == "StableDiffusion3Pipeline" and not t5:
        left_out |= T5
    parts = {key: part for key, part in parts.items() if key not in left_out}
    _check_classes(name, source, parts)
    places = {key: (home, key) for key in parts if _has_weights(key, parts)}
    autoencoder = next((key for key in AUTOENCODERS if key in parts), None)
    of_latents = bool(_takes(pipeline).intersection(AUTOENCODERS))
    if vae is not None and not of_latents:
        raise InputError(f"--vae {vae}", f"{source} has no VAE, it works in pixels")
    lost = sorted({part, "scheduler"} - parts.keys(), reverse=True)
    if of_latents and autoencoder is None and vae is None:
        lost.append("VAE")
    if lost:
        lacks = f"{source} has no {lost[0]} (model_index.json names none), which a {pipeline} wants"
        raise InputError(f"--version {name}", lacks)
    if vae is not None:
        autoencoder = "vae"
        places["vae"], config["vae"] = _read_vae(vae)
        parts["vae"] = ("diffusers", config["vae"]["_class_name"])
    network = config[part]
    if takes == "text":
        _check_inputs(source, pipeline, parts, network, home)
    scheduler = _read_scheduler(source, pipeline, config["scheduler"])
    latent, size = _latent_and_size(pipeline, source, network, config.get(autoencoder), declared, image_size, vae)
    classes, called = None, ()
    if takes == "class":
        classes, called = _classes(source, parts[part][1], network, declared)
    process = Process.from_scheduler(scheduler)
    if not name.endswith(".safetensors"):
        _check_weights_exist(places)
    return Card(
        source,
        pipeline,
        parts,
        n_levels=len(process),
        latent=latent,
        image_size=size,
        classes=classes,
        called=called,
        autoencoder=autoencoder,
        has_bound=network.get("out_channels") == 2 * latent[0] and process.predicts == "epsilon",
        vae=vae,
        lacks_t5=has_t5 and not t5,
        home=home,
        places=places,
        scheduler=scheduler,
    )


@quiet_libraries()
def card_of(pipeline, image_size: int | None = None) -> Card:
    """The card of a pipeline of diffusers in memory, which has no files. InputError as read_card."""
    if not hasattr(pipeline, "components") or not hasattr(pipeline, "config"):
        found = f"a {type(pipeline).__name__}"
        raise InputError("card", f"{found}; wanted a model's name, what read_card returns, or a pipeline of diffusers")
    source = f"a {type(pipeline).__name__} in memory"
    kind = SHARED.get(type(pipeline).__name__, type(pipeline).__name__)
    _check_pipeline(source, source, kind, None)
    family = FAMILIES[kind]
    parts = {}
    for name, part in pipeline.components.items():
        if part is not None:
            parts[name] = (type(part).__module__.split(".")[0], type(part).__name__)
    network = _config_in_memory(pipeline, family.network)
    if family.condition == "text":
        _check_inputs(source, kind, parts, network, None)
    scheduler = _read_scheduler(source, kind, _config_in_memory(pipeline, "scheduler"))
    autoencoder = next((name for name in AUTOENCODERS if name in parts), None)
    of_vae = _config_in_memory(pipeline, autoencoder) if autoencoder else None
    latent, size = _latent_and_size(kind, source, network, of_vae, pipeline.config, image_size, None)
    classes, called = None, ()
    if family.condition == "class":
        classes, called = _classes(source, parts[family.network][1], network, pipeline.config)
    n_levels = len(Process.from_scheduler(scheduler))
    return Card(source, kind, parts, n_levels, latent, size, classes, called, autoencoder, scheduler=scheduler)


def _config_in_memory(pipeline, name: str) -> dict:
    """The configuration of a part, as its file would have it. InputError if it has none."""
    part = getattr(pipeline, name, None)
    if not isinstance(getattr(part, "config", None), dict):
        found = f"its {name} is a {type(part).__name__} without a configuration"
        raise InputError("card", f"{found}; wanted one of diffusers, not wrapped for training")
    return dict(part.config) | {"_class_name": type(part).__name__}


def _check_pipeline(name: str, source: str, pipeline: str, conditioned_on: str | None) -> None:
    """Raise InputError unless a pipeline is supported, can be built here, and is conditioned on this."""
    if pipeline not in FAMILIES:
        reason = why_unsupported(pipeline, class_of("diffusers", pipeline))
        supported = f"supported are {', '.join(FAMILIES)}"
        raise InputError(f"--version {name}", f"{source} is a {pipeline}, which {reason}; {supported}")
    needed = getattr(class_of("diffusers", pipeline), "_backends", [])  # diffusers' stand-in has them
    if needed:
        missing = " ".join(each for each in needed if importlib.util.find_spec(each) is None)
        needs = f"{source} is a {pipeline}, which needs another package"
        raise InputError(f"--version {name}", f"{needs}: pip install {missing}")
    takes = FAMILIES[pipeline].condition
    if conditioned_on not in (None, takes):
        on = {"text": "text", "class": "class ids"}[takes]
        raise InputError(
            f"--version {name}", f"{source} is a {pipeline}, which is conditioned on {on}: use {SCRIPTS[takes]}"
        )


def _check_classes(name: str, source: str, parts: dict[str, tuple[str, str]]) -> None:
    """Raise InputError if a part is of no class of diffusers or transformers: it needs code from its repository."""
    for key, (library, class_name) in parts.items():
        if key != "scheduler" and (library not in LIBRARIES or not class_of(library, class_name)):
            needs = f"its {key} is {library}.{class_name}, which is neither diffusers' nor transformers'"
            raise InputError(f"--version {name}", f"{source} needs code of its own, which is never run: {needs}")


def _has_weights(key: str, parts: dict[str, tuple[str, str]]) -> bool:
    return key != "scheduler" and issubclass(class_of(*parts[key]), torch.nn.Module)


def _read_scheduler(source: str, pipeline: str, settings: dict):
    """The scheduler of a pipeline; flow matching's if the pipeline exists as flow matching only."""
    scheduler = scheduler_of(settings, source)
    found = scheduler.config
    if FAMILIES[pipeline].flow and Process.from_scheduler(scheduler).predicts != "flow":
        found = settings
        scheduler = flow_scheduler(settings, source, pipeline)
    if FAMILIES[pipeline].shifted and "use_dynamic_shifting" not in found:
        lacks = "does not say use_dynamic_shifting, and the network's time depends on it"
        raise InputError(source, f"its scheduler, {settings.get('_class_name')}, {lacks}")
    return scheduler


def _latent_and_size(
    pipeline: str,
    source: str,
    network: dict,
    autoencoder: dict | None,
    declared: dict,
    image_size: int | None,
    vae: str | None,
) -> tuple[tuple[int, int, int], int]:
    """The latent's c, h, w and the side of the images in pixels; autoencoder None: the network works in pixels.

    declared: what model_index.json has. InputError if the network does not take these sizes.
    """
    if autoencoder is None:
        return _pixels(source, network, image_size)
    native = declared.get("default_sample_size")  # in pixels; of PRX
    return _sizes(pipeline, source, network, autoencoder, native, image_size, vae)


def _sizes(
    pipeline: str,
    source: str,
    network: dict,
    autoencoder: dict,
    native: int | None,
    image_size: int | None,
    vae: str | None,
) -> tuple[tuple[int, int, int], int]:
    """The latent's c, h, w and the side of the images in pixels. InputError if the network does not take these.

    native: the side that the network was trained on, if model_index.json has it.
    """
    factor, c = _of_vae(autoencoder, vae or source)
    family = FAMILIES[pipeline]
    packed = PACKED if family.packed else 1
    channels = "in_channels" if "in_channels" in network else "in_visual_dim"  # Kandinsky 5's
    _check_channels(source, network[channels], c, packed, vae)
    if native is None:
        native = factor * (_side(source, network) or family.side)
    (patch,) = network.get("all_patch_size") or [network.get("patch_size") or 1]  # Z-Image's is a list
    if not isinstance(patch, int):
        patch = patch[-1]  # of time, height and width
    size = image_size
    if size is None:
        size = native
    step = factor * max(packed, patch, family.multiple)  # Qwen's patches are packed squares
    if size < step or size % step:
        raise InputError(f"--img_size {size}", f"{source} needs a multiple of {step}")
    most = network.get("pos_embed_max_size") or size
    if pipeline == "AuraFlowPipeline":  # has the number of all places
        most = math.isqrt(most)
    largest = most * step
    if size > largest:
        raise InputError(f"--img_size {size}", f"{source} takes images of {largest} pixels at most")
    if family.condition == "class" and size != native:
        raise InputError(f"--image-size {size}", f"{source} takes images of {native} pixels only")
    return (c, size // factor, size // factor), size


def _check_channels(source: str, takes: int, c: int, packed: int, vae: str | None) -> None:
    """Raise InputError unless a network takes the c channels of the VAE's latent, in squares of packed by packed."""
    wanted = c * packed**2
    if takes == wanted:
        return
    if vae is not None:
        raise InputError(f"--vae {vae}", f"gives {count(c, 'latent channel')}, {source} takes {takes}")
    images = {2 * c + 1: "a masked image and its mask (inpainting)", 2 * c: "another image (instruct-pix2pix)"}
    images[c + 1] = "a map of depths"
    found = f"its network takes {count(takes, 'channel')}"
    if takes in images and packed == 1:
        raise InputError(source, f"{found}: beside the latent's {c}, {images[takes]}")
    gives = f"as its VAE gives {count(c, 'latent channel')}"
    raise InputError(source, f"{found}; wanted {wanted}, {gives}")


def _of_vae(config: dict, source: str) -> tuple[int, int]:
    """The pixels per place of the latent along one side, and its channels. InputError for an unsupported VAE."""
    if "z_dim" in config:  # Qwen-Image's and Wan's, of videos
        return 2 ** len(config["temperal_downsample"]) * (config.get("patch_size") or 1), config["z_dim"]
    blocks = None
    for key in ("encoder_block_out_channels", "down_block_out_channels", "block_out_channels"):
        blocks = blocks or config.get(key)
    c = config.get("vq_embed_dim") or config.get("latent_channels")
    if not blocks or c is None or any(key.startswith("temporal") for key in config):
        raise InputError(source, f"unsupported VAE {config.get('_class_name')}; wanted an image's")
    return 2 ** (len(blocks) - 1), c


def _pixels(source: str, network: dict, image_size: int | None) -> tuple[tuple[int, int, int], int]:
    """c, h, w and the side in pixels for a pixel-space network. InputError if it does not take images of that size."""
    c, side = network["in_channels"], _side(source, network)
    if c not in (1, 3):
        raise InputError(source, f"its network takes {count(c, 'channel')}; wanted images in grey (1) or in colour (3)")
    if image_size not in (None, side):
        raise InputError(f"--image-size {image_size}", f"{source} takes images of {side} pixels only")
    return (c, side, side), side


def _side(source: str, network: dict) -> int | None:
    """The side of the square that a network was trained on, in places of its input; None if its pipeline has one."""
    side = network.get("sample_size")
    if isinstance(side, list | tuple):
        if len(set(side)) != 1:
            raise InputError(source, f"its network was trained on {' x '.join(map(str, side))}; wanted a square")
        side = side[0]
    if side is None and network.get("_class_name", "").startswith("UNet2D"):
        raise InputError(source, "its unet/config.json does not say its sample_size, the side of its images")
    return side


# ---- classes ----


def _classes(source: str, kind: str, network: dict, declared: dict) -> tuple[int, tuple[str, ...]]:
    """The number of classes without a null class, and their names if model_index.json has them."""
    if kind.startswith("UNet"):
        n_classes = network.get("num_class_embeds")
        if network.get("class_embed_type") is not None or not n_classes:
            lacks = f"its {kind} is not conditioned on classes (num_class_embeds)"
            raise InputError(source, f"{lacks}; wanted one that is")
        _check_no_text(source, kind, network)
    else:
        n_classes = network["num_embeds_ada_norm"]  # without its null class
    ids = declared.get("id2label") or {}
    by_number = {int(key): str(name) for key, name in ids.items()}
    if ids and sorted(by_number) != list(range(len(ids))):
        raise InputError(source, f"id2label in model_index.json does not name the classes 0..{len(ids) - 1}")
    names = tuple(by_number[k] for k in range(len(ids)))
    return _named(source, kind, n_classes, names, "id2label in model_index.json")


def _check_no_text(source: str, kind: str, network: dict) -> None:
    """Raise InputError if a class-conditional U-Net is conditioned on text too."""
    if kind != "UNet2DConditionModel":
        return
    middle = network.get("mid_block_type") or ""
    if "mid_block_type" not in network:
        middle = "UNetMidBlock2DCrossAttn"  # the default of its class
    blocks = [*network["down_block_types"], middle, *network["up_block_types"]]
    for block in blocks:
        if "CrossAttn" in block:
            raise InputError(source, f"its {kind} is conditioned on a text besides the class ({block})")


def _named(source: str, kind: str, n_classes: int, names: tuple[str, ...], where: str) -> tuple[int, tuple[str, ...]]:
    """The number of classes, and their names; a U-Net may have one class more, the null class, which comes last."""
    null = kind.startswith("UNet") and len(names) == n_classes - 1
    if names and not null and len(names) != n_classes:
        wanted = f"{n_classes}"
        if kind.startswith("UNet"):
            wanted = f"{n_classes}, or {n_classes - 1} if the last is the null class"
        raise InputError(where, f"names {count(len(names), 'class')}, {source} has {wanted}")
    return len(names) or n_classes, names


def with_names(card: Card, file: str) -> Card:
    """The card of a class-conditional model with the class names in the lines of a file. InputError if they do not fit.

    If the model's folder names the classes too, the file may have one name less and so leave out the null class.
    """
    try:
        with open(os.path.expanduser(file), encoding="utf-8-sig") as opened:
            lines = opened.read().strip("\n").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"--classes {file}", f"cannot be read ({one_line(error)})") from None
    names = tuple(map(str.strip, lines))
    if "" in names:
        line = names.index("") + 1
        raise InputError(f"--classes {file}", f"line {line} is empty; wanted a class's name in each line")
    kind = card.parts[FAMILIES[card.pipeline].network][1]
    classes, called = _named(card.source, kind, card.classes, names, f"--classes {file}")
    return replace(card, classes=classes, called=called)


# ---- parts ----


def class_of(library: str, class_name: str):
    """The class of a part; None if the library has none of this name."""
    return getattr(importlib.import_module(LIBRARIES[library]), class_name, None)


def _check_weights_exist(places: dict[str, tuple[hub.Source, str]]) -> None:
    """Raise FileNotFoundError if a part has no file of weights."""
    for part, (source, within) in places.items():
        try:
            checkpoint.weight_files(source.within(within))
        except FileNotFoundError as error:
            lost = ""
            if source.lost:
                lost = f", in the cache alone: {source.lost}"
            raise FileNotFoundError(f"no weights of its {part}: {error}{lost}") from None


def _in_file(card: Card, file: str) -> Card:
    """A card with the weights of a single file, whose metadata may hold how it was trained."""
    trained = {}
    if not FAMILIES[card.pipeline].flow:
        trained = single_file.trained_as(file)
    settings = card.scheduler.config
    has_betas = hasattr(card.scheduler, "betas")  # flow matching has no use for these settings
    changes = {}
    for key, value in trained.items():
        if (has_betas or key in settings) and settings.get(key) != value:
            changes[key] = value
    if changes:
        config = dict(settings) | changes | {"_class_name": type(card.scheduler).__name__}
        card = replace(card, scheduler=scheduler_of(config, file))
        changed = ", ".join(f"{key} {value}" for key, value in changes.items())
        warnings.warn(f"{file}: says itself how it was trained: {changed}", InputWarning, stacklevel=3)
    return replace(card, file=file)


def _in_folder(card: Card, folder: str) -> Card:
    """A card with the parts of a folder of some parts, as training leaves it; the others are the configuration's."""
    source = hub.look(folder)
    here = {part: (source, part) for part in card.places if f"{part}/config.json" in source.names}
    if not here:
        raise InputError(f"--version {folder}", f"holds none of {', '.join(card.places)}")
    places = card.places | here
    _check_weights_exist(places)
    return replace(card, file=folder, places=places)


def _read_vae(name: str) -> tuple[tuple[hub.Source, str], dict]:
    """The place of a VAE, as in Card.places, and its configuration. Raises InputError."""
    from diffusers import AutoencoderKL

    try:
        source = hub.look(name)
        with checkpoint.library_reads():
            config = AutoencoderKL.load_config(source.folder)
        kind = str(config.get("_class_name", "AutoencoderKL"))
        if not any(word in kind for word in ("Autoencoder", "VAE", "VQModel")) or not class_of("diffusers", kind):
            raise FileNotFoundError(f"config.json is a {kind}'s")
        _check_weights_exist({"vae": (source, "")})
    except OSError as error:
        wanted = "wanted a hub id or the folder of a VAE"
        raise InputError(f"--vae {name}", f"cannot be read; {wanted}: {one_line(error)}") from None
    return (source, ""), config | {"_class_name": kind}


def _read_configs(home: hub.Source) -> tuple[str, dict[str, tuple[str, str]], dict[str, dict], dict]:
    """A pipeline's class, its parts (name -> library, class), the configurations of network, VAE and scheduler, and
    model_index.json.
    """
    from diffusers import AutoencoderKL, DDPMScheduler, DiffusionPipeline

    check_internals()
    declared = DiffusionPipeline.load_config(home.folder)
    pipeline = str(declared["_class_name"])
    pipeline = SHARED.get(pipeline, pipeline)
    takes = _takes(pipeline)
    parts = {}
    for key, value in declared.items():
        if _is_part(value) and (not takes or key in takes):
            parts[key] = tuple(value)
    config = {}
    for part in {"unet", "transformer", *AUTOENCODERS} & parts.keys():
        config[part] = AutoencoderKL.load_config(home.folder, subfolder=part)  # only reads json, for any class
    if "scheduler" in parts:
        config["scheduler"] = DDPMScheduler.load_config(home.folder, subfolder="scheduler")
    return pipeline, parts, config, declared


def _is_part(value: object) -> bool:
    """Whether an entry of model_index.json names a library and a class."""
    return isinstance(value, list) and len(value) == 2 and all(isinstance(word, str) for word in value)


def _takes(pipeline: str) -> set[str]:
    """The parts that a pipeline's class takes, as diffusers reads model_index.json: other lists are settings.

    These are the parameters without a default, and the optional parts that the class lists (diffusers 0.42,
    DiffusionPipeline.from_pretrained). Empty for an unknown class, and for one whose package is not installed.
    """
    cls = class_of("diffusers", pipeline)
    if cls is None or hasattr(cls, "_backends"):
        return set()
    parameters = inspect.signature(cls.__init__).parameters
    required = {key for key, parameter in parameters.items() if parameter.default is parameter.empty}
    return required | set(cls._optional_components) & parameters.keys()


def _check_inputs(source: str, pipeline: str, parts: dict, network: dict, home: hub.Source | None) -> None:
    """Raise InputError if prompts cannot be read, or if a network needs more than its adapter makes of them.

    home: the files of the configuration; without them, None, the widths of texts are not compared. By a null text
    encoder diffusers leaves out the first of Stable Diffusion XL, or Stable Diffusion 3's T5.
    """
    optional = OPTIONAL_TEXT.get(pipeline, set())
    for key in sorted(_takes(pipeline) - parts.keys() - optional):
        if key.startswith(TEXT_PARTS):
            raise InputError(source, f"has no {key} (null in model_index.json), which a {pipeline} wants")
    if network.get("use_meanflow"):
        average = "its network predicts the average velocity between two times (use_meanflow)"
        raise InputError(source, f"{average}; wanted one that predicts the velocity at a time")
    kind = network.get("_class_name", "")
    if not kind.startswith("UNet"):
        return
    found = network.get("class_embed_type") or (network.get("num_class_embeds") and "num_class_embeds")
    if found:
        wants = f"a class, a noise level or an embedding beside the text ({found})"
        raise InputError(source, f"its {kind} is conditioned on {wants}; wanted one of text alone")
    for key, supported in TEXT_ONLY.items():
        wanted = supported
        if key == "addition_embed_type" and pipeline in SIZED:
            wanted = {"text_time"}
        if network.get(key) not in wanted:
            raise InputError(source, f"its {kind} has {key} {network.get(key)!r}; a {pipeline} gives it text alone")
    xl = pipeline == "StableDiffusionXLPipeline"
    last = "text_encoder_2" if xl else "text_encoder"
    if home is not None and parts[last][1] in CLIPS:
        _check_widths(source, parts, network, home, xl)


def _check_widths(source: str, parts: dict, network: dict, home: hub.Source, xl: bool) -> None:
    """Raise InputError unless CLIP's text is as wide as a U-Net takes it; for XL also the pooled text and the size."""
    encoders, width = [], 0
    for key in ("text_encoder", "text_encoder_2"):
        if key in parts:
            config = checkpoint.read_config(class_of(*parts[key]), home.folder / key)
            encoders.append(key)
            width += config.hidden_size
    takes = network.get("encoder_hid_dim") or network.get("cross_attention_dim")
    if isinstance(takes, int) and width != takes:
        raise InputError(source, f"its {' and '.join(encoders)} give text {width} wide, its network takes {takes}")
    if not xl:
        return
    beside = network["projection_class_embeddings_input_dim"] - config.projection_dim
    if beside != 6 * network["addition_time_embed_dim"]:
        numbers = beside / network["addition_time_embed_dim"]
        wanted = "wanted 6, of the size (a refiner takes 5, the last a score)"
        raise InputError(source, f"its network takes {numbers:g} numbers beside the pooled text; {wanted}")
