"""LoRAs, and embeddings of new tokens, added to a model. A file is applied completely or refused."""

import importlib.util
import json
import os
import re
from collections import Counter
from collections.abc import Callable, Collection, Sequence
from itertools import chain
from pathlib import Path

import torch
from safetensors import safe_open
from torch import Tensor

from diffusion import InputError, one_line
from diffusion.io import hub
from diffusion.io.reading import check_pt
from diffusion.io.wording import count, few, split_weight
from diffusion.models import checkpoint

SUFFIXES = (".safetensors", ".bin", ".pt")
USUAL = ["pytorch_lora_weights.safetensors", "adapter_model.safetensors", "learned_embeds.safetensors"]
LORA_COLUMN, EMBEDDING_COLUMN = "column lora:", "column embedding:"  # of a csv of prompts, in place of a flag
STARTS = (True, False, None, "gaussian", "eva", "orthogonal", "mica")  # peft's that leave the model as it was
DOWNS = [".lora_down.weight", ".lora_A.weight", ".lora.down.weight", ".down.weight", ".lora_A.default.weight"]
UPS = [".lora_up.weight", ".lora_B.weight", ".lora.up.weight", ".up.weight", ".lora_B.default.weight"]
# kohya's text encoders as diffusers 0.42.1 renames them; it takes these names for its older ones only where an out_proj
# is among them (`convert_state_dict_to_peft`), and else loses the attention
TEXT_ATTENTION = re.compile(r"^(text_encoder(?:_\d)?\..+)\.to_(q|k|v|out)_lora\.(down|up)")
TRAINERS = {"optimizer.bin", "scheduler.bin", "random_states_0.pkl", "scaler.pt", "training_args.bin"}


def find(name: str, flag: str) -> tuple[Path, str | None]:
    """The one file that a path, a folder or a hub id (perhaps followed by a file's name) stands for, and its commit.

    The commit is the hub's, None for a local file. Raises InputError if there is no file, or several.
    """
    path = Path(os.path.expanduser(name))
    if path.is_file():
        return path, None
    repository, suffix = name, Path(name).suffix
    if suffix in SUFFIXES and name.count("/") >= 2 and not name.startswith(("/", ".", "~")):
        repository = "/".join(name.split("/")[:2])
    elif suffix in SUFFIXES:
        raise InputError(f"{flag} {name}", "cannot be read: no such file")
    try:
        source = hub.look(repository)
        if repository != name:
            files = [name.removeprefix(f"{repository}/")]
        else:
            files = [file for file in source.within("") if file.endswith(SUFFIXES) and file not in TRAINERS]
        return hub.fetch(source, [_choose(files, f"{flag} {name}")])[0], source.commit
    except OSError as error:
        wanted = "wanted a hub id, a folder or a .safetensors file"
        raise InputError(f"{flag} {name}", f"cannot be read; {wanted}: {one_line(error)}") from None


def _choose(files: list[str], flag: str) -> str:
    """The file of usual name among some, else the only .safetensors, else the only file. Raises InputError."""
    for file in USUAL:
        if file in files:
            return file
    chosen = [file for file in files if file.endswith(".safetensors")] or files
    if not chosen:
        raise InputError(flag, "wanted one file of weights, found no .safetensors or .bin")
    if len(chosen) > 1:
        raise InputError(flag, f"wanted one file of weights, found several, {few(chosen)}: name one of them")
    return chosen[0]


def _fingerprint(path: Path, commit: str | None) -> str:
    """The fingerprint of one file: the hub's commit and its name, or that of its bytes."""
    if commit:
        return f"commit {commit}, {path.name}"
    return checkpoint.fingerprint([path])


# ---- LoRA ----


