"""Write results for other tools: one row per image, or one summary per run, by the suffix of --out.

python scripts/export.py data/digits/vdigits_1trials_race_3z_500samples --out digits.csv

.csv .parquet .jsonl    a row for each image: index, file, label and answer by id and name, margin, NFE, ...; for runs
                        of run_winoground.py a row for each example
.json                   every figure with its interval, options and versions; keys as in CLIP_benchmark; a list for
                        several runs. With --format eee a record of Every Eval Ever, schema 0.3.0, of one run
a folder                --format model-vs-human: trials in that toolbox's format, for runs on its data sets
"""

from diffusion.core.constants import LOSSES
from diffusion.evaluate import options


@options.answered_early
def parser() -> options.Parser:
    p = options.parser(__doc__, "FOLDER ... --out FILE")
    options.add(p, "folders FOLDER", "folders of runs", nargs="+")
    options.add(p, "--out FILE", "file or folder to write")
    options.add(p, "--format", "in place of that of the suffix, see above", choices=["eee", "model-vs-human"])
    options.add(p, "--loss", "decide by this loss; default the run's", choices=LOSSES)
    options.switch(p, "--scores", "rows: a column per class with the answer's mean error minus that of the class")
    probabilities = "rows: a column per class, by the temperature of scripts/calibrate.py; fitted_on marks its images"
    options.switch(p, "--probabilities", probabilities)
    options.add(p, "--organization NAME", "eee: who evaluated")
    return p


import importlib.metadata
import os
import re
import time
from pathlib import Path

import pandas as pd

from diffusion import InputError, tables
from diffusion.io.atomic import write_atomic
from diffusion.models.aliases import ALIASES
from diffusion.runs import results as runs_results
from diffusion.runs import show
from diffusion.runs.results import Run
from diffusion.runs.summary import summary, write_json
from diffusion.stats.intervals import Measure

SUFFIXES = (".csv", ".parquet", ".jsonl", ".json")


def write_rows(table: pd.DataFrame, path: Path) -> None:
    """Write one row for each image, in the format of the suffix."""
    if path.suffix == ".parquet":
        write_parquet(table, path)
        return
    parts = tables.to_csv(table) if path.suffix == ".csv" else tables.to_json_lines(table)

    def write(file) -> None:
        for part in parts:
            file.write(part.encode(errors="replace"))

    write_atomic(path, write)


def write_parquet(table: pd.DataFrame, path: Path) -> None:
    """As DataFrame.to_parquet, without a copy of the whole table. InputError: pyarrow is not installed."""
    try:
        import pyarrow.parquet
    except ImportError:
        raise InputError(f"--out {path}", "needs the package pyarrow: pip install pyarrow") from None
    schema = pyarrow.Schema.from_pandas(table, preserve_index=False)

    def write(file) -> None:
        with pyarrow.parquet.ParquetWriter(file, schema) as writer:
            for part in tables.parts_of(table):
                writer.write_table(pyarrow.Table.from_pandas(part, schema, preserve_index=False))

    write_atomic(path, write)


def every_eval_ever(run: Run, table: pd.DataFrame, figures: list[Measure], organization: str) -> dict:
    """A record of Every Eval Ever, schema 0.3.0. InputError if the run has no figures."""
    if not figures:
        raise InputError("--format eee", f"{run.folder} has no labels, so there is nothing to report")
    dataset, now = run.options["dataset"], f"{time.time():.0f}"
    source = {"dataset_name": dataset, "source_type": "other"}
    if dataset.startswith("hf:"):
        source |= {"source_type": "hf_dataset", "hf_repo": dataset.removeprefix("hf:").split(":")[0]}
    published = any(run.options.get("version") in names for names in ALIASES.values())
    details = {"deployment_type": "self_deployed", "model_availability": "open_weights" if published else "unknown"}
    settings = {key: str(value) for key, value in run.options.items() if value is not None}
    results = [
        {
            "evaluation_name": f"{dataset} {m.key}",
            "source_data": source,
            "metric_config": {
                "metric_id": "accuracy" if m.key == "acc1" else m.key,
                "metric_name": m.name,
                "metric_unit": "proportion",
                "lower_is_better": False,
                "score_type": "continuous",
                "min_score": 0,
                "max_score": 1,
            },
            "score_details": {
                "score": m.value,
                "uncertainty": {
                    "confidence_interval": {
                        "lower": m.interval[0],
                        "upper": m.interval[1],
                        "confidence_level": 0.95,
                        "method": m.how,
                    },
                    "num_samples": m.n,
                },
            },
            "generation_config": {"additional_details": settings | {"nfe_per_image": f"{table.nfe.mean():.1f}"}},
        }
        for m in figures
    ]
    return {
        "schema_version": "0.3.0",
        "evaluation_id": f"{dataset}/{run.model}/{now}",
        "retrieved_timestamp": now,
        "source_metadata": {
            "source_name": "diffusion-classifier",
            "source_type": "evaluation_run",
            "source_organization_name": organization,
            "evaluator_relationship": "third_party",
        },
        "eval_library": {
            "name": "diffusion-classifier",
            "version": importlib.metadata.version("diffusion-classifier"),
        },
        "model_info": {
            "name": str(run.model),
            "id": str(run.options.get("model") or run.model),
            "additional_details": details,
        },
        "evaluation_results": results,
    }


