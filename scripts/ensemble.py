"""Combine runs on the same images into one answer per image. The result is a run that every reading script accepts.

    python scripts/ensemble.py data/digits-unseen/clip_digits data/digits-unseen/vdigits_1trials_race_3z_500samples

By default a product of calibrated models: class probabilities are the softmax of the weighted sum of the runs' scores.
The weights are fitted on the labels of part of the images; the ensemble's run holds only the others. With --decide vote
each run has one vote, a tie goes to the run that is named first, and nothing is fitted. The NFE of an image are the sum
over its runs.
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


from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch

from diffusion import InputError, tables
from diffusion.io import wording
from diffusion.runs import naming, records, results, show
from diffusion.runs.results import Run
from diffusion.stats import calibration


@dataclass(frozen=True)
class Members:
    """The images that all runs of an ensemble have done. Their scores are read when they are needed."""

    runs: dict[str, Run]
    indices: np.ndarray  # [n] ascending
    rows: list[dict[int, dict]]  # of each run: index -> row, as results.read_rows gives it
    label: np.ndarray  # [n] columns of scores
    problems: list[str]

    @property
    def first(self) -> Run:
        return next(iter(self.runs.values()))

    def scores(self, chosen: np.ndarray) -> Iterator[np.ndarray]:
        """The scores [runs, K] of each of the images `chosen`, [n] bool.

        A class that was not measured for an image has the worst score of those that were.
        """
        indices = self.indices[chosen].tolist()
        decisions = [results.decisions(run, indices) for run in self.runs.values()]
        for rows in zip(*decisions, strict=True):
            yield np.stack(list(map(finite_scores, rows)))


def read_members(runs: dict[str, Run]) -> Members:
    """InputError if the runs choose among different classes, or have no image in common."""
    first = next(iter(runs.values()))
    classes = results.names_of_classes(first).keys()
    rows, problems = [], []
    for run in runs.values():
        if tables.is_matching(run):
            raise InputError(run.folder, "a run of run_winoground.py, whose captions are no classes")
        if results.names_of_classes(run).keys() != classes:
            raise InputError(run.folder, f"chooses among other classes than {first.folder}")
        found, wrong = results.read_rows(run.done.values(), of_run=True)
        rows.append({row["index"]: row for row in found})
        problems += wrong
    indices = sorted(set.intersection(*map(set, rows)))
    if not indices:
        raise InputError(", ".join(runs), "there is no image that all of these runs have done")

    label = np.array([rows[0][index]["label"] for index in indices])
    if not np.isin(label, first.classes).all():
        raise InputError(first.folder, "an image's label is no class of the run")
    return Members(runs, np.array(indices), rows, np.searchsorted(first.classes, label), problems)


def finite_scores(row: dict) -> np.ndarray:
    """The scores [K] of a row, in which a class that was not measured has the worst score of the others."""
    scores = row["scores"]
    finite = np.isfinite(scores)
    return np.where(finite, scores, scores[finite].min())


def vote(scores: np.ndarray) -> np.ndarray:
    """1 minus the share of votes of each class: errors [K] from scores [runs, K].

    A tie goes to the first run, whoever votes with it.
    """
    n_runs, K = scores.shape
    weight = 1 - (1 - 0.5 ** np.arange(1, n_runs + 1)) / 1000
    return 1 - np.bincount(scores.argmax(1), weight, K) / n_runs


def fit_weights(members: Members, fit: np.ndarray) -> np.ndarray:
    """Weights [runs] fitted on some images [n] bool."""
    scores = np.empty((fit.sum(), len(members.runs), len(members.first.classes)))
    for k, of_image in enumerate(members.scores(fit)):
        scores[k] = of_image
    return calibration.fit_weights(scores, members.label[fit])


def product(scores: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Minus the logarithms of the probabilities: errors [K] from scores [runs, K] and weights [runs]."""
    p = calibration.probabilities(weights @ scores, 1)
    return -np.log(p.clip(calibration.EPS))


def write_run(
    members: Members, errors_of: Callable[[np.ndarray], np.ndarray], held: np.ndarray, chosen: dict, extra
) -> int:
    """Write the ensemble's run of the images `held` [n] bool, and print its table; the exit code.

    errors_of(scores [runs, K]) are the errors [K] of an image.
    """
    first, names = members.first, results.names_of_classes(members.first)
    arms = [(names[class_id], names[class_id], class_id) for class_id in first.classes.tolist()]
    indices = members.indices[held].tolist()
    about = {"images": len(indices), "indices": wording.ranges(indices), "arms": arms}
    for key in ("path", records.UNSPLIT):
        if key in first.description:
            about[key] = first.description[key]
    tags = "-".join(map(naming.tag, members.runs))
    name = naming.joined("ensemble", chosen["decide"], tags)
    folder = naming.run_folder(first.options["dataset"], extra, name)
    records.open_run(folder, chosen, about)

    there, _ = results.read_rows(records.finished(folder).values(), of_run=True)
    done = {row["index"] for row in there}
    wanted, written = records.expected({"options": chosen, **about}), []
    for index, scores in zip(indices, members.scores(held), strict=True):
        errors = errors_of(scores)
        of_first = members.rows[0][index]
        image = {key: of_first[key] for key in ("index", "label", "file", "group") if key in of_first}
        pred = int(first.classes[errors.argmin()])
        measured = torch.tensor(errors, dtype=torch.float32)
        record = records.one_point(measured, chosen["loss"], **image, pred=pred)
        record["nfe"] = sum(rows[index]["nfe"] for rows in members.rows)
        if index not in done:
            path = records.record_path(folder, int(members.indices[-1]) + 1, index)
            records.save_record(path, record, wanted)
        written.append(results.brief(record))
    print(f"{'run':<15} {folder}")
    return show.print_accuracy(written, len(written), members.problems)


def main(argv: list[str]) -> int:
    args = parser().parse_args(argv)
    options.check_fit(args)
    if len(args.folders) < 2:
        raise InputError(f"{args.folders[0]}", "wanted two runs or more")
    members = read_members(tables.read_same(args.folders))
    chosen = {key: members.first.options.get(key) for key in tables.SAME}
    chosen |= {"decide": args.decide, "model": " + ".join(members.runs)}
    chosen |= {"members": [run.options for run in members.runs.values()]}
    if args.decide == "vote":
        held = np.ones(len(members.indices), dtype=bool)
        return write_run(members, vote, held, chosen | {"loss": "vote"}, args.extra)

    fit = calibration.fitted_on(members.indices, args.fit, args.seed)
    options.check_held_out(fit, args.fit)
    weights = fit_weights(members, fit)
    if not weights.any():
        found = f"no run is better than chance on the {wording.count(int(fit.sum()), 'image')} to fit on"
        raise InputError(f"--fit {args.fit:g}", f"{found}; wanted other runs, or --decide vote")
    print(f"{'fitted on':<15} {wording.count(int(fit.sum()), 'image')}")
    for name, weight in zip(members.runs, weights, strict=True):
        print(f"{'weight':<15} {weight:.4g}  {name}")
    chosen |= {"loss": "nll", "weights": weights.tolist(), "fit": args.fit, "seed": args.seed}
    return write_run(members, partial(product, weights=weights), ~fit, chosen, args.extra)


if __name__ == "__main__":
    options.run(main)
