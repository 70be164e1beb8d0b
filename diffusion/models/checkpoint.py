"""Weights that are all there: a part's files, held against the module that they are for, and what they are known by."""

import contextlib
import hashlib
import importlib.util
import json
import os
import re
import warnings
from collections.abc import Iterable, Iterator
from pathlib import Path
from pickle import UnpicklingError

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from diffusion import InputError, InputWarning
from diffusion.io.reading import check_pt
from diffusion.io.wording import few

FILE = re.compile(  # whole or a shard, of a variant or plain; the older spelling has the variant last
    r"(?:diffusion_pytorch_model|pytorch_model|model)"
    r"(?:\.(?P<variant>\w+))?(?:-(?P<shard>\d+)-of-(?P<shards>\d+))?(?:\.(?P<old>\w+))?\.(?P<suffix>safetensors|bin)"
)
WRAPPED = re.compile(r"(^|\.)((?:(?:_orig_mod|module|_fsdp_wrapped_module|_checkpoint_wrapped_module)\.)+)")
BLOCK = 512  # bytes, of a sample
DTYPES = {  # as a safetensors header calls them
    "F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16, "BOOL": torch.bool,
    "I64": torch.int64, "I32": torch.int32, "I16": torch.int16, "I8": torch.int8, "U8": torch.uint8,
    "F8_E4M3": torch.float8_e4m3fn, "F8_E5M2": torch.float8_e5m2,
}  # fmt: skip
QUANTISED = {"bitsandbytes": "bitsandbytes", "torchao": "torchao", "gguf": "gguf", "quanto": "optimum"}  # -> package
SCALE = re.compile(r"(.+)\.(?:scale_weight|weight_scale)")  # of a float8 weight, in ComfyUI's older and newer files
BESIDE = re.compile(r"(.+\.)?(?:scaled_fp8|comfy_quant|scale_input|input_scale)")  # marks, and scales of activations
QUANTISERS = re.compile(r".+\.(?:\w*scale_inv|(?:weight_scale|scale_weight|input_scale|scale_input)\w*|zero_point)")
HARMLESS = r"(^|\.)position_ids$|num_batches_tracked$"  # buffers that older versions saved


FOREIGN = (  # what libraries raise of files that are missing, damaged or not what they take them for
    ValueError, KeyError, TypeError, AttributeError, RuntimeError, ImportError, EOFError,
    UnpicklingError, SafetensorError,
)  # fmt: skip


class Unreadable(OSError):
    """What a library could not read; the message is the library's."""


@contextlib.contextmanager
def library_reads() -> Iterator[None]:
    """Around a library's own call that reads a file or builds a module: what it raises becomes Unreadable.

    It is for nothing but such calls: around code of ours it would take a bug for a damaged file. torch and
    diffusers raise nearly any class of error of a damaged file.
    """
    from diffusers.loaders.single_file_utils import SingleFileComponentError

    try:
        yield
    except InputError:
        raise
    except (*FOREIGN, SingleFileComponentError) as error:
        raise Unreadable(f"{type(error).__name__}: {error}") from error


def weight_files(names: Iterable[str]) -> list[str]:
    """Of the names in a part's folder those of its weights; FileNotFoundError where there are none, or too few shards.

    Plain ones before a variant's (fp16 first), safetensors before .bin, whole before shards.
    """
    groups, short = {}, []
    for name in sorted(names):
        if m := FILE.fullmatch(name):
            variant = m["variant"] or m["old"] or ""
            key = (variant != "", variant != "fp16", variant, m["suffix"] != "safetensors", int(m["shards"] or 0))
            groups.setdefault(key, []).append(name)
    for (*_, shards), group in sorted(groups.items()):
        if len(group) == max(shards, 1):
            return group
        short.append(f"{len(group)} of {shards} shards, {group[0]}, ...")
    raise FileNotFoundError("; ".join(short) or "no .safetensors or .bin")