def trials(run: Run, table: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """File name -> the trials of a session, as the toolbox model-vs-human reads them (its evaluation/evaluate.py).

    Session, condition and category are in the path session-1/_ _ _CONDITION_CATEGORY_...; without sessions the category
    is the folder's and the condition NaN. InputError if images have no files or no labels.
    """
    if "file" not in table or "label_name" not in table:
        lacking = f"{run.folder} has no files with labels, wanted a run on its data sets"
        raise InputError("--format model-vs-human", lacking)
    model = re.sub(r"[^\w.+-]|_", "-", Path(str(run.model)).name)
    found = {}
    for file, answer, label in zip(table.file, table.pred_name, table.label_name, strict=True):
        path = Path(file)
        session = path.parent.name if path.parent.name.startswith("session-") else "session-1"
        condition = path.name.split("_")[3] if path.parent.name == session else "NaN"
        rows = found.setdefault(session, [])
        number = session.removeprefix("session-")
        rows.append((model, number, len(rows) + 1, "NaN", answer, label, condition, path.name))
    columns = ["subj", "session", "trial", "rt", "object_response", "category", "condition", "imagename"]
    dataset = run.options["dataset"]
    return {f"{dataset}_{model}_{each}.csv": pd.DataFrame(rows, columns=columns) for each, rows in found.items()}


def check_out(args) -> None:
    """InputError if --out does not fit the other options."""
    if args.out is None:
        raise InputError("--out", "wanted a file to write")
    if args.format == "model-vs-human":
        if not os.path.isdir(args.out):
            raise InputError(f"--out {args.out}", "--format model-vs-human wants a folder that exists")
        return
    if args.out.suffix in (".tex", ".md"):
        raise InputError(f"--out {args.out}", "scripts/compare.py writes tables as .tex and .md")
    suffixes = (".json",) if args.format else SUFFIXES
    if args.out.suffix not in suffixes or os.path.isdir(args.out) or not os.path.isdir(args.out.parent):
        raise InputError(f"--out {args.out}", f"wanted a file {', '.join(suffixes)} in a folder that exists")
    if args.format == "eee" and len(args.folders) > 1:
        raise InputError("--format eee", f"wanted one run, found {len(args.folders)}")
    if (args.format == "eee") != bool(args.organization):
        raise InputError("--organization NAME", "is needed for --format eee, and for nothing else")
    if (args.scores or args.probabilities) and (args.out.suffix == ".json" or (args.scores and args.probabilities)):
        raise InputError("--scores, --probabilities", "wanted one of them, and rows (.csv, .parquet, .jsonl)")


def main(argv: list[str]) -> int:
    args = parser().parse_args(argv)
    check_out(args)
    found, problems = read_runs(args)
    if args.format == "model-vs-human":
        written = write_trials(found, args.out)
    else:
        written = [args.out]
        if args.format == "eee":
            ((run, table),) = found
            write_json(every_eval_ever(run, table, tables.figures_of(run, table), args.organization), args.out)
        elif args.out.suffix == ".json":
            each = [summary(run, tables.figures_of(run, table), table.nfe.to_numpy()) for run, table in found]
            write_json(each if len(each) > 1 else each[0], args.out)
        else:
            for run, table in found:
                table.insert(0, "run", tables.name_of(run))
            rows = [table for _, table in found]
            write_rows(rows[0] if len(rows) == 1 else pd.concat(rows, ignore_index=True), args.out)
    for path in written:
        print(path)
    return show.report(problems)


def read_runs(args) -> tuple[list[tuple[Run, pd.DataFrame]], list[str]]:
    """The runs with their rows, and what is wrong with other images. InputError if a run is repeated."""
    scores = None
    if args.scores or args.probabilities:
        scores = "score" if args.scores else "probability"
    found, problems = [], []
    for folder in args.folders:
        run = tables.read(Path(folder), args.loss)
        if not tables.is_matching(run):
            table, wrong = tables.images(run, scores=scores)
        elif scores or args.format == "model-vs-human":
            raise InputError(folder, "a run of run_winoground.py, whose captions are no classes")
        else:
            table, wrong = tables.examples(run)
        problems += [*wrong, *runs_results.failures(run.folder, run.description)]
        found.append((run, table))
    names = [tables.name_of(run) for run, _ in found]
    if len(names) > len(set(names)):
        raise InputError(f"{max(names, key=names.count)}", "given twice, or the name of two runs")
    return found, problems


def write_trials(found: list[tuple[Run, pd.DataFrame]], folder: Path) -> list[Path]:
    """Write the trials of all sessions; the files. InputError if two runs would have the same file."""
    files = {}
    for run, table in found:
        made = trials(run, table)
        twice = files.keys() & made.keys()
        if twice:
            several = "of several of these runs; wanted one run of a model and a data set at a time"
            raise InputError(f"--out {folder}", f"{min(twice)} would be the trials {several}")
        files |= made
    for name, rows in files.items():
        write_rows(rows, folder / name)
    return [folder / name for name in files]


if __name__ == "__main__":
    options.run(main)
