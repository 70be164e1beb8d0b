"""Weights by level: what is fitted, against closed forms; then what runs and readers make of them."""

import re

import numpy as np
import pytest
from helpers import SCRIPT, assert_same, blocks, folder_of, options, race_options, records_of, subset

from diffusion import InputError
from diffusion.core.search import halving, level_sequence, race, replay, spread_sequence
from diffusion.data.prompts import read_level_weights
from diffusion.plots import levels
from diffusion.runs import results
from diffusion.stats import level_weights, metrics

PLOT, ACC = "scripts/plot_levels.py", "scripts/print_acc.py"
IMAGES = (0, 3, 10, 301)


def drawn(gap: np.ndarray, sd: np.ndarray, n: int, K: int = 2, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Errors [n, K, P] whose label is better by gap [P]; independent noise of sd [P]. And labels [n]."""
    rng = np.random.default_rng(seed)
    label = rng.integers(K, size=n)
    errors = 1 + sd * rng.standard_normal((n, K, len(gap)))
    errors[np.arange(n), label] -= gap
    return errors, label


# ---- what is fitted ----


def test_weights_are_the_linear_discriminants():
    """Of two Gaussian classes with independent noise the likeliest weights are gap / variance (Fisher)."""
    gap, sd = np.linspace(0.4, 1.2, 10), np.linspace(1.0, 1.6, 10)[::-1]
    errors, label = drawn(np.repeat(gap, 20), np.repeat(sd, 20), 3000)
    w = level_weights.fit_weights(errors, label, np.random.default_rng(0))
    wanted = gap / sd**2
    np.testing.assert_allclose(w / w.mean(), wanted / wanted.mean(), atol=0.12)


def test_bands_that_say_nothing_get_little_and_lies_get_nothing():
    gap = np.repeat([1.0, 1.0, 1.0, 1.0, 0, 0, 0, -1.0, -1.0, -1.0], 10)
    errors, label = drawn(gap, np.full(100, 1.5), 1000, K=4)
    w = level_weights.fit_weights(errors, label, np.random.default_rng(0))
    assert (w[7:] == 0).all() and (w[4:7] < 0.3 * w[:4].mean()).all()


def test_where_nothing_goes_wrong_all_weights_are_the_same():
    errors, label = drawn(np.full(100, 50.0), np.linspace(0.01, 1, 100), 50)
    w = level_weights.fit_weights(errors, label, np.random.default_rng(0))
    np.testing.assert_allclose(w, w.mean(), rtol=0.05)


def test_the_unit_of_errors_and_the_order_of_classes_are_nothing():
    errors, label = drawn(np.linspace(0, 1, 40), np.ones(40), 300, K=3)
    w = level_weights.fit_weights(errors, label, np.random.default_rng(0))
    order = np.array([2, 0, 1])
    again = level_weights.fit_weights(7 * errors[:, order], np.argsort(order)[label], np.random.default_rng(0))
    np.testing.assert_allclose(again, w, rtol=1e-3, atol=1e-3)


def test_many_numbers_are_fitted_on_fewer_draws(monkeypatch):
    """Down to one draw of each image."""
    errors, label = drawn(np.linspace(0, 1, 40), np.ones(40), 300, K=3)
    monkeypatch.setattr(level_weights, "NUMBERS", 1)
    assert level_weights.fit_weights(errors, label, np.random.default_rng(0)).shape == (10,)


def test_gaps_by_hand():
    """Image 0's nearest is class 1 (mean 3), image 1's is class 0 (mean 2)."""
    errors = np.array([[[1.0, 1], [2, 4], [9, 9]], [[2, 2], [1, 2], [9, 9]]])
    mean, sd = level_weights.gaps(errors, np.array([0, 1]))
    assert mean.tolist() == [1, 1.5] and sd.tolist() == [0, 1.5]
    one = np.array([[[1.0], [2.0]]])
    assert [part.tolist() for part in level_weights.gaps(one, np.array([0]))] == [[1], [0]]


def test_accuracies_are_those_of_a_plain_loop():
    errors, label = drawn(np.full(12, 0.5), np.ones(12), 40, K=3)
    weights = np.linspace(0, 2, 12)
    starts = np.random.default_rng(0).random(20)
    for points in (1, 3, 5):
        wanted = np.zeros(40)
        for start in starts:
            look = [int((k + start) * 12 / points) for k in range(points)]
            for image in range(40):
                means = [sum(weights[p] * errors[image, c, p] for p in look) for c in range(3)]
                wanted[image] += (int(np.argmin(means)) == label[image]) / 20
        np.testing.assert_allclose(level_weights.accuracies(errors, label, points, weights), wanted)
    all_points = level_weights.accuracies(errors, label, 12, weights)
    assert np.array_equal(all_points, ((errors * weights).mean(2).argmin(1) == label).astype(float))


# ---- the csv ----


def weights_csv(path, *rows: str):
    path.write_text("\n".join(["level,weight", *rows]) + "\n")
    return path


def test_weights_are_interpolated_and_have_mean_one(tmp_path):
    table = read_level_weights(weights_csv(tmp_path / "w.csv", "6,0", "2,1", "4,3"), 10)
    wanted = np.array([1, 1, 1, 2, 3, 1.5, 0, 0, 0, 0])
    np.testing.assert_allclose(table, wanted / wanted.mean())
    assert table.mean() == pytest.approx(1) and read_level_weights(None, 3).tolist() == [1, 1, 1]


# ---- runs ----


@pytest.fixture(scope="module")
def few(tmp_path_factory):
    return subset(tmp_path_factory.mktemp("few"), *IMAGES)


@pytest.fixture(scope="module")
def two(tmp_path_factory):
    return subset(tmp_path_factory.mktemp("two"), 0, 301)


@pytest.fixture(scope="module")
def grid(run_once, model_folder, few):
    """Every prompt at 20 levels, unweighted: the truth that weighted searches are replayed on."""
    return run_once(SCRIPT, *options(model_folder, to_keep="1", n_samples="20"), *few)


def matrix(record: dict) -> np.ndarray:
    """L2 errors [K, 20], levels ascending."""
    ascending = np.argsort(record["levels"].numpy())
    return np.stack(blocks(record))[:, ascending, 0].astype(float)


@pytest.mark.parametrize("search", ["race", "halving"])
def test_a_weighted_search_is_the_search_on_weighted_errors(run_main, tmp_path, model_folder, two, grid, search):
    path = weights_csv(tmp_path / "w.csv", "100,0.2", "900,3")
    raced = ["--search", "race", "--levels", "0-1", "--max_samples", 20, "--noise", "independent"]  # as the grid
    how = raced if search == "race" else ["--to_keep", 3, 1, "--n_samples", 4, 20]
    start = ["--dataset", "digits", "--version", model_folder, "--device", "cpu"]
    result = run_main(SCRIPT, *start, *how, *two, "--weights", path)
    table = read_level_weights(path, 1000)
    order, ends = (spread_sequence(20, 20), None) if search == "race" else level_sequence([4, 20], 20)
    records = records_of(result)
    assert folder_of(result).name.endswith("samples_levels0-1_independent_ww" if search == "race" else "samples_ww")
    whole = records_of(grid)
    for index, record in records.items():
        full = whole[index]
        level = np.sort(full["levels"].numpy())
        weighted = (matrix(full) * table[level])[:, order]
        task = race(level[order], np.ones(10, int), 3.0) if search == "race" else halving(10, ends, [3, 1])
        winner, nfe = replay(task, weighted, np.ones(10, int))
        assert (record["pred"], record["nfe"]) == (winner, nfe)
        np.testing.assert_array_equal(record["weights"], table[record["levels"]])
        for arm, block in enumerate(blocks(record)):  # what is stored is not weighted
            np.testing.assert_array_equal(block[:, 0], matrix(full)[arm, order][: len(block)].astype(np.float32))
        assert metrics.rescore(record, np.arange(10), "l2") == winner
    said = [line for line in run_main(ACC, folder_of(result), "--loss", "l2").out.splitlines() if "top-1" in line]
    assert said == [line for line in result.out.splitlines() if "top-1" in line]


def test_weights_of_one_are_no_weights(run_main, tmp_path, model_folder, two):
    """But another run; other weights are another, too."""
    path = weights_csv(tmp_path / "w.csv", "5,2")
    args = [*race_options(model_folder, "--max_samples", 8), *two]
    plain, same = run_main(SCRIPT, *args), run_main(SCRIPT, *args, "--weights", path)
    assert folder_of(plain) != folder_of(same)
    assert_same(records_of(plain), records_of(same))
    assert all("weights" not in record for record in records_of(same).values())
    weights_csv(path, "100,1", "900,3")
    result = run_main(SCRIPT, *args, "--weights", path)
    assert result.code == 2 and "weights was" in result.error.problem


@pytest.mark.parametrize("how", [["--search", "race", "--max_samples", 6], ["--to_keep", 3, 1, "--n_samples", 2, 6]])
def test_levels_of_weight_zero_are_not_measured(run_main, tmp_path, model_folder, two, how):
    path = weights_csv(tmp_path / "w.csv", "499,1", "500,0")
    start = ["--dataset", "digits", "--version", model_folder, "--device", "cpu"]
    for record in records_of(run_main(SCRIPT, *start, *how, *two, "--weights", path)).values():
        assert record["levels"].max() < 500 and (record["weights"] > 0).all()


def test_of_a_grid_all_levels_are_measured(run_main, tmp_path, dit_folder, two):
    """DiT; print_dit_acc.py counts the same weights."""
    path = weights_csv(tmp_path / "w.csv", "400,1", "700,0")
    args = ["--dataset", "digits", "--version", dit_folder, "--device", "cpu", *two, "--t_interval", 100]
    result = run_main("eval_prob_dit.py", *args, "--weights", path)
    table = read_level_weights(path, 1000)
    right = []
    for record in records_of(result).values():
        assert sorted(record["levels"].tolist()) == list(range(50, 1000, 100))
        means = [(block[:, 0].astype(float) * table[record["levels"]]).mean() for block in blocks(record)]
        assert record["pred"] == int(np.argmin(means))
        right.append(record["pred"] == record["label"])
    said = run_main("scripts/print_dit_acc.py", folder_of(result)).out
    assert f"{100 * np.mean(right):.2f}%" in re.search(r"^L2 .*", said, re.M)[0]


def test_pairs_are_scored_by_weighted_errors(run_main, tmp_path, model_folder):
    path = weights_csv(tmp_path / "w.csv", "125,1", "375,0", "625,0", "875,30")
    args = ["--dataset", "digits-pairs", "--version", model_folder, "--device", "cpu", "--t_interval", 250]
    result = run_main("run_winoground.py", *args, *subset(tmp_path, 0, 4), "--normalize", "--weights", path)
    table, hits = read_level_weights(path, 1000), []
    assert folder_of(result).name.endswith("_normalized_ww")
    for number, record in records_of(result).items():
        means = [(block[:, 0].astype(float) * table[record["levels"]]).mean() for block in blocks(record)]
        assert record["pred"] == int(np.argmin(means[:2]))
        hits.append(record["pred"] == number % 2)
    text = 100 * np.mean(np.reshape(hits, (-1, 2)).all(1))
    said = run_main("scripts/print_winoground.py", folder_of(result)).out
    assert f"{text:.1f}%" in re.search(r"^all .*", said, re.M)[0].split("(")[0]


# ---- plot_levels.py ----


def test_plot_levels(run_main, tmp_path, model_folder, grid):
    """Its figures are those of the functions; what it writes is what the scripts read."""
    out = [tmp_path / name for name in ("w.csv", "held.npy", "levels.png")]
    refused = run_main(PLOT, folder_of(grid), "--seed", 3, "--weights", "nowhere/w.csv")
    assert refused.error.where.endswith("nowhere/w.csv")
    told = run_main(PLOT, folder_of(grid), "--seed", 3, "--weights", out[0], "--held_out", out[1], "--out", out[2])
    assert told.code == 0, told.err
    records = records_of(grid)
    errors = np.stack([matrix(record) for record in records.values()])
    label = np.array([record["label"] for record in records.values()])
    level = np.sort(records[0]["levels"].numpy())
    mean, sd = level_weights.gaps(errors, label)
    for k, row in enumerate(re.findall(r"^(\d+)-(\d+) +(\S+) +(\S+) +(\S+) +(\S+)$", told.out, re.M)):
        assert [int(end) for end in row[:2]] == level[[2 * k, 2 * k + 1]].tolist()
        np.testing.assert_allclose([float(x) for x in row[2:5]], [mean[k], sd[k], mean[k] / sd[k]], rtol=0.03)
    assert k == 9
    held = np.load(out[1])
    rest = np.isin(IMAGES, held)
    assert 0 < rest.sum() < 4
    table = read_level_weights(out[0], 1000)[level]
    hits = [100 * level_weights.accuracies(errors[rest], label[rest], 20, w).mean() for w in (np.ones(20), table)]
    row = re.search(r"^20 +([\d.]+) \(.*?\) +([\d.]+) \(", told.out, re.M)
    assert [float(x) for x in row.groups()] == [pytest.approx(hit, abs=0.01) for hit in hits]
    assert out[2].stat().st_size > 10_000
    again = run_main(
        SCRIPT, *race_options(model_folder, "--max_samples", 4), "--weights", out[0], "--subset_path", out[1]
    )
    assert sorted(records_of(again)) == sorted(held.tolist())


def test_a_weighted_run_is_replayed(run_main, tmp_path, model_folder, two):
    path = weights_csv(tmp_path / "w.csv", "100,1", "900,2")
    start = options(model_folder, to_keep="1", n_samples="20")
    folder = folder_of(run_main(SCRIPT, *start, *two, "--weights", path))
    assert run_main("studies/plot_budget.py", folder).code == 0


def test_a_class_of_several_ids_is_refused(tmp_path):
    """As ObjectNet's by DiT: the label is all of them."""
    run = results.Run(tmp_path, {"options": {}}, "l2", np.array([7, 3, 7]), np.arange(3), {}, None)
    with pytest.raises(InputError, match="several class ids mean one class"):
        results.read_full(run)


def test_bars_of_one_point_are_drawn(tmp_path):
    level, ones = np.array([10, 20]), np.ones(2)
    row = [(1, [(0.5, (0.1, 0.9))] * 2), (2, [(0.5, (0.1, 0.9))] * 2)]
    levels.draw(level, (ones, ones, ones), row, "$ two", tmp_path / "a.png")
    assert (tmp_path / "a.png").exists()
