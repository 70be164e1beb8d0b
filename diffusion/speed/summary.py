"""The check of a device as JSON and as a page of markdown: the device, what was measured, hours of the paper's runs."""

import math
import platform
from dataclasses import asdict
from pathlib import Path

import psutil  # which accelerate installs
import torch
from tabulate import tabulate

from diffusion.speed import networks
from diffusion.speed.device import Format, Speed

IMAGES = {  # rows of README's table: images and NFE per image
    "Pets": (3_669, 2_050),
    "Aircraft": (3_333, 5_550),
    "STL-10": (8_000, 3_000),
    "CIFAR-10": (10_000, 2_750),
    "Flowers": (6_149, 5_590),
    "Food": (25_250, 5_570),
    "ObjectNet": (18_574, 14_400),
    "ImageNet": (50_000, 124_500),
    "ImageNet, the paper's 4 images a class": (4_000, 124_500),
}


def gpu_hours(nfe_per_second: float) -> dict[str, float]:
    """Hours on one such device for each row of README's table."""
    return {name: images * nfe / nfe_per_second / 3600 for name, (images, nfe) in IMAGES.items()}


def describe(device: torch.device) -> dict:
    """What a reader must know of a measurement's device: its name and memory, versions of the libraries."""
    import diffusers

    if device.type == "cuda":
        properties = torch.cuda.get_device_properties(device)
        name, memory = properties.name, properties.total_memory
    else:
        name = f"{cpu_name()}, {torch.get_num_threads()} threads"
        memory = psutil.virtual_memory().total
    return {
        "device": str(device),
        "name": name,
        "memory_bytes": memory,
        "torch": torch.__version__,
        "cuda": torch.version.cuda if device.type == "cuda" else None,
        "diffusers": diffusers.__version__,
        "python": platform.python_version(),
        "system": platform.platform(terse=True),
    }


def cpu_name() -> str:
    """The processor's name: that of /proc/cpuinfo on Linux, else what Python finds."""
    try:
        text = Path("/proc/cpuinfo").read_text()
    except OSError:
        text = ""
    for line in text.splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def of_kind(results: list, kind: type) -> list:
    return [each for each in results if isinstance(each, kind)]


def summary(about: dict, dtype: str, rate: float, results: list[Format | Speed | str], spent: float) -> dict:
    """The check as JSON: numbers that are not finite are null."""
    found = {
        **about,
        "dtype": dtype,
        "matrix_flop_per_second": rate,
        "formats": [asdict(each) for each in of_kind(results, Format)],
        "networks": [asdict(each) for each in of_kind(results, Speed)],
        "gpu_hours": hours_of(results),
        "skipped": of_kind(results, str),
        "seconds": spent,
    }
    return _finite(found)


def hours_of(results: list) -> dict[str, float]:
    """`gpu_hours` at the fastest rate of Stable Diffusion 2; empty if that was not measured."""
    rates = []
    for each in of_kind(results, Speed):
        if each.network == networks.STABLE_DIFFUSION_2:
            rates.append(each.nfe_per_second)
    return gpu_hours(max(rates)) if rates else {}


def _finite(value):
    """`value` with None for each float in it that is nan or infinite, which JSON lacks."""
    if isinstance(value, dict):
        return {key: _finite(each) for key, each in value.items()}
    if isinstance(value, list):
        return [_finite(each) for each in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def lines(check: dict) -> list[str]:
    """`summary` as a page of markdown, to be pasted into an issue."""
    cuda = f", CUDA {check['cuda']}" if check["cuda"] else ""
    versions = f"torch {check['torch']}{cuda}, diffusers {check['diffusers']}, Python {check['python']}"
    rate = check["matrix_flop_per_second"] / 1e12
    out = [
        f"device: {check['name']}, {check['memory_bytes'] / 1e9:,.1f} GB; {check['system']}",
        f"versions: {versions}",
        f"matrix product in {check['dtype']}: {rate:,.2f} TFLOP/s",
        "",
        *_format_table(check["formats"]),
    ]
    if check["networks"]:
        out += ["", *_network_table(check["networks"])]
    if check["gpu_hours"]:
        out += ["", *_hours_table(check["gpu_hours"])]
    if check["skipped"]:
        out += ["", "Skipped:"]
        out += [f"- {reason}" for reason in check["skipped"]]
    return [*out, "", f"{check['seconds']:,.0f} s in all"]


def _table(header: list[str], rows: list[list[str]]) -> list[str]:
    """A table of markdown; the first column is text, the others are figures."""
    align = ["left"] + ["right"] * (len(header) - 1)
    return tabulate(rows, header, tablefmt="github", disable_numparse=True, colalign=align).splitlines()


def _hours_table(hours_of_set: dict[str, float]) -> list[str]:
    rows = []
    for name, hours in hours_of_set.items():
        images, nfe = IMAGES[name]
        rows.append([name, f"{images:,}", f"{nfe:,}", f"{hours:,.0f}"])
    title = f"hours on this device, {networks.STABLE_DIFFUSION_2}"
    return _table(["data set", "images", "NFE per image", title], rows)


def _format_table(formats: list[dict]) -> list[str]:
    rows = []
    for each in formats:
        n = each["images"]
        against = ["", ""]
        if each["dtype"] != "float32":
            against = [f"{each['same_decisions']} of {n}", _error(each["error_against_float32"])]
        twice = f"{each['same_bits_twice']} of {n}, {_error(each['error_twice'])}"
        other = f"{each['same_bits_other_batch']} of {n}, {_error(each['error_other_batch'])}"
        rows.append([each["dtype"], *against, twice, other, f"{each['nfe_per_second']:,.0f}"])
    other_batch = formats[0]["other_batch"] if formats else "other"
    header = [
        "format, embedded races", "decisions as float32", "largest relative error", "same bits twice, error",
        f"same bits in calls of {other_batch}, error", "NFE/s",
    ]  # fmt: skip
    return _table(header, rows)


def _error(value: float | None) -> str:
    return "not finite" if value is None else f"{value:.1g}"


def _network_table(found: list[dict]) -> list[str]:
    rows = []
    for each in found:
        peak, largest = "", ""
        if each["peak_bytes"] is not None:
            peak = f"{each['peak_bytes'] / 1e9:,.1f}"
        if each["speeds"]:
            largest = f"{max(map(int, each['speeds']))} ({each['ended_by']})"
        rows.append([
            each["network"], each["form"], f"{each['parameters'] / 1e6:,.0f} M", f"{each['weights_bytes'] / 1e9:,.1f}",
            f"{each['flop_per_nfe'] / 1e9:,.0f}", str(each["batch_size"]), f"{each['nfe_per_second']:,.3g}",
            f"{each['matrix_share']:.0%}", peak, largest,
        ])  # fmt: skip
    header = [
        "network", "weights as", "parameters", "their GB", "GFLOP per NFE", "fastest batch", "NFE/s",
        "share of matrix product", "peak GB", "largest batch tried (ended by)",
    ]  # fmt: skip
    return _table(header, rows)
