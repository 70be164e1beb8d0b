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
OPTIONS = [
    "--version",
    "digits",
    "--dataset",
    "digits",
    "--device",
    "cpu",
    "--to_keep",
    "3",
    "1",
    "--n_samples",
    "4",
    "12",
]


@pytest.fixture(scope="module")
def subset(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("subset") / "subset.npy"
    np.save(path, np.arange(0, 480, 20))
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
    return {f"SLURM_ARRAY_TASK_{key}": str(value) for key, value in zip(
        ("ID", "MIN", "MAX", "COUNT"), (task, first, last, count), strict=True)}  # fmt: skip


RANK = {"RANK": "3", "WORLD_SIZE": "4"}


@pytest.mark.parametrize(
    "environ, given, wanted",
    [
        ({}, (None, None), (0, 1)),
        ({}, (5, 3), (3, 5)),
        ({}, (5, None), (0, 5)),
        (array(0, 0, 99, 100), (None, None), (0, 100)),
        (array(100, 1, 100, 100), (None, None), (99, 100)),
        (array(7, 3, 9, 4), (None, None), (2, 4)),  # --array=3-9:2
        (array(7, 7, 7, 1), (None, None), (0, 1)),
        (array(7, 3, 7, 2), (100, None), (7, 100)),  # two of a hundred, once more
        (array(7, 3, 9, 3), (100, None), (7, 100)),
        (array(7, 3, 9, 3), (100, 8), (8, 100)),
        (RANK, (None, None), (3, 4)),
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


@pytest.mark.parametrize("first, step, count", [(0, 1, 5), (1, 1, 4), (3, 2, 4), (10, 7, 1), (5, 100, 3)])
@pytest.mark.parametrize("world", [1, 3])
def test_the_tasks_of_an_array_are_all_the_workers(first, step, count, world):
    tasks = range(first, first + step * count, step)
    found = [
        sharding.share(
            None, None, array(task, tasks[0], tasks[-1], count) | {"RANK": f"{rank}", "WORLD_SIZE": f"{world}"}, "array"
        )
        for task in tasks
        for rank in range(world)
    ]
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


def test_the_environment_is_asked(run_script, tmp_path):
    """Task 12 of --array=10-12 takes every third image from the third on; torchrun's local rank picks the device."""
    env = array(12, 10, 12, 3) | {"DIFFUSION_SHARD": "array"}  # as slurm_array.sh has it
    done = run_script(SCRIPT, *OPTIONS, "--to_keep", "1", "--n_samples", "2", env=env)
    assert done.code == 0, done.err
    found = records.finished(tmp_path / "data/digits/vdigits_1trials_1keep_2samples")
    assert list(found) == list(range(2, 497, 3))


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


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1])
def test_a_stopped_run_goes_on(tmp_path, subset, undisturbed, number):
    command = [sys.executable, ROOT / SCRIPT, *OPTIONS, "--subset_path", subset, "--in_flight", "2"]
    env = os.environ | {"LOG_DIR": str(tmp_path)}
    worker = subprocess.Popen(command, env=env, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    while worker.poll() is None and not list(tmp_path.rglob("*.pt")):
        time.sleep(0.02)
    worker.send_signal(number)
    _, said = worker.communicate()
    assert worker.returncode == 75 and f"ended by {number.name}" in said and "Traceback" not in said
    there = files(tmp_path)
    assert there.keys() < undisturbed.keys() and there == {name: undisturbed[name] for name in there}
    assert call_main(tmp_path, SCRIPT, *OPTIONS, "--subset_path", subset).code == 0
    assert files(tmp_path) == undisturbed


# ---- killed ----


def work(data: Path, arguments: list) -> None:
    torch.set_num_threads(1)
    os._exit(call_main(data, SCRIPT, *arguments).code)


@pytest.mark.slow
def test_killed_fifty_times(tmp_path):
    """At random moments of a run; what it leaves is a part of the undisturbed run, and what it becomes is that run.

    The moments are spread over the time that the first worker takes, which nobody kills: machines are not equally fast.
    """
    np.save(tmp_path / "eight.npy", np.arange(0, 480, 60))
    arguments = [*OPTIONS, "--subset_path", tmp_path / "eight.npy", "--batch_size", "16", "--in_flight", "1"]
    assert call_main(tmp_path / "undisturbed", SCRIPT, *arguments).code == 0
    undisturbed = files(tmp_path / "undisturbed")

    context = multiprocessing.get_context("forkserver")
    modules = ["diffusion.evaluate.loop", "diffusion.models.loading", "diffusion.tables"]
    modules.append("diffusers.pipelines.stable_diffusion.pipeline_stable_diffusion")  # diffusers imports it late
    context.set_forkserver_preload(modules)
    warm = context.Process(target=time.sleep, args=(0,))  # the server imports what is preloaded
    warm.start()
    warm.join()

    rng = random.Random(0)
    kills, done, parts, whole = 0, 0, 0, None
    while kills < 50:
        folder = tmp_path / "killed" / f"{done}"
        worker = context.Process(target=work, args=(folder, arguments))
        started = time.monotonic()
        worker.start()
        worker.join(whole and rng.uniform(0.2, 1.0) * whole)
        whole = whole or time.monotonic() - started
        if worker.is_alive():
            os.kill(worker.pid, signal.SIGKILL)
            kills += 1
        worker.join()
        there = visible(folder)
        assert there == {name: undisturbed[name] for name in there}
        done += len(there) == len(undisturbed)
        parts += 0 < len(there) < len(undisturbed)
    assert call_main(folder, SCRIPT, *arguments).code == 0
    assert done > 1 and parts
    for each in (tmp_path / "killed").iterdir():  # a run that was killed after its last record leaves its lock
        assert visible(each) == undisturbed


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
    (small_disk / "ballast").write_bytes(bytes(60_000))
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


def foreign(path: Path) -> None:
    torch.save({"label": 3, "pred": 3}, path)  # as published


BAD = {
    "empty": lambda path: path.write_bytes(b""),
    "truncated": lambda path: path.write_bytes(path.read_bytes()[:-100]),
    "cut in half": lambda path: path.write_bytes(path.read_bytes()[: path.stat().st_size // 2]),
    "text": lambda path: path.write_text("hello"),
    "published": foreign,
    "another image's": lambda path: path.write_bytes(path.with_name("020.pt").read_bytes()),
    "a tensor": lambda path: torch.save(torch.ones(3), path),
}


@pytest.mark.parametrize("how", BAD)
def test_a_file_that_is_no_record_is_named_and_done_again(tmp_path, run_main, subset, undisturbed, how):
    for name, data in undisturbed.items():
        (tmp_path / "data" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "data" / name).write_bytes(data)
    folder = tmp_path / "data" / RUN
    BAD[how](folder / "060.pt")
    printed = run_main("scripts/print_acc.py", folder)
    assert printed.code == 1 and "images          23 of 24" in printed.out
    assert "060.pt is no record" in printed.err and printed.err.count("\n") == 1
    result = run_main(SCRIPT, *OPTIONS, "--subset_path", subset)
    assert result.code == 0 and "060.pt is no record" in result.err and "measured again" in result.err
    assert "24 images, 23 done before" in result.out and "images          24 of 24" in result.out
    assert files(tmp_path / "data") == undisturbed


# ---- other workers ----


def test_other_numbers_of_workers_finish_together(tmp_path, run_main, subset, undisturbed):
    def worker(n: int, k: int):
        return run_main(SCRIPT, *OPTIONS, "--subset_path", subset, "--n_workers", n, "--worker_idx", k)

    assert [worker(5, k).code for k in (0, 3)] == [0, 0]
    assert [worker(3, k).code for k in (2, 0, 1)] == [0, 0, 0]
    assert files(tmp_path / "data") == undisturbed


def test_two_workers_on_the_same_images(tmp_path, subset, undisturbed):
    context = multiprocessing.get_context("forkserver")
    workers = [context.Process(target=work, args=(tmp_path, [*OPTIONS, "--subset_path", subset])) for _ in range(2)]
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
        digits.open(k).save(path)
    return tmp_path / "pictures"


PICTURES = ["--version", "digits", "--to_keep", "1", "--n_samples", "2", "--dataset"]


def test_a_note_stays_until_the_image_is_done(tmp_path, run_main, pictures):
    """Seen by print_acc.py meanwhile."""
    whole = (pictures / "odd/3.png").read_bytes()
    (pictures / "odd/3.png").write_bytes(whole[:50])
    result = run_main(SCRIPT, *PICTURES, pictures)
    folder = next((tmp_path / "data").rglob("run.json")).parent
    assert result.code == 1 and list(records.failed(folder)) == [3]
    printed = run_main("scripts/print_acc.py", folder)
    assert printed.code == 1 and "images          3 of 4" in printed.out
    assert "image 3: " in printed.err and "3.png" in printed.err
    (pictures / "odd/3.png").write_bytes(whole)
    assert run_main(SCRIPT, *PICTURES, pictures).code == 0
    assert not (folder / "failed").exists() and run_main("scripts/print_acc.py", folder).code == 0
    records.note_failure(folder / "3.pt", "by another worker, when this one was done")
    assert run_main("scripts/print_acc.py", folder).code == 0


def test_a_data_set_that_shrank(tmp_path, run_main, pictures):
    assert run_main(SCRIPT, *PICTURES, pictures).code == 0
    there = files(tmp_path / "data")
    (pictures / "even/0.png").unlink()
    result = run_main(SCRIPT, *PICTURES, pictures)
    assert result.code == 2 and "data: 4 images, now 3: gone even/0.png" in result.err
    assert files(tmp_path / "data") == there


@pytest.mark.parametrize("fits", [200, 31, 16])
def test_out_of_memory_halves_the_calls(tmp_path, monkeypatch, subset, undisturbed, fits):
    """The same bits, since a call's rows do not depend on what shares it."""
    measure, sizes = batching.measure, []

    def small(model, parts, size, keep):
        rows = sum(stop - start for _, start, stop in parts)
        if rows > fits:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        sizes.append(rows)
        return measure(model, parts, size, keep)

    monkeypatch.setattr(batching, "measure", small)
    result = call_main(tmp_path, SCRIPT, *OPTIONS, "--subset_path", subset, "--batch_size", "150")
    assert result.code == 0 and max(sizes) > fits // 2 - 8 and files(tmp_path) == undisturbed
    assert result.err.count("out of memory: ") == {200: 0, 31: 3, 16: 4}[fits]


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

    with pytest.raises(torch.OutOfMemoryError), pytest.warns(InputWarning, match="16 evaluations"):
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
