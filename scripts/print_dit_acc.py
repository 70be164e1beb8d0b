"""Print the accuracy of DiT runs by each loss: merges runs over parts of the classes, and adaptive ones.

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
    """Run folder -> its run.json, for runs that can be merged; InputError when they cannot."""
    if not os.path.exists(folder):
        raise InputError(folder, "no such folder")
    paths = [path.parent for pattern in ("", "*/", "*/*/") for path in sorted(folder.glob(f"{pattern}run.json"))]
    if records.is_run(folder):  # also a packed one
        paths = [folder, *(path for path in paths if path != folder)]
    runs = {path: run for path in paths if "all_arms" in (run := records.read_run(path))}
    for path, run in runs.items():
        records.need(path, run, "dataset", "indices")
        if strange := {arm for arm, *_ in run["arms"]} - set(wording.numbers(run["all_arms"].split())):
            raise InputError(f"{path / 'run.json'}", f"arms {sorted(strange)} are none of all_arms {run['all_arms']}")
    if not runs:
        raise InputError(folder, "no run of eval_prob_dit.py there or in the folders below")

    def fixed(path: Path) -> dict:
        options = runs[path]["options"]
        most = max(options.get("n_samples", ()), default=options.get("max_samples"))  # a race has no stages
        same = {key: value for key, value in options.items() if key not in FREE} | {"number of levels": most}
        if options.get("antithetic"):  # which points are a pair depends on the stages
            same["n_samples"] = options.get("n_samples")
        return same

    first, *others = runs
    for other in others:
        these, those = fixed(first), fixed(other)
        for key in sorted(these.keys() | those.keys()):
            if these.get(key) != those.get(key):
                differ = f"{key} is {these.get(key)!r} and {those.get(key)!r}"
                wanted = "Name one of them, or keep them apart with --extra"
                raise InputError(f"{first} and {other} cannot be merged", f"{differ}. {wanted}")
    return runs


def best(record: dict, arms: list[int]) -> dict[str, tuple[float, int]]:
    """Rule -> (smallest mean, class id) among the arms that were measured at every point of the record.

    Points are put in one order first, so that the sums do not depend on the order in which they were measured.
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
            value = measured[:, [record["losses"].index(loss) for loss in losses]].sum(1)
            k = int(value.argmin())
            answers[rule] = (float(value[k]), arms[whole[k]])
    return answers


def read(arms: list[int], wanted: records.Expected, paths: list[Path]) -> list[tuple[int, int, int, dict] | str]:
    """(index, label, nfe, best) of each record, or what is wrong with it."""
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
    """The arms of each run and what `read` makes of some of its records; in several processes where there are many."""
    with ProcessPoolExecutor(initializer=torch.set_num_threads, initargs=(1,)) as pool:
        for folder, run in runs.items():  # one after the other: a thousand runs have too many paths to hold
            arms = [arm for arm, *_ in run["arms"]]
            paths = list(records.chosen(folder, run).values())
            chunks = [paths[k : k + CHUNK] for k in range(0, len(paths), CHUNK)]
            reader = partial(read, arms, records.expected(run))
            for found in (map if len(chunks) < 4 else pool.map)(reader, chunks):
                yield arms, found


def main(argv: list[str]) -> int:
    args = parser().parse_args(argv)
    runs = find_runs(args.folder)
    run = next(iter(runs.values()))
    if args.dataset not in (None, run["options"]["dataset"]):
        raise InputError(f"--dataset {args.dataset}", f"{args.folder} holds runs on {run['options']['dataset']}")
    wanted = wording.numbers(run["all_arms"].split())
    column = {arm: k for k, arm in enumerate(wanted)}
    class_of = {arm: c for each in runs.values() for arm, _, c in each["arms"]}

    labels, spent, answers, covered, problems = {}, 0, {}, {}, []
    for arms, found in read_all(runs):
        cover = [column[arm] for arm in arms]
        for item in found:
            if isinstance(item, str):
                problems.append(item)
                continue
            index, label, nfe, these = item
            labels[index], spent = label, spent + nfe
            covered.setdefault(index, np.zeros(len(wanted), dtype=bool))[cover] = True
            merged = answers.setdefault(index, these)
            for rule in merged.keys() & these.keys():
                merged[rule] = min(merged[rule], these[rule])

    measured = np.any(list(covered.values()), axis=0) if covered else np.zeros(len(wanted), dtype=bool)
    complete = [index for index in sorted(covered) if not np.any(measured & ~covered[index])]
    images = set(covered).union(*(wording.numbers(each["indices"].split()) for each in runs.values()))
    print(f"{'images':<16}{len(complete)} of {len(images)}")
    print(f"{'classes':<16}{measured.sum()} of {len(wanted)}")
    label = np.array([labels[index] for index in complete], dtype=int)
    for rule in RULES:
        if complete and all(rule in answers[index] for index in complete):
            pred = np.array([class_of[answers[index][rule][1]] for index in complete])
            print(f"{rule:<16}{show.percent(*metrics.accuracy(pred, label))}")
    if covered:
        print(f"{'NFE per image':<16}{spent / len(covered):,.0f}  (in all {spent:,})")

    if not measured.all():
        problems.append(f"no run has classes {wording.ranges(np.array(wanted)[~measured].tolist())}")
    for index in sorted(covered.keys() - set(complete)):
        lacks = np.array(wanted)[measured & ~covered[index]].tolist()
        problems.append(f"image {index}: classes {wording.ranges(lacks)} are not measured yet")
    if missing := sorted(images - set(covered)):
        problems.append(f"images without a record: {wording.ranges(missing)}")
    return show.report(problems)


if __name__ == "__main__":
    evaluate_options.run(main)
