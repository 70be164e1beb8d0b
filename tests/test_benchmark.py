"""The benchmark still runs; what it measures is no test's business."""

import re

import pytest


@pytest.mark.slow
def test_the_benchmark_runs(run_script):
    done = run_script("scripts/benchmark.py", "network", "published", "--repeats", 1, "--images", 1, "--threads", 1)
    assert done.code == 0, done.err
    assert re.search(r"^network: race over 63 embedded images, .* batches \d+\.\d% full", done.out, re.M)
    assert re.search(r"^published: .* 1 images, .*the same answer for 100\.0%", done.out, re.M)
