"""Probabilities by hand, against scikit-learn, under what must not change them; the command lines on real records."""

import csv
import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import sklearn.metrics
import torch
from helpers import SCRIPT, csv_of, folder_of, race_options, subset, write_run
from PIL import Image
from scipy.optimize import approx_fprime

from diffusion.core.constants import LOSSES
from diffusion.data import digits
from diffusion.plots import confidence, style
from diffusion.runs import records
from diffusion.stats import calibration

CALIBRATE, PRINT = "scripts/calibrate.py", "scripts/print_acc.py"
EXPORT = "scripts/export.py"

# ---- by hand ----


def record(counts, errors, **about) -> dict:
    """A record with those leading counts; l2 arm by arm, the other losses are something else."""
    l2 = torch.tensor(errors, dtype=torch.float32)
    columns = torch.stack([l2 if name == "l2" else -7 * l2 for name in LOSSES], 1)
    return {"losses": list(LOSSES), "counts": torch.tensor(counts), "errors": columns} | about


def test_scores_by_hand():
    """Class 1 wins; class 0 left after a point with 2 against its 1, class 2 was never measured."""
    r = record([1, 3, 0, 3], [2, 1, 2, 3, 2, 2, 5])
    assert calibration.scores(r, np.array([4, 5, 8, 9]), np.arange(4), "l2").tolist() == [-1, 0, -np.inf, -1]
    r = record([2, 2, 2], [2, 4, 1, 1, 1.5, 1.5])  # rows 0 and 2 stand for class 7, and row 1 wins for class 3
    assert calibration.scores(r, np.array([7, 3, 7]), np.arange(3), "l2").tolist() == [0, -0.5]


def test_scores_of_a_class_that_left_while_it_was_ahead_of_the_winner():
    """A tie, which counts for the winner."""
    r = record([1, 2, 2], [1, 2, 0, 2, 2])
    scores = calibration.scores(r, np.arange(3), np.arange(3), "l2")
    assert scores.tolist() == [0, 0, -1]
    assert calibration.rank(scores, 1, pred=1) == 0 and calibration.rank(scores, 0, pred=1) == 1
    assert calibration.rank(scores, 2, pred=1) == 2


def test_rank_by_hand():
    """Never measured is last, whatever else was never measured."""
    scores = np.array([-3, 0, -1, -np.inf, -1, -np.inf])
    assert [calibration.rank(scores, k, pred=1) for k in range(6)] == [3, 0, 2, 5, 2, 5]
    assert [calibration.rank(scores, k, pred=0) for k in range(6)] == [0, 1, 3, 5, 3, 5]  # as votes may choose


def test_probabilities_by_hand():
    p = calibration.probabilities(np.array([[0, -2 * np.log(3), -np.inf], [0, 0, 0]]), 2)
    np.testing.assert_allclose(p, [[3 / 4, 1 / 4, 0], [1 / 3, 1 / 3, 1 / 3]], rtol=1e-14)


P = np.array([[0.5, 0.25, 0.25], [0.125, 0.75, 0.125], [1.0, 0.0, 0.0]])


def test_the_nll_of_an_impossible_label_is_finite():
    assert calibration.nll(P, np.array([0, 2, 1])) == pytest.approx((np.log(2) + np.log(8) - np.log(2.0**-52)) / 3)


def test_ece_by_hand():
    """Two bins: 0.2 and 0.4 with one right of two, 0.6, 0.8 and 1 (the first bin takes the odd one) with two of two."""
    sure, hit = np.array([0.8, 0.2, 1.0, 0.6, 0.4]), np.array([True, True, True, False, False])
    table = calibration.reliability(sure, hit, bins=2)
    np.testing.assert_allclose(table, [[0.4, 1 / 3, 3], [0.9, 1, 2]])
    assert calibration.ece(sure, hit, bins=2) == pytest.approx((3 * (0.4 - 1 / 3) + 2 * 0.1) / 5)
    assert calibration.ece(np.ones(4), np.ones(4, dtype=bool)) == 0  # fewer images than bins
    assert calibration.ece(np.ones(4), np.zeros(4, dtype=bool)) == 1


def test_fit_of_two_classes_by_hand():
    """n images with the same difference d, of which k are right: sigmoid(d / T) = (k + 1) / (n + 2).

    That is Laplace's rule: with all of them right, n + 1 of n + 2.
    """
    d = 0.003
    for n, k in ((10, 7), (10, 10), (98, 98), (1, 1)):
        scores, label = np.tile([0, -d], (n, 1)), (np.arange(n) >= k).astype(int)
        share = (k + 1) / (n + 2)
        assert calibration.fit_temperature(scores, label) == pytest.approx(d / np.log(share / (1 - share)), rel=1e-4)


