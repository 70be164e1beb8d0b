"""Being one of many, and what may happen to each: killed, stopped, out of disk, out of memory, other people's files."""

import contextlib
import multiprocessing
import os
import random
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import ROOT, call_main

from diffusion import InputError, InputWarning
from diffusion.core import batching
from diffusion.core.conditions import Conditions
from diffusion.data.datasets import load_dataset
from diffusion.evaluate import sharding
from diffusion.evaluate.loop import evaluate
from diffusion.evaluate.progress import Progress
from diffusion.runs import records

SCRIPT = "eval_prob_adaptive.py"
RUN = "digits/vdigits_1trials_3_1keep_4_12samples"
OPTIONS = ["--version", "digits", "--dataset", "digits", "--device", "cpu"]
OPTIONS += ["--to_keep", "3", "1", "--n_samples", "4", "12"]


@pytest.fixture(scope="module")
def subset(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("subset") / "subset.npy"
    np.save(path, np.arange(0, 480, 60))
    return path


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory, subset) -> dict[str, bytes]:
    folder = tmp_path_factory.mktemp("undisturbed")
    assert call_main(folder, SCRIPT, *OPTIONS, "--subset_path", subset).code == 0
    return files(folder)


def files(data: Path) -> dict[str, bytes]:
    """Path -> content of everything under a folder but the index, whose lines come in any order."""
    paths = [path for path in sorted(data.rglob("*")) if path.is_file() and path.name != ".index"]
    return {str(path.relative_to(data)): path.read_bytes() for path in paths}


def visible(data: Path) -> dict[str, bytes]:
    """`files` without those that a killed worker may leave, whose names begin with a dot."""
    return {name: content for name, content in files(data).items() if not Path(name).name.startswith(".")}


# ---- which worker this is ----


def array(task: int, first: int, last: int, count: int) -> dict[str, str]:
    numbers = {"ID": task, "MIN": first, "MAX": last, "COUNT": count}
    return {f"SLURM_ARRAY_TASK_{key}": str(value) for key, value in numbers.items()}


RANK = {"RANK": "3", "WORLD_SIZE": "4"}


@pytest.mark.parametrize(
    "environ, given, wanted",
    [
        ({}, (None, None), (0, 1)),
        ({}, (5, 3), (3, 5)),
        ({}, (5, None), (0, 5)),
        (array(100, 1, 100, 100), (None, None), (99, 100)),
        (array(7, 3, 7, 2), (100, None), (7, 100)),  # two of a hundred, once more
        (array(7, 3, 9, 3), (100, 8), (8, 100)),
        (RANK, (10, None), (3, 10)),
        (RANK, (10, 1), (1, 10)),
        (array(7, 3, 9, 4) | RANK, (None, None), (11, 16)),
    ],
)
def test_share(environ, given, wanted):
    shard = "array" if "SLURM_ARRAY_TASK_ID" in environ else None
    assert sharding.share(*given, environ, shard) == wanted


@pytest.mark.parametrize("environ", [array(7, 3, 9, 4), {"SLURM_ARRAY_TASK_ID": "7"}])
def test_an_array_over_an_option_shares_nothing(environ):
    """Each task has all the images, and says how they are shared."""
    with pytest.warns(InputWarning, match="task 7 of a job array measures all the images; --shard array"):
        assert sharding.share(None, None, environ) == (0, 1)
    assert sharding.share(100, None, environ) == (7, 100) and sharding.share(10, 2, environ) == (2, 10)


def test_a_site_that_tells_the_number_alone():
    alone = {"SLURM_ARRAY_TASK_ID": "7"}
    assert sharding.share(10, None, alone, "array") == (7, 10)
    with pytest.raises(InputError, match=r"--n_workers: wanted, .* SLURM_ARRAY_TASK_MIN"):
        sharding.share(None, None, alone, "array")
    with pytest.raises(InputError, match="--shard array: this is no task"):
        sharding.share(None, None, {}, "array")


@pytest.mark.parametrize(
    "first, step, count, world", [(0, 1, 5, 3), (1, 1, 4, 1), (3, 2, 4, 1), (10, 7, 1, 3), (5, 100, 3, 1)]
)
def test_the_tasks_of_an_array_are_all_the_workers(first, step, count, world):
    tasks = range(first, first + step * count, step)
    found = []
    for task in tasks:
        for rank in range(world):
            ranks = {"RANK": f"{rank}", "WORLD_SIZE": f"{world}"}
            environ = array(task, tasks[0], tasks[-1], count) | ranks
            found.append(sharding.share(None, None, environ, "array"))
    assert found == [(k, count * world) for k in range(count * world)]


