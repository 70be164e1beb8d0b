"""A training small enough to run here, stopped and gone on with, to a folder that classifies."""

import json

import pytest
import torch
from PIL import Image

from diffusion.models.loading import load_model, read_card

SCRIPT = "scripts/train_classifier.py"
SMALL = "--image_size", 8, "--channels", 8, 16, "-b", 8, "--save_every", 2, "--lr", 1e-2


@pytest.fixture
def photos(tmp_path):
    """Light and dark squares: twelve of each to train on, three to test."""
    for split, n in ("train", 12), ("test", 3):
        for name, shade in ("dark", 30), ("light", 220):
            (tmp_path / "photos" / split / name).mkdir(parents=True)
            for k in range(n):
                Image.new("RGB", (10, 8), (shade + k,) * 3).save(tmp_path / "photos" / split / name / f"{k}.png")
    return tmp_path / "photos"


@pytest.mark.slow
def test_a_folder_becomes_a_classifier(run_main, tmp_path, photos):
    out = tmp_path / "model"
    train = SCRIPT, photos, "--out", out, "--grey", "--null", 0.2, *SMALL
    done = run_main(*train, "--steps", 2)
    assert done.code == 0, done.err
    first = load_model(read_card(str(out), conditioned_on="class"))
    gone_on = run_main(*train, "--steps", 40)
    assert gone_on.code == 0, gone_on.err
    assert [path.name for path in (out / "training").glob("step-*")] == ["step-0000040"]
    assert "already" in run_main(*train, "--steps", 40).out

    card = read_card(str(out), conditioned_on="class")
    assert (card.called, card.classes, card.latent) == (("dark", "light"), 2, (1, 8, 8))
    assert json.loads((out / "unet/config.json").read_text())["num_class_embeds"] == 3, "with the null class"
    z, time = torch.zeros(1, 1, 8, 8), torch.tensor([500])
    with torch.inference_mode():
        predictions = [model.denoise(z, time, model.conditions([0])) for model in (load_model(card), first)]
    assert not torch.equal(*predictions)
    assert Image.open(out / "samples.png").size == (8 * 10 + 2, 2 * 10 + 2)

    args = "--version", out, "--dataset", photos, "--search", "race", "--randomize_noise", "--device", "cpu"
    done = run_main("eval_prob_dit.py", *args)
    assert done.code == 0, done.err
    (run,) = (tmp_path / "data").rglob("run.json")
    printed = run_main("scripts/print_acc.py", run.parent)
    assert "100.00%" in printed.out, printed.out


@pytest.mark.slow
def test_another_training_is_refused(run_main, tmp_path, photos):
    train = SCRIPT, photos, "--out", tmp_path / "model", *SMALL, "--steps", 2
    assert run_main(*train).code == 0
    done = run_main(*train, "--null", 0.5)
    assert done.code == 2 and "null was 0.0, now 0.5" in done.err and "Traceback" not in done.err
    (photos / "train/dark/new.png").write_bytes((photos / "train/dark/0.png").read_bytes())
    done = run_main(*train)
    assert done.code == 2 and "24 images, now 25" in done.error.problem


def test_bad_data(run_main, tmp_path, photos):
    one = tmp_path / "one" / "train" / "cat"
    one.mkdir(parents=True)
    Image.new("RGB", (8, 8)).save(one / "a.png")
    done = run_main(SCRIPT, tmp_path / "one", "--out", tmp_path / "model", *SMALL)
    assert done.code == 2 and "1 class" in done.err
    (photos / "train" / "dark" / "broken.png").write_bytes(b"no image")
    done = run_main(SCRIPT, photos, "--out", tmp_path / "model", *SMALL)
    assert done.code == 2 and "broken.png" in done.err and "Traceback" not in done.err