def add(pipeline, network: str, name: str, flag: str = "--lora", adapter: str | None = None) -> str:
    """Add a LoRA to a pipeline's weights: fused, so inference costs the same. Returns the fingerprint of its file.

    With the name of an `adapter` it is kept beside the weights, for `switcher`. On the meta device all is checked and
    nothing is added. Raises InputError unless each tensor of the file has its place, in the network or a text encoder,
    and changes some weight.
    """
    file, weight = split_weight(name, flag)
    _check_takes_loras(pipeline, f"{flag} {name}")
    path, commit = find(file, flag)
    flag, called = f"{flag} {name}", adapter or "lora"
    tensors = _read(path, flag)
    header = _adapter_header(path, flag)
    _check_start(path, header, flag)
    if header:
        if _renamed(tensors, pipeline, network, path, flag) is not tensors:
            raise InputError(flag, "its header has the scales of its tensors, whose names lack their part of the model")
        wanted = _load(pipeline, network, path, tensors, called, flag)
    else:
        renamed = _renamed(_without_alphas(tensors, flag), pipeline, network, path, flag)
        wanted = _load(pipeline, network, None, renamed, called, flag)
    _check_places(pipeline, wanted, flag, called)
    if not _has_changes(wanted):
        raise InputError(flag, "leaves the weights as they are: all its changes are 0")
    if getattr(pipeline, network).device.type == "meta":
        pipeline.delete_adapters(called)
    elif not _changes(pipeline, weight, called):
        raise InputError(flag, f"leaves the weights as they are in {getattr(pipeline, network).dtype}")
    elif adapter is None:
        pipeline.fuse_lora(lora_scale=weight)
        pipeline.unload_lora_weights()
    return _fingerprint(path, commit)


def _has_changes(tensors: dict[str, Tensor]) -> bool:
    """Whether the up half of some module is not 0."""
    return any(re.search(r"lora_B|\bup\.", key) and value.any() for key, value in tensors.items())


def _check_takes_loras(pipeline, flag: str) -> None:
    """Raise InputError if a pipeline takes no LoRAs, or the package for them is not installed."""
    if not hasattr(pipeline, "load_lora_weights"):
        raise InputError(flag, f"a {type(pipeline).__name__} takes none")
    if importlib.util.find_spec("peft") is None:
        raise InputError(flag, "needs the package 'peft': pip install peft")


def _read(path: Path, flag: str) -> dict[str, Tensor]:
    """The tensors of a LoRA's file. Raises InputError if it cannot be read, or is a DoRA."""
    try:
        tensors = checkpoint.read([path])
    except InputError as error:
        raise InputError(flag, error) from None
    except OSError as error:
        raise InputError(flag, f"cannot be read: {one_line(error)}") from None
    if not tensors:
        raise InputError(flag, "cannot be read: it holds no tensors")
    strange = [key for key in tensors if "dora_scale" in key or "lora_magnitude_vector" in key]
    if strange:
        raise InputError(flag, f"a DoRA, {len(strange)} of its {count(len(tensors), 'tensor')} cannot be used")
    return tensors


def _load(
    pipeline, network: str, path: Path | None, tensors: dict[str, Tensor], adapter: str, flag: str
) -> dict[str, Tensor]:
    """Let diffusers load a LoRA as an `adapter`; its tensors under diffusers' names, without alphas.

    From the file at `path` if its header has scales, which diffusers reads too, else from `tensors`. Raises InputError
    if they do not fit the pipeline.
    """
    more = {}
    if network == "unet" and "XL" not in type(pipeline).__name__:
        more["unet_config"] = pipeline.unet.config
    source: dict[str, Tensor] | str = tensors
    if path is not None:
        source = str(path)
    try:
        converted = _converted(pipeline, tensors)
        wanted = {}
        for key, value in converted.items():
            wanted[TEXT_ATTENTION.sub(r"\1.\2_proj.lora_linear_layer.\3", key)] = value
        if wanted.keys() != converted.keys():
            source = wanted
        pipeline.load_lora_weights(source, adapter_name=adapter, **more)
    except Exception as error:  # diffusers and peft raise any class, about keys and shapes
        raise InputError(flag, f"does not fit this {type(pipeline).__name__}: {one_line(error, 300)}") from error
    if path is None:
        _scale_by_one(pipeline, adapter)
    return wanted