@pytest.mark.parametrize(
    "environ, given, says",
    [
        (array(7, 3, 8, 3), (None, None), "with gaps"),
        (array(8, 3, 9, 3), (None, None), "with gaps"),
        (array(100, 1, 100, 100), (100, None), "--worker_idx 100: must be in 0..99"),
        ({}, (0, None), "--n_workers 0"),
        ({}, (None, 1), "--worker_idx 1: must be in 0..0"),
    ],
)
def test_no_such_worker(environ, given, says):
    with pytest.raises(InputError, match=says):
        sharding.share(*given, environ, "array" if environ else None)


def test_the_environment_is_asked(run_main, tmp_path, monkeypatch):
    """Task 12 of --array=10-12 takes every third image from the third on."""
    for name, value in (array(12, 10, 12, 3) | {"DIFFUSION_SHARD": "array"}).items():  # as slurm_array.sh has it
        monkeypatch.setenv(name, value)
    np.save(tmp_path / "eight.npy", np.arange(8))
    done = run_main(SCRIPT, *OPTIONS, "--to_keep", 1, "--n_samples", 2, "--subset_path", tmp_path / "eight.npy")
    assert done.code == 0, done.err
    assert list(records.finished(tmp_path / "data/digits/vdigits_1trials_1keep_2samples")) == [2, 5]


# ---- asked to end ----


def images_with_a_signal(number: int, seconds: float):
    """What classifies images, and reads one ahead; a signal comes while it is at image 4, which takes so long."""

    def classify(images, dtype, spent):
        hand = []
        for index, _ in images:
            hand.append(index)
            if len(hand) == 2:
                yield record_of(hand.pop(0))
            if index == 4:
                os.kill(os.getpid(), number)
                time.sleep(seconds)
        yield from map(record_of, hand)

    return classify


def record_of(index: int) -> dict:
    return {"index": index, "label": 1, "pred": 1, "nfe": 7, "margin": 1.0, "errors": torch.ones(2, 3)}


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1])
@pytest.mark.parametrize("grace, kept", [(20, [0, 1, 2, 3, 4]), (0.05, [0, 1, 2, 3]), (0, [0, 1, 2, 3])])
def test_what_is_in_hand_is_finished_within_the_grace(tmp_path, number, grace, kept):
    """In hand is image 4; after it, signals do again what they did."""
    before = [signal.getsignal(each) for each in (signal.SIGTERM, signal.SIGUSR1, signal.SIGALRM)]
    started = time.monotonic()
    classify = images_with_a_signal(number, 0 if grace == 20 else 30)
    path_of = partial(records.record_path, tmp_path, 100)
    with pytest.raises(sharding.Stopped, match=number.name):
        evaluate(list(range(10)), lambda k: k, classify, path_of, Progress(10, 70, True), dtype="float32", grace=grace)
    assert time.monotonic() - started < 15
    assert sorted(os.listdir(tmp_path)) == [f"{k:02d}.pt" for k in kept]
    assert before == [signal.getsignal(each) for each in (signal.SIGTERM, signal.SIGUSR1, signal.SIGALRM)]


def test_a_signal_during_the_last_images_changes_nothing(tmp_path):
    classify = images_with_a_signal(signal.SIGTERM, 0)
    path_of = partial(records.record_path, tmp_path, 100)
    rows, problems = evaluate(
        list(range(5)), lambda k: k, classify, path_of, Progress(5, 35, True), dtype="float32", grace=20
    )
    assert len(rows) == 5 and not problems


@pytest.mark.slow
def test_a_stopped_run_goes_on(tmp_path, subset, undisturbed, monkeypatch):
    """Asked to end when it has saved two images: one line, and an exit code of its own."""
    save_record, saved = records.save_record, []

    def save_and_ask(path: Path, *args) -> None:
        save_record(path, *args)
        saved.append(path)
        if len(saved) == 2:
            os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(records, "save_record", save_and_ask)
    stopped = call_main(tmp_path, SCRIPT, *OPTIONS, "--subset_path", subset, "--in_flight", "2")
    monkeypatch.undo()
    assert stopped.code == 75 and "ended by SIGTERM" in stopped.err and "Traceback" not in stopped.err
    there = files(tmp_path)
    assert len(saved) >= 2 and there.keys() < undisturbed.keys()
    assert there == {name: undisturbed[name] for name in there}
    assert call_main(tmp_path, SCRIPT, *OPTIONS, "--subset_path", subset).code == 0
    assert files(tmp_path) == undisturbed


