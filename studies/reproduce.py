"""Measure the numbers of the documents again, and print each beside the one that the documents claim.

    python studies/reproduce.py --list
    python studies/reproduce.py embedded
    python studies/reproduce.py 'digits-*'
    python studies/reproduce.py paper --hours 4
    python studies/reproduce.py digits --write

The pages mark each number with the run that gives it (studies/ledger.py); studies/runs.toml has the runs and their
parts. The output of a run is kept under --out: a second call continues where the first one ended. To measure
everything again, use another --out. Exit code 1: a number is outside its interval, or a run failed.

--write puts the measured numbers into docs/numbers.json and into the pages. Without a part it fills the pages only.

`paper` is for real models. It runs the paper's schedule on each of the paper's data sets that is under $DATASET_ROOT,
with as many images as fit into --hours, spread evenly over the classes. The paper's number should lie within the
measured interval.
"""

from diffusion.evaluate import options

PAPER = "paper"


@options.answered_early
def parser() -> options.Parser:
    p = options.parser(__doc__, "PART")
    options.add(p, "part PART", "of studies/runs.toml (embedded, paper:pets, ...), or a pattern of runs", nargs="?")
    options.switch(p, "--list", "print the runs and what they cost, and run nothing")
    options.switch(p, "--write", "write what was measured into docs/numbers.json and the pages")
    options.add(p, "--out FOLDER", "folder for the output of the runs; default reproduce in $LOG_DIR")
    g = p.add_argument_group(PAPER)
    options.add(g, "--hours HOURS", "time for all data sets together")
    options.add(g, "--nfe_per_second RATE", "network evaluations per second; default measured on a few images")
    options.add(g, "--version MODEL", "model, as in eval_prob_adaptive.py; default Stable Diffusion 2.0")
    options.add(g, "--batch_size -b N", "network evaluations in one call")
    options.add(g, "--device NAME", "cuda, cuda:1, mps or cpu; default the best available")
    return p


import fnmatch
import json
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

from diffusion import InputError, paths
from diffusion.data import catalogue
from diffusion.data.datasets import load_dataset
from diffusion.evaluate import sharding
from diffusion.io.atomic import write_atomic
from diffusion.matching.benchmarks import load_items
from diffusion.runs import naming
from ledger import (
    OUTSIDE,
    Claim,
    Ledger,
    Run,
    fill,
    read_claims,
    read_off,
    read_pages,
    read_unmeasured,
    verdict,
    write_figures,
)

ROOT = Path(__file__).parent.parent
RUNS = Path("studies") / "runs.toml"
FIGURES = Path("docs") / "numbers.json"
OURS = re.compile(r"(scripts|studies|docs|models|prompts)/|\w+\.py$")
SHORT = dict.fromkeys(["eval_prob_adaptive.py", "eval_prob_dit.py"], "--to_keep 1 --n_samples 2")
SHORT |= {"run_winoground.py": "--t_interval 500"}
LEAST = 50  # images of a data set: with fewer an interval is 28 points wide


# ---- running ----


def printed(run: Run, out: Path) -> Path:
    return out / f"{run.name}.txt"


def finished(run: Run, out: Path) -> str | None:
    """The output of a run that this command has done before, None if there is none."""
    path = printed(run, out)
    if not path.exists():
        return None
    first, _, rest = path.read_text().partition("\n")
    return rest if first == f"$ {run.do}" else None


def place(word: str) -> str:
    """A word of a command with the project's own files as full paths, so that it runs in any folder."""
    if word.endswith(".py"):
        return str(paths.program(word))
    return str(paths.DATA / word) if OURS.match(word) else word


def do(run: Run, out: Path, seconds: float | None = None, *, bar: bool = False) -> str:
    """Run a command, keep its output (with `bar` also stderr), and return it; it is asked to end after `seconds`.

    InputError if it does not finish.
    """
    words = [place(word) for word in shlex.split(run.do)]
    env = os.environ | {"LOG_DIR": "data", "DATASET_ROOT": str(catalogue.DATASET_ROOT.expanduser().absolute())}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT if bar else None}
    with subprocess.Popen([sys.executable, *words], cwd=out, env=env, text=True, **pipes) as child:
        try:
            output, _ = child.communicate(timeout=seconds)
        except subprocess.TimeoutExpired:
            child.send_signal(signal.SIGTERM)
            output, _ = child.communicate()
        except KeyboardInterrupt:
            child.wait()  # it has the same Ctrl-C, and saves what is measured
            raise
    if child.returncode in (sharding.STOPPED, -signal.SIGTERM):
        raise InputError(run.name, "asked to end; everything measured is saved, rerun the same command to continue")
    if child.returncode:
        print(output[-2000:])  # holds the reason if stderr was kept too
        raise InputError(run.name, f"exit code {child.returncode} of {run.do}")
    write_atomic(printed(run, out), lambda file: file.write(f"$ {run.do}\n{output}".encode()))
    return output


