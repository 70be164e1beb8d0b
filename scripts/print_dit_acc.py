"""Print the accuracy of DiT runs by each loss; runs over parts of the classes, and adaptive ones, are merged.

python scripts/print_dit_acc.py data/imagenet_dit256 --dataset imagenet
"""

from diffusion.evaluate import options as evaluate_options
from diffusion.io import wording


@evaluate_options.answered_early
def parser() -> evaluate_options.Parser:
    p = evaluate_options.reader(__doc__, "folder of a data set, which holds runs, or of a run", None)
    evaluate_options.add(p, "--dataset NAME", "data set that the runs must be of; default not checked")
    return p


import os
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch

from diffusion import InputError
from diffusion.runs import pack, records, show
from diffusion.stats import metrics

RULES = {"L2": ["l2"], "L1": ["l1"], "VLB": ["vb"], "L2+VLB": ["l2", "vb"]}  # the losses whose sum decides
FREE = {"cls", "to_keep", "n_samples", "loss"}  # options that may differ between runs that are merged
CHUNK = 500  # records read by one task


def find_runs(folder: Path) -> dict[Path, dict]:
    """Run folder -> its run.json, for runs that can be merged. InputError if there are none, or they cannot be."""
    if not os.path.exists(folder):
        raise InputError(folder, "no such folder")
    paths = [folder] if records.is_run(folder) else []  # also a packed run
    for pattern in ("*/", "*/*/"):
        paths += [path.parent for path in sorted(folder.glob(f"{pattern}run.json"))]
    runs = {}
    for path in paths:
        run = records.read_run(path)
        if "all_arms" in run:
            runs[path] = run
    for path, run in runs.items():
        records.need(path, run, "dataset", "indices")
        strange = {arm for arm, *_ in run["arms"]} - set(wording.numbers(run["all_arms"].split()))
        if strange:
            raise InputError(f"{path / 'run.json'}", f"arms {sorted(strange)} are none of all_arms {run['all_arms']}")
    if not runs:
        raise InputError(folder, "no run of eval_prob_dit.py there or in the folders below")

    first, *others = runs
    for other in others:
        these, those = fixed_options(runs[first]), fixed_options(runs[other])
        for key in sorted(these.keys() | those.keys()):
            if these.get(key) != those.get(key):
                differ = f"{key} is {these.get(key)!r} and {those.get(key)!r}"
                wanted = "Name one of them, or keep them apart with --extra"
                raise InputError(other, f"cannot be merged with {first}: {differ}. {wanted}")
    return runs


def fixed_options(run: dict) -> dict:
    """The options in which runs that are merged must agree."""
    options = run["options"]
    most = max(options.get("n_samples", ()), default=options.get("max_samples"))  # a race has no stages
    fixed = {key: value for key, value in options.items() if key not in FREE}
    fixed["number of levels"] = most
    if options.get("antithetic"):  # which points are a pair depends on the stages
        fixed["n_samples"] = options.get("n_samples")
    return fixed


def best(record: dict, arms: list[int]) -> dict[str, tuple[float, int]]:
    """Rule -> (smallest mean, class id) among the arms that were measured at every point of the record.

    Points are sorted first, so that the sums do not depend on the order in which they were measured.
    """
    counts, points = record["counts"].numpy(), len(record["levels"])
    errors = np.stack([metrics.point_errors(record, loss) for loss in record["losses"]], 1)
    order = np.lexsort((record["noise"].numpy(), record["levels"].numpy()))
    whole = np.flatnonzero(counts == points)
    starts = np.cumsum(counts) - counts
    measured = errors[starts[whole, None] + order].mean(1)  # [arms, losses]
    answers = {}
    for rule, losses in RULES.items():
        if set(losses) <= set(record["losses"]):
            value = measured[:, list(map(record["losses"].index, losses))].sum(1)
            k = int(value.argmin())
            answers[rule] = (float(value[k]), arms[whole[k]])
    return answers


def read(arms: list[int], wanted: records.Expected, paths: list[Path]) -> list[tuple[int, int, int, dict] | str]:
    """(index, label, nfe, best) of each record, or a text that describes what is wrong with it."""
    found = []
    for path in paths:
        try:
            record = records.load_record(path, wanted)
            found.append((record["index"], record["label"], record["nfe"], best(record, arms)))
        except FileNotFoundError:
            found.append(f"{path}: is gone")
        except pack.Damaged:
            raise
        except InputError as error:
            found.append(str(error))
    return found


