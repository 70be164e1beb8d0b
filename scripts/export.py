"""Write results for other tools: one row per image, or one summary per run, by the suffix of --out.

python scripts/export.py data/digits/vdigits_1trials_race_3z_500samples --out digits.csv

.csv .parquet .jsonl    a row for each image: index, file, label and answer by id and name, margin, NFE, ...; of
                        run_winoground.py a row for each example
.json                   every figure with its interval, options and versions; keys as in CLIP_benchmark. Of several
                        runs a list. With --format eee a record of Every Eval Ever, schema 0.3.0, of one run
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
    options.switch(p, "--scores", "rows: a column per class, minus how much its mean error is above the answer's")
    options.switch(p, "--probabilities", "rows: a column per class, by the temperature of scripts/calibrate.py")
    options.add(p, "--organization NAME", "eee: who evaluated")
    return p


import importlib.metadata
import importlib.util
import io
import json
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
from diffusion.stats.intervals import Measure

SUFFIXES = (".csv", ".parquet", ".jsonl", ".json")


def write_rows(table: pd.DataFrame, path: Path) -> None:
    """One row an image, as the suffix says."""
    if path.suffix == ".parquet":
        if importlib.util.find_spec("pyarrow") is None:
            raise InputError(f"--out {path}", "needs the package pyarrow: pip install pyarrow")
        file = io.BytesIO()
        table.to_parquet(file, index=False)
        data = file.getvalue()
    elif path.suffix == ".csv":
        data = tables.to_csv(table).encode(errors="replace")
    else:
        data = table.to_json(orient="records", lines=True, force_ascii=False, double_precision=15).encode()
    write_atomic(path, lambda file: file.write(data))


def write_json(value, path: Path) -> None:
    data = json.dumps(value, indent=1, ensure_ascii=False).encode(errors="replace")
    write_atomic(path, lambda file: file.write(data))


def summary(run: Run, table: pd.DataFrame, figures: list[Measure]) -> dict:
    """Every figure of a run."""
    return {
        "dataset": run.options["dataset"],
        "split": run.options.get("split"),
        "model": run.model,
        "pretrained": run.options.get("pretrained"),
        "task": "image_caption_selection" if tables.is_matching(run) else "zeroshot_classification",
        "language": "en",
        "metrics": {m.key: m.value for m in figures},
        "intervals": {m.key: {"low": m.interval[0], "high": m.interval[1], "n": m.n, "how": m.how} for m in figures},
        "images": len(table),
        "of": max(run.about.get("chosen", run.about["images"]), len(table)),
        "nfe_per_image": float(table.nfe.mean()),
        "decided_by": run.loss,
        "run": tables.name_of(run),
        "options": run.options,
        "versions": run.about.get("versions"),  # of the packages that measured it
    }


def every_eval_ever(run: Run, table: pd.DataFrame, figures: list[Measure], organization: str) -> dict:
    """A record of that schema (see above); InputError of a run without figures."""
    if not figures:
        raise InputError("--format eee", f"{run.folder} has no labels, so there is nothing to report")
    dataset, now = run.options["dataset"], f"{time.time():.0f}"
    source = {"dataset_name": dataset, "source_type": "other"}
    if dataset.startswith("hf:"):
        source |= {"source_type": "hf_dataset", "hf_repo": dataset.removeprefix("hf:").split(":")[0]}
    known = any(run.options.get("version") in names for names in ALIASES.values())
    details = {"deployment_type": "self_deployed", "model_availability": "open_weights" if known else "unknown"}
    said = {key: str(value) for key, value in run.options.items() if value is not None}
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
            "generation_config": {"additional_details": said | {"nfe_per_image": f"{table.nfe.mean():.1f}"}},
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
    is the folder's and the condition NaN.
    """
    if "file" not in table or "label_name" not in table:
        raise InputError(
            "--format model-vs-human", f"{run.folder} has no files with labels, wanted a run on its data sets"
        )
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
    """InputError where --out and what else was asked for do not fit."""
    if args.out is None:
        raise InputError("--out", "wanted a file to write")
    one = "wanted one run, " + f"found {len(args.folders)}"
    if args.format == "model-vs-human":
        if not os.path.isdir(args.out):
            raise InputError(f"--out {args.out}", "--format model-vs-human wants a folder that exists")
        return
    suffixes = (".json",) if args.format else SUFFIXES
    if args.out.suffix not in suffixes or os.path.isdir(args.out) or not os.path.isdir(args.out.parent):
        raise InputError(f"--out {args.out}", f"wanted a file {', '.join(suffixes)} in a folder that exists")
    if args.format == "eee" and len(args.folders) > 1:
        raise InputError("--format eee", one)
    if (args.format == "eee") != bool(args.organization):
        raise InputError("--organization NAME", "is needed for --format eee, and for nothing else")
    if (args.scores or args.probabilities) and (args.out.suffix == ".json" or (args.scores and args.probabilities)):
        raise InputError("--scores, --probabilities", "wanted one of them, and rows (.csv, .parquet, .jsonl)")


def main(argv: list[str]) -> int:
    args = parser().parse_args(argv)
    check_out(args)
    scores = "score" if args.scores else "probability" if args.probabilities else None
    found, problems = [], []
    for folder in args.folders:
        run = tables.read(Path(folder), args.loss)
        if tables.is_matching(run) and (scores or args.format == "model-vs-human"):
            raise InputError(folder, "a run of run_winoground.py, whose captions are no classes")
        table, wrong = tables.rows_of(run, **({"scores": scores} if scores else {}))
        problems += [*wrong, *runs_results.failures(run.folder, run.about)]
        found.append((run, table))
    called = [tables.name_of(run) for run, _ in found]
    if len(called) > len(set(called)):
        raise InputError(f"{max(called, key=called.count)}", "given twice, or the name of two runs")
    if args.format == "model-vs-human":
        files = {}
        for run, table in found:
            made = trials(run, table)
            if twice := files.keys() & made.keys():
                several = "of several of these runs; wanted one run of a model and a data set at a time"
                raise InputError(f"--out {args.out}", f"{min(twice)} would be the trials {several}")
            files |= made
        for name, rows in files.items():
            write_rows(rows, args.out / name)
            print(args.out / name)
        return show.report(problems)
    if args.out.suffix != ".json":
        for run, table in found:
            table.insert(0, "run", tables.name_of(run))
        write_rows(pd.concat([table for _, table in found], ignore_index=True), args.out)
    elif args.format == "eee":
        ((run, table),) = found
        write_json(every_eval_ever(run, table, tables.figures_of(run, table), args.organization), args.out)
    else:
        each = [summary(run, table, tables.figures_of(run, table)) for run, table in found]
        write_json(each if len(each) > 1 else each[0], args.out)
    print(args.out)
    return show.report(problems)


if __name__ == "__main__":
    options.run(main)
