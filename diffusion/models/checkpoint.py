"""Weight files, checked against the module that they are for, and their fingerprints.

Looking and loading are two functions each: `read_headers` and `read`, `without_scales` and `dequantised`, `check_fit`
and `build`, `check_part` and `load_part`. The first of each pair reads names, shapes and dtypes alone.
"""

import contextlib
import functools
import hashlib
import importlib.util
import json
import os
import re
import warnings
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from pickle import UnpicklingError
from typing import BinaryIO, TypeVar

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from diffusion import InputError, InputWarning
from diffusion.io.reading import check_pt
from diffusion.io.wording import few
from diffusion.settings import no_first_values

T = TypeVar("T")
FILE = re.compile(  # a whole file or a shard, with or without a variant; older names have the variant last
    r"(?:diffusion_pytorch_model|pytorch_model|model)"
    r"(?:\.(?P<variant>\w+))?(?:-(?P<shard>\d+)-of-(?P<shards>\d+))?(?:\.(?P<old>\w+))?\.(?P<suffix>safetensors|bin)"
)
WRAPPED = re.compile(r"(^|\.)((?:(?:_orig_mod|module|_fsdp_wrapped_module|_checkpoint_wrapped_module)\.)+)")
BLOCK = 512  # bytes in a sample
AT_ONCE = 32e6  # bytes of a file that are in memory while its tensors are cast
DTYPES = {  # as a safetensors header calls them
    "F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16, "BOOL": torch.bool,
    "I64": torch.int64, "I32": torch.int32, "I16": torch.int16, "I8": torch.int8, "U8": torch.uint8,
    "F8_E4M3": torch.float8_e4m3fn, "F8_E5M2": torch.float8_e5m2,
}  # fmt: skip
QUANTISED = {"bitsandbytes": "bitsandbytes", "torchao": "torchao", "gguf": "gguf", "quanto": "optimum"}  # -> package
SCALE = re.compile(r"(.+)\.(?:scale_weight|weight_scale)")  # a float8 weight's scale in ComfyUI's older and newer files
BESIDE = re.compile(r"(.+\.)?(?:scaled_fp8|comfy_quant|scale_input|input_scale)")  # marks, and activations' scales
QUANTISERS = re.compile(r".+\.(?:\w*scale_inv|(?:weight_scale|scale_weight|input_scale|scale_input)\w*|zero_point)")
HARMLESS = r"(^|\.)position_ids$|num_batches_tracked$"  # buffers that older versions saved
FOREIGN = (  # raised by libraries for files that are missing, damaged or of another kind
    ValueError, KeyError, TypeError, AttributeError, RuntimeError, ImportError, EOFError,
    UnpicklingError, SafetensorError,
)  # fmt: skip


class Unreadable(OSError):
    """A file that a library could not read; the message is the library's."""


class Misfit(Exception):
    """Weights that do not fit a module."""


@contextlib.contextmanager
def library_reads() -> Iterator[None]:
    """Turn the errors of a library's own call, which reads a file or builds a module, into Unreadable.

    Only for such calls: around code of this project it would report a bug as a damaged file. torch and diffusers raise
    nearly every class of error for a damaged file.
    """
    from diffusers.loaders.single_file_utils import SingleFileComponentError

    try:
        yield
    except InputError:
        raise
    except (*FOREIGN, SingleFileComponentError) as error:
        raise Unreadable(f"{type(error).__name__}: {error}") from error


# ---- files ----


def weight_files(names: Iterable[str]) -> list[str]:
    """Choose the weight files among the names in a part's folder.

    Plain files come before variants (fp16 first), safetensors before .bin, one whole file before shards. Raises
    FileNotFoundError if there are none, or if shards are missing.
    """
    groups: dict[tuple, list[str]] = {}
    for name in sorted(names):
        found = FILE.fullmatch(name)
        if found is None:
            continue
        variant = found["variant"] or found["old"] or ""
        shards = int(found["shards"] or 0)
        key = (variant != "", variant != "fp16", variant, found["suffix"] != "safetensors", shards)
        groups.setdefault(key, []).append(name)
    incomplete = []
    for (*_, shards), group in sorted(groups.items()):
        if len(group) == max(shards, 1):
            return group
        incomplete.append(f"{len(group)} of {shards} shards, {group[0]}, ...")
    raise FileNotFoundError("; ".join(incomplete) or "no .safetensors or .bin")


