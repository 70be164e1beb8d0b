"""Let runs on the same images decide together. The result is a run, which every script that reads runs can read.

    python scripts/ensemble.py data/digits-unseen/clip_digits data/digits-unseen/vdigits_1trials_race_3z_500samples

By default a product of calibrated models: the probability of a class is the softmax of the weighted sum of what each
run has against it. The weights are fitted on part of the images with their labels; the ensemble's run has only the
others. With --decide vote each run has a vote, a tie goes to the run that is named first, and nothing is fitted.
An image's NFE are those of all its runs.
"""

from diffusion.evaluate import options


@options.answered_early
def parser() -> options.Parser:
    p = options.parser(__doc__, "FOLDER FOLDER ...")
    options.add(p, "folders FOLDER", "folders of runs", nargs="+")
    options.add(p, "--decide", "by the product of probabilities or by votes", "product", choices=["product", "vote"])
    options.add_fit(p, 0.2)
    options.add_store(p)
    return p


from pathlib import Path

import numpy as np
import torch

from diffusion import InputError, tables
from diffusion.io import wording
from diffusion.runs import naming, records, results, show
from diffusion.runs.results import Run
from diffusion.stats import calibration


def scores_of(run: Run) -> tuple[dict[int, np.ndarray], dict[int, dict], list[str]]:
    """By index the scores [K] of each image, and its row; what is wrong with others.

    A class that was not measured counts as the worst of those that were.
    """
    rows, problems = results.decided(run)
    found = {}
    for row in rows:
        scores = row["scores"]
        found[row["index"]] = np.where(np.isfinite(scores), scores, scores[np.isfinite(scores)].min())
    return found, {row["index"]: row for row in rows}, problems


def main(argv: list[str]) -> int:
    args = parser().parse_args(argv)
    options.check_fit(args)
    if len(args.folders) < 2:
        raise InputError(f"{args.folders[0]}", "wanted two runs or more")
    runs = tables.read_same([Path(folder) for folder in args.folders])
    first = next(iter(runs.values()))
    for run in runs.values():
        if tables.is_matching(run):
            raise InputError(run.folder, "a run of run_winoground.py, whose captions are no classes")
        if results.names_of_classes(run).keys() != results.names_of_classes(first).keys():
            raise InputError(run.folder, f"chooses among other classes than {first.folder}")
    read = [scores_of(run) for run in runs.values()]
    problems = [problem for *_, wrong in read for problem in wrong]
    common = sorted(set.intersection(*(set(scores) for scores, *_ in read)))
    if not common:
        raise InputError(", ".join(runs), "there is no image that all of these runs have done")
    scores = np.array([[each[index] for each, *_ in read] for index in common])  # [n, runs, K]
    rows = [[row[index] for _, row, _ in read] for index in common]
    label = np.searchsorted(first.classes, [of[0]["label"] for of in rows])
    if not np.isin([of[0]["label"] for of in rows], first.classes).all():
        raise InputError(first.folder, "an image's label is no class of the run")

    told = {key: first.options.get(key) for key in tables.SAME} | {"decide": args.decide}
    told |= {"model": " + ".join(runs), "members": [run.options for run in runs.values()]}
    if args.decide == "vote":
        held = np.ones(len(common), dtype=bool)
        order = 1 - (1 - 0.5 ** np.arange(1, len(runs) + 1)) / 1000  # a tie goes to the first, whoever its allies are
        won = scores.argmax(2)  # [n, runs]
        errors = 1 - np.stack([((won == k) * order).sum(1) for k in range(scores.shape[2])], 1) / len(runs)
        told |= {"loss": "vote"}
    else:
        fit = calibration.fitted_on(np.array(common), args.fit, args.seed)
        held = ~fit
        if fit.all() or not fit.any():
            raise InputError(f"--fit {args.fit:g}", f"of {len(fit)} images, {fit.sum()} to fit on leave {held.sum()}")
        weights = calibration.fit_weights(scores[fit], label[fit])
        errors = -np.log(calibration.probabilities(np.tensordot(weights, scores, (0, 1)), 1).clip(calibration.EPS))
        told |= {"loss": "nll", "weights": weights.tolist(), "fit": args.fit, "seed": args.seed}
        print(f"{'fitted on':<15} {fit.sum()} images")
        for name, weight in zip(runs, weights, strict=True):
            print(f"{'weight':<15} {weight:.4g}  {name}")

    known = results.names_of_classes(first)
    indices = wording.ranges(sorted(common[k] for k in np.flatnonzero(held)))
    arms = [(known[k], known[k], k) for k in first.classes.tolist()]
    about = {"images": int(held.sum()), "indices": indices, "arms": arms}
    about |= {key: first.about[key] for key in ("path",) if key in first.about}
    tags = "-".join(naming.tag(name) for name in runs)
    folder = naming.run_folder(first.options["dataset"], args.extra, naming.joined("ensemble", args.decide, tags))
    records.open_run(folder, told, about)
    there, _ = results.read_rows(records.finished(folder).values(), of_run=True)
    done = {row["index"] for row in there}
    written = []
    for k in np.flatnonzero(held):
        index = common[k]
        said = {key: rows[k][0][key] for key in ("index", "label", "file", "group") if key in rows[k][0]}
        pred = int(first.classes[errors[k].argmin()])
        record = records.one_point(torch.tensor(errors[k], dtype=torch.float32), told["loss"], **said, pred=pred)
        record["nfe"] = sum(row["nfe"] for row in rows[k])
        if index not in done:
            path = records.record_path(folder, max(common) + 1, index)
            records.save_record(path, record, records.expected({"options": told, **about}))
        written.append(results.brief(record))
    print(f"{'run':<15} {folder}")
    return show.print_accuracy(written, len(written), problems)


if __name__ == "__main__":
    options.run(main)