# ---- killed ----

FEW = [*OPTIONS, "--n_samples", "2", "6", "--limit", "4", "--in_flight", "1"]


def work(data: Path, *more: str | Path) -> None:
    """A whole run."""
    torch.set_num_threads(1)
    os._exit(call_main(data, SCRIPT, *OPTIONS, *more).code)


def write(data: Path) -> None:
    """The loop of a run, whose images take no time: most of its life it writes."""
    records.open_run(data / "run", {"dataset": "digits"}, {"images": 20, "arms": []})

    def classify(images, dtype, spent):
        for index, _ in images:
            yield record_of(index)

    path_of = partial(records.record_path, data / "run", 20)
    there = records.clean(data / "run", range(20))
    todo = [index for index in range(20) if index not in there]
    evaluate(todo, lambda k: k, classify, path_of, Progress(20, 140, True), dtype="float32", grace=20)
    os._exit(0)


@pytest.mark.slow
@pytest.mark.parametrize("target, more, kills", [(write, [], 40), (work, FEW, 10)])
def test_killed_fifty_times(tmp_path, monkeypatch, target, more, kills):
    """At random moments; what is left is a part of the undisturbed run, and what it becomes is that run.

    The moments are spread over the time that the first worker takes, which nobody kills: machines are not equally fast.
    """
    # the server imports this module, which is imported here already, and what diffusers imports late, for all workers
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(map(str, (ROOT, ROOT / "tests"))))
    context = multiprocessing.get_context("forkserver")
    pipeline = "diffusers.pipelines.stable_diffusion.pipeline_stable_diffusion"
    context.set_forkserver_preload(["test_cluster", "diffusion.models.loading", "diffusion.tables", pipeline])

    first = context.Process(target=target, args=(tmp_path / "first", *more))  # the server starts
    first.start()
    first.join()
    started = time.monotonic()
    second = context.Process(target=target, args=(tmp_path / "undisturbed", *more))
    second.start()
    second.join()
    whole = time.monotonic() - started
    undisturbed = files(tmp_path / "undisturbed")
    assert first.exitcode == second.exitcode == 0 and len(undisturbed) > 4

    rng = random.Random(0)
    killed, done, parts = 0, 0, 0
    while killed < kills or not done:
        folder = tmp_path / "killed" / f"{done}"
        worker = context.Process(target=target, args=(folder, *more))
        worker.start()
        worker.join(rng.uniform(0.2, 1.0) * whole)
        if worker.is_alive():
            os.kill(worker.pid, signal.SIGKILL)
            killed += 1
        worker.join()
        there = visible(folder)
        assert there == {name: undisturbed[name] for name in there}
        done += len(there) == len(undisturbed)
        parts += 0 < len(there) < len(undisturbed)
    assert parts
    for each in (tmp_path / "killed").iterdir():  # a run that was killed after its last record leaves its lock
        again = context.Process(target=target, args=(each, *more))
        again.start()
        again.join()
        assert again.exitcode == 0 and visible(each) == undisturbed