def read(files: list[Path], header: bool = False) -> dict[str, Tensor]:
    """All tensors in files; of the `header`, on the meta device, shapes and dtypes alone. Only tensors are unpickled.

    InputError: a file that is none of these, broken off, or git-lfs's pointer in its place.
    """
    tensors = {}
    for file in files:
        check_pointer(file)
        if file.suffix == ".safetensors":
            with library_reads(), safe_open(file, "pt") as opened:
                for key in opened.keys():  # noqa: SIM118  no dict
                    if header:
                        part = opened.get_slice(key)
                        dtype = DTYPES.get(part.get_dtype(), torch.uint8)  # of a dtype that only packages know
                        tensors[key] = torch.empty(part.get_shape(), device="meta", dtype=dtype)
                    else:
                        tensors[key] = opened.get_tensor(key)
        else:
            if not header:
                check_pt(file)
            with library_reads():
                there = torch.load(file, weights_only=True, map_location="meta" if header else "cpu")
            there = there.get("state_dict", there)
            tensors |= {key: value for key, value in there.items() if isinstance(value, Tensor)}
    return tensors


def check_pointer(file: Path) -> None:
    """InputError where git-lfs's pointer to a file lies in its place."""
    with file.open("rb") as start:
        if start.read(24).startswith(b"version https://git-lfs"):
            raise InputError(file, "is git-lfs's pointer to the file, not the file; `git lfs pull` gets it")


class Misfit(Exception):
    """Weights that are not those of a module."""


def dequantised(tensors: dict[str, Tensor], dtype: torch.dtype | None) -> dict[str, Tensor]:
    """The same weights with float8 ones times their scale, computed in float32 and rounded to `dtype` once.

    A float8 `X.weight` may have a scale beside it, one number or one for each output channel: `X.scale_weight` or
    `X.weight_scale`, as ComfyUI writes them (comfy/ops.py and comfy/quant_ops.py); what it writes for activations
    (`X.scale_input`, `X.input_scale`) and its marks are left out. A float8 tensor without a scale is cast as it is.
    With dtype None, on the meta device, only names and shapes are looked at.

    Raises Misfit for a scale without its float8 weight, or of another shape, for tensors beside a float8 weight that
    have no use here, and for weights that are integers: other quantisations, of which these would be half.
    """
    scales = {}
    for key in tensors:
        found = SCALE.fullmatch(key)
        if found is None:
            continue
        weight = f"{found[1]}.weight"
        if weight in scales:
            raise Misfit(f"{weight} has two scales, {scales[weight]} and {key}")
        scales[weight] = key
    _check_quantised(tensors, scales)
    plain = {}
    for key, value in tensors.items():
        if key in scales.values() or BESIDE.fullmatch(key):
            continue
        if key in scales:
            value = _times(key, value, tensors[scales[key]], dtype)
        elif _is_float8(value) and dtype is not None:
            value = value.to(dtype)
        plain[key] = value
    return plain


def _check_quantised(tensors: dict[str, Tensor], scales: dict[str, str]) -> None:
    """Misfit unless every tensor that quantisation writes is one that `dequantised` has a use for."""
    if lost := [scale for weight, scale in scales.items() if not _is_float8(tensors.get(weight))]:
        raise Misfit(f"{len(lost)} scales have no float8 weight: {few(lost)}")
    if integers := [key for key, value in tensors.items() if key.endswith(".weight") and not _has_fractions(value)]:
        kind = tensors[integers[0]].dtype
        raise Misfit(
            f"{len(integers)} weights are {kind}, wanted floating point or float8 with a scale: {few(integers)}"
        )
    layers = {key.rpartition(".")[0] for key, value in tensors.items() if key.endswith(".weight") and _is_float8(value)}
    left = []
    for key in tensors:
        layer, _, name = key.rpartition(".")
        inside = name not in ("weight", "bias") and (layer in layers or layer.removesuffix(".weight") in layers)
        if (inside or QUANTISERS.fullmatch(key)) and key not in scales.values() and not BESIDE.fullmatch(key):
            left.append(key)
    if left:
        raise Misfit(f"{len(left)} tensors of a quantisation that is unsupported: {few(left)}")


def _is_float8(value: Tensor | None) -> bool:
    return value is not None and value.is_floating_point() and value.itemsize == 1


def _has_fractions(value: Tensor) -> bool:
    return value.is_floating_point() or value.is_complex()


