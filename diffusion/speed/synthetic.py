"""Synthetic runs of many classes, and what reading them costs: CPU seconds and memory of each reader."""

import importlib.util
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
import torch

from diffusion import InputError, one_line, paths
from diffusion.core.conditions import Conditions
from diffusion.core.constants import LOSSES, MIDDLE
from diffusion.core.image import Measured, Question, search_image
from diffusion.core.schedule import Points, Schedule, halving_schedule, race_schedule
from diffusion.core.search import Search, band
from diffusion.runs import records

Start = Callable[[np.ndarray], Search]  # the classes that compete -> a search between them

T = 1000  # noise levels
Z, POINTS = 3.0, 500  # of the races


# ---- a run ----


def _errors(rng: np.random.Generator, excess: np.ndarray, points: int) -> np.ndarray:
    """Errors of classes whose mean is 1 + 0.01 excess [classes], with noise of deviation 0.01. [classes, points]"""
    return 1 + 0.01 * (excess[:, None] + rng.standard_normal((len(excess), points)))


def _excess(rng: np.random.Generator, classes: int, best: int) -> np.ndarray:
    """By how much each class is worse than the best one, in deviations of a point's noise. [classes]

    With these a race between 1,000 classes takes some 2,700 evaluations.
    """
    excess = np.abs(rng.normal(4, 1, classes))
    excess[best] = 0
    return excess


def simulated(searched: Schedule, excess: np.ndarray, rng: np.random.Generator) -> tuple[Measured, float]:
    """A search over an image without a network: its errors are simulated (`_errors`), of classes of `excess` [classes].

    -> what was measured, and the seconds that it took beside making the errors
    """
    classes = np.arange(len(excess))
    points = Points.of(searched, np.ones(T))
    conditions = Conditions({"none": torch.zeros(len(classes), 1)})
    question = Question(torch.zeros(4, 1, 1), conditions, classes, searched.start, None)
    spent = 0.0

    started = time.perf_counter()
    task = search_image(question, points, loss="l2")
    try:
        block = next(task)
        while True:
            spent += time.perf_counter() - started
            errors = torch.from_numpy(_errors(rng, excess[block.arms], len(block.levels))).float()
            of_losses = errors[..., None].expand(-1, -1, len(LOSSES))
            started = time.perf_counter()
            block = task.send(of_losses)
    except StopIteration as stop:
        return stop.value, spent + time.perf_counter() - started


def write_run(folder: Path, images: int, classes: int, seed: int, dataset: str = "synthetic") -> Iterator[int]:
    """Write a run of races between so many class ids, an image at a time; nine of ten answers are right.

    One image of each class is simulated; the others of its class have the same errors. Yields the NFE of each image.
    """
    options = {
        "dataset": dataset, "data": f"{images} simulated", "split": "test", "version": f"simulated {seed}",
        "n_trials": 1, "loss": "l2", "seed": seed, "search": "race", "z": Z, "max_samples": POINTS, "antithetic": True,
    }  # fmt: skip
    about = {"images": images, records.N_LEVELS: T, "indices": f"0-{images - 1}", "all_arms": f"0-{classes - 1}"}
    about["arms"] = [[k, f"class {k}", k] for k in range(classes)]
    records.open_run(folder, options, about)
    wanted = records.expected({"options": options, **about})

    race = race_schedule(band(*MIDDLE, T), np.ones(classes, dtype=int), Z, POINTS, pairs=True)
    measured: list[Measured] = []
    for index in range(images):
        label = index % classes
        if index < classes:
            measured.append(_measured(race, seed, label, classes))
        record = measured[label].record(index=index, label=label, pred=measured[label].winner)
        records.save_record(records.record_path(folder, images, index), record, wanted)
        yield measured[label].nfe


def _measured(race: Schedule, seed: int, label: int, classes: int) -> Measured:
    """A simulated image of a class."""
    rng = np.random.default_rng([seed, label])
    best = label if rng.random() < 0.9 else int(rng.integers(classes))
    measured, _ = simulated(race, _excess(rng, classes, best), rng)
    return measured


# ---- readers ----


@dataclass(frozen=True)
class Cost:
    """What a command took."""

    cpu_seconds: float
    peak_bytes: int  # of the largest process


_MEASURE = """
import json, resource, subprocess, sys
done = subprocess.run(sys.argv[1:], stdout=subprocess.DEVNULL)
used = resource.getrusage(resource.RUSAGE_CHILDREN)
print(json.dumps([done.returncode, used.ru_utime + used.ru_stime, used.ru_maxrss]))
"""


def cost_of(command: list, env: dict[str, str]) -> Cost:
    """Run a command; the CPU seconds of it and its processes, and the peak of the largest. InputError if it fails.

    A small process in between starts it: on Linux the peak of a process (ru_maxrss) begins with that of the one that
    started it, as it was before exec, so that a command started from here would seem to need what torch needs here.
    """
    words = [sys.executable, "-c", _MEASURE, *map(str, command)]
    done = subprocess.run(words, env=os.environ | env, capture_output=True, text=True)
    code, cpu, peak = json.loads(done.stdout)
    if code:
        raise InputError(" ".join(map(str, command)), f"ended with code {code}: {one_line(done.stderr[-400:])}")
    unit = 1 if sys.platform == "darwin" else 1024  # Linux counts in KiB
    return Cost(cpu, peak * unit)