def switcher(pipeline, network: str, loras: Sequence[str]) -> Callable[[tuple[str, ...]], None]:
    """Add LoRAs beside the weights, each for some prompts alone; returns a function that enables exactly these.

    Raises InputError, as `add`.
    """
    adapters = {}
    for k, name in enumerate(loras):
        add(pipeline, network, name, LORA_COLUMN, f"own{k}")
        adapters[name] = f"own{k}", split_weight(name, LORA_COLUMN)[1]
    enabled: tuple[str, ...] | None = None

    def switch(names: tuple[str, ...]) -> None:
        nonlocal enabled
        if names == enabled:
            return
        if names:
            pipeline.enable_lora()
            adapter_names, weights = zip(*(adapters[name] for name in names), strict=True)
            pipeline.set_adapters(list(adapter_names), list(weights))
        else:
            pipeline.disable_lora()
        enabled = names

    return switch


def _modules(pipeline) -> dict[str, torch.nn.Module]:
    return {part: module for part, module in pipeline.components.items() if isinstance(module, torch.nn.Module)}


def _names(module: torch.nn.Module) -> set[str]:
    """The names of all modules in a module."""
    return set(dict(module.named_modules()))


def _fits(key: str, names: set[str]) -> bool:
    """Whether a tensor of a LoRA belongs to one of the modules of these names."""
    target = _target(key)
    return target in names or target.removeprefix("text_model.") in names


def _renamed(tensors: dict[str, Tensor], pipeline, network: str, path: Path, flag: str) -> dict[str, Tensor]:
    """The tensors under names that diffusers converts.

    peft's names, ComfyUI's and those of attention processors of 2023 lack the part of the pipeline, which is found by
    the names of its modules. Raises InputError if no part has them.
    """
    keys = list(tensors)
    if network == "unet" and all(key.startswith("diffusion_model.") for key in keys):  # as kohya's, but with dots
        return {_as_kohya(key): value for key, value in tensors.items()}
    parts = [part for part in _modules(pipeline) if part == network or part.startswith("text_encoder")]
    heads = {*parts, "diffusion_model"}
    for key in keys:
        if key.startswith("lora_") or key.partition(".")[0] in heads:
            return tensors
    bare = {key.removeprefix("base_model.model."): value for key, value in tensors.items()}
    from_peft = bare.keys() != tensors.keys()
    if network == "transformer" and not from_peft and _names(pipeline.transformer).isdisjoint(map(_target, keys)):
        return tensors  # diffusers recognises these by other signs
    if from_peft:
        bare = _scaled(bare, path, flag)
    fits = {}
    for part in parts:
        names = _names(getattr(pipeline, part))
        fits[part] = sum(_fits(key, names) for key in bare)
    best = max(fits, key=fits.get)
    if not fits[best]:
        kind = type(pipeline).__name__
        raise InputError(flag, f"none of its {count(len(keys), 'tensor')} is of this {kind}: {keys[0]}, ...")
    return {f"{best}.{key}": value for key, value in bare.items()}


def _target(key: str) -> str:
    """The module that a tensor of a LoRA belongs to."""
    key = re.sub(r"\.processor\.(to_\w+?)_lora\..*", r".\1", key)
    key = re.sub(r"\.(lora_[AB]|lora_up|lora_down|lora_linear_layer|lora)\..*", "", key)
    return key.replace(".to_out", ".to_out.0").replace("0.0", "0")


def _as_kohya(key: str) -> str:
    """ComfyUI's name of a U-Net's tensor as kohya spells it."""
    head, _, tail = key.removeprefix("diffusion_model.").partition(".lora_")
    if not tail and head.endswith(".alpha"):
        return f"lora_unet_{head.removesuffix('.alpha').replace('.', '_')}.alpha"
    tail = {"A.weight": "down.weight", "B.weight": "up.weight"}.get(tail, tail)
    return f"lora_unet_{head.replace('.', '_')}.lora_{tail}"


