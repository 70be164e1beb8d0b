"""Measure the numbers of the documents again, and print each beside the one that the documents claim.

    python scripts/reproduce.py --list
    python scripts/reproduce.py embedded
    python scripts/reproduce.py 'digits-unseen*'
    python scripts/reproduce.py paper --hours 4

docs/numbers.toml names every number, the run that gives it, and its part. What a run printed is kept under --out and read
again by a second call, so that a call goes on where the last one ended; to measure all anew, give another --out. Exit code
1: a number is outside its interval, or a run failed.

`paper` is for real models. It takes, of each of the paper's data sets under $DATASET_ROOT, as many images as fit into
--hours, by the paper's own schedule, in one order whose every beginning has its share of each class. What the paper printed
should lie within the interval of what is measured.
"""

from diffusion import options

PAPER = "paper"


@options.answered_early
def parser() -> options.Parser:
    p = options.parser(__doc__, "PART")
    options.add(p, "part PART", "of the ledger (embedded, paper, paper:pets, ...), or a pattern of runs", nargs="?")
    options.switch(p, "--list", "print the runs and what they cost, and run nothing")
    options.add(p, "--out FOLDER", "what was run; default reproduce in $LOG_DIR")
    g = p.add_argument_group(PAPER)
    options.add(g, "--hours HOURS", "for all of it")
    options.add(g, "--nfe_per_second RATE", "network evaluations; default measured on a few images")
    options.add(g, "--version MODEL", "in place of Stable Diffusion 2.0, as in eval_prob_adaptive.py")
    options.add(g, "--batch_size -b N", "evaluations in one network call")
    return p


import fnmatch
import os
import re
import resource
import shlex
import signal
import subprocess
import sys
import time
import tomllib
from dataclasses import dataclass, replace
from pathlib import Path

from diffusion import InputError, names
from diffusion.datasets import load_dataset
from diffusion.readers import load_items

ROOT = Path(__file__).parent.parent
NUMBER = r"[+-]?\d[\d,]*(?:\.\d+)?(?:e[+-]\d+)?"
FIGURE = re.compile(rf"({NUMBER})%?(?:\s*\((?:95% interval )?({NUMBER})%?(?: to |-)({NUMBER})%?\))?")
OURS = re.compile(r"(scripts|docs|models|prompts)/|\w+\.py$")
SHORT = dict.fromkeys(["eval_prob_adaptive.py", "eval_prob_dit.py"], "--to_keep 1 --n_samples 2")
SHORT |= {"run_winoground.py": "--t_interval 500"}
LEAST = 50  # images of a data set: with fewer an interval is 28 points wide


@dataclass(frozen=True)
class Run:
    """A command, as python takes it."""

    name: str
    part: str
    do: str
    minutes: float = 0  # on one core of a CPU
    nfe: int = 0  # per image, of the paper's
    after: tuple[str, ...] = ()  # runs whose files it reads
    within: float = 0.05  # by so much of itself a figure without interval may be off: a time is another's elsewhere


@dataclass(frozen=True)
class Claim:
    """A figure that a page claims, and how it is read off what runs print; a reading that starts with "=" is words."""

    page: str
    figure: str
    quotation: str
    at: int  # of the figure, in the quotation
    reading: str


@dataclass(frozen=True)
class Ledger:
    runs: dict[str, Run]
    claims: list[Claim]
    labels: dict[str, str]  # short for a regular expression
    given: dict[str, list[str]]  # why -> regular expressions of figures that nobody measured here


def read_ledger(path: Path = ROOT / "docs" / "numbers.toml") -> Ledger:
    told = tomllib.loads(path.read_text())
    runs = [Run(name, part, **about) for part, each in told["run"].items() for name, about in each.items()]
    claims = []
    for page, quotations in told["page"].items():
        for quoted, readings in quotations.items():
            pieces = re.split("[{}]", quoted)  # figures stand in braces: at odd places
            for k, reading in enumerate(readings):
                at = len("".join(pieces[: 2 * k + 1]))
                claims.append(Claim(page, pieces[2 * k + 1], "".join(pieces), at, reading))
            if len(pieces) != 2 * len(readings) + 1:
                raise InputError(f"{path}: {quoted!r} has {len(pieces) // 2} figures and {len(readings)} readings")
    return Ledger({run.name: run for run in runs}, claims, told["labels"], told["given"])