SCORES = "export --scores"


def readers(folder: Path, other: Path, shifted: Path, out: Path) -> dict[str, list]:
    """The commands that read a run, or it and another of the same images or of another data set, `shifted`.

    They write into `out`.
    """

    def script(name: str, *words: object) -> list:
        return [sys.executable, paths.program(f"scripts/{name}.py"), *words]

    return {
        "print_acc": script("print_acc", folder),
        "print_dit_acc": script("print_dit_acc", folder),
        "print_robustness": script("print_robustness", folder, shifted, "--base", "synthetic"),
        "export": script("export", folder, "--out", out / "run.csv"),
        SCORES: script("export", folder, "--scores", "--out", out / "scores.csv"),
        "compare": script("compare", folder, other),
        "report": script("report", folder, "--out", out / "report.html"),
        "calibrate": script("calibrate", folder),
        "ensemble": script("ensemble", folder, other, "--extra", f"of-{folder.name}"),
    }


AGAIN, PANDAS = "export, again", "pandas, the same table"


def table_costs(folder: Path, out: Path, env: dict[str, str]) -> dict[str, Cost]:
    """What export.py takes the first time and again, and pandas for the same table from one parquet file.

    Without pyarrow, pandas is left out.
    """
    command = readers(folder, folder, folder, out)["export"]
    costs = {"export": cost_of(command, env), AGAIN: cost_of(command, env)}
    if importlib.util.find_spec("pyarrow") is None:
        return costs
    parquet = out / "run.parquet"
    cost_of([*command[:-1], parquet], env)
    code = "import pandas, sys; pandas.read_parquet(sys.argv[1]).to_csv(sys.argv[2], index=False)"
    costs[PANDAS] = cost_of([sys.executable, "-c", code, parquet, out / "pandas.csv"], env)
    return costs


def extrapolated(small: tuple[int, float], large: tuple[int, float], images: int) -> tuple[float, float] | None:
    """A figure that grows in proportion to the images, from two measurements (images, figure).

    -> by how much it grows with an image, and what it is at so many images; None if it grew by less than 10% from the
    small measurement to the large one: then it would be noise that is multiplied.
    """
    (n, first), (m, last) = small, large
    if last < 1.1 * first:
        return None
    slope = (last - first) / (m - n)
    return slope, last + slope * (images - m)


def figures(sizes: tuple[int, int], costs: tuple[Cost, Cost], images: int) -> list[str]:
    """A row of the table: what the larger run took, and what so many images would take; "-" where that is unknown.

    sizes: images of a small and a large run; costs: of a reader of these.
    """
    small, large = costs
    cpu = extrapolated((sizes[0], small.cpu_seconds), (sizes[1], large.cpu_seconds), images)
    peak = extrapolated((sizes[0], small.peak_bytes), (sizes[1], large.peak_bytes), images)

    of_cpu = ["-", "-"]
    if cpu is not None:
        of_cpu = [f"{1000 * cpu[0]:,.1f}", f"{cpu[1]:,.0f}"]
    of_peak = "-"
    if peak is not None:
        of_peak = f"{peak[1] / 1e9:,.1f}"
    return [f"{large.cpu_seconds:,.1f}", *of_cpu, f"{large.peak_bytes / 1e9:,.2f}", of_peak]


# ---- searches ----


@dataclass(frozen=True)
class SearchCost:
    """What a search over one image took beside the network."""

    search: str
    nfe: int
    search_seconds: float  # in core.search alone
    image_seconds: float  # in core.image, which drives it and gathers the errors


def search_costs(classes: int) -> Iterator[SearchCost]:
    """What searches between so many classes take on one image: two races, and the published schedule of ImageNet.

    The same image three times, of which the fastest counts.
    """
    middle, arms = band(*MIDDLE, T), np.ones(classes, dtype=int)
    to_keep, n_samples = [500, 50, 10, 1], [50, 100, 500, 1000]
    searches = {
        "race": race_schedule(middle, arms, Z, POINTS, pairs=True),
        "race, independent noise": race_schedule(middle, arms, Z, POINTS),
        "halving, ImageNet's schedule": halving_schedule(np.arange(T), n_samples, to_keep, arms),
    }
    for name, each in searches.items():
        runs = [_search_cost(name, each, classes) for _ in range(3)]
        yield min(runs, key=lambda cost: cost.image_seconds)


def _search_cost(name: str, searched: Schedule, classes: int) -> SearchCost:
    rng = np.random.default_rng(0)
    spent: list[float] = []
    watched = replace(searched, start=partial(timed, searched.start, spent))
    measured, seconds = simulated(watched, _excess(rng, classes, 0), rng)
    return SearchCost(name, measured.nfe, sum(spent), seconds)


def timed(start: Start, spent: list[float], among: np.ndarray) -> Search:
    """The search `start(among)`; each time that it runs, the seconds are appended to `spent`."""
    search = start(among)
    found = None
    while True:
        started = time.perf_counter()
        try:
            wanted = search.send(found)
        except StopIteration as stop:
            spent.append(time.perf_counter() - started)
            return stop.value
        spent.append(time.perf_counter() - started)
        found = yield wanted