# ---- the disk ----


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 100 kB. It needs root; where that may not mount either, the tests say so."""
    folder = tmp_path / "disk"
    folder.mkdir()
    done = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=100k", "tmpfs", folder], capture_output=True, text=True)
    if done.returncode:
        pytest.skip(f"SKIPPED: cannot mount a small tmpfs here: {done.stderr.strip()}")
    yield folder
    subprocess.run(["umount", "-l", folder], check=True)


def test_a_full_disk(small_disk, subset, undisturbed):
    """One line; what is there is whole; with room again, the run goes on."""
    (small_disk / "ballast").write_bytes(bytes(76_000))
    result = call_main(small_disk, SCRIPT, *OPTIONS, "--subset_path", subset)
    last = result.err.splitlines()[-1]
    assert (
        result.code == 2 and "cannot be written" in last and "No space left" in last and "Traceback" not in result.err
    )
    (small_disk / "ballast").unlink()
    there = files(small_disk)
    assert 1 < len(there) < len(undisturbed) and there == {name: undisturbed[name] for name in there}
    subprocess.run(["mount", "-o", "remount,size=1m", small_disk], check=True)
    assert call_main(small_disk, SCRIPT, *OPTIONS, "--subset_path", subset).code == 0
    assert files(small_disk) == undisturbed


@pytest.mark.parametrize("begun", [False, True])
def test_a_folder_that_cannot_be_written(small_disk, subset, begun):
    if begun:
        records.open_run(small_disk / RUN, {}, {"images": 1, "arms": []})
    subprocess.run(["mount", "-o", "remount,ro", small_disk], check=True)
    result = call_main(small_disk, SCRIPT, *OPTIONS, *(["--extra", "x"] if not begun else []), "--subset_path", subset)
    assert result.code == 2 and result.err.count("\n") == 1


# ---- files that are no records ----


BAD = [
    lambda path: path.write_bytes(b""),
    lambda path: path.write_bytes(path.read_bytes()[:-100]),
    lambda path: path.write_bytes(path.read_bytes()[: path.stat().st_size // 2]),
    lambda path: path.write_text("hello"),
    lambda path: torch.save({"label": 3, "pred": 3}, path),  # as published
    lambda path: path.write_bytes(path.with_name("000.pt").read_bytes()),  # another image's
    lambda path: torch.save(torch.ones(3), path),
]


def test_files_that_are_no_records_are_named_and_done_again(tmp_path, run_main, subset, undisturbed):
    for name, data in undisturbed.items():
        (tmp_path / "data" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "data" / name).write_bytes(data)
    folder = tmp_path / "data" / RUN
    names = [f"{index:03d}.pt: no record" for index in range(60, 480, 60)]
    for name, damage in zip(names, BAD, strict=True):
        damage(folder / name[:6])
    printed = run_main("scripts/print_acc.py", folder)
    assert printed.code == 1 and "images          1 of 8" in printed.out
    assert all(name in printed.err for name in names) and printed.err.count("\n") == 7
    result = run_main(SCRIPT, *OPTIONS, "--subset_path", subset)
    assert result.code == 0 and all(name in result.err for name in names)
    assert result.err.count("measured again") == 7
    assert "8 images, 1 done before" in result.out and "images          8 of 8" in result.out
    assert files(tmp_path / "data") == undisturbed


# ---- other workers ----


def test_other_numbers_of_workers_finish_together(tmp_path, run_main, subset, undisturbed):
    """With other batches too."""
    for n, k, batch_size in ((3, 0, 7), (2, 1, 23), (2, 0, 150)):
        sharing = ["--n_workers", n, "--worker_idx", k, "--batch_size", batch_size]
        assert run_main(SCRIPT, *OPTIONS, "--subset_path", subset, *sharing).code == 0
    assert files(tmp_path / "data") == undisturbed


def test_two_workers_on_the_same_images(tmp_path, subset, undisturbed):
    context = multiprocessing.get_context("forkserver")
    workers = [context.Process(target=work, args=(tmp_path, "--subset_path", subset)) for _ in range(2)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert [worker.exitcode for worker in workers] == [0, 0] and files(tmp_path) == undisturbed


def test_a_temporary_file_taken_for_a_dead_ones(tmp_path):
    """Another worker removes it while it is written: it is written again; a folder that is gone is said."""
    tries = []

    def write(file):
        file.write(b"all")
        tries.append(1)
        if len(tries) == 1:
            records.clean(tmp_path, [7])

    records.write_atomic(tmp_path / "007.pt", write)
    assert len(tries) == 2 and files(tmp_path) == {"007.pt": b"all"}
    with pytest.raises(InputError, match="cannot be written"):
        records.write_atomic(tmp_path / "gone/007.pt", write)


def test_of_two_first_workers_one_makes_the_run(tmp_path, monkeypatch):
    """The other, who saw no run either, joins it or is refused."""
    about = {"images": 1, "arms": []}
    records.open_run(tmp_path, {"loss": "l1"}, about)
    there = files(tmp_path)
    exists = Path.exists
    monkeypatch.setattr(Path, "exists", lambda path: path.name != "run.json" and exists(path))
    records.open_run(tmp_path, {"loss": "l1"}, about)
    with pytest.raises(InputError, match="loss was 'l1', now 'l2'"):
        records.open_run(tmp_path, {"loss": "l2"}, about)
    assert files(tmp_path) == there


# ---- images, and memory ----


@pytest.fixture
def pictures(tmp_path) -> Path:
    """Two even digits and two odd ones, in a folder each."""
    digits = load_dataset("digits", "test", tmp_path)
    for k in range(4):
        path = tmp_path / "pictures" / ("even", "odd")[k // 2] / f"{k}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        digits.open(k).resize((64, 48)).save(path)
    return tmp_path / "pictures"


PICTURES = ["--version", "digits", "--to_keep", "1", "--n_samples", "2", "--dataset"]


def test_a_note_stays_until_the_image_is_done(tmp_path, run_main, pictures):
    """Seen by print_acc.py meanwhile; the others are done. A data set that shrank is refused then."""
    whole = (pictures / "odd/3.png").read_bytes()
    (pictures / "odd/3.png").write_bytes(whole[:50])
    result = run_main(SCRIPT, *PICTURES, pictures)
    folder = next((tmp_path / "data").rglob("run.json")).parent
    assert result.code == 1 and list(records.failed(folder)) == [3] and "3 of 4" in result.out
    assert [
        line for line in result.err.splitlines() if "image 3:" in line and "cannot read" in line and "3.png" in line
    ]
    assert folder.parent.name == "pictures"
    assert [text for text, *_ in records.read_run(folder)["arms"]] == ["a photo of an even.", "a photo of an odd."]
    assert [records.load_record(folder / f"{k}.pt")["label"] for k in range(3)] == [0, 0, 1]
    printed = run_main("scripts/print_acc.py", folder)
    assert printed.code == 1 and "images          3 of 4" in printed.out
    assert "image 3: " in printed.err and "3.png" in printed.err
    (pictures / "odd/3.png").write_bytes(whole)
    mended = run_main(SCRIPT, *PICTURES, pictures)
    assert mended.code == 0 and "4 images, 3 done before" in mended.out and "4 of 4" in mended.out
    assert not (folder / "failed").exists() and run_main("scripts/print_acc.py", folder).code == 0
    records.note_failure(folder / "3.pt", "by another worker, when this one was done")
    assert run_main("scripts/print_acc.py", folder).code == 0

    there = files(tmp_path / "data")
    (pictures / "even/0.png").unlink()
    result = run_main(SCRIPT, *PICTURES, pictures)
    assert result.code == 2 and "data: 4 images, now 3: gone even/0.png" in result.err
    assert files(tmp_path / "data") == there


def test_out_of_memory_halves_the_calls(tmp_path, monkeypatch, subset, undisturbed):
    """The same bits, since a call's rows do not depend on what shares it."""
    measure, sizes = batching.measure, []

    def small(model, parts, size, keep):
        rows = sum(stop - start for _, start, stop in parts)
        if rows > 16:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        sizes.append(rows)
        return measure(model, parts, size, keep)

    monkeypatch.setattr(batching, "measure", small)
    result = call_main(tmp_path, SCRIPT, *OPTIONS, "--subset_path", subset, "--batch_size", "150")
    assert result.code == 0 and max(sizes) > 0 and files(tmp_path) == undisturbed
    assert result.err.count("out of memory: ") == 4  # 75, 37, 18, and the least there is, 16


