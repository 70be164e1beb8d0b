"""A card becomes a model: the pipeline is checked, loaded whole, and made ready for the kernel.

`check_parts` and `check_weights` look at files, before a run; `load_parts` and `load_model` load them.
"""

import contextlib
import copy
import functools
import os
import re
import warnings
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from diffusion import InputError, InputWarning, one_line
from diffusion.core.conditions import Conditions, places_of
from diffusion.core.constants import DTYPES
from diffusion.core.process import Process
from diffusion.data.images import to_grey
from diffusion.io import hub
from diffusion.io.wording import few
from diffusion.models import checkpoint, residence, single_file
from diffusion.models.aliases import ALIASES, EMBEDDED, KINDS
from diffusion.models.config import AUTOENCODERS, T5, UNREADABLE, UNUSED, Card, card_of, class_of, read_card
from diffusion.models.families import FAMILIES, PACKED, Adapter
from diffusion.models.lora import EMBEDDING_COLUMN, LORA_COLUMN, add, embed, switcher, token_of
from diffusion.settings import exact_float32, guest

if TYPE_CHECKING:
    from diffusers import DiffusionPipeline

NEAR = 0.02  # prompts whose conditions differ by less, relative to their length, are compared bit by bit

__all__ = ["ALIASES", "EMBEDDED", "FAMILIES", "Card", "Model", "check_weights", "load_model", "read_card"]


@dataclass(frozen=True)
class Model:
    """A diffusion model as the kernel sees it."""

    process: Process
    device: torch.device
    image_size: int  # pixels
    encode: Callable[[Tensor], Tensor]  # images [b, 3, H, W] in [-1, 1] -> x [b, c, h, w] float32
    conditions: Callable[..., Conditions]  # n prompts or class ids [, LoRAs of each, report of progress] -> n rows
    denoise: Callable[[Tensor, Tensor, Conditions], Tensor]  # z [n, c, h, w], time [n], n rows -> [n, c or 2c, h, w]
    conditioned_on: str = "text"  # or "class": what `conditions` takes
    classes: int | None = None  # the number of class ids, if it is conditioned on them
    tokens: tuple[str, ...] = ()  # of its embeddings
    switch: Callable[[tuple[str, ...]], None] | None = None  # enables exactly these of the card's prompt_loras


@contextlib.contextmanager
def _reading(card: Card) -> Iterator[None]:
    """Turn OSError into InputError: files that are missing, damaged or foreign.

    Other errors are bugs and keep their traceback. Libraries raise other classes too for a damaged file; around their
    calls `checkpoint.library_reads` makes Unreadable of them, an OSError.
    """
    try:
        with guest():
            yield
    except OSError as error:
        reason = one_line(error, 300)
        where = card.file or card.source
        raise InputError(where, f"cannot read its weights; a local folder will do as well: {reason}") from error


def weights_size(card: Card, dtype: torch.dtype) -> int:
    """The bytes that a model will take in memory, from its configurations alone. Raises InputError, as load_model."""
    total = 0
    with _reading(card):
        for part, (source, within) in card.places.items():
            cls = class_of(*card.parts[part])
            module = checkpoint.empty(cls, checkpoint.read_config(cls, source.folder / within))
            itemsize = _dtype_of(part, dtype).itemsize
            total += sum(p.numel() for p in module.parameters()) * itemsize
    return total


def _dtype_of(part: str, dtype: torch.dtype) -> torch.dtype:
    """The dtype of a part: `dtype`, but float32 for a VAE, since some overflow in half precision."""
    return torch.float32 if part in AUTOENCODERS else dtype


# ---- parts ----


def check_parts(card: Card) -> dict[str, torch.nn.Module]:
    """Compare the files of all parts with their configurations; the parts on the meta device.

    Repositories of the hub are fetched first. Warns of tensors that are not used. Raises InputError, or OSError for a
    file that cannot be read, unless every weight of every part is there.
    """
    headers = _single_file_headers(card)
    held = _held(card, headers)
    modules = {}
    for part, (source, within) in card.places.items():
        cls, folder = class_of(*card.parts[part]), source.folder / within
        if part in held:
            modules[part] = single_file.check_part(part, cls, folder, headers, card.file)
        else:
            modules[part] = checkpoint.check_part(part, cls, folder, _files(source, within))
    if held:
        single_file.warn_of_rest(card.file, card.source, [part for part in modules if part not in held])
    return modules