# ---- against another way to have it ----


@pytest.fixture(scope="module")
def drawn() -> tuple[np.ndarray, np.ndarray]:
    """Scores [4000, 6] and labels that are drawn from their softmax at temperature 0.02."""
    rng = np.random.default_rng(0)
    scores = -np.sort(rng.exponential(0.1, (4000, 6)), 1)
    scores = rng.permuted(scores - scores.max(1, keepdims=True), axis=1)
    p = np.exp(scores / 0.02)
    label = (np.cumsum(p / p.sum(1, keepdims=True), 1) < rng.random((4000, 1))).sum(1)
    return scores, label


@pytest.mark.parametrize("at_once", [1, 7, 10_000])
def test_figures_are_those_of_all_probabilities_at_once(drawn, at_once, monkeypatch):
    monkeypatch.setattr(calibration, "AT_ONCE", at_once)
    scores, label = drawn[:2]
    p = calibration.probabilities(scores, 0.7)
    sure, briers, nlls = calibration.figures(scores, label, 0.7)
    assert np.array_equal(sure, p.max(1))
    assert briers.mean() == calibration.brier(p, label) and nlls.mean() == calibration.nll(p, label)
    some = np.arange(len(label)) % 3 == 1
    for found, wanted in zip(calibration.figures(scores, label, 0.7, some), (sure, briers, nlls), strict=True):
        assert np.array_equal(found, wanted[some])
    written = scores.copy()
    calibration.to_probabilities(written, 0.7)
    assert np.array_equal(written, p)


@pytest.mark.parametrize("at_once", [7])
def test_a_fit_does_not_depend_on_how_many_images_are_in_memory(drawn, at_once, monkeypatch):
    scores, label = (each[:40] for each in drawn)
    models = np.stack([scores, scores[:, ::-1]], 1)
    wanted = calibration.fit_temperature(scores, label), calibration.fit_weights(models, label)
    monkeypatch.setattr(calibration, "AT_ONCE", at_once)
    assert calibration.fit_temperature(scores, label) == pytest.approx(wanted[0], rel=1e-9)
    assert calibration.fit_weights(models, label) == pytest.approx(wanted[1], rel=1e-3)


def test_nll_and_brier_against_scikit_learn(drawn):
    scores, label = drawn
    p = calibration.probabilities(scores, 0.03)
    wanted = sklearn.metrics.log_loss(label, p)
    assert calibration.nll(p, label) == pytest.approx(wanted, rel=1e-12)
    wanted = sklearn.metrics.brier_score_loss(label, p, scale_by_half=False)
    assert calibration.brier(p, label) == pytest.approx(wanted, rel=1e-12)


def test_the_fit_finds_the_temperature_that_labels_were_drawn_at(drawn):
    """And it is a minimum of the plain NLL, to the weight of two images in 4000."""
    scores, label = drawn
    found = calibration.fit_temperature(scores, label)
    assert found == pytest.approx(0.02, rel=0.06)
    slope = approx_fprime(
        [np.log(found)], lambda log_t: calibration.nll(calibration.probabilities(scores, np.exp(log_t)), label), 1e-6
    )
    assert abs(slope[0]) < 2 / 4000
    p = calibration.probabilities(scores, found)
    sure, hit = p.max(1), p.argmax(1) == label
    by_chance = calibration.ece_by_chance(sure)  # 266 images a bin
    assert 0.01 < by_chance < 0.03 and calibration.ece(sure, hit) < 1.5 * by_chance
    assert calibration.ece(calibration.probabilities(scores, 0.005).max(1), hit) > 5 * by_chance


def test_coverage_against_every_threshold(drawn):
    scores, label = drawn
    p = calibration.probabilities(scores, 0.03).round(2)  # with ties
    sure, hit = p.max(1), p.argmax(1) == label
    for (answered, right), threshold in zip(
        zip(*calibration.coverage(sure, hit), strict=True), np.unique(sure)[::-1], strict=True
    ):
        assert answered == np.mean(sure >= threshold) and right == pytest.approx(np.mean(hit[sure >= threshold]))


# ---- what must not change them ----