def test_memory_for_nothing(monkeypatch):
    """When even the smallest call does not fit, that is said."""

    def never(*_):
        raise torch.OutOfMemoryError("CUDA out of memory.")

    monkeypatch.setattr(batching, "measure", never)

    class Model:
        device = torch.device("cpu")

    def task():
        conditions = Conditions({"c": torch.zeros(3)})
        yield batching.Block(torch.zeros(1, 1, 1), conditions, np.arange(3), torch.arange(9), torch.arange(9), None)

    with pytest.raises(torch.OutOfMemoryError), pytest.warns(InputWarning, match="at most 16"):
        list(batching.together(Model(), [task()], batch_size=20))


HOLDS = """
import sys, time
from pathlib import Path
from diffusion.evaluate.sharding import working
with working(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])):
    print("there", flush=True)
    time.sleep(60)
"""


@pytest.mark.parametrize(
    "theirs, ours, same", [((0, 1), (0, 1), True), ((1, 2), (0, 4), False), ((1, 2), (3, 4), True)]
)
def test_another_worker_on_the_same_images_is_named(tmp_path, theirs, ours, same, recwarn):
    """And, once it is killed, not any more, nor does anything of it stay."""
    words = [sys.executable, "-c", HOLDS, tmp_path, *theirs]
    other = subprocess.Popen(list(map(str, words)), stdout=subprocess.PIPE, text=True, cwd=ROOT)
    try:
        assert other.stdout.readline() == "there\n"
        with sharding.working(tmp_path, *ours):
            assert [("another worker" in str(w.message)) for w in recwarn] == [True] * same
    finally:
        other.kill()
        other.wait()
    recwarn.clear()
    with sharding.working(tmp_path, *ours):
        assert not list(recwarn)
    assert not list(tmp_path.iterdir())