def _times(key: str, weight: Tensor, scale: Tensor, dtype: torch.dtype | None) -> Tensor:
    """weight [out, ...] times scale [] or [out], in float32, rounded to `dtype`; None: on the meta device, a look."""
    if (
        not scale.is_floating_point()
        or scale.numel() not in (1, len(weight))
        or scale.shape[0:1].numel() != scale.numel()
    ):
        raise Misfit(f"{key} {list(weight.shape)} has a scale {list(scale.shape)}, wanted one number or one a channel")
    if dtype is None:
        return weight
    if not scale.float().isfinite().all():
        raise Misfit(f"the scale of {key} is not finite")
    return (weight.float() * scale.float().reshape(-1, *[1] * (weight.ndim - 1))).to(dtype)


def empty(cls, config: dict | object) -> torch.nn.Module:
    """A module without its weights, on the meta device."""
    from accelerate import init_empty_weights

    if not isinstance(config, dict):
        with library_reads(), torch.device("meta"):  # which leaves weights tied that are
            return cls(config)
    with library_reads(), init_empty_weights():
        return cls.from_config(config)


def read_config(cls, folder: Path) -> dict | object:
    """The configuration of a part as its class takes it: diffusers' is a dict, transformers' an object."""
    with library_reads():
        return cls.load_config(folder) if hasattr(cls, "load_config") else cls.config_class.from_pretrained(folder)


def build(
    cls, config: dict | object, tensors: dict[str, Tensor], dtype: torch.dtype | None
) -> tuple[torch.nn.Module, list[str]]:
    """A module with these weights in `dtype` (None: on the meta device, without them), and the keys without use.

    Raises Misfit unless each of its weights is there, in its shape.
    """
    if hasattr(cls, "load_config"):
        return _build_diffusers(cls, config, tensors, dtype)
    place = {"device_map": {"": "meta"}} if dtype is None else {"dtype": dtype}
    with library_reads():
        module, info = cls.from_pretrained(
            None, config=config, state_dict=dict(tensors), output_loading_info=True, ignore_mismatched_sizes=True,
            **place,
        )  # fmt: skip
    wrong = [f"{key} {list(found)}, wanted {list(wanted)}" for key, found, wanted in info["mismatched_keys"]]
    _refuse(info["missing_keys"], wrong, len(module.state_dict()), info["unexpected_keys"])
    return module, sorted(info["unexpected_keys"])


def _build_diffusers(cls, config: dict, tensors: dict[str, Tensor], dtype: torch.dtype | None):
    from diffusers.models.model_loading_utils import load_model_dict_into_meta

    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype or before)  # of the tables that a module makes for itself, as diffusers does
    try:
        module = empty(cls, config)
    finally:
        torch.set_default_dtype(before)
    tensors = dict(tensors)
    module._fix_state_dict_keys_on_load(tensors)  # older names of attention
    wanted = module.state_dict()
    ignored = module._keys_to_ignore_on_load_unexpected or []
    extra = [key for key in tensors.keys() - wanted.keys() if not any(re.search(each, key) for each in ignored)]
    wrong = [
        f"{key} {list(tensors[key].shape)}, wanted {list(wanted[key].shape)}"
        for key in tensors.keys() & wanted.keys()
        if tensors[key].shape != wanted[key].shape
    ]
    _refuse(wanted.keys() - tensors.keys(), wrong, len(wanted), extra)
    if dtype is not None:
        with library_reads():
            load_model_dict_into_meta(module, tensors, dtype, keep_in_fp32_modules=module._keep_in_fp32_modules)
    return module.eval(), sorted(extra)


def _refuse(missing: Iterable[str], wrong: list[str], total: int, extra: Iterable[str]) -> None:
    if missing := sorted(missing):
        others = f"; it has {few(sorted(extra))} instead" if extra else ""
        raise Misfit(f"{len(missing)} of {total} weights are missing: {few(missing)}{others}")
    if wrong:
        raise Misfit(f"{len(wrong)} of {total} weights have another shape: {few(sorted(wrong))}")


