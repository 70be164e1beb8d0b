"""Print how far a run is: images done, rate, time left, and the share of each worker.

    python scripts/progress.py data/imagenet/v2-0_1trials_race_3z_500samples

Reads run.json, the names and times of the records and the locks of workers, not the records themselves. For a share
whose last record is older than --minutes it prints the command that finishes it.
"""

from diffusion.evaluate import options


@options.answered_early
def parser() -> options.Parser:
    p = options.reader(__doc__, "folder of a run", loss=None)
    options.add(
        p, "--n_workers N", "number of workers; default that of the locks in the folder, which running workers hold"
    )
    options.add(
        p, "--minutes N", "minutes over which the rate is measured, and after which a share counts as silent", 10
    )
    return p


import os
import re
import shlex
import time
from dataclasses import dataclass
from pathlib import Path

from diffusion import InputError, paths
from diffusion.runs import records, results

DAY, HOUR, MINUTE = 86_400, 3_600, 60


@dataclass(frozen=True)
class Share:
    """The images of a worker, or of the whole run."""

    images: int
    done: int
    recent: int  # done within the window
    last: float | None  # seconds since the last record
    first: float | None  # seconds since the first record

    def rate(self, window: float) -> float:
        """Images per second over the window, or since the first record if that is later; 0 if none was done in it."""
        if not self.recent or self.first is None:
            return 0.0
        return self.recent / max(min(window, self.first), 1.0)


def share_of(images: list[int], ages: dict[int, float], window: float) -> Share:
    """The state of some images; `ages` [index] are the seconds since each record that is there was written."""
    found = [ages[index] for index in images if index in ages]
    recent = sum(age <= window for age in found)
    return Share(len(images), len(found), recent, min(found, default=None), max(found, default=None))


def duration(seconds: float) -> str:
    """A time in its two largest units: 2 d 3 h, 4 h 5 min, 6 min, 7 s."""
    seconds = round(seconds)
    if seconds >= DAY:
        return f"{seconds // DAY} d {seconds % DAY // HOUR} h"
    if seconds >= HOUR:
        return f"{seconds // HOUR} h {seconds % HOUR // MINUTE} min"
    if seconds >= MINUTE:
        return f"{seconds // MINUTE} min"
    return f"{seconds} s"


def ages_of(done: dict[int, Path]) -> dict[int, float]:
    """Seconds since each record was written; a record that is gone meanwhile is left out."""
    now = time.time()
    ages = {}
    for index, path in done.items():
        try:
            ages[index] = max(0.0, now - path.stat().st_mtime)
        except FileNotFoundError:
            continue
    return ages


def workers_of(folder: Path) -> int | None:
    """The largest number of workers that a lock in the folder names; None: no worker is running."""
    locks = [re.fullmatch(r"\.worker-\d+-of-(\d+)", name) for name in os.listdir(folder)]
    return max([int(lock[1]) for lock in locks if lock], default=None)


def finishing(command: str | None, worker_idx: int, n_workers: int) -> str:
    """The command that finishes a worker's share; `command` as options.command_line writes it into run.json.

    None: run.json is of an earlier version, which did not write it. Then only the options of the share are known.
    """
    share = ["--n_workers", str(n_workers), "--worker_idx", str(worker_idx)]
    if command is None:
        return f"the run's command with {shlex.join(share)}"
    program, *words = shlex.split(command)
    name = Path(program).stem
    if paths.program(f"scripts/{program}").exists():
        start = paths.script(name)
    else:
        start = f"python -m {name}" if paths.INSTALLED else f"python {program}"
    return f"{start} {shlex.join([*words, *share])}"


def main(argv: list[str]) -> int:
    args = parser().parse_args(argv)
    options.at_least_one(args, "n_workers", "minutes")
    folder = records.find_run(args.folder)
    if os.path.isfile(folder):
        raise InputError(folder, "is a packed run, which is finished")
    about = records.read_run(folder)
    done = records.chosen(folder, about)
    indices = records.indices_of(about)
    images = sorted(done if indices is None else indices)
    total = max(about["images"], len(images)) if indices is None else len(images)
    ages, window = ages_of(done), args.minutes * MINUTE
    whole = share_of(images, ages, window)
    failed = len(results.failures(folder, about))
    left = total - whole.done - failed

    print(f"{'run':<15} {folder}")
    print(f"{'images':<15} {whole.done:,} of {total:,} ({whole.done / max(total, 1):.1%})")
    if failed:
        print(f"{'failed':<15} {failed:,}, see print_acc.py")
    rate = whole.rate(window)
    if rate:
        print(f"{'rate':<15} {rate * HOUR:,.0f} images an hour, over the last {args.minutes} minutes")
        print(f"{'time left':<15} {duration(left / rate)}")
    elif left > 0:
        print(f"{'rate':<15} no image in the last {args.minutes} minutes")

    found = args.n_workers or workers_of(folder)
    workers = found or 1
    if "examples" in about or indices is None:  # workers share examples, not images; or run.json lists no images
        return 0
    print(f"\n{'worker':<15}{'images':>9}{'done':>9}{'an hour':>9}{'last record':>16}")
    silent = []
    for k in range(workers):
        share = share_of(images[k::workers], ages, window)
        last = "none" if share.last is None else f"{duration(share.last)} ago"
        name = f"{k} of {workers}" if found else "all"
        print(f"{name:<15}{share.images:>9,}{share.done:>9,}{share.rate(window) * HOUR:>9,.0f}{last:>16}")
        if share.done < share.images and not share.recent:
            silent.append(k)
    if found is None:
        print("No worker is running, and records do not say how many shared the run: --n_workers N shows shares.")
    if silent and left > 0:
        print(f"\nNothing in the last {args.minutes} minutes, with images left. To finish them:")
        for k in silent:
            print(finishing(about.get("command"), k, workers))
    return 0


if __name__ == "__main__":
    options.run(main)