# ---- from what a run printed to a verdict ----


def numbers_in(figure: str) -> list[float]:
    """The value and, if there, the ends of the interval."""
    return [float(each.replace(",", "")) for each in FIGURE.fullmatch(figure).groups() if each]


def parts_of(reading: str) -> list[tuple[str, str, int]]:
    """Of a reading "RUN LABEL#2 - RUN LABEL", the run, the label and which figure after the label, of each side."""
    found = []
    for each in re.split(" [-/] ", reading):
        run, _, label = each.partition(" ")
        label, _, k = label.partition("#")
        found.append((run, label, int(k or 1)))
    return found


def read_off(reading: str, said: dict[str, str], labels: dict[str, str]) -> list[float]:
    """The value and, if there, the ends of the interval, of a reading; `said` is what each run printed."""
    sides = []
    for run, label, k in parts_of(reading):
        match = re.search(labels.get(label, label), said[run], re.M)
        figures = FIGURE.findall(said[run][match.end() :].partition("\n")[0]) if match else []
        if len(figures) < k:
            raise InputError(f"{run} printed no figure {k} after {labels.get(label, label)!r}")
        sides.append([float(each.replace(",", "")) for each in figures[k - 1] if each])
    if len(sides) == 1:
        return sides[0]
    (a, *_), (b, *_) = sides
    return [a - b if " - " in reading else a / b]


def verdict(figure: str, measured: list[float], within: float) -> str:
    """Of a figure as it is claimed, and the same measured again, each a value and perhaps an interval."""
    claimed = numbers_in(figure)
    decimals = [len(each.partition(".")[2]) for each in FIGURE.fullmatch(figure).groups() if each]
    if all(abs(a - b) <= 0.501 * 10.0**-d for a, b, d in zip(claimed, measured, decimals, strict=False)):
        return "same"
    for (value, *_), (_, *interval) in ((claimed, measured), (measured, claimed)):
        if interval and interval[0] <= value <= interval[1]:
            return "within the interval"
    if len(claimed) == len(measured) == 1 and abs(measured[0] - claimed[0]) <= within * abs(claimed[0]):
        return f"within {within:.0%}"
    return "OUTSIDE"


def shown(numbers: list[float]) -> str:
    value, *interval = (f"{each:,.6g}" for each in numbers)
    return f"{value} ({' to '.join(interval)})" if interval else value


# ---- running ----


def printed(run: Run, out: Path) -> Path:
    return out / f"{run.name.replace(':', '_')}.txt"


def finished(run: Run, out: Path) -> str | None:
    """What a run printed, if it was done by this command."""
    path = printed(run, out)
    first, _, rest = path.read_text().partition("\n") if path.exists() else ("", "", "")
    return rest if first == f"$ {run.do}" else None


def do(run: Run, out: Path, seconds: float | None = None, *, bar: bool = False) -> str:
    """Run it, and keep what it prints, perhaps with its bar; asked to end after `seconds`.

    InputError where it does not come to its end.
    """
    words = [str(ROOT / word) if OURS.match(word) else word for word in shlex.split(run.do)]
    env = os.environ | {"LOG_DIR": "data", "DATASET_ROOT": str(names.DATASET_ROOT.absolute())}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT if bar else None}
    with subprocess.Popen([sys.executable, *words], cwd=out, env=env, text=True, **pipes) as child:
        try:
            said, _ = child.communicate(timeout=seconds)
        except subprocess.TimeoutExpired:
            child.send_signal(signal.SIGTERM)
            said, _ = child.communicate()
        except KeyboardInterrupt:
            child.wait()  # it has the same Ctrl-C, and saves what is measured
            raise
    if child.returncode:
        raise InputError(f"{run.name} ended with exit code {child.returncode}: {run.do}")
    printed(run, out).write_text(f"$ {run.do}\n{said}")
    return said


