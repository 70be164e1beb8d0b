"""The benchmark still runs; what it measures is no test's business."""

import re

import numpy as np
import pytest
from helpers import import_script


@pytest.mark.slow
def test_the_benchmark_runs(run_script):
    done = run_script("scripts/benchmark.py", "network", "published", "--repeats", 1, "--images", 1, "--threads", 1)
    assert done.code == 0, done.err
    assert re.search(r"^network: race over 63 embedded images, .* batches \d+\.\d% full", done.out, re.M)
    assert re.search(r"^published: .* 1 images, .*the same answer for 100\.0%", done.out, re.M)


def test_ways_to_draw():
    """The same levels each, but for pairs at one; of every pair a draw and its negative."""
    ways = import_script("scripts/benchmark.py").ways_to_draw(np.arange(200, 800), 4, 0.5)
    assert {way: [each.tolist() for each in drawn] for way, drawn in ways.items()} == {
        "independent": [[275, 425, 575, 725], [0, 1, 2, 3], [1, 1, 1, 1]],
        "pair at one level": [[350, 350, 650, 650], [0, 0, 1, 1], [1, -1, 1, -1]],
        "pair at neighbouring levels": [[275, 425, 575, 725], [0, 0, 1, 1], [1, -1, 1, -1]],
        "one draw for all levels": [[275, 425, 575, 725], [0, 0, 0, 0], [1, 1, 1, 1]],
        "one draw, signs in turn": [[275, 425, 575, 725], [0, 0, 0, 0], [1, -1, 1, -1]],
    }


def test_pairs_are_worth_more_than_two_draws(run_main):
    """Of the embedded model, as docs/speed.md says; of four images, so within wide bounds."""
    result = run_main("scripts/benchmark.py", "noise", "--images", 4, "--draws", 8, "--points", 4, "--device", "cpu")
    assert result.code == 0, result.err
    found = {line[:28].strip(): float(line[28:]) for line in result.out.splitlines()[1:]}
    assert found["independent"] == 1 and found["pair at neighbouring levels"] < 0.8
    assert found["one draw for all levels"] > 1.3 > found["one draw, signs in turn"]


@pytest.mark.parametrize("flags", [["--points", 3], ["--points", 0], ["--draws", 1]])
def test_what_noise_refuses(run_main, flags):
    result = run_main("scripts/benchmark.py", "noise", *flags)
    assert result.code == 2 and result.err.count("\n") == 1 and f"{flags[0]} {flags[1]}" in result.err