def load_parts(card: Card, dtype: torch.dtype, outlined: Collection[str] = ()) -> dict[str, torch.nn.Module]:
    """Load all parts that have weights, on the CPU, in `dtype`; a VAE in float32. Raises as `check_parts`.

    Of those in `outlined` only the outline is made, as `checkpoint.outline_part` does.
    """
    held = _held(card, _single_file_headers(card))
    tensors = single_file.read(card.file, dtype) if held else {}
    modules = {}
    for part, (source, within) in card.places.items():
        cls, folder = class_of(*card.parts[part]), source.folder / within
        if part in held:
            modules[part] = single_file.load_part(part, cls, folder, tensors, card.file, _dtype_of(part, dtype))
        elif part in outlined:
            modules[part] = checkpoint.outline_part(part, cls, folder, _files(source, within), dtype)
        else:
            modules[part] = _load_part(card, part, dtype)
    return modules


def _load_part(card: Card, part: str, dtype: torch.dtype) -> torch.nn.Module:
    source, within = card.places[part]
    cls = class_of(*card.parts[part])
    return checkpoint.load_part(part, cls, source.folder / within, _files(source, within), _dtype_of(part, dtype))


def _text_encoders(card: Card) -> list[str]:
    return [part for part in card.places if part.startswith("text_encoder")]


def _read_when_used(card: Card, device: torch.device) -> list[str]:
    """The parts that are read when they are used: on the CPU large text encoders, and with them the network.

    Not those of a single file, which holds all parts, nor with LoRAs or embeddings, which change the weights.
    """
    changed = card.lora or card.embeddings or card.prompt_loras or card.prompt_tokens
    if device.type != "cpu" or changed or _single_file_headers(card) or _quantised(card):
        return []
    found = []
    for part in _text_encoders(card):
        size = 0
        for path in _files(*card.places[part]):
            size += path.stat().st_size
        if size > residence.SMALL:
            found.append(part)
    if found:
        found.append(FAMILIES[card.pipeline].network)
    return found


def _quantised(card: Card) -> list[str]:
    """The parts that are quantised: their libraries load them, and choose where they are."""
    found = []
    for part, (source, within) in card.places.items():
        cls = class_of(*card.parts[part])
        if checkpoint.quantisation(checkpoint.read_config(cls, source.folder / within)):
            found.append(part)
    return found


def _files(source: hub.Source, within: str) -> list[Path]:
    """The weight files of a part, fetched if need be."""
    names = checkpoint.weight_files(source.within(within))
    if within:
        names = [f"{within}/{name}" for name in names]
    return hub.fetch(source, names)


def _single_file_headers(card: Card) -> dict[str, Tensor]:
    """The tensors of a card's single file, without their values; {} if the card has none."""
    if card.file is None or not card.file.endswith(".safetensors"):
        return {}
    return single_file.read_headers(card.file)


def _held(card: Card, headers: dict[str, Tensor]) -> list[str]:
    """The parts of a card whose weights are in its single file."""
    if not headers:
        return []
    held = []
    for part, (_, within) in card.places.items():
        if within == part and single_file.holds(class_of(*card.parts[part]), headers):  # --vae's has no folder
            held.append(part)
    return held


def _pipeline(card: Card, modules: dict[str, torch.nn.Module]):
    """The diffusers pipeline of a card, with these modules as its parts.

    By its own class: diffusers 0.42.1 (`DiffusionPipeline._get_signature_keys`) asks the class that is called for its
    optional parts, and DiffusionPipeline, which has none, silently reads HunyuanDiT's T5 itself, in its file's dtype.
    """
    left_out = dict.fromkeys((UNUSED | T5) - card.parts.keys())  # None leaves a part out
    with checkpoint.library_reads():
        pipeline = class_of("diffusers", card.pipeline).from_pretrained(
            card.home.folder, scheduler=card.scheduler, **modules, **left_out
        )
    _limit_tokenizers(pipeline)
    return pipeline


