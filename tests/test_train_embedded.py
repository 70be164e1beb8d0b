"""A few steps of the training give a model that the main script loads and runs; the shipped one took 5000."""

import numpy as np
import pytest
from transformers import CLIPTokenizer

from diffusion import digits


@pytest.mark.slow
def test_a_few_steps_give_a_model(run_script, run_main, tmp_path):
    trained = run_script("scripts/train_embedded.py", "sd", "--steps", 13, "--folder", tmp_path / "sd")
    assert trained.code == 0, trained.err
    np.save(tmp_path / "s.npy", np.array([0]))
    schedule = ["--to_keep", 1, "--n_samples", 2, "--subset_path", tmp_path / "s.npy"]
    done = run_main("eval_prob_adaptive.py", "--version", tmp_path / "sd", "--dataset", "digits", *schedule)
    assert done.code == 0, done.err
    tokenizer = CLIPTokenizer.from_pretrained(tmp_path / "sd" / "tokenizer")
    for caption in (digits.caption_one(3), digits.caption_two((0, 3), (5, 7), "to the right of")):
        words = tokenizer.tokenize(caption)  # every word of the captions is one token
        assert [w.removesuffix("</w>") for w in words] == caption.replace(".", " .").split()


def test_unseen_pairs_are_no_training_pairs():
    assert len(digits.SEEN) == 52 and not set(digits.SEEN) & set(digits.UNSEEN)
    assert len({d for _, d in digits.UNSEEN}) == len(digits.UNSEEN)  # one colour per digit
