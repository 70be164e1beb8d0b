"""From Python: one picture, a list of prompts."""

import subprocess
import sys

import numpy as np
import pytest
import torch
from conftest import ROOT

from diffusion import classify, load_model
from diffusion.datasets import load_dataset
from diffusion.decide import Answer
from diffusion.prompts import prompts_file, read_prompts
from diffusion.records import load_record

PROMPTS = read_prompts(ROOT / "prompts" / prompts_file("digits")).texts


@pytest.fixture(scope="module")
def model(model_folder):
    return load_model(str(model_folder))


@pytest.mark.parametrize("loss", ["l2", "l1"])
def test_the_answer_is_the_script_s(run_main, tmp_path, model_folder, model, loss):
    """Image 0 of a data set: the same winner, NFE and errors, to the bit."""
    np.save(tmp_path / "first.npy", np.array([0]))
    args = "--version", model_folder, "--dataset", "digits", "--subset_path", tmp_path / "first.npy", "--device", "cpu"
    done = run_main("eval_prob_adaptive.py", *args, "--search", "race", "--loss", loss)
    assert done.code == 0, done.err
    (path,) = (tmp_path / "data" / "digits").glob("*/000.pt")
    record = load_record(path)
    answer = classify(model, load_dataset("digits").open(0), PROMPTS, loss=loss)
    assert (answer.best, answer.nfe, answer.decided) == (record["pred"], record["nfe"], record["decided"])
    parts = record["errors"][:, record["losses"].index(loss)].double().split(record["counts"].tolist())
    for k, part in enumerate(parts):
        shared = parts[answer.best][: len(part)]
        assert answer.scores[k] == pytest.approx((part - shared).mean().item(), abs=1e-12)


def test_what_comes_back(model):
    image = load_dataset("digits").open(3).convert("RGBA")
    answer = classify(model, image, PROMPTS)
    assert isinstance(answer, Answer) and answer.scores.shape == (10,)
    assert answer.scores[answer.best] == 0 == answer.scores.min() and answer.decided
    assert classify(model, image, PROMPTS, batch_size=3).scores.tolist() == answer.scores.tolist()
    assert classify(model, image, PROMPTS, seed=1).scores.tolist() != answer.scores.tolist()
    short = classify(model, image, PROMPTS, budget=20)
    assert short.nfe == 20 and not short.decided


def test_class_ids(dit_folder):
    from diffusion.models import read_card

    model = load_model(read_card(str(dit_folder), told="class"), dtype=torch.float32, device="cpu")
    data = load_dataset("digits")
    answers = [classify(model, data.open(k), list(range(10)), max_samples=64).best for k in range(8)]
    assert np.mean(np.array(answers) == data.labels[:8]) > 0.7


def test_the_package_imports_nothing_heavy():
    quick = "import sys, diffusion; assert 'torch' not in sys.modules; diffusion.InputError"
    assert subprocess.run([sys.executable, "-c", quick], cwd=ROOT).returncode == 0
    assert not hasattr(__import__("diffusion"), "nothing")
