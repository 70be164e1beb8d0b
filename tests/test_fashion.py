"""models/fashion-unet: what train_classifier.py left, on twenty test images of Fashion-MNIST, two of each class."""

from pathlib import Path

import numpy as np
import pytest

from diffusion import classify
from diffusion.models.aliases import EMBEDDED
from diffusion.models.loading import load_model, read_card

FOLDER = EMBEDDED / "fashion-unet"


@pytest.fixture(scope="module")
def images():
    stored = np.load(Path(__file__).parent / "fashion.npz")
    return stored["images"], stored["labels"]


def test_it_is_small_and_says_its_classes():
    card = read_card("fashion", conditioned_on="class")
    assert (card.classes, card.latent, card.image_size) == (10, (1, 28, 28), 28)
    assert card.called[0] == "T-shirt/top" and card.called[9] == "Ankle boot"
    assert sum(path.stat().st_size for path in FOLDER.rglob("*") if path.is_file()) < 8e6


def test_it_knows_clothes(images):
    pixels, labels = (each[:10] for each in images)
    model = load_model(read_card("fashion", conditioned_on="class"))
    answers = classify(model, list(pixels), range(10), max_samples=20)
    assert sum(answer.best == label for answer, label in zip(answers, labels, strict=True)) >= 7
    assert sum(answer.nfe for answer in answers) < 10 * 200