def read(files: list[Path], cast: torch.dtype | None = None) -> dict[str, Tensor]:
    """Read all tensors of files. Those of safetensors lie in the file, mapped into memory, until they are copied.

    With `cast`, floating-point tensors of another dtype are copied in that dtype, but for float8 ones, which may have
    scales. Nothing but tensors is unpickled. Raises InputError for a file that cannot be read, is damaged, or is a
    git-lfs pointer.
    """
    tensors: dict[str, Tensor] = {}
    for file in files:
        check_pointer(file)
        if file.suffix == ".safetensors":
            tensors |= _read_safetensors(file, cast)
        else:
            check_pt(file)
            for key, value in _unpickled(file, "cpu").items():
                tensors[key] = _cast(value, cast)
    return tensors


def _read_safetensors(file: Path, cast: torch.dtype | None) -> dict[str, Tensor]:
    """As `read`, for one file, which is closed and opened again from time to time.

    A mapped file takes memory for all that was read, until it is closed and its tensors are gone.
    """
    tensors: dict[str, Tensor] = {}
    with library_reads(), safe_open(file, "pt") as opened:
        keys = list(opened.keys())
    while len(tensors) < len(keys):
        copied = 0
        with library_reads(), safe_open(file, "pt") as opened:
            for key in keys[len(tensors) :]:
                value = opened.get_tensor(key)
                tensors[key] = _cast(value, cast)
                if tensors[key] is not value:
                    copied += value.nbytes
                if copied > AT_ONCE:
                    break
    return tensors


def _cast(value: Tensor, dtype: torch.dtype | None) -> Tensor:
    if dtype is None or not value.is_floating_point() or _is_float8(value):
        return value
    return value.to(dtype)


def read_headers(files: list[Path]) -> dict[str, Tensor]:
    """Read the names, shapes and dtypes of all tensors of files, as tensors on the meta device.

    Raises InputError as `read`, but does not see damaged contents. A dtype that torch does not have becomes uint8.
    """
    tensors: dict[str, Tensor] = {}
    for file in files:
        check_pointer(file)
        if file.suffix == ".safetensors":
            with library_reads(), safe_open(file, "pt") as opened:
                for key in opened.keys():  # noqa: SIM118  no dict
                    part = opened.get_slice(key)
                    dtype = DTYPES.get(part.get_dtype(), torch.uint8)
                    tensors[key] = torch.empty(part.get_shape(), device="meta", dtype=dtype)
        else:
            tensors |= _unpickled(file, "meta")
    return tensors


def _unpickled(file: Path, device: str) -> dict[str, Tensor]:
    with library_reads():
        loaded = torch.load(file, weights_only=True, map_location=device)
    if isinstance(loaded, dict):
        loaded = loaded.get("state_dict", loaded)
    if not isinstance(loaded, dict):
        raise Unreadable(f"{file.name} holds a {type(loaded).__name__}, wanted tensors by name")
    return {key: value for key, value in loaded.items() if isinstance(value, Tensor)}


def check_pointer(file: Path) -> None:
    """Raise InputError if a file is the pointer that git-lfs leaves in place of the file."""
    with file.open("rb") as opened:
        start = opened.read(24)
    if start.startswith(b"version https://git-lfs"):
        raise InputError(file, "is git-lfs's pointer to the file, not the file; `git lfs pull` gets it")


# ---- float8 with scales ----


def dequantised(tensors: dict[str, Tensor], dtype: torch.dtype) -> dict[str, Tensor]:
    """Multiply float8 weights by their scales, in float32, and round once to `dtype`; other tensors stay as they are.

    A float8 `X.weight` may have a scale beside it, one number or one for each output channel: `X.scale_weight` or
    `X.weight_scale`, as ComfyUI writes them (comfy/ops.py and comfy/quant_ops.py). What it writes for activations
    (`X.scale_input`, `X.input_scale`) and its marks are left out. A float8 tensor without a scale is cast as it is.

    Raises Misfit as `without_scales`, and for a scale that is not finite.
    """
    scales = _check_scales(tensors)
    plain = {}
    for key, value in _without(tensors, scales).items():
        if key in scales:
            plain[key] = _scaled(key, value, tensors[scales[key]], dtype)
        elif _is_float8(value):
            plain[key] = value.to(dtype)
        else:
            plain[key] = value
    return plain


