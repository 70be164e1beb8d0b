"""Conditions: rows of named tensors, by hand."""

import numpy as np
import pytest
import torch

from diffusion.core.conditions import Conditions, places_of


def three() -> Conditions:
    """Three rows: text of 2, 1 and 3 tokens, a pooled one, and a setting each."""
    text = tuple(torch.arange(n * 4, dtype=torch.float32).view(n, 4) + 100 * n for n in (2, 1, 3))
    return Conditions({"text": text, "pooled": torch.tensor([[0.0], [1.0], [2.0]])}, ("a", "b", "a"))


@pytest.mark.parametrize("rows, wanted", [
    (1, [1]), (-1, [2]), (slice(1, None), [1, 2]), ([2, 0, 0], [2, 0, 0]), (np.array([1, 2]), [1, 2]),
    (torch.tensor([0, 2]), [0, 2]), (np.int64(2), [2]), ([], []),
], ids=str)  # fmt: skip
def test_rows_are_taken_of_every_column(rows, wanted):
    whole = three()
    found = whole[rows]
    assert len(found) == len(wanted)
    assert found["pooled"][:, 0].tolist() == wanted
    assert found.settings == tuple("aba"[row] for row in wanted)
    assert len(found["text"]) == len(wanted)
    assert all(torch.equal(text, whole["text"][row]) for text, row in zip(found["text"], wanted, strict=True))


@pytest.mark.parametrize("row", [3, -4])
def test_a_row_that_is_not_there(row):
    with pytest.raises(IndexError):
        three()[row]


def test_iteration_ends():
    assert [row["pooled"].item() for row in three()] == [0, 1, 2]


def test_parts_are_joined_in_order():
    whole = three()
    assert Conditions.cat([whole[:2], whole[2]]).digest() == whole.digest()
    assert Conditions.cat([whole[[2]], whole[[0, 1]]])[[1, 2, 0]].digest() == whole.digest()
    assert Conditions.cat([whole[:1], whole[1:]]).settings == whole.settings


def test_a_digest_depends_on_every_bit():
    """And on shapes and names; not on where the tensors lie in memory."""
    whole = three()
    assert whole.map(torch.clone).digest() == whole.digest()
    text, pooled = whole["text"], whole["pooled"]
    others = [
        Conditions({"text": text, "pooled": pooled + 1e-7}),
        Conditions({"text": text[::-1], "pooled": pooled}),
        Conditions({"text": text, "other": pooled}),
        Conditions({"text": tuple(each.view(4, -1) for each in text), "pooled": pooled}),
        Conditions({"text": text, "pooled": pooled.double()}),
        whole[:2],
    ]
    assert len({each.digest() for each in [whole, *others]}) == 7


def test_memory_is_that_of_the_tokens():
    assert three().nbytes == 4 * (4 * (2 + 1 + 3) + 3)


def test_a_function_of_every_tensor():
    halved = three().map(lambda tensor: tensor.half())
    assert {each.dtype for each in (*halved["text"], halved["pooled"])} == {torch.float16}
    assert halved.settings == ("a", "b", "a")


def test_places():
    assert places_of("abac") == {"a": [0, 2], "b": [1], "c": [3]} and places_of([]) == {}