def _scaled(tensors: dict[str, Tensor], path: Path, flag: str) -> dict[str, Tensor]:
    """The tensors of peft's file, the up half times alpha / rank, whose values are in adapter_config.json beside it.

    With use_rslora it is alpha / sqrt(rank) (arXiv 2312.03732). Raises InputError if the file is not there.
    """
    try:
        config = json.loads((path.parent / "adapter_config.json").read_text())
        alpha, root = float(config["lora_alpha"]), bool(config.get("use_rslora"))
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        wanted = "wanted peft's adapter_config.json beside it, which says its lora_alpha"
        raise InputError(flag, f"{wanted} ({one_line(error)})") from None
    if config.get("alpha_pattern"):
        raise InputError(flag, "its adapter_config.json has an alpha_pattern, which is not known here")
    scaled = dict(tensors)
    for key, value in tensors.items():
        if ".lora_B." not in key:
            continue
        rank = value.shape[1]
        divisor = rank**0.5 if root else rank
        scaled[key] = value * (alpha / divisor)
    return scaled


def _adapter_header(path: Path, flag: str) -> dict:
    """The settings of adapters that diffusers wrote into a file's header, `PART.lora_alpha` and the like; {} if none.

    Raises InputError if they cannot be read.
    """
    if path.suffix != ".safetensors":
        return {}
    with safe_open(path, "pt") as opened:
        text = (opened.metadata() or {}).get("lora_adapter_metadata")
    try:
        header = json.loads(text or "{}")
    except ValueError as error:
        raise InputError(flag, f"lora_adapter_metadata in its header cannot be read: {one_line(error)}") from None
    if not isinstance(header, dict):
        raise InputError(flag, f"lora_adapter_metadata in its header is a {type(header).__name__}, wanted an object")
    return header