def load_part(part: str, cls, folder: Path, files: list[Path], dtype: torch.dtype | None) -> torch.nn.Module:
    """A part of a pipeline from its configuration's folder and its files; with dtype None on the meta device, to see.

    What training left before the keys is removed where the rest then fits, with a warning that says so, as it says
    which keys have no use. Raises InputError unless every weight of the part came from the files.
    """
    config = read_config(cls, folder)
    if how := quantisation(config):
        return _load_quantised(part, cls, folder, config, how, dtype)
    tensors, removed = read(files, header=dtype is None), None
    try:
        tensors = dequantised(tensors, dtype)
        module, extra = build(cls, config, tensors, dtype)
    except Misfit as misfit:
        for start, renamed in _unwrapped(tensors):
            with contextlib.suppress(Misfit):
                module, extra = build(cls, config, renamed, dtype)
                removed = start
                break
        else:
            mend = "wanted its whole file, and the config.json that goes with it: save or download it again"
            raise InputError(
                f"{files[0]}", f"not the weights of the {part} ({cls.__name__}): {misfit}; {mend}"
            ) from None
    if dtype is None:  # said once
        if removed:
            warnings.warn(f"{files[0]}: {removed!r} is taken off its keys", InputWarning, stacklevel=2)
        if extra := [key for key in extra if not re.search(HARMLESS, key)]:
            unused = f"{len(extra)} of its tensors are not the {part}'s and are not used"
            warnings.warn(f"{files[0]}: {unused}: {few(extra)}", InputWarning, stacklevel=2)
    return module


def quantisation(config: dict | object) -> str | None:
    """By what a part is quantised, as its configuration says."""
    told = (
        config.get("quantization_config") if isinstance(config, dict) else getattr(config, "quantization_config", None)
    )
    return told and str(told["quant_method"] if isinstance(told, dict) else told.quant_method)


def _load_quantised(part: str, cls, folder: Path, config, how: str, dtype: torch.dtype | None) -> torch.nn.Module:
    """As load_part, by the library's own loader; its package and its device are looked for first."""
    package = QUANTISED.get(how, how)
    if importlib.util.find_spec(package) is None:
        raise InputError(folder, f"the {part} is quantised by {how}: pip install {package}, or take one that is not")
    if dtype is None:
        return empty(cls, config)
    with library_reads():
        module, info = cls.from_pretrained(folder, dtype=dtype, output_loading_info=True)
    if missing := info["missing_keys"]:
        raise InputError(folder, f"{len(missing)} weights of the {part} are missing: {few(sorted(missing))}")
    return module


def _unwrapped(tensors: dict[str, Tensor]) -> Iterator[tuple[str, dict[str, Tensor]]]:
    """What may be taken off the keys, and the tensors without it: what training wraps modules in, or a common start."""
    renamed = {WRAPPED.sub(r"\1", key): value for key, value in tensors.items()}
    if renamed.keys() != tensors.keys() and len(renamed) == len(tensors):
        yield next(m[2] for key in tensors if (m := WRAPPED.search(key))), renamed
    common = os.path.commonprefix(list(tensors))  # noqa: RUF071  no path
    for end in (m.end() for m in re.finditer(r"\.", common)):
        yield common[:end], {key[end:]: value for key, value in tensors.items()}


# ---- what weights are known by ----


def fingerprint(files: list[Path]) -> str:
    """How large files are, and a hash of their names, sizes, headers and of samples of their bytes: about 20 ms.

    Samples are of each tensor of safetensors, and of blocks all over other files, whose ends have their checksums.
    """
    told, total = hashlib.sha256(), 0
    for file in files:
        size = file.stat().st_size
        total += size
        told.update(f"{file.name} {size}".encode())
        with file.open("rb") as opened:
            for start, length in _samples(opened, size, file.suffix == ".safetensors"):
                opened.seek(start)
                told.update(opened.read(length))
    return f"{total:,} bytes, sha256 {told.hexdigest()[:16]}"


def _samples(opened, size: int, has_header: bool) -> Iterator[tuple[int, int]]:
    """Places and lengths in a file: all of a small one."""
    if size <= 4 * BLOCK * BLOCK:
        return iter([(0, size)])
    if not has_header:
        return iter([*((k * (size // BLOCK), BLOCK) for k in range(BLOCK)), (size - BLOCK * BLOCK, BLOCK * BLOCK)])
    length = int.from_bytes(opened.read(8), "little")
    tensors = json.loads(opened.read(length))
    ends = [value["data_offsets"] for key, value in tensors.items() if key != "__metadata__"]
    places = [8 + length + start + (end - start - BLOCK) * k // 2 for start, end in ends for k in range(3)]
    return iter([(0, 8 + length), *((max(place, 8 + length), BLOCK) for place in places)])