def _limit_tokenizers(pipeline) -> None:
    """Let a tokenizer make no more tokens than its text encoder has places for.

    Without a `model_max_length` in tokenizer_config.json transformers (5) takes 1e30, to which pipelines then pad.
    """
    for key, tokenizer in pipeline.components.items():
        if not key.startswith("tokenizer") or not hasattr(tokenizer, "model_max_length"):
            continue
        encoder = getattr(pipeline, key.replace("tokenizer", "text_encoder"), None)
        config = getattr(encoder, "config", None)
        most = getattr(getattr(config, "text_config", config), "max_position_embeddings", None)
        if isinstance(most, int) and tokenizer.model_max_length > most:
            tokenizer.model_max_length = most
    limit = getattr(getattr(pipeline, "tokenizer", None), "model_max_length", None)
    if limit and getattr(pipeline, "tokenizer_max_length", 0) > limit:  # read before the loop above
        pipeline.tokenizer_max_length = limit


# ---- looking at weights ----


def check_weights(card: Card) -> dict[str, str]:
    """Check all files of a model's weights before a run begins: "weights of PART" -> the part's fingerprint.

    A fingerprint is the hub's commit, or sizes and hashes of local files; the local configurations of the parts have
    one too, since a scheduler's says what the network predicts. Repositories of the hub are fetched first. Raises
    InputError unless every weight of every part is there, every tensor of every LoRA has its place, and every tokenizer
    has its vocabulary; warns of tensors that are not used.
    """
    with _reading(card):
        _check_tokenizers(card)
        modules = check_parts(card)
        fingerprints = {}
        if card.lora or card.embeddings or card.prompt_loras or card.prompt_tokens:
            fingerprints |= _check_additions(card, _pipeline(card, modules))
        return fingerprints | _part_fingerprints(card) | _configuration_fingerprint(card)


def _check_additions(card: Card, pipeline) -> dict[str, str]:
    """Check LoRAs and embeddings against a pipeline on the meta device; their fingerprints."""
    network = FAMILIES[card.pipeline].network
    found = {}
    for file in card.embeddings:
        found[f"weights of --embeddings {file}"] = embed(pipeline, file)
    for file, token in card.prompt_tokens:
        found[f"weights of {EMBEDDING_COLUMN} {file}"] = embed(pipeline, file, EMBEDDING_COLUMN, token)
    for file in card.lora:
        found[f"weights of --lora {file}"] = add(pipeline, network, file)
    for file in card.prompt_loras:
        found[f"weights of {LORA_COLUMN} {file}"] = add(pipeline, network, file, LORA_COLUMN)
    return found


def _part_fingerprints(card: Card) -> dict[str, str]:
    held = _held(card, _single_file_headers(card))
    found = {}
    if held:
        found["weights of the file"] = checkpoint.fingerprint([single_file.path_of(card.file)])
    for part, (source, within) in card.places.items():
        if part in held:
            continue
        if source.commit:
            found[f"weights of {part}"] = f"commit {source.commit}"
        else:
            found[f"weights of {part}"] = checkpoint.fingerprint(_files(source, within))
    return found


def _configuration_fingerprint(card: Card) -> dict[str, str]:
    """That of the configurations in local folders: repositories have a commit, and nobody edits embedded models."""
    parts = {"model_index.json", *card.parts}
    files = []
    if card.home.commit is None:
        files += [card.home.folder / name for name in card.home.names if name.split("/")[0] in parts]
    for source, part in card.places.values():
        if source != card.home and source.commit is None:
            files.append(source.folder / part / "config.json")
    paths = []
    for path in files:
        is_configuration = f"*{path.suffix}" in hub.CONFIGURATION
        if is_configuration and not path.is_relative_to(EMBEDDED):
            paths.append(path)
    if not paths:
        return {}
    return {"configuration": checkpoint.fingerprint(paths)}


# ---- loading ----