def test_the_order_of_images_is_nothing(drawn):
    scores, label = (part[:300] for part in drawn)
    order = np.random.default_rng(1).permutation(300)
    p = calibration.probabilities(scores, 0.03).round(1)  # with ties
    sure, hit = p.max(1), p.argmax(1) == label
    assert calibration.ece(sure[order], hit[order]) == pytest.approx(calibration.ece(sure, hit), rel=1e-12)
    assert calibration.nll(p[order], label[order]) == pytest.approx(calibration.nll(p, label), rel=1e-12)
    both = [calibration.coverage(sure[k], hit[k]) for k in (order, slice(None))]
    np.testing.assert_allclose(*both, rtol=1e-12)
    found = [calibration.fit_temperature(scores[k], label[k]) for k in (order, slice(None))]
    assert found[0] == pytest.approx(found[1], rel=1e-5)


def test_the_unit_of_errors_is_nothing(drawn):
    scores, label = (part[:300] for part in drawn)
    found = calibration.fit_temperature(scores, label)
    assert calibration.fit_temperature(1e4 * scores, label) == pytest.approx(1e4 * found, rel=1e-4)


def test_classes_that_were_never_measured_change_no_fit(drawn):
    scores, label = (part[:300] for part in drawn)
    wider = np.concatenate([np.full((300, 3), -np.inf), scores], 1)
    assert calibration.fit_temperature(wider, label + 3) == calibration.fit_temperature(scores, label)
    # a label among them says nothing about the temperature, and breaks nothing
    label = np.append(label, 0)
    assert np.isfinite(calibration.fit_temperature(np.concatenate([wider, wider[:1]]), label))


def test_an_images_side_depends_on_seed_and_index_alone():
    indices = np.arange(2000)
    side = calibration.fitted_on(indices, 0.2, 0)
    assert 340 < side.sum() < 460
    assert (calibration.fitted_on(indices[::-3], 0.2, 0) == side[::-3]).all()
    assert (side != calibration.fitted_on(indices, 0.2, 1)).sum() > 500
    assert np.flatnonzero(side)[:5].tolist() == [2, 7, 19, 29, 30]  # as on any machine


# ---- the command lines ----


def edited(folder: Path, to: Path) -> Path:
    """A run's folder that may be written."""
    return shutil.copytree(folder, to)


@pytest.fixture(scope="module")
def race(run_once, tmp_path_factory, model_folder) -> Path:
    """Twelve images, ten classes, 11 prompts, a race within 20 levels: classes leave early."""
    folder = tmp_path_factory.mktemp("race")
    rows = [f"a photo of the number {word}.,{word},{k}" for k, word in enumerate(digits.WORDS)]
    prompts = csv_of(folder / "p.csv", *rows, "a photo of a red two.,two,2")
    args = [*race_options(model_folder, "--max_samples", 20), "--prompt_path", prompts]
    return folder_of(run_once(SCRIPT, *args, *subset(folder, *range(0, 480, 40))))


def loaded(folder: Path) -> dict[int, dict]:
    return {index: records.load_record(path) for index, path in records.finished(folder).items()}


def test_from_a_race_to_probabilities(run_main, tmp_path, race):
    """The figures are those of the csv's own numbers; the winner has the largest probability."""
    folder = edited(race, tmp_path / "run")
    refused = run_main(EXPORT, folder, "--probabilities", "--out", tmp_path / "p.csv")
    assert refused.code == 2 and "calibrate.py" in refused.err and refused.err.count("\n") == 1
    done = run_main(CALIBRATE, folder, "--fit", 0.4, "--out", tmp_path / "c.png")
    assert done.code == 0, done.err
    with Image.open(tmp_path / "c.png") as picture:
        assert picture.format == "PNG" and picture.width > 800
    fit = json.loads((folder / "calibration.json").read_text())
    assert fit["loss"] == "l2" and fit["fit"] == 0.4 and fit["seed"] == 0
    exported = run_main(EXPORT, folder, "--probabilities", "--out", tmp_path / "p.csv")
    assert exported.code == 0, exported.err
    result = run_main(PRINT, folder, "--top", 3)
    assert result.code == 0, result.err

    with (tmp_path / "p.csv").open() as file:
        rows = list(csv.DictReader(file))
    there = loaded(folder)
    said = [tuple(int(row[key]) for key in ("index", "label", "pred")) for row in rows]
    assert said == [(k, r["label"], r["pred"]) for k, r in there.items()]
    names = [f"probability_{word}" for word in digits.WORDS]
    p = np.array([[float(row[name]) for name in names] for row in rows])  # [12, 10]
    label, pred = (np.array([r[key] for r in there.values()]) for key in ("label", "pred"))
    assert p.shape == (12, 10) and p.sum(1) == pytest.approx(1, abs=1e-4) and (p.argmax(1) == pred).all()
    top = np.array([label[k] in np.argsort(-p[k])[:3] for k in range(12)])
    assert f"top-3 accuracy  {100 * top.mean():.2f}%" in result.out

    held_out = ~calibration.fitted_on(np.array(list(there)), 0.4, 0)
    assert fit["images"] == (~held_out).sum() and f"held out        {held_out.sum()} images" in done.out
    row = re.compile(r"^(\S.{15})([\d.]+) +([\d.]+)$", re.M)
    after = {name.strip(): float(last) for name, _, last in row.findall(done.out)}
    p = p / p.sum(1, keepdims=True)  # it was rounded
    p, label, pred = p[held_out], label[held_out], pred[held_out]
    assert after["NLL, nats"] == pytest.approx(sklearn.metrics.log_loss(label, p, labels=range(10)), rel=2e-3, abs=1e-5)
    hot = np.eye(10)[label]
    assert after["Brier"] == pytest.approx(np.mean(np.sum((p - hot) ** 2, 1)), rel=2e-3, abs=1e-5)
    assert after["ECE"] == pytest.approx(np.mean(np.abs(p.max(1) - (pred == label))), rel=2e-3)  # an image a bin