def chosen(ledger: Ledger, part: str) -> list[Run]:
    """The runs of a part, or whose names match a pattern, each after those whose files it reads. InputError: none."""
    wanted = {name for name, run in ledger.runs.items() if run.part == part or run.part.startswith(f"{part}:")}
    wanted |= set(fnmatch.filter(ledger.runs, part))
    if not wanted:
        parts = ", ".join(dict.fromkeys(run.part for run in ledger.runs.values()))
        raise InputError(f"{part}: no part and no run of {names.DATA}/docs/numbers.toml; parts are {parts}")
    while more := {before for name in wanted for before in ledger.runs[name].after} - wanted:
        wanted |= more
    return [run for name, run in ledger.runs.items() if name in wanted]


def hours(minutes: float) -> str:
    return f"{minutes / 60:.1f} hours" if minutes >= 60 else f"{minutes:.1f} minutes"


# ---- the paper, on a part of the images ----


def speed(run: Run, out: Path, seconds: float) -> float:
    """NFE per second of the run's model, of a bar that some images of a short search move."""
    short = replace(run, name=f"{run.name}-speed", do=f"{run.do} {SHORT[run.do.split()[0]]} --limit 8 --extra speed")
    found = re.findall(r"([\d,]+) NFE/s", finished(short, out) or do(short, out, seconds, bar=True))
    return float(found[-1].replace(",", ""))


def share_out(seconds: float, costs: dict[str, float], sizes: dict[str, int]) -> dict[str, int]:
    """Images of each data set, of `costs` seconds each, `sizes` there are: the same time for each.

    The dearest are left out, one by one, while their time is not enough for LEAST images, or all there are.
    """
    kept = sorted(costs, key=costs.get)
    while kept and seconds / len(kept) < min(LEAST, sizes[kept[-1]]) * costs[kept[-1]]:
        kept.pop()
    images = {}
    for n, name in enumerate(sorted(kept, key=lambda name: sizes[name] * costs[name])):  # what one leaves, others have
        images[name] = min(sizes[name], int(seconds / (len(kept) - n) / costs[name]))
        seconds -= images[name] * costs[name]
    return images


def size_of(run: Run) -> int:
    """How many images or examples its data set has here. InputError where it is not there."""
    words = shlex.split(run.do)
    if words[0] == "run_winoground.py":
        return len(load_items("winoground", names.DATASET_ROOT))
    return len(load_dataset(words[words.index("--dataset") + 1], root=names.DATASET_ROOT))


def cpu_minutes() -> float:
    """Of the processes that have ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return (used.ru_utime + used.ru_stime) / 60


def plan_paper(args, runs: list[Run], out: Path) -> tuple[list[Run], list[str]]:
    """Of the paper's runs those that fit into --hours, each with its images and minutes; what is skipped, and why."""
    sizes, costs, speeds, skipped = {}, {}, {}, []
    seconds = 3600 * args.hours
    given = "".join(f" --{flag} {value}" for flag in ("version", "batch_size") if (value := getattr(args, flag)))
    runs = [replace(run, do=run.do + given) if "--version" not in run.do else run for run in runs]
    for run in runs:
        try:
            sizes[run.name] = size_of(run)
            model = re.sub(r"--(?!version|image-size|model)\S+( [^-]\S*)*", "", run.do)
            if args.nfe_per_second is None and model not in speeds:
                speeds[model] = speed(run, out, 0.05 * seconds)
            costs[run.name] = run.nfe / (args.nfe_per_second or speeds[model])
        except InputError as error:
            skipped.append(f"{run.name}: {error}")
    images = share_out(0.9 * seconds, costs, sizes)  # the rest loads models
    skipped += [
        f"{name}: {min(LEAST, sizes[name])} images take {hours(min(LEAST, sizes[name]) * cost / 60)}"
        for name, cost in costs.items()
        if name not in images
    ]
    planned = [
        replace(run, do=f"{run.do} --limit {images[run.name]}", minutes=images[run.name] * costs[run.name] / 60)
        for run in runs
        if run.name in images
    ]
    return planned, skipped