@guest()
def load_model(
    card: "Card | str | Path | DiffusionPipeline",
    *,
    conditioned_on: str | None = None,
    dtype: torch.dtype = torch.float32,
    device: str | torch.device = "cpu",
    compiled: bool = False,
    offload: bool = False,
    **options,
) -> Model:
    """Load the pipeline that a card or a name describes, or take one of diffusers that is in memory.

    A name is an alias, a hub id, a local folder in diffusers layout or a single file. `options` are those of
    `read_card`: `config`, `lora`, `vae`, `embeddings`, `t5`, `image_size`. `conditioned_on` is "text" or "class", by
    default as the model's own configuration says; of the aliases, "digits" alone stands for two models, and then for
    the one of texts. On CUDA the network may be compiled.

    The VAE works in float32, since it is called once per image, and some overflow in half precision. Text encoders are
    on the device only while prompts are encoded, and so is the VAE with `offload`; else they wait in host memory. On
    the CPU large ones are read anew for each call of `conditions` (models/residence.py). If there are no safetensors
    (DiT's repositories are older), .bin files are read with weights_only=True. If the card has LoRAs of single prompts,
    `conditions` also takes those of each arm.

    A pipeline in memory is used as it is: on its device, in its dtype, and with the weights that it has at each call.
    Each use puts its parts into evaluation mode. `image_size` may be passed, and no other option.

    Raises InputError if there is no such model or device, if the model is unsupported or does not take the options, or
    if weights are missing or damaged.
    """
    if not isinstance(dtype, torch.dtype) or str(dtype).removeprefix("torch.") not in DTYPES:
        raise InputError(f"dtype {dtype!r}", f"wanted torch.{' or torch.'.join(DTYPES)}")
    device = find_device(device, f"device {str(device)!r}")
    if conditioned_on not in (None, *KINDS):
        raise InputError(f"conditioned_on {conditioned_on!r}", f"wanted {' or '.join(KINDS)}")
    if isinstance(card, Card):
        if options:
            raise InputError(f"{', '.join(options)}", "for a model by its name; read_card takes them for a card")
        _check_condition(card, conditioned_on)
        return _loaded(card, dtype, device, compiled, offload)

    with _naming_arguments():
        if isinstance(card, str | os.PathLike):
            is_alias = conditioned_on is not None and os.fspath(card) in ALIASES[conditioned_on]
            card = read_card(card, conditioned_on=conditioned_on if is_alias else None, **options)
            _check_condition(card, conditioned_on)
            return _loaded(card, dtype, device, compiled, offload)

        if (dtype, device, compiled, offload) != (torch.float32, torch.device("cpu"), False, False):
            raise InputError("dtype, device, compiled, offload", "not for a pipeline in memory, which keeps its own")
        of_files = ", ".join(sorted(options.keys() - {"image_size"}))
        if of_files:
            raise InputError(of_files, "not for a pipeline in memory, which is used as it is")
        pipeline = card
        card = card_of(pipeline, **options)
        _check_condition(card, conditioned_on)
        return _in_memory(card, pipeline)


def _check_condition(card: Card, conditioned_on: str | None) -> None:
    """Raise InputError if a model is conditioned on something else."""
    takes = FAMILIES[card.pipeline].condition
    if conditioned_on not in (None, takes):
        raise InputError(f"conditioned_on {conditioned_on!r}", f"{card.source} is conditioned on {takes}")


ARGUMENTS = {"version": "card", "img_size": "image_size", "image-size": "image_size"}  # flag -> argument of load_model


@contextlib.contextmanager
def _naming_arguments() -> Iterator[None]:
    """Let an InputError name the arguments of `load_model` in place of flags of the scripts."""
    try:
        yield
    except InputError as error:
        flag, _, value = error.where.partition(" ")
        where = error.where
        if flag.startswith("--"):
            where = _argument(flag)
            if value:
                where += f" {value!r}"
        problem = re.sub(r"(?<![\w-])--[a-z][\w-]*", lambda found: _argument(found[0]), error.problem)
        renamed = copy.copy(error)  # with what else the error holds
        renamed.where, renamed.problem = where, problem
        raise renamed from error.__cause__


