"""How far a run is, from the times of its records; and its bar, of which a log has one line a minute."""

import json
import os
import shlex
import time

import numpy as np
import pytest
from helpers import write_run

from diffusion import paths
from diffusion.evaluate import options
from diffusion.evaluate.progress import Progress

SCRIPT = "scripts/progress.py"


@pytest.fixture
def folder(tmp_path):
    """20 images, 12 done: worker 0 of 2 has 8 of its 10, one each minute up to now; worker 1 stopped an hour ago."""
    run = write_run(tmp_path / "run", np.ones((20, 2, 2)), [0] * 20)
    about = json.loads((run / "run.json").read_text())
    (run / "run.json").write_text(json.dumps(about | {"indices": "0-19"}))
    now = time.time()
    for k in range(20):
        path = run / f"{k:02d}.pt"
        if k % 2 == 0 and k < 16:
            os.utime(path, (now, now - 60 * (7 - k // 2)))
        elif k % 2 == 1 and k < 8:
            os.utime(path, (now, now - 3600 - k))
        else:
            path.unlink()
    return run


def table(out: str) -> list[list[str]]:
    lines = out.split("\n")
    start = next(k for k, line in enumerate(lines) if line.startswith("worker"))
    return [line.split() for line in lines[start + 1 :] if " of " in line]


def test_totals_rate_and_time_left(run_main, folder):
    done = run_main(SCRIPT, folder)
    assert done.code == 0, done.err
    found = {line[:15].strip(): line[16:] for line in done.out.split("\n\n")[0].splitlines()}
    assert found["images"] == "12 of 20 (60.0%)"
    assert found["rate"].startswith("48 images an hour")  # 8 in ten minutes
    assert found["time left"] == "10 min"  # 8 left


def test_a_silent_share_and_what_finishes_it(run_main, folder):
    done = run_main(SCRIPT, folder, "--n_workers", 2)
    (w0, w1) = table(done.out)
    assert w0[:6] == ["0", "of", "2", "10", "8", "69"]  # 8 in the 7 minutes since its first one
    assert w1[:6] == ["1", "of", "2", "10", "4", "0"]
    assert w1[6:] == ["1", "h", "0", "min", "ago"]
    assert done.out.splitlines()[-1].split()[-4:] == ["--n_workers", "2", "--worker_idx", "1"]
    assert "--worker_idx 0" not in done.out
    patient = run_main(SCRIPT, folder, "--n_workers", 2, "--minutes", 70)
    assert "--worker_idx" not in patient.out


def test_the_command_that_finishes_a_share_is_whole(run_main, folder):
    """As it was given, apart from the share; a text with spaces stays one word."""
    argv = ["--dataset", "pets", "--template", "a photo of the pet {}.", "--n_workers", "3", "--search", "race"]
    about = json.loads((folder / "run.json").read_text())
    for program, start in (("eval_prob_adaptive.py", ""), ("baseline.py", "scripts/")):
        command = options.command_line(f"/somewhere/{program}", argv)
        (folder / "run.json").write_text(json.dumps(about | {"command": command}))
        last = run_main(SCRIPT, folder, "--n_workers", 2).out.splitlines()[-1]
        share = ["--n_workers", "2", "--worker_idx", "1"]
        assert shlex.split(last) == ["python", start + program, *argv[:4], *argv[6:], *share]
        assert (paths.PROGRAMS / start / program).exists()


def test_the_number_of_workers_is_that_of_the_locks(run_main, folder):
    done = run_main(SCRIPT, folder)
    assert table(done.out) == [] and "--n_workers N shows shares" in done.out
    (all_of_it,) = [line.split() for line in done.out.splitlines() if line.startswith("all ")]
    assert all_of_it[:3] == ["all", "20", "12"]
    (folder / ".worker-1-of-4").touch()
    assert len(table(run_main(SCRIPT, folder).out)) == 4


def test_a_finished_run_has_no_silent_share(run_main, tmp_path):
    run = write_run(tmp_path / "run", np.ones((4, 2, 2)), [0] * 4)
    about = json.loads((run / "run.json").read_text())
    (run / "run.json").write_text(json.dumps(about | {"indices": "0-3"}))
    for path in run.glob("*.pt"):
        os.utime(path, (0, 0))
    done = run_main(SCRIPT, run)
    assert done.code == 0 and "4 of 4 (100.0%)" in done.out and "--worker_idx" not in done.out


def test_failed_images_are_not_left(run_main, folder):
    (folder / "failed").mkdir()
    for k in (9, 11, 13, 15):
        (folder / f"failed/{k}.txt").write_text("cannot be read")
    done = run_main(SCRIPT, folder)
    assert "time left       5 min" in done.out and "failed          4" in done.out


# ---- the bar of a run in a log ----


def test_a_log_has_one_line_a_minute(capsys):
    """600 seconds of calls, one each second."""
    seconds = [0.0]
    with Progress(1000, 1_000_000, True) as bar:
        bar.bar._time = lambda: seconds[0]
        bar.bar.start_t = bar.bar.last_print_t = 0.0
        capsys.readouterr()
        for _ in range(600):
            seconds[0] += 1
            bar.call(100)
        text = capsys.readouterr().err
    assert "\r" not in text and text.count("\n") == 10
    assert all("NFE/s" in line for line in text.splitlines())
    (last,) = capsys.readouterr().err.splitlines()
    assert "in 10:00" in last