def chosen(ledger: Ledger, part: str) -> list[Run]:
    """The runs of a part or with names that match a pattern, and the runs whose files they read.

    InputError if there are none.
    """
    wanted = {name for name, run in ledger.runs.items() if run.part == part or run.part.startswith(f"{part}:")}
    wanted |= set(fnmatch.filter(ledger.runs, part))
    if not wanted:
        parts = ", ".join(dict.fromkeys(run.part for run in ledger.runs.values()))
        raise InputError(part, f"no part and no run of {RUNS}; its parts are {parts}")

    unread = list(wanted)
    while unread:
        run = ledger.runs[unread.pop()]
        for before in run.after:
            if before not in wanted:
                wanted.add(before)
                unread.append(before)
    return [run for name, run in ledger.runs.items() if name in wanted]


def hours(minutes: float) -> str:
    return f"{minutes / 60:.1f} hours" if minutes >= 60 else f"{minutes:.1f} minutes"


# ---- the paper, on a part of the images ----


def speed(run: Run, out: Path, seconds: float) -> float:
    """NFE per second of the run's model, read off the progress bar of a short search on a few images."""
    command = f"{run.do} {SHORT[run.do.split()[0]]} --limit 8 --extra speed"
    short = replace(run, name=f"{run.name}-speed", do=command)
    output = finished(short, out) or do(short, out, seconds, bar=True)
    return float(re.findall(r"([\d,]+) NFE/s", output)[-1].replace(",", ""))


def share_out(seconds: float, costs: dict[str, float], sizes: dict[str, int]) -> dict[str, int]:
    """How many images of each data set to take, so that each data set gets the same time.

    costs: seconds per image; sizes: images there are. The most expensive data sets are left out, one by one, while
    their time is not enough for LEAST images, or for all there are.
    """
    least = {name: min(LEAST, sizes[name]) * cost for name, cost in costs.items()}
    kept = sorted(costs, key=least.get)
    while kept and seconds / len(kept) < least[kept[-1]]:
        kept.pop()
    images = {}
    for n, name in enumerate(
        sorted(kept, key=lambda name: sizes[name] * costs[name])
    ):  # small ones first: they leave time
        images[name] = min(sizes[name], int(seconds / (len(kept) - n) / costs[name]))
        seconds -= images[name] * costs[name]
    return images


def size_of(words: list[str]) -> int:
    """How many images or examples the data set of a command has here. InputError if it is not there."""
    dataset, root = words[words.index("--dataset") + 1], catalogue.DATASET_ROOT
    if words[0] == "run_winoground.py":
        return len(load_items(dataset, root))
    return len(load_dataset(dataset, root=root))


def with_options(args, run: Run) -> Run:
    """A run of the paper with --version, --batch_size and --device added to its command, as far as they are set."""
    is_dit = "--image-size" in run.do  # --version is for text-to-image models
    for flag in ("version", "batch_size", "device"):
        value = getattr(args, flag)
        if not value or (flag == "version" and is_dit):
            continue
        text = os.path.abspath(str(value)) if os.path.exists(str(value)) else str(value)
        run = replace(run, do=f"{run.do} --{flag} {shlex.quote(text)}")
    return run


def plan_paper(args, runs: list[Run], out: Path) -> tuple[list[Run], list[str]]:
    """The paper's runs that fit into --hours, with their images and minutes; which are skipped, and why."""
    sizes, costs, speeds, planned, skipped = {}, {}, {}, [], []
    runs = [with_options(args, run) for run in runs]
    for run in runs:
        words = shlex.split(run.do)
        try:
            sizes[run.name] = size_of(words)
            model = words[0], "--image-size 512" in run.do
            if args.nfe_per_second is None and model not in speeds:
                speeds[model] = speed(run, out, 180 * args.hours)  # at most a twentieth
            costs[run.name] = run.nfe / (args.nfe_per_second or speeds[model])
        except InputError as error:
            skipped.append(reason(run, error))
    images = share_out(0.9 * 3600 * args.hours, costs, sizes)  # a tenth measures speed and loads models
    for run in runs:
        if run.name not in costs:
            continue
        minutes = costs[run.name] / 60
        n = images.get(run.name)
        if n:
            planned.append(replace(run, do=f"{run.do} --limit {n}", minutes=n * minutes))
        else:
            least = min(LEAST, sizes[run.name])
            time_of_least = hours(least * minutes)
            skipped.append(f"{run.name}: its share of the time is less than {least} images take, {time_of_least}")
    return planned, skipped


# ---- the command line ----


def print_list(pages: dict[str, str], claims: list[Claim], runs: list[Run]) -> None:
    """The runs, what they cost and how many figures read them; then the figures that no run gives."""
    for run in runs:
        figures = sum(run.name in claim.runs for claim in claims)
        cost = f"{run.nfe:,} NFE an image" if run.nfe else f"{run.minutes:g} minutes"
        print(f"{run.part:<18}{run.name:<24}{figures:>3} figures{cost:>22}  {run.do}")
    for part in dict.fromkeys(run.part for run in runs if not run.nfe):
        print(f"{part}: {hours(sum(run.minutes for run in runs if run.part == part))} on one core")
    print("\nno run gives")
    for page, text in pages.items():
        for figures, why in read_unmeasured(text):
            print(f"{page}: {figures}: {why}")


