"""--levels: a part of the noise schedule, in shares of it; and one draw of noise for many levels, which is said."""

import math

import pytest
import torch
from helpers import blocks, folder_of, records_of, subset

from diffusion.core.constants import MIDDLE
from diffusion.core.search import band, spread_pairs
from diffusion.runs.records import read_run

ADAPTIVE, DIT, WINOGROUND = "eval_prob_adaptive.py", "eval_prob_dit.py", "run_winoground.py"
ONE_DRAW = "share a draw of noise"


@pytest.mark.parametrize(
    "low, high, T, first, last",
    [(0, 1, 1000, 0, 999), (0.2, 0.8, 1000, 200, 799), (0.56, 0.57, 1000, 560, 569), (0.25, 0.75, 10, 2, 7)],
)
def test_band_by_hand(low, high, T, first, last):
    levels = band(low, high, T)
    assert levels.tolist() == list(range(first, last + 1))


@pytest.mark.parametrize("low, high", [(0.8, 0.2), (0.5, 0.5), (-0.1, 0.5), (0.5, 1.1), (0.5, 0.5005), (math.nan, 1)])
def test_a_band_has_two_levels(low, high):
    with pytest.raises(ValueError, match="wanted two"):
        band(low, high, 1000)


@pytest.fixture
def few(tmp_path) -> list:
    return ["--device", "cpu", "--version", "digits", *subset(tmp_path, 3)]


def test_a_race_measures_the_middle_by_default(run_main, few):
    race = ["--dataset", "digits", *few, "--search", "race", "--max_samples", 8]
    usual, written, all_of_them = (run_main(ADAPTIVE, *race, *more) for more in (
        [], ["--levels", "0.20-.8"], ["--levels", "0-1"],
    ))  # fmt: skip
    assert folder_of(usual) == folder_of(written) and "1 done before" in written.out
    assert folder_of(all_of_them).name == folder_of(usual).name + "_levels0-1"
    order = (200 + spread_pairs(8, 600)).tolist(), spread_pairs(8, 1000).tolist()
    for result, levels in zip((usual, all_of_them), order, strict=True):
        for record in records_of(result).values():
            assert record["levels"].tolist() == levels[: len(record["levels"])]
    found = [read_run(folder_of(result))["options"]["levels"] for result in (usual, all_of_them)]
    assert found == ["0.2-0.8", None] and MIDDLE == (0.2, 0.8)


def test_published_schedules_take_all_levels_by_default(run_main, few):
    """A stage's levels are spread evenly over the part; the run has another name."""
    halving = ["--dataset", "digits", *few, "--to_keep", 2, 1, "--n_samples", 2, 10]
    usual, part = run_main(ADAPTIVE, *halving), run_main(ADAPTIVE, *halving, "--levels", "0.5-0.9")
    assert folder_of(part).name == folder_of(usual).name + "_levels0.5-0.9"
    for result, levels in ((usual, range(50, 1000, 100)), (part, range(520, 900, 40))):
        assert all(sorted(record["levels"].tolist()) == list(levels) for record in records_of(result).values())


def test_a_grid_of_a_part_is_a_part_of_the_grid(run_main, few):
    """DiT's bits at levels 425, 475, ... are those of the whole grid, whose noise is the same for all levels."""
    grid = ["--dataset", "digits", *few, "--t_interval", 50]
    whole, part = (records_of(run_main(DIT, *grid, *more)) for more in ([], ["--levels", "0.4-0.6"]))
    for index, record in part.items():
        assert record["levels"].tolist() == [425, 475, 525, 575]
        inside = torch.isin(whole[index]["levels"], record["levels"]).numpy()
        for some, every in zip(blocks(record), blocks(whole[index]), strict=True):
            assert (some == every[inside]).all()


def test_winoground_takes_a_part_too(run_main, tmp_path):
    args = ["--device", "cpu", "--version", "digits", "--dataset", "digits-pairs", *subset(tmp_path, 0)]
    for more, levels in (
        (["--t_interval", 100, "--levels", "0.2-0.8"], {250, 350, 450, 550, 650, 750}),
        (["--search", "race", "--max_samples", 4], {275, 425, 575, 725}),
    ):
        for record in records_of(run_main(WINOGROUND, *args, *more)).values():
            assert set(record["levels"].tolist()) <= levels and len(record["levels"]) > 2


def test_a_short_part_shortens_the_race(run_main, few):
    race = ["--dataset", "digits", *few, "--search", "race", "--levels", "0.5-0.504"]
    result = run_main(ADAPTIVE, *race)
    assert folder_of(result).name == "vdigits_1trials_race_3z_4samples_levels0.5-0.504"


@pytest.mark.parametrize("script", [DIT, WINOGROUND])
def test_one_draw_for_many_levels_is_warned_of(run_main, tmp_path, script):
    data = ["--device", "cpu", "--version", "digits", *subset(tmp_path, 0)]
    data += ["--dataset", "digits-pairs"] if script == WINOGROUND else ["--dataset", "digits", "--cls", 3]
    many, fewer, drawn = (
        run_main(script, *data, "--t_interval", *more) for more in ([20], [40], [20, "--randomize_noise"])
    )
    (line,) = [line for line in many.err.splitlines() if ONE_DRAW in line]
    assert "50 noise levels" in line and "--randomize_noise" in line and "--n_trials" in line
    assert ONE_DRAW not in fewer.err and ONE_DRAW not in drawn.err