def test_the_same_fit_again_and_what_another_seed_or_loss_does(run_main, tmp_path, race):
    folder = edited(race, tmp_path / "run")
    path = folder / "calibration.json"
    fits = {}
    for name, more in {"a": [], "again": [], "seed": ["--seed", 3], "l1": ["--loss", "l1"]}.items():
        assert run_main(CALIBRATE, folder, "--fit", 0.5, *more).code == 0
        fits[name] = json.loads(path.read_text())
    assert fits["a"] == fits["again"]
    assert len({fit["temperature"] for fit in fits.values()}) == 3 and fits["l1"]["loss"] == "l1"
    refused = run_main(EXPORT, folder, "--probabilities", "--out", tmp_path / "p.csv")
    assert refused.code == 2 and "--loss l1, wanted l2" in refused.err and not (tmp_path / "p.csv").exists()
    assert run_main(EXPORT, folder, "--probabilities", "--out", tmp_path / "p.csv", "--loss", "l1").code == 0
    ranges = run_main(CALIBRATE, folder, "--fit", 0.5, "--splits", 3)
    assert ranges.code == 0 and re.search(
        r"^ECE +[\d.]+ \([\d.]+ to [\d.]+\) +[\d.]+ \([\d.]+ to [\d.]+\)$", ranges.out, re.M
    )
    assert json.loads(path.read_text()) == fits["a"]  # the first split's


def test_top_k_of_a_race(run_main, race):
    """Top 1 is the accuracy, top 10 is everything; a class that was dropped has a rank too."""
    found = {}
    for k in (1, 4, 10):
        out = run_main(PRINT, race, "--top", k).out
        found[k] = float(re.search(rf"^top-{k} accuracy +([\d.]+)%", out, re.M)[1])
        plain = float(re.search(r"^top-1 accuracy +([\d.]+)%", out, re.M)[1])
    assert found[1] == plain < 100 == found[10]
    # the label's place among all by their excess over the winner at the points shared
    hits = []
    for r in loaded(race).values():
        parts = [part[:, 0].double() for part in torch.split(r["errors"], r["counts"].tolist())]
        of_class = [torch.stack([parts[2], parts[10]]).mean(0) if k == 2 else parts[k] for k in range(10)]
        best = of_class[r["pred"]]
        mean = [float((part - best[: len(part)]).mean()) for part in of_class]
        hits.append(sorted(range(10), key=lambda k: mean[k]).index(r["label"]) < 4)
    assert found[4] == pytest.approx(100 * np.mean(hits), abs=0.005)


def test_a_damaged_record_is_named_and_left_out(run_main, tmp_path, race):
    folder = edited(race, tmp_path / "run")
    (folder / "040.pt").write_bytes(b"half")
    result = run_main(CALIBRATE, folder, "--fit", 0.5)
    assert result.code == 1 and "040.pt" in result.err and (folder / "calibration.json").exists()


