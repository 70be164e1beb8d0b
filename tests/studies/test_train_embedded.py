"""A few steps of the training give models that the main scripts load and run; the shipped ones took thousands."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from diffusers import LCMScheduler, StableDiffusionPipeline
from helpers import ROOT, import_script
from safetensors.torch import load_file
from transformers import CLIPTokenizer

from diffusion.data import digits
from diffusion.models.loading import read_card
from diffusion.runs.records import load_record


@pytest.mark.slow
def test_a_few_steps_give_a_model(run_main, tmp_path):
    trained = run_main("studies/train_embedded.py", "sd", "--steps", 7, "--folder", tmp_path / "sd")
    assert trained.code == 0, trained.err
    np.save(tmp_path / "s.npy", np.array([0]))
    schedule = ["--to_keep", 1, "--n_samples", 2, "--subset_path", tmp_path / "s.npy"]
    done = run_main("eval_prob_adaptive.py", "--version", tmp_path / "sd", "--dataset", "digits", *schedule)
    assert done.code == 0, done.err
    tokenizer = CLIPTokenizer.from_pretrained(tmp_path / "sd" / "tokenizer")
    for caption in (digits.caption_one(3), digits.caption_two((0, 3), (5, 7), "to the right of")):
        words = tokenizer.tokenize(caption)  # every word of the captions is one token
        assert [w.removesuffix("</w>") for w in words] == caption.replace(".", " .").split()


@pytest.mark.slow
def test_a_few_steps_give_a_class_conditional_model(run_main, tmp_path, monkeypatch):
    """With a VAE of its own, that of the text model; its second half of channels is a variance: the bound is finite.

    The bound is trained on as rows, each image's prediction with its own noise and level: shapes that broadcast would
    mix them in silence.
    """
    module = import_script("studies/train_embedded.py")
    bound, shapes = module.variational_bound, []

    def watched(process, x, eps, i, prediction, variance):
        out = bound(process, x, eps, i, prediction, variance)
        shapes.append({x.shape, eps.shape, prediction.shape, variance.shape, (len(i), *x.shape[1:])})
        assert out.shape == i.shape
        return out

    monkeypatch.setattr(module, "variational_bound", watched)
    trained = run_main(module, "dit", "--steps", 2, "--folder", tmp_path / "dit")
    assert trained.code == 0, trained.err
    assert [len(each) for each in shapes] == [1, 1]
    ours, theirs = (
        load_file(folder / "vae/diffusion_pytorch_model.safetensors")
        for folder in (tmp_path / "dit", ROOT / "models/digits-sd")
    )
    assert ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in ours)
    card = read_card(str(tmp_path / "dit"), conditioned_on="class")
    shipped = read_card("digits", conditioned_on="class")
    assert replace(card, source=shipped.source) == shipped and card.has_bound and card.classes == 10
    args = ["--dataset", "digits", "--version", tmp_path / "dit", "--t_interval", 500, "--imgs_to_eval", 1]
    done = run_main("eval_prob_dit.py", *args, "--save_vb", "--device", "cpu")
    assert done.code == 0, done.err
    (record,) = (load_record(path) for path in (tmp_path / "data").rglob("*.pt"))
    assert record["errors"].shape == (20, 4) and (record["errors"] > 0).all()


@pytest.mark.slow
@pytest.mark.parametrize("stage, weights", [
    ("sd-2", "unet/diffusion_pytorch_model.safetensors"), ("dit-2", "transformer/diffusion_pytorch_model.safetensors"),
])  # fmt: skip
def test_a_second_stage_goes_on_with_the_shipped_weights(run_main, tmp_path, stage, weights):
    trained = run_main("studies/train_embedded.py", stage, "--steps", 2, "--folder", tmp_path)
    assert trained.code == 0, trained.err
    before = load_file(ROOT / f"models/digits-{stage.removesuffix('-2')}" / weights)
    after = load_file(tmp_path / weights)
    assert before.keys() == after.keys()
    change = max((after[name].float() - before[name].float()).abs().max() for name in before)
    assert 0 < change < 0.02


@pytest.mark.slow
def test_a_few_steps_distil_the_shipped_model(run_main, tmp_path):
    """A U-Net of its own beside the teacher's other parts, as users have it: with LCM's scheduler."""
    trained = run_main("studies/train_embedded.py", "lcm", "--steps", 2, "--folder", tmp_path / "lcm")
    assert trained.code == 0, trained.err
    for part, most in (("unet", 0.02), ("vae", 0), ("text_encoder", 0)):
        before, after = (
            load_file(next((folder / part).glob("*.safetensors")))
            for folder in (ROOT / "models/digits-sd", tmp_path / "lcm")
        )
        assert before.keys() == after.keys() and {value.dtype for value in after.values()} == {torch.float16}
        change = max((after[name].float() - before[name].float()).abs().max() for name in before)
        assert change <= most and (change > 0) == (most > 0)
    few = StableDiffusionPipeline.from_pretrained(tmp_path / "lcm", dtype=torch.float32)
    assert isinstance(few.scheduler, LCMScheduler) and few.scheduler.config.clip_sample is False
    drawn = few(digits.caption_one(3), num_inference_steps=4, guidance_scale=1.0, output_type="np").images
    assert drawn.shape == (1, 32, 32, 3) and drawn.std() > 0.05
    np.save(tmp_path / "s.npy", np.array([0]))
    schedule = ["--to_keep", 1, "--n_samples", 2, "--subset_path", tmp_path / "s.npy"]
    done = run_main("eval_prob_adaptive.py", "--version", tmp_path / "lcm", "--dataset", "digits", *schedule)
    assert done.code == 0, done.err


@pytest.mark.slow
def test_a_few_steps_give_a_clip(run_main, tmp_path):
    trained = run_main("studies/train_embedded.py", "clip", "--steps", 2, "--folder", tmp_path / "clip")
    assert trained.code == 0, trained.err
    np.save(tmp_path / "s.npy", np.array([0]))
    args = ["--model", "clip", "--version", tmp_path / "clip", "--dataset", "digits-pairs", "--device", "cpu"]
    done = run_main("run_winoground.py", *args, "--subset_path", tmp_path / "s.npy")
    assert done.code == 0 and "1 of 1" in done.out, done.err


def test_unseen_pairs_are_no_training_pairs():
    assert len(digits.SEEN) == 52 and not set(digits.SEEN) & set(digits.UNSEEN)
    assert len({d for _, d in digits.UNSEEN}) == len(digits.UNSEEN)  # one colour per digit