# ---- the command line ----


def print_list(ledger: Ledger, runs: list[Run]) -> None:
    """The runs, what they cost and how many figures read them; then the figures that no command gives."""
    for run in runs:
        figures = sum(any(name == run.name for name, *_ in parts_of(claim.reading)) for claim in ledger.claims)
        cost = f"{run.nfe:,} NFE an image" if run.nfe else f"{run.minutes:g} min"
        print(f"{run.part:<16}{run.name:<28}{figures:>3} figures{cost:>24}  {run.do}")
    for part in dict.fromkeys(run.part for run in runs if not run.nfe):
        print(f"{part}: {hours(sum(run.minutes for run in runs if run.part == part))} on one core")
    for claim in ledger.claims:
        if claim.reading.startswith("="):
            print(f"{claim.page}: {claim.quotation}: {claim.figure} {claim.reading}")


def print_verdicts(ledger: Ledger, said: dict[str, str]) -> int:
    """Every figure that can be read off what was said, beside what is claimed; how many are outside."""
    outside = read = 0
    for claim in ledger.claims:
        runs = [name for name, *_ in parts_of(claim.reading)]
        if not claim.reading.startswith("=") and said.keys() >= set(runs):
            measured = read_off(claim.reading, said, ledger.labels)
            found = verdict(claim.figure, measured, ledger.runs[runs[0]].within)
            print(f"{claim.page:<20}{claim.reading:<60}{claim.figure:>26}{shown(measured):>28}  {found}")
            read, outside = read + 1, outside + (found == "OUTSIDE")
    print(f"{read} figures, {outside} outside their intervals")
    return outside


def main(argv: list[str]) -> int:
    args = parser().parse_args(argv)
    ledger = read_ledger()
    if args.list or not args.part:
        print_list(ledger, chosen(ledger, args.part) if args.part else list(ledger.runs.values()))
        return 0
    runs, skipped = chosen(ledger, args.part), []
    out = args.out or names.LOG_DIR / "reproduce"
    (out / "data").mkdir(parents=True, exist_ok=True)
    started = time.monotonic()
    paper = all(run.nfe for run in runs)
    if paper != (args.hours is not None):
        raise InputError("--hours: wanted for the paper's runs, and for no others")
    if paper:
        runs, skipped = plan_paper(args, runs, out)
    said = {run.name: text for run in runs if (text := finished(run, out)) is not None}
    todo = [run for run in runs if run.name not in said]
    print(f"{len(runs)} runs, {len(said)} done before; to do: {hours(sum(run.minutes for run in todo))} -> {out}")
    for k, run in enumerate(todo):
        left = 3600 * args.hours - (time.monotonic() - started) if paper else None
        print(f"[{k + 1} of {len(todo)}] {run.name}, {hours(run.minutes)}: {run.do}", flush=True)
        try:
            if lacking := [name for name in run.after if name not in said]:
                raise InputError(f"{run.name}: {lacking[0]} is not done")
            if left is not None and left < 60 * run.minutes:
                raise InputError(f"{run.name}: takes {hours(run.minutes)}, {hours(left / 60)} are left")
            before = cpu_minutes()
            said[run.name] = do(run, out, left)
            print(f"took {hours(cpu_minutes() - before)} of a core", flush=True)
        except InputError as error:
            skipped.append(str(error))
    outside = print_verdicts(ledger, said)
    for each in skipped:
        print(f"skipped: {each}")
    return 1 if outside or (skipped and not paper) else 0


if __name__ == "__main__":
    options.run(main)