def _check_start(path: Path, header: dict, flag: str) -> None:
    """Raise InputError for an adapter whose training began by changing the model's weights, as PiSSA and OLoRA do.

    Its tensors are a difference from those weights, which are not the model's (peft, `LoraConfig.init_lora_weights`).
    """
    starts = [value for key, value in header.items() if key.rpartition(".")[2] == "init_lora_weights"]
    beside = path.parent / "adapter_config.json"
    if beside.is_file():
        try:
            config = json.loads(beside.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise InputError(flag, f"{beside} cannot be read: {one_line(error)}") from None
        if isinstance(config, dict):
            starts.append(config.get("init_lora_weights"))
    for start in starts:
        if start in STARTS or str(start).lower() in STARTS:
            continue
        wanted = "wanted it converted: peft's save_pretrained with path_initial_model_for_weight_conversion"
        raise InputError(flag, f"its init_lora_weights is {start!r}, which changes the model's own weights; {wanted}")


def _without_alphas(tensors: dict[str, Tensor], flag: str) -> dict[str, Tensor]:
    """The same LoRA with alpha / rank multiplied into each module's up half, and each alpha set to the rank.

    diffusers 0.42.1 gives attention and text encoders the most frequent alpha of a file: `get_peft_kwargs` makes an
    alpha_pattern whose keys match no module there. Some of its converters want an alpha, so each stays, as one that
    changes nothing; `_scale_by_one` does the rest. Raises InputError for an alpha that is no number, or of no module.
    """
    scaled = dict(tensors)
    for key, alpha in tensors.items():
        if not key.endswith(".alpha"):
            continue
        module = key.removesuffix(".alpha")
        down, up = _half(tensors, module, DOWNS), _half(tensors, module, UPS)
        if down is None or up is None:
            raise InputError(flag, f"{key} is the alpha of no module: wanted {module}{DOWNS[0]} and {UPS[0]}")
        if alpha.numel() != 1 or not alpha.isfinite().all():
            raise InputError(flag, f"{key} is {alpha.tolist()}, wanted a number")
        rank = len(tensors[down])
        scaled[up] = tensors[up].float() * (float(alpha) / rank)
        scaled[key] = torch.tensor(float(rank))
    return scaled


def _half(tensors: dict[str, Tensor], module: str, ends: list[str]) -> str | None:
    """The name of one half of a module's tensors, which has one of these ends."""
    for end in ends:
        if module + end in tensors:
            return module + end
    return None


def _scale_by_one(pipeline, adapter: str) -> None:
    """Set the scale of an adapter's layers to 1, so that they add up times down."""
    for part in _modules(pipeline).values():
        for layer in part.modules():
            if hasattr(layer, "lora_alpha") and adapter in layer.scaling:  # attention has another `scaling`
                layer.lora_alpha[adapter] = layer.r[adapter]
                layer.scaling[adapter] = 1.0


def _converted(pipeline, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """The tensors under diffusers' names, without alphas."""
    more = {}
    if hasattr(pipeline, "unet"):
        more["unet_config"] = pipeline.unet.config
    state = pipeline.lora_state_dict(dict(tensors), **more)
    if isinstance(state, tuple):  # with alphas, or metadata
        state = state[0]
    return {key: value for key, value in state.items() if "alpha" not in key}


def _check_places(pipeline, wanted: dict[str, Tensor], flag: str, adapter: str) -> None:
    """Raise InputError unless the modules have as many tensors of the LoRA as its file, in pairs."""
    halves = Counter(map(_pair_of, wanted))
    odd = [key for key in wanted if halves[_pair_of(key)] != 2]
    by_part: dict[str, list[str]] = {}
    for key in wanted:
        by_part.setdefault(key.partition(".")[0], []).append(key)
    placed, lost = 0, []
    for part, module in _modules(pipeline).items():
        keys = by_part.pop(part, [])
        loaded = sum(f".{adapter}." in name and "lora_" in name for name, _ in module.named_parameters())
        placed += min(loaded, len(keys))
        if loaded != len(keys):
            lost += _unplaced(module, part, keys) or keys[-1:]
    lost += chain.from_iterable(by_part.values())  # of parts that the pipeline lacks
    if lost or odd or placed != len(wanted):
        found = f"{placed} of its {count(len(wanted), 'tensor')} found their place"
        raise InputError(flag, f"{found}; not {few(lost or odd)}; wanted a LoRA of this model")


def _pair_of(key: str) -> str:
    """A name that both halves of a module's LoRA have."""
    return re.sub(r"lora_[AB]|\b(down|up)(?=\.weight)", "", key)


def _unplaced(module: torch.nn.Module, part: str, keys: list[str]) -> list[str]:
    """Those of a part's tensors that belong to no module in it."""
    names = {name.replace(".base_layer", "") for name in _names(module)}
    return [key for key in keys if not _fits(key.removeprefix(f"{part}."), names)]


def _changes(pipeline, weight: float, adapter: str) -> bool:
    """Whether some layer has other weights with the LoRA in it; as a rule the first one has."""
    for part in _modules(pipeline).values():
        for layer in part.modules():
            if hasattr(layer, "get_delta_weight") and adapter in layer.lora_A:
                changed = layer.weight + weight * layer.get_delta_weight(adapter)
                if (changed != layer.weight).any():
                    return True
    return False


# ---- textual inversion ----

ENCODERS = {"clip_l": "text_encoder", "clip_g": "text_encoder_2"}  # the keys of files for two encoders


def embed(pipeline, file: str, flag: str = "--embeddings", token: str | None = None) -> str:
    """Add the token of a file of embeddings to a pipeline. Returns the fingerprint of the file.

    The token is that of `token_of`, or the given one. On the meta device all is checked and nothing is added. Raises
    InputError if the file holds no embeddings, or of another width, or if the tokenizer has the token already.
    """
    path, commit = find(file, flag)
    flag = f"{flag} {file}"
    if not hasattr(pipeline, "load_textual_inversion"):
        raise InputError(flag, f"a {type(pipeline).__name__} takes none")
    for part, its_token, vectors in _embeddings(path, flag):
        _embed(pipeline, part, token or its_token, vectors, flag)
    return _fingerprint(path, commit)


def _embed(pipeline, part: str, token: str, vectors: Tensor, flag: str) -> None:
    """Add a token with its vectors [n, width] to one text encoder and its tokenizer."""
    encoder = getattr(pipeline, part, None)
    tokenizer = getattr(pipeline, part.replace("text_encoder", "tokenizer"), None)
    if encoder is None:
        raise InputError(flag, f"{vectors.shape[-1]} wide, wanted no for the {part}")
    width = encoder.get_input_embeddings().weight.shape[1]
    if width != vectors.shape[-1]:
        raise InputError(flag, f"{vectors.shape[-1]} wide, wanted {width} for the {part}")
    if token in tokenizer.get_vocab():
        raise InputError(flag, f"token {token!r} is there already")
    if encoder.device.type == "meta":
        return
    try:
        pipeline.load_textual_inversion({token: vectors}, token=token, text_encoder=encoder, tokenizer=tokenizer)
    except (ValueError, RuntimeError) as error:
        raise InputError(flag, f"{one_line(error)}") from None


def token_of(file: str, flag: str = "--embeddings") -> str:
    """The token that a file of embeddings is used by: the one that it names, else the file's name."""
    return _embeddings(find(file, flag)[0], f"{flag} {file}")[0][1]


def check_used(embeddings: Sequence[str], prompts: Collection[str]) -> None:
    """Raise InputError for a file of --embeddings whose token is in no prompt: it would change nothing."""
    for file in embeddings:
        token = token_of(file)
        if not any(token in prompt for prompt in prompts):
            found = f"none of the {count(len(prompts), 'prompt')} uses its token {token!r}"
            raise InputError(f"--embeddings {file}", found)


def rename_tokens(prompts: list[str], files: list[tuple[str, ...]] | None) -> tuple[list[str], dict[str, str]]:
    """Prompts in which the token of each file has a unique name, and file -> that name.

    `files` are those of each prompt: files that were learned apart often name the same token. Raises InputError for a
    prompt that does not use its file's token.
    """
    if files is None:
        return prompts, {}
    names, tokens = {}, {}
    for k, file in enumerate(dict.fromkeys(chain.from_iterable(files))):
        names[file] = f"<own{k}>"
        tokens[file] = token_of(file, EMBEDDING_COLUMN)
    renamed = []
    for prompt, its_files in zip(prompts, files, strict=True):
        text = prompt
        for file in its_files:
            if tokens[file] not in text:
                unused = f"its prompt {text!r} does not use its token {tokens[file]!r}"
                raise InputError(f"{EMBEDDING_COLUMN} {file}", unused)
            text = text.replace(tokens[file], names[file])
        renamed.append(text)
    return renamed, names


def _embeddings(path: Path, flag: str) -> list[tuple[str, str, Tensor]]:
    """For each text encoder of a file its part, the token and its vectors [n, width].

    Reads the layouts of diffusers, A1111 and kohya's for two encoders. Raises InputError for another one.
    """
    loaded = _read_embeddings(path, flag)
    if "string_to_param" in loaded:  # A1111
        loaded = {str(loaded.get("name") or path.stem): next(iter(loaded["string_to_param"].values()))}
    if loaded.keys() and loaded.keys() <= ENCODERS.keys():
        found = {ENCODERS[key]: (path.stem, value) for key, value in loaded.items()}
    elif len(loaded) == 1:
        ((token, value),) = loaded.items()
        if token in ("emb_params", "*"):
            token = path.stem
        found = {"text_encoder": (str(token), value)}
    else:
        raise InputError(flag, f"wanted one token's embeddings, it holds {few(loaded)}")
    embeddings = []
    for part, (token, value) in found.items():
        if not isinstance(value, Tensor) or value.ndim not in (1, 2) or not value.is_floating_point():
            raise InputError(flag, f"{token!r} is no embedding [n, width]")
        embeddings.append((part, token, torch.atleast_2d(value)))
    return embeddings


def _read_embeddings(path: Path, flag: str) -> dict:
    """The contents of a file of embeddings; a lone tensor under the file's name. Raises InputError."""
    try:
        if path.suffix == ".safetensors":
            return checkpoint.read([path])
        check_pt(path)
        with checkpoint.library_reads():
            loaded = torch.load(path, weights_only=True)
    except InputError as error:
        raise InputError(flag, error) from None
    except OSError as error:
        raise InputError(flag, f"cannot be read as embeddings: {one_line(error)}") from None
    if isinstance(loaded, Tensor):
        return {path.stem: loaded}
    if not isinstance(loaded, dict):
        raise InputError(flag, f"cannot be read as embeddings: it holds a {type(loaded).__name__}")
    return loaded