def without_scales(headers: dict[str, Tensor]) -> dict[str, Tensor]:
    """The tensors that `dequantised` would return, by name and shape alone.

    Raises Misfit for a scale without its float8 weight, or of another shape, for tensors beside a float8 weight that
    have no use here, and for weights that are integers: other quantisations, which would be loaded by half.
    """
    return _without(headers, _check_scales(headers))


def _without(tensors: dict[str, Tensor], scales: dict[str, str]) -> dict[str, Tensor]:
    """Leave out scales and marks."""
    left_out = set(scales.values())
    return {key: value for key, value in tensors.items() if key not in left_out and not BESIDE.fullmatch(key)}


def _check_scales(tensors: dict[str, Tensor]) -> dict[str, str]:
    """Find the scale of each float8 weight: name of the weight -> name of its scale. Raises Misfit."""
    scales: dict[str, str] = {}
    for key in tensors:
        found = SCALE.fullmatch(key)
        if found is None:
            continue
        weight = f"{found[1]}.weight"
        if weight in scales:
            raise Misfit(f"{weight} has two scales, {scales[weight]} and {key}")
        scales[weight] = key
    _check_quantised(tensors, scales)
    for weight, key in scales.items():
        _check_scale(weight, tensors[weight], tensors[key])
    return scales


def _check_quantised(tensors: dict[str, Tensor], scales: dict[str, str]) -> None:
    """Raise Misfit unless `dequantised` has a use for every tensor that a quantisation wrote."""
    lost = [scale for weight, scale in scales.items() if not _is_float8(tensors.get(weight))]
    if lost:
        raise Misfit(f"{len(lost)} scales have no float8 weight: {few(lost)}")
    weights = {key: value for key, value in tensors.items() if key.endswith(".weight")}
    integers = [key for key, value in weights.items() if not _has_fractions(value)]
    if integers:
        found = f"{len(integers)} weights are {weights[integers[0]].dtype}"
        raise Misfit(f"{found}, wanted floating point or float8 with a scale: {few(integers)}")
    layers = {key.rpartition(".")[0] for key, value in weights.items() if _is_float8(value)}
    used = set(scales.values())
    left = []
    for key in tensors:
        if key in used or BESIDE.fullmatch(key):
            continue
        layer, _, name = key.rpartition(".")
        inside = name not in ("weight", "bias") and (layer in layers or layer.removesuffix(".weight") in layers)
        if inside or QUANTISERS.fullmatch(key):
            left.append(key)
    if left:
        raise Misfit(f"{len(left)} tensors of a quantisation that is unsupported: {few(left)}")


def _is_float8(value: Tensor | None) -> bool:
    return value is not None and value.is_floating_point() and value.itemsize == 1


def _has_fractions(value: Tensor) -> bool:
    return value.is_floating_point() or value.is_complex()


def _check_scale(key: str, weight: Tensor, scale: Tensor) -> None:
    """Raise Misfit unless scale is a number [] or one for each output channel [out] of weight [out, ...]."""
    one_axis = scale.shape[0:1].numel() == scale.numel()
    if not scale.is_floating_point() or scale.numel() not in (1, len(weight)) or not one_axis:
        raise Misfit(f"{key} {list(weight.shape)} has a scale {list(scale.shape)}, wanted one number or one a channel")


def _scaled(key: str, weight: Tensor, scale: Tensor, dtype: torch.dtype) -> Tensor:
    """weight [out, ...] times scale [] or [out], in float32, rounded to `dtype`."""
    if not scale.float().isfinite().all():
        raise Misfit(f"the scale of {key} is not finite")
    channels = scale.float().reshape(-1, *[1] * (weight.ndim - 1))
    return (weight.float() * channels).to(dtype)


# ---- modules ----


def empty(cls, config: dict | object) -> torch.nn.Module:
    """A module without its weights, on the meta device."""
    from accelerate import init_empty_weights

    with library_reads(), no_first_values():
        if isinstance(config, dict):
            with init_empty_weights():  # computes tables, as torch.device("meta") does not
                return cls.from_config(config)
        with torch.device("meta"):  # keeps tied weights tied
            return cls(config)


