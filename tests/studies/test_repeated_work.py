"""What a network computes again: shares of operations in closed form, and the savings that are measured are exact."""

import re

import pytest
import repeated_work
import torch
from diffusers import PixArtTransformer2DModel
from repeated_work import TO_K_AND_V, Row, adapter_of, counts, ragged, share, shares

from diffusion.models.families import FAMILIES

SAME_NETWORK = {  # families whose network stands in the table under another's name
    "LatentConsistencyModelPipeline", "PixArtAlphaPipeline", "Flux2KleinPipeline", "DDPMPipeline", "DDIMPipeline",
    "LDMPipeline",
}  # fmt: skip


def pixart() -> PixArtTransformer2DModel:
    return PixArtTransformer2DModel(
        num_layers=3, num_attention_heads=2, attention_head_dim=8, sample_size=8, cross_attention_dim=16,
        caption_channels=32, use_additional_conditions=False,
    )  # fmt: skip


def test_every_family_is_counted():
    assert {row.pipeline for row in repeated_work.ROWS} | SAME_NETWORK == set(FAMILIES)


def test_shares_are_those_of_the_formulas():
    """A tiny PixArt: keys and values of 16 tokens, 2 * 2 * 16 * 16 * 16 operations in each of 3 layers."""
    text = TO_K_AND_V + "|^caption_projection$"
    row = Row(
        "tiny", "PixArtSigmaPipeline", pixart, 4, (8, 8), lambda n: {"text": ragged(n, 32)}, text, tokens=16, padded=48
    )
    found = counts(row, *adapter_of(row), 8, 16)
    keys_and_values = 3 * 2 * 2 * 16 * 16 * 16
    projection = 2 * 16 * (32 * 16 + 16 * 16)
    assert share(found, TO_K_AND_V) == pytest.approx(keys_and_values / found[""])
    assert share(found, text) == pytest.approx((keys_and_values + projection) / found[""])
    assert share(found, "^transformer_blocks") == pytest.approx(share(found, r"^transformer_blocks\.\d+$"))
    padded = counts(row, *adapter_of(row), 8, 48)
    scores = 3 * 2 * 2 * 16 * 16  # of each further token with 16 squares, and the sum of its values
    assert padded[""] - found[""] == 32 * (keys_and_values // 16 + projection // 16 + scores)
    native, small = shares(row)
    assert native == small and native["padding"] == pytest.approx(1 - found[""] / padded[""])


def test_what_is_saved_is_exact():
    with torch.no_grad():
        lines = [
            repeated_work.time_sana(1, layers=1, rows=1),
            repeated_work.time_qwen_image_21(1, layers=2, heads=1, side=4, rows=2),
        ]
    for line in lines:
        operations, difference = re.findall(r"([\d.e+-]+) of the operations, differs by ([\d.e+-]+) of", line)[0]
        assert 0 < float(operations) < 1
        assert float(difference) < 2e-6