def _argument(flag: str) -> str:
    """The argument that a flag of the scripts stands for."""
    name = flag.removeprefix("--")
    return ARGUMENTS.get(name, name)


def _loaded(card: Card, dtype: torch.dtype, device: torch.device, compiled: bool, offload: bool) -> Model:
    """The model of a card, from its files."""
    part = FAMILIES[card.pipeline].network
    with _reading(card):
        outlined = _read_when_used(card, device)
        pipeline, switch = _load_pipeline(card, dtype, outlined)
        visitors = _text_encoders(card)  # those that are on the device only while prompts are encoded
        if device.type == "cpu":
            visitors = [name for name in visitors if name in outlined]
        if _quantised(card):
            visitors = []
    network = getattr(pipeline, part)
    release = _place(card, pipeline, device, outlined, offload)
    prepare(network, compiled)

    def load_encoder(name: str) -> torch.nn.Module:
        with _reading(card):
            encoder = _load_part(card, name, dtype)
        _mark_end(getattr(pipeline, name.replace("text_encoder", "tokenizer"), None), encoder)
        return encoder

    def text_encoders_there() -> contextlib.AbstractContextManager[None]:
        """Have the text encoders on the device, as long as the context lasts."""
        if device.type == "cpu":
            return residence.borrowed(pipeline, visitors, load_encoder)
        return residence.visiting([getattr(pipeline, name) for name in visitors], device)

    @functools.cache
    def network_there() -> None:
        """Read the weights of the network, unless they are there."""
        if part in outlined:
            with torch.inference_mode(False), _reading(card):
                checkpoint.fill_part(part, network, _files(*card.places[part]), dtype)

    return _model(card, pipeline, device, dtype, Residence(text_encoders_there, network_there, release, switch))


def _in_memory(card: Card, pipeline) -> Model:
    """The model of a pipeline that somebody else has loaded, and may go on training."""
    parts = [part for part in pipeline.components.values() if isinstance(part, torch.nn.Module)]
    network = getattr(pipeline, FAMILIES[card.pipeline].network)

    def evaluating() -> None:
        """Without dropout, also when the user has trained since."""
        for part in parts:
            if part.training:
                part.eval()

    def cast(values: Tensor) -> Tensor:
        """Text encoders that are not trained are often in half precision beside a network in float32."""
        return values.to(network.dtype) if values.is_floating_point() else values

    residency = Residence(functools.partial(_ends_marked, pipeline), cast=cast, evaluating=evaluating)
    return _model(card, pipeline, network.device, network.dtype, residency)


@dataclass(frozen=True)
class Residence:
    """How parts come to the device when they are used, and leave it; by default they are there and stay."""

    text_encoders_there: Callable[[], contextlib.AbstractContextManager[None]] = contextlib.nullcontext
    network_there: Callable[[], None] = lambda: None
    release: Callable[[], None] = lambda: None  # called after the VAE was used
    switch: Callable[[tuple[str, ...]], None] | None = None  # as in Model
    cast: Callable[[Tensor], Tensor] | None = None  # of conditions, if they may have another dtype than the network
    evaluating: Callable[[], None] = lambda: None  # called before a part is used