def read_config(cls, folder: Path) -> dict | object:
    """The configuration of a part as its class takes it: a dict for diffusers, an object for transformers.

    An encoder alone takes that of its encoder; its class names that of the whole model (transformers 5.24, T5Gemma).
    """
    with library_reads():
        if hasattr(cls, "load_config"):
            return cls.load_config(folder)
        if cls.__name__ == "T5GemmaEncoder":
            from transformers import AutoConfig

            config = AutoConfig.from_pretrained(folder)
            return getattr(config, "encoder", config)
        return cls.config_class.from_pretrained(folder)


def check_fit(cls, config: dict | object, headers: dict[str, Tensor]) -> tuple[torch.nn.Module, list[str]]:
    """Compare the names and shapes of tensors with a module: the module on the meta device, and the unused names.

    Raises Misfit unless each weight of the module is there, in its shape.
    """
    if not hasattr(cls, "load_config"):
        return _build_transformers(cls, config, headers, device_map={"": "meta"})
    module = empty(cls, config)
    _, unused = _fitting(module, headers)
    return module.eval(), unused


def build(
    cls, config: dict | object, tensors: dict[str, Tensor], dtype: torch.dtype
) -> tuple[torch.nn.Module, list[str]]:
    """A module with these weights in `dtype`, on the CPU, and the unused names. Raises Misfit as `check_fit`."""
    if not hasattr(cls, "load_config"):
        return _build_transformers(cls, config, tensors, dtype=dtype)
    module = _structure(cls, config, dtype)
    tensors, unused = _fitting(module, tensors)
    _place(module, tensors, dtype)
    return module.eval(), unused


