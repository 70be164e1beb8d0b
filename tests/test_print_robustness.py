"""Effective robustness: the line by hand, and the table and picture from runs on disk."""

import json

import numpy as np
import pytest
import torch
from helpers import import_script
from scipy.special import expit, logit

from diffusion.data.datasets import class_arms
from diffusion.runs.records import save_record

SCRIPT = "scripts/print_robustness.py"
module = import_script(SCRIPT)


def make_run(folder, model, dataset, right, n=100, classes=10, label=lambda k: k % 10):
    """A run over n images, of which the first `right` are right: class errors 0, 1, ... from the answer on."""
    folder.mkdir(parents=True)
    arms = [[str(k), f"class {k}", k] for k in range(classes)]
    options = {"model": model, "dataset": dataset, "loss": "nll"}
    (folder / "run.json").write_text(
        json.dumps({"options": options, "images": n, "arms": arms, "all_arms": f"0-{classes - 1}"})
    )
    for k in range(n):
        pred = label(k) if k < right else (label(k) + 1) % classes
        errors = torch.arange(classes).roll(pred).float()[:, None]
        counts, one = torch.ones(classes, dtype=torch.int64), torch.zeros(1, dtype=torch.int64)
        about = {"index": k, "label": label(k), "pred": pred, "nfe": 1, "losses": ["nll"]}
        save_record(folder / f"{k:03d}.pt", about | {"levels": one, "noise": one, "counts": counts, "errors": errors})
    return folder


def test_the_trend_through_two_points():
    """logit(0.5) = 0 -> logit(0.2), logit(0.8) -> logit(0.5) = 0: slope 1, intercept -logit(0.8)."""
    slope, intercept = module.trend(np.array([0.5, 0.8]), np.array([0.2, 0.5]))
    assert slope == pytest.approx(1) and intercept == pytest.approx(-logit(0.8))


def test_the_table(run_main, tmp_path):
    accuracies = {"timm:a": (50, 20), "timm:b": (80, 50), "digits": (60, 50)}
    folders = []
    for model, both in accuracies.items():
        for dataset, right in zip(("digits", "digits-unseen"), both, strict=True):
            folders.append(make_run(tmp_path / f"{model}{dataset}".replace(":", ""), model, dataset, right))
    done = run_main(SCRIPT, *folders, "--base", "digits", "--out", tmp_path / "r.png")
    assert done.code == 0, done.err
    rows = {line.split()[0]: line.split() for line in done.out.splitlines() if line.startswith("  ")}
    expected = 100 * (0.5 - expit(logit(0.6) - logit(0.8)))
    assert rows["digits"][-1] == f"{expected:+.1f}" and rows["digits"][1] == "60.0" and rows["digits"][3] == "50.0"
    assert rows["timm:a"][-1] in ("+0.0", "-0.0") and rows["timm:b"][-1] in ("+0.0", "-0.0")
    assert (tmp_path / "r.png").stat().st_size > 5000
    done = run_main(SCRIPT, folders[0], folders[1], folders[4], folders[5], "--base", "digits")
    assert done.code == 0 and "+" not in done.out, "one classifier makes no trend"


def test_a_part_of_the_classes(run_main, tmp_path):
    """ImageNet-A's classes decide alone: a wrong answer outside of them turns into the next class inside."""
    ids = sorted(class_arms("imagenetA", 1000))
    outside = [k for k in range(1000) if k not in ids]
    labels = [ids[0], ids[1], outside[0], ids[2]]
    base = make_run(tmp_path / "base", "timm:a", "imagenet", 4, 4, 1000, lambda k: labels[k])
    shifted = make_run(tmp_path / "a", "timm:a", "imagenetA", 1, 2, 1000, lambda k: ids[k])
    wrong = torch.load(base / "000.pt", weights_only=True)
    wrong["errors"][outside[0]] = -1.0  # preferred to all, but it is no class of ImageNet-A
    save_record(base / "000.pt", wrong | {"pred": outside[0]})
    done = run_main(SCRIPT, base, shifted)
    assert done.code == 0, done.err
    assert "imagenetA, 200 of the classes" in done.out and done.out.splitlines()[-1].split()[1] == "100.0"