def _model(card: Card, pipeline, device: torch.device, dtype: torch.dtype, residency: Residence) -> Model:
    """The kernel's view of a pipeline."""
    family = FAMILIES[card.pipeline]
    takes, switch = family.condition, residency.switch
    adapter = family.adapter(pipeline, device)

    @guest()
    @torch.inference_mode()
    def conditions(
        arms: list,
        loras: Sequence[tuple[str, ...]] | None = None,
        report: Callable[[int], object] = lambda n_prompts: None,
    ) -> Conditions:
        residency.evaluating()
        with residency.text_encoders_there():
            return encode_all(arms, loras, report)

    def encode_all(arms: list, loras: Sequence[tuple[str, ...]] | None, report: Callable[[int], object]) -> Conditions:
        settings = loras or [None] * len(arms)
        if takes == "text":
            _check_tokens(adapter, arms)
        parts, order = [], []
        for setting, places in places_of(settings).items():
            if setting is not None:
                switch(setting)
            for k in range(0, len(places), 64):
                batch = [arms[place] for place in places[k : k + 64]]
                parts.append(encoded(batch))
                report(len(batch))
            order += places
        rows = Conditions.cat(parts)
        if loras:
            rows = replace(rows[np.argsort(order)], settings=tuple(loras))
        if takes == "text":
            _check_distinct(arms, settings, rows, encode_alone)
        return rows

    def encode_alone(prompt: str, setting: tuple[str, ...] | None) -> Conditions:
        """The conditions of one prompt, whose bits do not depend on the prompts beside it."""
        if setting is not None:
            switch(setting)
        return encoded([prompt, prompt])[0]

    def encoded(batch: list) -> Conditions:
        rows = adapter.encode_prompts(batch)
        return rows.map(residency.cast) if residency.cast else rows

    @guest()
    @torch.inference_mode()
    def encode(images: Tensor) -> Tensor:
        images = images.to(device, torch.float32)
        if card.autoencoder is None and card.latent[0] == 1:
            return to_grey(images)
        if card.autoencoder is None:
            return images
        residency.evaluating()
        vae = getattr(pipeline, card.autoencoder)
        x = _latent(vae, images.to(vae.dtype), adapter.scaling, adapter.eps).float()
        residency.release()
        return x

    def denoise(z: Tensor, time: Tensor, conditions: Conditions) -> Tensor:
        residency.evaluating()
        residency.network_there()
        if time.is_floating_point():
            time = time.float()  # MPS has no float64
        with exact_float32():
            return adapter.predict(z.to(dtype), time.to(device), conditions)

    process = Process.from_scheduler(card.scheduler)  # DDIMPipeline makes its scheduler a DDIM, whatever its folder has
    tokens = tuple(token_of(each) for each in card.embeddings)
    return Model(process, device, card.image_size, encode, conditions, denoise, takes, card.classes, tokens, switch)


def _load_pipeline(card: Card, dtype: torch.dtype, outlined: Collection[str]):
    """The pipeline of a card with its embeddings and LoRAs, and what enables its prompt_loras (None without any)."""
    network = FAMILIES[card.pipeline].network
    _check_tokenizers(card)
    pipeline = _pipeline(card, load_parts(card, dtype, outlined))
    for file in card.embeddings:
        embed(pipeline, file)
    for file, token in card.prompt_tokens:
        embed(pipeline, file, EMBEDDING_COLUMN, token)
    for file in card.lora:
        add(pipeline, network, file)
    switch = None
    if card.prompt_loras:
        switch = switcher(pipeline, network, card.prompt_loras)
    _mark_ends(pipeline)
    return pipeline, switch


def _place(card: Card, pipeline, device: torch.device, outlined: Collection[str], offload: bool) -> Callable[[], None]:
    """Put a pipeline's parts where they wait; returns a function that sends back a VAE that only visits the device.

    Text encoders wait in host memory, and parts that are read when they are used nowhere.
    """
    from accelerate import cpu_offload_with_hook

    if _quantised(card):
        pipeline.to(device)
        return lambda: None
    hooks = []
    for part in card.places.keys() - {*_text_encoders(card), *outlined}:
        module = getattr(pipeline, part)
        if offload and part == card.autoencoder:
            hooks.append(cpu_offload_with_hook(module, device)[1])
        else:
            module.to(device)

    def release() -> None:
        for hook in hooks:
            hook.offload()

    return release


def find_device(name: str | torch.device, where: str) -> torch.device:
    """The device of this name. Raises InputError(where, ...) if it is not available."""
    try:
        device = torch.device(name)
        torch.empty(1, device=device).cpu()  # "meta" tensors hold no data
        return device
    except (RuntimeError, AssertionError, TypeError) as error:
        raise InputError(where, f"not to be had here ({str(error).splitlines()[0]})") from None


def prepare(network: torch.nn.Module, compiled: bool) -> None:
    """Make a network that is on its device fast there."""
    network.eval()
    if next(network.parameters()).device.type == "cuda":
        network.to(memory_format=torch.channels_last)  # what its convolutions are fastest in
    if compiled:
        network.compile(mode="max-autotune", dynamic=False)