def _structure(cls, config: dict, dtype: torch.dtype) -> torch.nn.Module:
    """A module of diffusers without its weights, but with the tables that it computes itself."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)  # for these tables, as diffusers does
    try:
        return empty(cls, config)
    finally:
        torch.set_default_dtype(before)


def _place(module: torch.nn.Module, tensors: dict[str, Tensor], dtype: torch.dtype) -> None:
    """Give a module of diffusers its weights, whose names and shapes fit, in `dtype`.

    As diffusers does, layers that the module's class names stay in float32, and integers in the module's own dtype.
    """
    exact = set(module._keep_in_fp32_modules or ())
    placed = {}
    for key, place in module.state_dict().items():
        wanted = place.dtype
        if tensors[key].is_floating_point():
            wanted = torch.float32 if exact.intersection(key.split(".")) else dtype
        placed[key] = tensors[key].to(wanted).contiguous()
    module.load_state_dict(placed, assign=True)


def _build_transformers(cls, config: object, tensors: dict[str, Tensor], **place):
    with library_reads():
        module, info = cls.from_pretrained(
            None, config=config, state_dict=dict(tensors), output_loading_info=True, ignore_mismatched_sizes=True,
            **place,
        )  # fmt: skip
    wrong = [f"{key} {list(found)}, wanted {list(wanted)}" for key, found, wanted in info["mismatched_keys"]]
    _refuse(info["missing_keys"], wrong, len(module.state_dict()), info["unexpected_keys"])
    return module, sorted(info["unexpected_keys"])


def _fitting(module: torch.nn.Module, tensors: dict[str, Tensor]) -> tuple[dict[str, Tensor], list[str]]:
    """The tensors under the names that a module of diffusers has now, and the names that it does not use.

    Raises Misfit unless each weight of the module is there, in its shape.
    """
    tensors = dict(tensors)
    module._fix_state_dict_keys_on_load(tensors)  # attention had other names once
    wanted = module.state_dict()
    ignored = module._keys_to_ignore_on_load_unexpected or []
    pattern = re.compile("|".join(f"(?:{each})" for each in ignored) or r"(?!)")
    extra = sorted(key for key in tensors.keys() - wanted.keys() if not pattern.search(key))
    wrong = []
    for key in tensors.keys() & wanted.keys():
        found, shape = tensors[key].shape, wanted[key].shape
        if found != shape:
            wrong.append(f"{key} {list(found)}, wanted {list(shape)}")
    _refuse(wanted.keys() - tensors.keys(), wrong, len(wanted), extra)
    return tensors, extra


def _refuse(missing: Iterable[str], wrong: list[str], total: int, extra: Iterable[str]) -> None:
    """Raise Misfit if weights are missing or have another shape; `extra` names tensors found instead."""
    missing = sorted(missing)
    if missing:
        others = f"; it has {few(sorted(extra))} instead" if extra else ""
        raise Misfit(f"{len(missing)} of {total} weights are missing: {few(missing)}{others}")
    if wrong:
        raise Misfit(f"{len(wrong)} of {total} weights have another shape: {few(sorted(wrong))}")


# ---- parts of a pipeline ----


def check_part(part: str, cls, folder: Path, files: list[Path]) -> torch.nn.Module:
    """Compare a part's files with the configuration in its folder; the part on the meta device.

    Warns of a prefix that is removed from all names (see `load_part`) and of tensors that are not used. Raises
    InputError unless the files hold every weight of the part.
    """
    config = read_config(cls, folder)
    quantiser = quantisation(config)
    if quantiser:
        _check_quantiser(part, folder, quantiser)
        return empty(cls, config)
    headers = read_headers(files)
    try:
        headers = without_scales(headers)
        (module, unused), prefix = _unwrapped(headers, functools.partial(check_fit, cls, config))
    except Misfit as misfit:
        raise _other_weights(part, cls, files, misfit) from None
    if prefix:
        warnings.warn(f"{files[0]}: {prefix!r} is taken off its keys", InputWarning, stacklevel=2)
    unused = [key for key in unused if not re.search(HARMLESS, key)]
    if unused:
        found = f"{len(unused)} of its tensors are not the {part}'s and are not used"
        warnings.warn(f"{files[0]}: {found}: {few(unused)}", InputWarning, stacklevel=2)
    return module


def load_part(part: str, cls, folder: Path, files: list[Path], dtype: torch.dtype) -> torch.nn.Module:
    """Load a part of a pipeline, in `dtype`, from its files and the configuration in its folder.

    A prefix that training left before all names is removed if the names fit without it. Raises InputError unless every
    weight of the part came from the files.
    """
    config = read_config(cls, folder)
    quantiser = quantisation(config)
    if quantiser:
        _check_quantiser(part, folder, quantiser)
        return _load_quantised(part, cls, folder, dtype)
    tensors = read(files, _early_cast(cls, dtype))
    try:
        tensors = dequantised(tensors, dtype)
        (module, _), _ = _unwrapped(tensors, lambda renamed: build(cls, config, renamed, dtype))
    except Misfit as misfit:
        raise _other_weights(part, cls, files, misfit) from None
    return module


def _early_cast(cls, dtype: torch.dtype) -> torch.dtype | None:
    """The dtype in which all weights of a class may be read: None if it keeps some in float32."""
    kept = getattr(cls, "_keep_in_fp32_modules", None) or getattr(cls, "_keep_in_fp32_modules_strict", None)
    return None if kept and dtype != torch.float32 else dtype


def outline_part(part: str, cls, folder: Path, files: list[Path], dtype: torch.dtype) -> torch.nn.Module:
    """A part as `load_part` makes it, but without its weights. `fill_part` adds those of diffusers' classes.

    Raises InputError unless the files hold every weight of the part.
    """
    config = read_config(cls, folder)
    headers = read_headers(files)
    try:
        headers = without_scales(headers)
        if not hasattr(cls, "load_config"):
            (module, _), _ = _unwrapped(headers, functools.partial(check_fit, cls, config))
            return module
        module = _structure(cls, config, dtype)
        _unwrapped(headers, functools.partial(_fitting, module))
    except Misfit as misfit:
        raise _other_weights(part, cls, files, misfit) from None
    return module.eval()


def fill_part(part: str, module: torch.nn.Module, files: list[Path], dtype: torch.dtype) -> None:
    """Load the weights of a part that `outline_part` made. Raises InputError as `load_part`."""
    cls = type(module)
    tensors = read(files, _early_cast(cls, dtype))
    try:
        tensors = dequantised(tensors, dtype)
        (tensors, _), _ = _unwrapped(tensors, functools.partial(_fitting, module))
    except Misfit as misfit:
        raise _other_weights(part, cls, files, misfit) from None
    _place(module, tensors, dtype)


def _other_weights(part: str, cls, files: list[Path], misfit: Misfit) -> InputError:
    mend = "wanted its whole file, and the config.json that goes with it: save or download it again"
    return InputError(files[0], f"not the weights of the {part} ({cls.__name__}): {misfit}; {mend}")


def quantisation(config: dict | object) -> str | None:
    """The method by which a part is quantised, if its configuration names one."""
    if isinstance(config, dict):
        method = config.get("quantization_config")
    else:
        method = getattr(config, "quantization_config", None)
    if not method:
        return None
    return str(method["quant_method"] if isinstance(method, dict) else method.quant_method)


def _check_quantiser(part: str, folder: Path, quantiser: str) -> None:
    """Raise InputError if the package that reads this quantisation is not installed."""
    package = QUANTISED.get(quantiser, quantiser)
    if importlib.util.find_spec(package) is None:
        found = f"the {part} is quantised by {quantiser}"
        raise InputError(folder, f"{found}: pip install {package}, or take one that is not")


def _load_quantised(part: str, cls, folder: Path, dtype: torch.dtype) -> torch.nn.Module:
    """As `load_part`, by the library's own loader."""
    with library_reads():
        module, info = cls.from_pretrained(folder, dtype=dtype, output_loading_info=True)
    missing = info["missing_keys"]
    if missing:
        raise InputError(folder, f"{len(missing)} weights of the {part} are missing: {few(sorted(missing))}")
    return module