# ---- folders and variables that are not as they should be ----


@pytest.mark.parametrize("environ", [{"RANK": "", "WORLD_SIZE": ""}, {"SLURM_ARRAY_TASK_ID": ""}, {"RANK": "1"}])
def test_an_empty_variable_is_none(environ):
    assert sharding.share(None, None, environ, "") == (0, 1)


@pytest.mark.parametrize(
    "environ, shard, name",
    [
        ({"RANK": "x", "WORLD_SIZE": "2"}, None, "RANK"),
        ({"RANK": "2", "WORLD_SIZE": "2"}, None, "RANK"),
        ({"RANK": "-1", "WORLD_SIZE": "2"}, None, "RANK"),
        ({"RANK": "0", "WORLD_SIZE": "1.5"}, None, "WORLD_SIZE"),
        ({"SLURM_ARRAY_TASK_ID": "x"}, None, "SLURM_ARRAY_TASK_ID"),
        ({}, "arrays", "DIFFUSION_SHARD"),
    ],
)
def test_a_variable_that_is_wrong_is_named(environ, shard, name):
    with pytest.raises(InputError, match=name):
        sharding.share(None, None, environ, shard)


def test_a_folder_that_turns_read_only(small_disk):
    """What is left there stays; nothing is raised, and a write is one line."""
    (small_disk / ".7.pt.otherhost-1").write_bytes(b"x")
    (small_disk / "failed").mkdir()
    (small_disk / "failed/7.txt").write_text("why")
    (small_disk / ".worker-a-of-b").touch()
    with contextlib.ExitStack() as stack, sharding.working(small_disk, 0, 1):  # has a file open, so a view of it turns
        subprocess.run(["mount", "--bind", small_disk, small_disk], check=True)
        stack.callback(subprocess.run, ["umount", "-l", small_disk], check=True)
        subprocess.run(["mount", "-o", "remount,ro,bind", small_disk], check=True)
        assert records.clean(small_disk, [7]) == {}
        records.forget_failure(small_disk / "failed/7.txt")
        with pytest.raises(InputError, match=r"cannot be written"):
            records.note_failure(small_disk / "8.pt", "why")
        with pytest.raises(InputError, match=r"cannot be written"):
            records.save_record(small_disk / "8.pt", {"index": 8})
    assert sorted(os.listdir(small_disk / "failed")) == ["7.txt"]
    assert {".7.pt.otherhost-1", ".worker-0-of-1"} < set(os.listdir(small_disk))


def test_failed_is_a_file(tmp_path):
    """One line, before a model is loaded; a reader has no use for it."""
    (tmp_path / "failed").write_text("mine")
    assert records.failed(tmp_path) == {}

    def never(*_):
        raise AssertionError

    path_of = partial(records.record_path, tmp_path, 10)
    with pytest.raises(InputError, match="failed: is no folder"):
        evaluate([1], never, never, path_of, Progress(1, 1, True), dtype="float32", grace=1)
    with pytest.raises(InputError, match="failed: cannot be made"):
        records.note_failure(tmp_path / "1.pt", "why")
    assert (tmp_path / "failed").read_text() == "mine"


def test_a_file_is_no_folder(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(InputError) as error:
        records.finished(tmp_path / "file")
    assert error.value.where == str(tmp_path / "file")


def test_a_name_that_is_no_text(tmp_path):
    records.note_failure(tmp_path / "1.pt", "cannot read \udcff.png")
    assert records.read_note(tmp_path / "failed/1.txt") == r"cannot read \udcff.png"