def _latent(vae, images: Tensor, scaling: float | None = None, eps: float | None = None) -> Tensor:
    """The mean of the posterior in the network's units: (mean - shift) scale. images [b, 3, H, W] -> x [b, c, h, w].

    scaling and eps are those of Adapter, in place of the VAE's if they are not None.
    """
    if vae.config.get("in_channels") == 4:  # Qwen-Image 2.1's takes RGBA: opaque
        images = F.pad(images, (0, 0, 0, 0, 0, 1), value=1.0)
    video = "z_dim" in vae.config  # Qwen-Image's; an image is one frame
    if video:
        images = images[:, :, None]
    code = vae.encode(images)
    if hasattr(code, "latent_dist"):
        mean = code.latent_dist.mean
    elif hasattr(code, "latent"):  # Sana's has no posterior
        mean = code.latent
    else:  # nor have tiny VAEs
        mean = code.latents
    if video:
        mean = mean[:, :, 0]
    if hasattr(vae, "bn"):  # Flux.2's, for each channel of the squares that its network sees
        norm, squares = vae.bn, F.pixel_unshuffle(mean, PACKED)
        if eps is None:
            eps = norm.eps
        return F.pixel_shuffle(F.batch_norm(squares, norm.running_mean, norm.running_var, eps=eps), PACKED)
    shift, scale = vae.config.get("shift_factor") or 0, vae.config.get("scaling_factor", 1)
    if scaling is not None:
        scale = scaling
    if vae.config.get("latents_mean") and vae.config.get("latents_std"):  # Playground's, Qwen-Image's: of each channel
        shift = mean.new_tensor(vae.config["latents_mean"])[:, None, None]
        scale = scale / mean.new_tensor(vae.config["latents_std"])[:, None, None]
    return (mean - shift) * scale


def _check_tokenizers(card: Card) -> None:
    """Raise InputError unless each tokenizer of a model has its files, and a vocabulary in them.

    transformers 5.24 makes an empty tokenizer of a folder without a vocabulary, to which all prompts are alike.
    """
    for part, (library, class_name) in card.parts.items():
        if not part.startswith("tokenizer"):
            continue
        folder = card.home.folder / part
        is_there = False
        for name in card.home.within(part):
            if (folder / name).is_file():  # files that a tokenizer does not need are not fetched
                is_there = True
                checkpoint.check_pointer(folder / name)
        if not is_there:
            raise InputError(folder, f"the {part} is missing; wanted a {class_name}'s files")
        try:
            tokenizer = class_of(library, class_name).from_pretrained(folder)
        except (*UNREADABLE, RuntimeError, ImportError) as error:
            raise InputError(folder, f"cannot be read as the {part}: {one_line(error)}") from error
        if not hasattr(tokenizer, "get_vocab"):  # a processor, which reads images too
            tokenizer = tokenizer.tokenizer
        words = tokenizer.get_vocab().keys() - {*tokenizer.added_tokens_encoder, *tokenizer.all_special_tokens}
        if not any(word.strip("\u2581 ") for word in words):
            raise InputError(folder, f"the {part} has no vocabulary; wanted a {class_name}'s, as in tokenizer.json")


FIRST_END = 2  # `eos_token_id` in CLIP's old configurations, for which transformers takes the largest id


def _mark_ends(pipeline) -> list[torch.nn.Module]:
    """`_mark_end` for each text encoder of a pipeline; the modules that were changed."""
    changed = []
    for key, tokenizer in pipeline.components.items():
        encoder = getattr(pipeline, key.replace("tokenizer", "text_encoder"), None)
        if key.startswith("tokenizer") and encoder is not None:
            changed += _mark_end(tokenizer, encoder)
    return changed


@contextlib.contextmanager
def _ends_marked(pipeline) -> Iterator[None]:
    """Mark the ends of texts as long as the context lasts."""
    changed = _mark_ends(pipeline)
    try:
        yield
    finally:
        for module in changed:
            module.eos_token_id = FIRST_END