def test_a_temperature_that_tells_nothing_by_hand():
    """Two classes, d = log 3 and T = 1: p is 3/4 and 1/4, so 2 log LR of n images, a share s right, is known."""
    s, label = np.array([[0, -np.log(3)]] * 40), np.zeros(40, dtype=int)
    label[:10] = 1  # 3 in 4 are right: 2 * 40 * (log 2 - H(1/4)) = 10.5 > 3.84
    assert not calibration.no_better_than_equal(s, label, 1.0)
    assert calibration.no_better_than_equal(s[7:17], label[7:17], 1.0)  # 7 of 10 are right: 1.53, too few
    label[:20] = 1
    for temperature in (1.0, calibration.fit_temperature(s, label)):  # at chance
        assert calibration.no_better_than_equal(s, label, temperature)
    unmeasured = np.column_stack([s, np.full(40, -np.inf)])
    assert calibration.no_better_than_equal(unmeasured, label, 1.0)


def test_a_run_at_chance_is_warned_of(run_main, tmp_path):
    rng = np.random.default_rng(0)
    label = rng.integers(0, 3, 240)
    for name, gap, warned in [("chance", 0.0, 1), ("good", 2.0, 0)]:
        errors = 1 + rng.normal(size=(240, 3, 8)) / 9
        errors[np.arange(240), label] -= gap / 9
        done = run_main(CALIBRATE, write_run(tmp_path / name, errors, label.tolist()), "--fit", "0.5")
        assert done.code == 0, done.err
        assert done.err.count("equal probabilities of all classes do as well") == warned == done.err.count("\n")


@pytest.mark.parametrize("images, named", [(10, "all 10 images: too few for bins"), (60, "3 bins of 20 images")])
def test_a_reliability_diagram(images, named):
    """Accuracy over confidence with the diagonal; the counts below are of all images; too few for bins is stated."""
    upper, lower = style.new(3, 3).subplots(2, 1)
    sure = np.linspace(0.4, 0.9, images)
    bins = confidence.draw_reliability(upper, lower, sure, np.arange(images) % 2 == 0)
    diagonal, points = upper.get_lines()
    assert diagonal.get_xdata().tolist() == diagonal.get_ydata().tolist() == [0, 100]
    np.testing.assert_allclose(points.get_xdata(), 100 * bins[:, 0])
    np.testing.assert_allclose(points.get_ydata(), 100 * bins[:, 1])
    assert points.get_label().startswith(named)
    assert sum(bar.get_height() for bar in lower.patches) == images
    assert upper.get_xlim() == upper.get_ylim() == lower.get_xlim()


def test_bins_by_the_number_of_images():
    assert [calibration.bins_for(n) for n in (1, 39, 40, 100, 300, 50_000)] == [1, 1, 2, 5, 15, 15]


def test_few_images_are_warned_of_and_files_are_named(run_main, tmp_path, race):
    folder = edited(race, tmp_path / "run")
    done = run_main("scripts/calibrate.py", folder, "--fit", "0.5", "--out", tmp_path / "out.png")
    assert done.code == 0 and "held out, wanted 20 and 100" in done.err
    assert f"{folder / 'calibration.json'}, {tmp_path / 'out.png'}" in done.out


def test_the_derivative_of_the_likelihood_by_the_weights():
    """As by central differences; one image's label is so unlikely that its probability counts as EPS."""
    rng = np.random.default_rng(3)
    scores, label = rng.standard_normal((30, 3, 5)), rng.integers(5, size=30)
    scores[0, :, label[0]] -= 100
    weights = np.array([1.0, 0.5, 2.0])
    _, slope = calibration.unlikelihood(weights, scores, label)
    for r, step in enumerate(1e-5 * np.eye(3)):
        above, below = (calibration.unlikelihood(weights + sign * step, scores, label)[0] for sign in (1, -1))
        assert slope[r] == pytest.approx((above - below) / 2e-5, rel=1e-6)


@pytest.mark.parametrize("script", [CALIBRATE, "scripts/plot_levels.py"])
def test_one_image_is_one_image(run_main, tmp_path, script):
    folder = write_run(tmp_path / "run", np.random.default_rng(0).random((1, 3, 20)), [0])
    done = run_main(script, folder)
    assert done.code == 2 and done.error.where.startswith("--fit 0.") and done.error.problem.startswith("of 1 image, ")


def test_models_that_say_nothing_have_no_weight():
    """One whose scores are all equal, and one that is worse than chance; of such alone all weights are 0."""
    rng = np.random.default_rng(4)
    label = rng.integers(3, size=60)
    good = rng.standard_normal((60, 3))
    worse = -good
    good[np.arange(60), label] += 2
    worse[np.arange(60), label] -= 2
    equal = np.zeros((60, 3))
    w = calibration.fit_weights(np.stack([good, equal], 1), label)
    assert w[0] > 0.5 and w[1] == 0
    assert calibration.fit_weights(np.stack([equal, worse], 1), label).tolist() == [0, 0]