def read_all(runs: dict[Path, dict]) -> Iterator[tuple[list[int], list]]:
    """The arms of each run and what `read` returns for a chunk of its records; several processes if there are many."""
    with ProcessPoolExecutor(initializer=torch.set_num_threads, initargs=(1,)) as pool:
        for folder, run in runs.items():  # one after the other: a thousand runs have too many paths to hold
            arms = [arm for arm, *_ in run["arms"]]
            paths = list(records.chosen(folder, run).values())
            chunks = [paths[k : k + CHUNK] for k in range(0, len(paths), CHUNK)]
            reader = partial(read, arms, records.expected(run))
            read_chunks = map if len(chunks) < 4 else pool.map
            for found in read_chunks(reader, chunks):
                yield arms, found


@dataclass
class Merged:
    """The records of several runs, merged by image."""

    label: dict[int, int]  # by index of the image
    answers: dict[int, dict[str, tuple[float, int]]]  # by index, as from `best`
    covered: dict[int, np.ndarray]  # by index, which classes were measured [classes] bool
    nfe: int  # of all records
    problems: list[str]


def merge(runs: dict[Path, dict], classes: list[int]) -> Merged:
    """All records of the runs; the answer of an image is the best over its records. classes: all arms, ascending."""
    merged = Merged({}, {}, {}, 0, [])
    for arms, found in read_all(runs):
        columns = np.searchsorted(classes, arms)
        for item in found:
            if isinstance(item, str):
                merged.problems.append(item)
                continue
            index, label, nfe, answers = item
            merged.label[index] = label
            merged.nfe += nfe
            covered = merged.covered.setdefault(index, np.zeros(len(classes), dtype=bool))
            covered[columns] = True
            before = merged.answers.setdefault(index, answers)
            for rule in before.keys() & answers.keys():
                before[rule] = min(before[rule], answers[rule])
    return merged


def main(argv: list[str]) -> int:
    args = parser().parse_args(argv)
    runs = find_runs(args.folder)
    run = next(iter(runs.values()))
    if args.dataset not in (None, run["options"]["dataset"]):
        raise InputError(f"--dataset {args.dataset}", f"{args.folder} holds runs on {run['options']['dataset']}")
    return print_merged(runs, wording.numbers(run["all_arms"].split()))


def print_merged(runs: dict[Path, dict], classes: list[int]) -> int:
    """Print the accuracy by each rule on the images for which all measured classes are complete; the exit code."""
    merged = merge(runs, classes)
    measured = np.zeros(len(classes), dtype=bool)
    for covered in merged.covered.values():
        measured |= covered
    complete = [index for index in sorted(merged.covered) if not np.any(measured & ~merged.covered[index])]
    images = set(merged.covered)
    class_of = {}
    for run in runs.values():
        images.update(wording.numbers(run["indices"].split()))
        class_of |= {arm: class_id for arm, _, class_id in run["arms"]}

    print(f"{'images':<16}{len(complete)} of {len(images)}")
    print(f"{'classes':<16}{measured.sum()} of {len(classes)}")
    label = np.array([merged.label[index] for index in complete], dtype=int)
    for rule in RULES:
        if complete and all(rule in merged.answers[index] for index in complete):
            pred = np.array([class_of[merged.answers[index][rule][1]] for index in complete])
            print(f"{rule:<16}{show.percent(*metrics.accuracy(pred, label))}")
    if merged.covered:
        print(f"{'NFE per image':<16}{merged.nfe / len(merged.covered):,.0f}  (in all {merged.nfe:,})")

    problems = list(merged.problems)
    if not measured.all():
        problems.append(f"no run has classes {wording.ranges(np.array(classes)[~measured].tolist())}")
    for index in sorted(merged.covered.keys() - set(complete)):
        lacks = np.array(classes)[measured & ~merged.covered[index]].tolist()
        problems.append(f"image {index}: classes {wording.ranges(lacks)} are not measured yet")
    missing = sorted(images - set(merged.covered))
    if missing:
        problems.append(f"images without a record: {wording.ranges(missing)}")
    return show.report(problems)


if __name__ == "__main__":
    evaluate_options.run(main)