def _unwrapped(tensors: dict[str, Tensor], make: Callable[[dict[str, Tensor]], T]) -> tuple[T, str | None]:
    """`make(tensors)`, or that of the first renaming which fits, and the prefix that it lacks. Raises Misfit."""
    try:
        return make(tensors), None
    except Misfit as misfit:
        first = misfit
    for prefix, renamed in _without_prefix(tensors):
        with contextlib.suppress(Misfit):
            return make(renamed), prefix
    raise first


def _without_prefix(tensors: dict[str, Tensor]) -> Iterator[tuple[str, dict[str, Tensor]]]:
    """Prefixes that may be removed, each with the renamed tensors: wrappers of training, and common starts."""
    renamed = {WRAPPED.sub(r"\1", key): value for key, value in tensors.items()}
    if renamed.keys() != tensors.keys() and len(renamed) == len(tensors):
        wrappers = (WRAPPED.search(key) for key in tensors)
        yield next(found[2] for found in wrappers if found), renamed
    common = os.path.commonprefix(list(tensors))  # noqa: RUF071  no path
    for dot in re.finditer(r"\.", common):
        end = dot.end()
        yield common[:end], {key[end:]: value for key, value in tensors.items()}


# ---- fingerprints ----


def fingerprint(files: list[Path]) -> str:
    """The size of files, and a hash of their names, sizes, headers and samples of their bytes; takes about 20 ms.

    Samples are taken of each tensor of safetensors, and of blocks all over other files, whose ends have their
    checksums.
    """
    digest, total = hashlib.sha256(), 0
    for file in files:
        size = file.stat().st_size
        total += size
        digest.update(f"{file.name} {size}".encode())
        with file.open("rb") as opened:
            for start, length in _samples(opened, size, file.suffix == ".safetensors"):
                opened.seek(start)
                digest.update(opened.read(length))
    return f"{total:,} bytes, sha256 {digest.hexdigest()[:16]}"


def _samples(opened: BinaryIO, size: int, has_header: bool) -> list[tuple[int, int]]:
    """Start and length of the samples of a file, in bytes; a small file is read whole."""
    if size <= 4 * BLOCK * BLOCK:
        return [(0, size)]
    if not has_header:
        blocks = [(k * (size // BLOCK), BLOCK) for k in range(BLOCK)]
        return [*blocks, (size - BLOCK * BLOCK, BLOCK * BLOCK)]
    length = int.from_bytes(opened.read(8), "little")
    header = json.loads(opened.read(length))
    samples = [(0, 8 + length)]
    for key, tensor in header.items():
        if key == "__metadata__":
            continue
        start, end = tensor["data_offsets"]
        for k in range(3):
            place = 8 + length + start + (end - start - BLOCK) * k // 2
            samples.append((max(place, 8 + length), BLOCK))
    return samples
