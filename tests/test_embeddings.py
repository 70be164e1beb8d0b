"""Embeddings that are kept in a file: the same bits, for the same options; a damaged file is never believed."""

from dataclasses import replace

import pytest
import torch
from helpers import folder_of, race_options, records_of

from diffusion.core.conditions import Conditions
from diffusion.evaluate import embeddings
from diffusion.evaluate.embeddings import WITHOUT_EFFECT, cache_path, embed, read, write
from diffusion.models.loading import load_model
from diffusion.runs.records import read_run

CPU = torch.device("cpu")
SCRIPT = "eval_prob_adaptive.py"


def some() -> Conditions:
    """A column of equal rows in bfloat16, and one of rows that differ in length."""
    draw = torch.Generator().manual_seed(0)
    text = torch.randn(3, 5, 4, generator=draw).bfloat16()
    return Conditions({"text": text, "long": tuple(torch.randn(n, 2, generator=draw) for n in (1, 4, 2))})


def test_a_file_gives_back_every_bit(tmp_path):
    write(some(), tmp_path / "e.safetensors")
    found = read(tmp_path / "e.safetensors", CPU)
    assert list(found.columns) == ["text", "long"] and found.digest() == some().digest() and len(found) == 3


def test_a_damaged_file_is_not_believed(tmp_path):
    path = tmp_path / "e.safetensors"
    assert read(path, CPU) is None
    write(some(), path)
    whole = path.read_bytes()
    for place in range(8, len(whole), 29):
        damaged = bytearray(whole)
        damaged[place] ^= 4
        path.write_bytes(damaged)
        found = read(path, CPU)
        assert found is None or found.digest() == some().digest(), place
    path.write_bytes(whole[:-8])
    assert read(path, CPU) is None


def test_only_options_without_effect_share_a_file(tmp_path):
    options = {"model": "a", "dtype": "float32", "z": 3.0}
    path = cache_path(tmp_path, options, ["one", "two"], CPU)
    for key in sorted(WITHOUT_EFFECT):
        assert cache_path(tmp_path, options | {key: "other"}, ["one", "two"], CPU) == path
    others = [
        cache_path(tmp_path, options | {"dtype": "bfloat16"}, ["one", "two"], CPU),
        cache_path(tmp_path, options | {"weights of text_encoder": "0"}, ["one", "two"], CPU),
        cache_path(tmp_path, options, ["two", "one"], CPU),
        cache_path(tmp_path, options, ["one", "two"], torch.device("cuda")),
    ]
    assert len({path, *others}) == 5


def test_files_of_another_layout_are_not_read(tmp_path, monkeypatch):
    path = cache_path(tmp_path, {}, ["one"], CPU)
    monkeypatch.setattr(embeddings, "LAYOUT", embeddings.LAYOUT + 1)
    assert cache_path(tmp_path, {}, ["one"], CPU) != path


def test_prompts_are_embedded_once(tmp_path, monkeypatch):
    monkeypatch.setattr(embeddings, "MANY", 3)
    model = load_model("digits")
    prompts = [f"a photo of the number {word}." for word in ("zero", "one", "two", "three")]
    plain = model.conditions(prompts)
    first = embed(model, prompts, None, tmp_path / "e.safetensors")
    without = replace(model, conditions=lambda *_, **__: pytest.fail("embedded again"))
    again = embed(without, prompts, None, tmp_path / "e.safetensors")
    assert first.digest() == again.digest() == plain.digest()


@pytest.mark.parametrize("damaged", [False, True])
def test_a_run_with_a_file_is_the_run_without(run_main, tmp_path, monkeypatch, damaged):
    words = race_options("digits", "--limit", 1, "--max_samples", 6)
    plain = run_main(SCRIPT, *words, log="plain")
    monkeypatch.setattr(embeddings, "MANY", 5)
    made = run_main(SCRIPT, *words, log="kept")
    (file,) = (tmp_path / "kept/embeddings").iterdir()
    if damaged:
        file.write_bytes(file.read_bytes()[:-1])
    read_back = run_main(SCRIPT, *words, "--z", 2.5, log="kept")
    assert made.code == read_back.code == 0 and list(file.parent.iterdir()) == [file]
    wanted, found = records_of(plain), records_of(made)
    assert read_run(folder_of(plain))["options"] == read_run(folder_of(made))["options"]
    assert all(torch.equal(record["errors"], wanted[index]["errors"]) for index, record in found.items())
    for index, record in records_of(read_back).items():  # a smaller z: a beginning of the same errors
        for arm, errors in enumerate(record["errors"].split(record["counts"].tolist())):
            longer = found[index]["errors"].split(found[index]["counts"].tolist())[arm]
            assert torch.equal(errors, longer[: len(errors)])