def read_measured(
    claims: list[Claim], ledger: Ledger, printed: dict[str, str]
) -> tuple[list[tuple[Claim, str]], list[str]]:
    """The figures whose runs are all there, as measured; and a message for each figure that was not printed."""
    measured, lacking = [], []
    for claim in claims:
        if not printed.keys() >= set(claim.runs):
            continue
        try:
            measured.append((claim, read_off(claim.reading, printed, ledger)))
        except InputError as error:
            lacking.append(f"{claim.page}, {claim.figure}: {error}")
    return measured, lacking


def print_verdicts(measured: list[tuple[Claim, str]], ledger: Ledger) -> int:
    """Print every measured figure beside the claimed one; returns how many are outside."""
    found = []
    for claim, value in measured:
        found.append(verdict(claim.figure, value, ledger.runs[claim.runs[0]].within))
        figure = " ".join(claim.figure.split())
        print(f"{claim.page:<20}{claim.reading:<48}  claimed {figure:<26}measured {value:<26}{found[-1]}")
    print(f"{len(found)} figures, {found.count('same')} the same, {found.count(OUTSIDE)} outside")
    return found.count(OUTSIDE)


def write(measured: list[tuple[Claim, str]], pages: dict[str, str], ledger: Ledger) -> None:
    """Put what was measured here into docs/numbers.json, and all of that file into the pages."""
    figures = json.loads((ROOT / FIGURES).read_text())
    for claim, value in measured:
        if not any(ledger.runs[name].published for name in claim.runs):
            figures[claim.reading] = value
    filled = {page: fill(text, figures, ledger) for page, text in pages.items()}
    write_figures(ROOT / FIGURES, figures)
    for page, text in filled.items():
        if text != pages[page]:
            write_atomic(ROOT / page, lambda file, text=text: file.write(text.encode()))
            print(f"{page} was changed")


def reason(run: Run, error: InputError) -> str:
    """Why a run is skipped, which begins with its name."""
    return str(error) if error.where == run.name else f"{run.name}: {error}"


def main(argv: list[str]) -> int:
    args = parser().parse_args(argv)
    ledger, pages = Ledger.read(ROOT / RUNS), read_pages(ROOT)
    claims = read_claims(pages, ledger)
    runs, skipped = chosen(ledger, args.part) if args.part else list(ledger.runs.values()), []
    if args.write and not args.part:
        write([], pages, ledger)
        return 0
    if args.list or not args.part:
        print_list(pages, claims, runs)
        return 0
    started, paper = time.monotonic(), any(run.nfe for run in runs)
    if paper != bool(args.hours and args.hours > 0) or paper != all(run.nfe for run in runs):
        wanted = f"wanted, above 0, for runs of the paper, and for no others; {args.part} was asked for"
        raise InputError("--hours", wanted)
    out = args.out or naming.LOG_DIR / "reproduce"
    (out / "data").mkdir(parents=True, exist_ok=True)
    if paper:
        runs, skipped = plan_paper(args, runs, out)

    outputs = {}
    for run in runs:
        output = finished(run, out)
        if output is not None:
            outputs[run.name] = output
    todo = [run for run in runs if run.name not in outputs]
    print(f"{len(runs)} runs, {len(outputs)} done before; to do: {hours(sum(run.minutes for run in todo))} -> {out}")
    for k, run in enumerate(todo):
        left = 3600 * args.hours - (time.monotonic() - started) if paper else None
        print(f"[{k + 1} of {len(todo)}] {run.name}, {hours(run.minutes)}: {run.do}", flush=True)
        try:
            outputs[run.name] = do_in_time(run, out, left, outputs.keys())
        except InputError as error:
            skipped.append(reason(run, error))

    measured, lacking = read_measured(claims, ledger, outputs)
    skipped += lacking
    outside = print_verdicts(measured, ledger)
    if args.write:
        write(measured, pages, ledger)
    for each in skipped:
        print(f"skipped: {each}")
    return 1 if outside or (skipped and not paper) else 0


def do_in_time(run: Run, out: Path, left: float | None, done: Iterable[str]) -> str:
    """`do`, unless a run that it reads is not done, or it takes longer than the seconds that are left: InputError."""
    lacking = [name for name in run.after if name not in done]
    if lacking:
        raise InputError(run.name, f"{lacking[0]} is not done")
    if left is not None and left < 60 * run.minutes:
        raise InputError(run.name, f"takes {hours(run.minutes)}, and {hours(max(left, 0) / 60)} are left")
    return do(run, out, left)


if __name__ == "__main__":
    options.run(main)