def _mark_end(tokenizer, encoder: torch.nn.Module) -> list[torch.nn.Module]:
    """Let CLIP take the pooled text at the end of the text, even if tokens were added; the modules that were changed.

    Old configurations have `eos_token_id: 2`, for which transformers 5.24 (`modeling_clip.py`) takes the largest id in
    the prompt: the end of the text, unless a token was added behind it in the vocabulary.
    """
    end = getattr(tokenizer, "eos_token_id", None)
    if end is None:
        return []
    behind = {index for index in tokenizer.get_vocab().values() if index > end}
    if not behind or not behind <= tokenizer.added_tokens_decoder.keys():
        return []
    changed = []
    for module in encoder.modules():
        if type(module).__name__.startswith("CLIPText") and getattr(module, "eos_token_id", None) == FIRST_END:
            module.eos_token_id = end
            changed.append(module)
    return changed


def _check_tokens(adapter: Adapter, prompts: list[str]) -> None:
    """Warn of prompts that are longer than a text encoder takes. InputError for a token without an embedding."""
    prompts = list(dict.fromkeys(prompts))
    for part, tokenizer, token_ids, limit in adapter.read(prompts):
        embedded = len(getattr(adapter.pipeline, part).get_input_embeddings().weight)
        for prompt, ids in zip(prompts, token_ids, strict=True):
            if len(ids) > limit:
                cut = f"{one_line(repr(prompt))}: {len(ids)} tokens, the text encoder takes {limit}; the rest is cut"
                warnings.warn(cut, InputWarning, stacklevel=3)
            largest = max(ids[:limit], default=0)
            if largest >= embedded:
                token = tokenizer.convert_ids_to_tokens(largest)
                lacks = f"the {part} has embeddings of {embedded} tokens, its tokenizer {len(tokenizer)}"
                wanted = f"of which {token!r} has none; wanted the files of one training"
                raise InputError(f"{prompt!r}", f"{lacks}, {wanted}")


def _check_distinct(
    prompts: list[str],
    loras: Sequence[tuple[str, ...] | None],
    rows: Conditions,
    encode_alone: Callable[[str, tuple[str, ...] | None], Conditions],
) -> None:
    """Warn of different prompts whose conditions are the same: the network cannot distinguish them.

    A tokenizer may not know their words, or they may come after the encoder's last token. The same text twice is the
    caller's matter, and prompts with other LoRAs are others. InputError if all prompts but empty ones are the same.
    """
    places = {}
    for place, arm in enumerate(zip(prompts, loras, strict=True)):
        places.setdefault(arm, place)
    arms = list(places)
    if len(arms) < 2:
        return
    near = _near(rows[list(places.values())])
    groups: dict[tuple, list[str]] = {}
    for k in near:
        prompt, setting = arms[k]
        groups.setdefault((setting, encode_alone(prompt, setting).digest()), []).append(prompt)
    why = "their words are unknown to its tokenizer, or behind the tokens that it takes"
    worded = {arm for arm in arms if arm[0].strip()}
    for (setting, _), group in groups.items():
        if len(group) < 2:
            continue
        named = few(list(map(repr, group)))
        if worded <= set(product(group, [setting])):
            raise InputError(f"the text encoder makes the same of all {len(group)} prompts ({named})", why)
        same = f"{named}: the text encoder makes the same of these, so the network cannot distinguish them: {why}"
        warnings.warn(same, InputWarning, stacklevel=3)


def _near(rows: Conditions) -> list[int]:
    """The places of rows whose distance to another is at most NEAR times their length."""
    products = 0
    for column in rows.columns.values():
        if not isinstance(column, Tensor):
            column = pad_sequence(column, batch_first=True)
        for part in column.flatten(1).split(1 << 16, 1):  # so that half precision need not be copied whole
            products = products + part.float() @ part.float().T
    square = products.diagonal()
    distance = square[:, None] + square - 2 * products
    distance.fill_diagonal_(torch.inf)
    return (distance <= NEAR**2 * square[:, None]).any(1).nonzero()[:, 0].tolist()
