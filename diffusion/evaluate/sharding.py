"""Sharding and graceful shutdown: this worker's share of the images, and an end when the scheduler asks for one."""

import fcntl
import math
import os
import re
import signal
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from diffusion import InputError, InputWarning

STOPPED = os.EX_TEMPFAIL  # the exit code of a run that was asked to end and will go on when it is started again


class Stopped(BaseException):
    """A signal asked the run to end; what was measured is saved."""


def share(
    n_workers: int | None, worker_idx: int | None, environ: Mapping[str, str] = os.environ, shard: str | None = None
) -> tuple[int, int]:
    """(worker_idx, n_workers): the arguments; with shard "array" the place of this task in Slurm's; torchrun's rank.

    An array may begin anywhere and have any step. With n_workers, a task's number is its worker_idx, so a part of an
    array can be started again, gaps and all. Without either, every task of an array measures all images, since it may
    be an array over an option; this is warned of. An empty variable counts as unset. InputError if worker_idx is out of
    range.
    """
    place, places = 0, 1
    if shard not in (None, "", "array"):
        raise InputError(f"DIFFUSION_SHARD {shard}", "wanted array, or nothing")
    if shard == "array" and not environ.get("SLURM_ARRAY_TASK_ID"):
        raise InputError("--shard array", "this is no task of a Slurm job array, there is no SLURM_ARRAY_TASK_ID")
    if environ.get("SLURM_ARRAY_TASK_ID"):
        task = _number(environ, "SLURM_ARRAY_TASK_ID")
        if n_workers is not None:
            place = task
        elif shard == "array" and worker_idx is None:
            place, places = _place(task, environ)
        elif worker_idx is None:
            shares = "--shard array, as scripts/slurm_array.sh has it, shares them among the tasks"
            warnings.warn(f"task {task} of a job array measures all the images; {shares}", InputWarning, stacklevel=2)
    if environ.get("RANK") and environ.get("WORLD_SIZE"):
        rank, world = _number(environ, "RANK"), _number(environ, "WORLD_SIZE")
        if not 0 <= rank < world:
            raise InputError(f"RANK {rank}", f"must be in 0..{world - 1}, as WORLD_SIZE is {world}")
        place, places = place * world + rank, places * world
    if worker_idx is not None:
        place = worker_idx
    if n_workers is not None:
        places = n_workers
    if places < 1:
        raise InputError(f"--n_workers {places}", "must be at least 1")
    if not 0 <= place < places:
        raise InputError(f"--worker_idx {place}", f"must be in 0..{places - 1}")
    return place, places


def _number(environ: Mapping[str, str], name: str) -> int:
    value = environ.get(name)
    if not value:
        raise InputError("--n_workers", f"wanted, as this Slurm does not say {name}")
    try:
        return int(value)
    except ValueError:
        raise InputError(f"{name} {value!r}", "wanted a whole number") from None


def _place(task: int, environ: Mapping[str, str]) -> tuple[int, int]:
    """Which of how many tasks of an array this is."""
    first, last, places = (_number(environ, f"SLURM_ARRAY_TASK_{name}") for name in ("MIN", "MAX", "COUNT"))
    step = max(1, (last - first) // max(1, places - 1))
    place = (task - first) // step
    if (first + step * place, first + step * (places - 1)) != (task, last):
        raise InputError("--n_workers", f"wanted for task {task} of a job array with gaps, such as --array=3,7,8")
    return place, places


@contextmanager
def working(folder: Path, worker_idx: int, n_workers: int) -> Iterator[None]:
    """Warns if another process measures some of the same images of a run's folder.

    Each process holds a lock on a file there; the system releases it when a process is killed. In a folder that cannot
    be written, no warning is possible.
    """
    for path in folder.glob(".worker-*-of-*"):
        numbers = re.fullmatch(r"\.worker-(\d+)-of-(\d+)", path.name)
        if not numbers:
            continue
        place, places = map(int, numbers.groups())
        with suppress(OSError), path.open() as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                path.unlink()
            except BlockingIOError:
                if (place - worker_idx) % math.gcd(places, n_workers) == 0:
                    shares = "both measure the same images; to share them give --n_workers 2 --worker_idx 0 and 1"
                    warnings.warn(f"another worker is in {folder}: {shares}", InputWarning, stacklevel=3)
    path = folder / f".worker-{worker_idx}-of-{n_workers}"
    try:
        file = path.open("w")
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:  # the other one's; or no locks here
        yield
        return
    try:
        yield
    finally:
        with suppress(OSError):
            path.unlink()
        with suppress(OSError):  # what a full or lost disk says
            file.close()


@dataclass
class Asked:
    """Which signal asked the run to end; falsy until one has."""

    by: str = ""

    def __bool__(self) -> bool:
        return bool(self.by)


@contextmanager
def asked_to_end(grace: float) -> Iterator[Asked]:
    """SIGTERM and SIGUSR1 no longer kill: they are noted, and after `grace` seconds Stopped is raised wherever we are.

    The body is to begin nothing new once it is asked.
    """
    asked = Asked()

    def note(number, _frame) -> None:
        if not asked:
            asked.by = signal.Signals(number).name
            # again and again, since an exception is lost where it meets a destructor
            signal.setitimer(signal.ITIMER_REAL, max(grace, 1e-3), 1)

    def drop(*_) -> None:
        raise Stopped(asked.by)

    before = {number: signal.signal(number, note) for number in (signal.SIGTERM, signal.SIGUSR1)}
    before[signal.SIGALRM] = signal.signal(signal.SIGALRM, drop)
    try:
        yield asked
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        for number, handler in before.items():
            signal.signal(number, handler)
