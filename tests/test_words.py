"""Prompts that a model cannot tell apart are named before anything is measured, and refused where all are such."""

import json
import shutil
import warnings

import numpy as np
import pytest
import tiny
import torch
from diffusers import StableDiffusionXLPipeline
from helpers import refused
from PIL import Image
from safetensors.torch import load_file, save_file
from transformers import CLIPTokenizer

from diffusion import InputError, InputWarning, classify, score
from diffusion.core.conditions import Conditions
from diffusion.models.loading import _check_distinct, _near, load_model, read_card

SCRIPT = "eval_prob_adaptive.py"
ARGS = ["--dataset", "digits", "--device", "cpu", "--to_keep", 1, "--n_samples", 2]
LONG = "a photo of the red cat " * 400  # longer than any text encoder takes
WORDS = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"]


@pytest.fixture
def folder(tmp_path, model_folder):
    """A copy of the embedded model, to be changed."""
    shutil.copytree(model_folder, tmp_path / "model")
    return tmp_path / "model"


def told_apart(model, prompts) -> list[str]:
    """The warnings of prompts that the network cannot distinguish."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        model.conditions(prompts)
    return [str(each.message) for each in caught if "cannot distinguish them" in str(each.message)]


def write_prompts(path, texts) -> list:
    rows = [f'"{text}",{k},{k}\n' for k, text in enumerate(texts)]
    path.write_text("prompt,classname,classidx\n" + "".join(rows), encoding="utf-8")
    return ["--prompt_path", path]


SAME_TEXT = {"sd_guided", "sdxl_guided", "sd3", "flux_schnell", "pixart_with_size", "pixart_sigma"}  # as another's
FAMILIES = [build for build in tiny.TEXT if build.__name__ not in SAME_TEXT]


@pytest.mark.slow
@pytest.mark.parametrize("build", FAMILIES, ids=lambda build: build.__name__)
def test_of_every_family(tmp_path, build):
    """The words at the end are cut: two such prompts are refused, and named where there is another."""
    tiny.save(build, tmp_path)
    model = load_model(read_card(str(tmp_path), t5=build is tiny.sd3_with_t5))
    with pytest.raises(InputError):
        model.conditions([LONG + "three", LONG + "five"])
    (said,) = told_apart(model, [LONG + "three", "the cat", LONG + "five"])
    assert "three" not in said.replace(LONG, "") or "the cat" not in said
    assert not told_apart(model, ["a photo of the number three", "a photo of the number five", "the red cat"])


def test_words_that_a_tokenizer_does_not_know(tmp_path):
    """T5's, which has a few: others are all its one unknown token."""
    tiny.save(tiny.pixart, tmp_path)
    model = load_model(read_card(str(tmp_path)))
    with pytest.raises(InputError):
        model.conditions(["a photo of the \u732b", "a photo of the \u72d7"])
    (said,) = told_apart(model, ["a photo of the \u732b", "a photo of the cat", "a photo of the \u72d7"])
    assert "\u732b" in said and "\u72d7" in said and "cat" not in said


def test_the_same_text_twice(model_folder):
    """Is the caller's matter, who is told of it elsewhere."""
    model = load_model(str(model_folder))
    assert not told_apart(model, ["a three", "a three"])
    assert not told_apart(model, ["a three", "a three", "a five"])
    with pytest.raises(InputError):
        model.conditions([LONG + "a", LONG + "a", LONG + "b"])


def test_near_rows_closed_form():
    rows = Conditions({"text": torch.tensor([[1.0, 0, 0], [0, 1, 0], [1, 0.01, 0], [0, 0, 0], [0, 0, 0]])})
    assert _near(rows) == [0, 2, 3, 4]
    assert _near(rows.map(torch.Tensor.bfloat16)) == [0, 2, 3, 4] and _near(rows[:2]) == []
    wide = torch.zeros(2, 70_000)
    wide[:, 0], wide[1, -1] = 1, 1
    assert _near(Conditions({"text": wide})) == []  # what differs is in another part
    columns = {"text": rows["text"], "pooled": torch.tensor([[0.0], [0], [1], [0], [0]])}
    assert _near(Conditions(columns)) == [3, 4]  # or in another column
    texts = torch.ones(2, 3), torch.ones(2, 3), torch.ones(1, 3)
    assert _near(Conditions({"text": texts})) == [0, 1]  # or in length


def test_near_is_not_the_same():
    """Prompts of almost one meaning: only equal bits count."""
    rows = Conditions({"text": torch.tensor([[1.0, 0], [1.0, 1e-6], [1.0, 0]])})
    with pytest.warns(InputWarning) as caught:
        _check_distinct(["a", "b", "c"], [None] * 3, rows, lambda prompt, own: rows["abc".index(prompt)])
    assert len(caught) == 1 and "'a', 'c'" in str(caught[0].message)


def test_prompts_with_other_loras_are_others(recwarn):
    rows = Conditions({"text": torch.ones(2, 3)})
    _check_distinct(["a", "b"], [("x",), ("y",)], rows, lambda prompt, own: rows[0])
    assert not recwarn
    with pytest.raises(InputError):
        _check_distinct(["a", "b"], [("x",), ("x",)], rows, lambda prompt, own: rows[0])
    with pytest.raises(InputError):  # the empty caption is beside the point
        three = Conditions({"text": torch.ones(3, 3)})
        _check_distinct(["a", "b", ""], [None] * 3, three, lambda prompt, own: rows[[0] * len(prompt)])


def test_a_run(run_main, tmp_path):
    """Refused, with nothing measured; where some prompts differ, it goes on, and names the others."""
    np.save(tmp_path / "first.npy", np.array([2]))
    args = [SCRIPT, "--version", "digits", *ARGS, "--subset_path", tmp_path / "first.npy"]
    done = run_main(*args, *write_prompts(tmp_path / "p.csv", [LONG + word for word in WORDS]))
    assert done.code == 2 and not list(tmp_path.rglob("*.pt"))
    some = [LONG + word if k < 2 else f"a photo of the number {word}." for k, word in enumerate(WORDS)]
    done = run_main(*args, *write_prompts(tmp_path / "q.csv", some), "--extra", "some")
    assert done.code == 0 and "cannot distinguish them" in done.err


def test_from_python(model_folder):
    model, image = load_model(str(model_folder)), Image.new("RGB", (32, 32))
    for prompts in [[LONG + "a", LONG + "b"], {"x": [LONG + "a", LONG + "b"], "y": LONG + "c"}]:
        with pytest.raises(InputError):
            classify(model, image, prompts)
    with pytest.raises(InputError):
        score(model, image, [LONG + "a", LONG + "b"], n_samples=2)
    with pytest.warns(InputWarning, match="cannot distinguish them"):
        score(model, image, [LONG + "a", LONG + "b", "a three"], n_samples=2)


def examples(folder, captions) -> None:
    """Items of one image and two captions."""
    folder.mkdir()
    lines = []
    for k, pair in enumerate(captions):
        Image.new("RGB", (32, 32), (50 * k, 0, 0)).save(folder / f"{k}.png")
        lines.append(json.dumps({"id": f"item{k}", "images": [f"{k}.png"], "captions": pair, "right": [[0, 0]]}))
    (folder / "examples.jsonl").write_text("\n".join(lines))


def test_captions_of_matching(run_main, tmp_path):
    """Each item's are compared: refused where all items are such, else those are counted, the first one named."""
    lost, good = [LONG + "a cat", LONG + "a dog"], ["a red three.", "a blue five."]
    args = ["run_winoground.py", "--version", "digits", "--device", "cpu", "--search", "race", "--max_samples", 4]
    examples(tmp_path / "all", [lost, lost[::-1]])
    done = run_main(*args, "--dataset", tmp_path / "all")
    assert done.code == 2 and not list(tmp_path.rglob("*.pt")) and "item0" in done.err
    examples(tmp_path / "some", [good, lost, [LONG + "x", "a three."]])
    done = run_main(*args, "--dataset", tmp_path / "some", log="some")
    assert done.code == 0 and "1 of 3 examples" in done.err and "item1" in done.err
    examples(tmp_path / "none", [good, [LONG + "x", "a three."], [LONG + "y", "a five."]])
    done = run_main(*args, "--dataset", tmp_path / "none", log="none")
    assert done.code == 0 and "makes the same" not in done.err


# ---- tokenizers ----


@pytest.mark.parametrize(
    "build", [tiny.t5, tiny.gemma, tiny.qwen, tiny.glm, tiny.bert], ids=lambda build: build.__name__
)
def test_empty_tokenizers_of_all_kinds(tmp_path, build):
    """transformers 5 makes one of nothing, or refuses; a whole one is read."""
    from diffusion.models import loading as load

    tokenizer, _ = build()
    tokenizer.save_pretrained(tmp_path / "tokenizer")
    home = load.hub.look(str(tmp_path))
    parts = {"tokenizer": ("transformers", type(tokenizer).__name__)}
    card = load.Card("x", "StableDiffusionPipeline", parts, 1000, (4, 8, 8), 64, home=home)
    load._check_tokenizers(card)
    (tmp_path / "tokenizer/tokenizer.json").unlink()
    with pytest.raises(InputError, match="tokenizer"):
        load._check_tokenizers(card)


def test_a_token_without_an_embedding(folder, model_folder):
    """Refused where a prompt uses it; other prompts are as before."""
    tokenizer = CLIPTokenizer.from_pretrained(folder / "tokenizer")
    tokenizer.add_tokens(["<cat-toy>"])
    tokenizer.save_pretrained(folder / "tokenizer")
    model = load_model(str(folder))
    with pytest.raises(InputError, match="<cat-toy>"):
        model.conditions(["a photo of a <cat-toy>.", "a photo of a three."])
    prompts = ["a photo of a five.", "a photo of a three."]
    assert model.conditions(prompts).digest() == load_model(str(model_folder)).conditions(prompts).digest()


# ---- embeddings ----


def test_embeddings_that_no_prompt_uses(run_main, tmp_path, model_folder):
    save_file({"<thing>": torch.randn(1, 128)}, tmp_path / "e.safetensors")
    file = ["--embeddings", tmp_path / "e.safetensors"]
    refused(run_main(SCRIPT, "--version", "digits", *ARGS, *file), tmp_path, "--embeddings", "<thing>")
    examples(tmp_path / "own", [["a red three.", "a blue five."]])
    args = ["run_winoground.py", "--version", "digits", "--device", "cpu", "--dataset", tmp_path / "own"]
    refused(run_main(*args, *file), tmp_path, "--embeddings", "<thing>")
    model = load_model(read_card(str(model_folder), embeddings=[str(tmp_path / "e.safetensors")]))
    with pytest.warns(InputWarning, match="<thing>"):
        score(model, Image.new("RGB", (32, 32)), ["a three", "a five"], n_samples=2)


def test_embeddings_that_push_words_out(tmp_path, model_folder):
    """Twenty vectors, of 24 tokens: said of each prompt; all are refused, some are named."""
    save_file({"<many>": 0.5 * torch.randn(20, 128)}, tmp_path / "e.safetensors")
    model = load_model(read_card(str(model_folder), embeddings=[str(tmp_path / "e.safetensors")]))
    with pytest.warns(InputWarning, match="takes 24; the rest is cut"), pytest.raises(InputError):
        model.conditions([f"<many> a photo of the number {word}." for word in WORDS])
    assert not told_apart(model, [f"{word} <many>" for word in WORDS])


@pytest.mark.parametrize("where", ["file", "folder"])
def test_pooled_text_is_that_at_the_end(tmp_path, where):
    """With tokens added behind the end of the text, and configurations of before: eos_token_id 2."""
    tiny.save(tiny.sdxl, tmp_path / "xl")
    path = tmp_path / "xl/text_encoder_2/config.json"
    now = path.read_text()
    vectors = {"clip_l": torch.randn(2, 16), "clip_g": torch.randn(2, 24)}
    save_file(vectors, tmp_path / "thing.safetensors")
    embeddings = [str(tmp_path / "thing.safetensors")]
    if where == "folder":  # trained into the model: a token of the tokenizer, a row of the embeddings
        embeddings = None
        for number in "", "_2":
            tokenizer = CLIPTokenizer.from_pretrained(tmp_path / f"xl/tokenizer{number}")
            tokenizer.add_tokens(["thing"])
            tokenizer.save_pretrained(tmp_path / f"xl/tokenizer{number}")
            part = tmp_path / f"xl/text_encoder{number}"
            tensors = load_file(part / "model.safetensors")
            (key,) = (key for key in tensors if key.endswith("token_embedding.weight"))
            tensors[key] = torch.cat([tensors[key], torch.randn(1, tensors[key].shape[1])])
            save_file(tensors, part / "model.safetensors", {"format": "pt"})
            config = json.loads((part / "config.json").read_text()) | {"vocab_size": len(tokenizer)}
            (part / "config.json").write_text(json.dumps(config))
        now = path.read_text()
    prompts = ["a photo of a thing in red", "a thing", "the number three"]
    wanted = load_model(read_card(str(tmp_path / "xl"), embeddings=embeddings)).conditions(prompts)
    path.write_text(json.dumps(json.loads(now) | {"eos_token_id": 2}))
    found = load_model(read_card(str(tmp_path / "xl"), embeddings=embeddings)).conditions(prompts)
    assert found.digest() == wanted.digest()
    if where == "folder":  # so does a pipeline in memory, which stays as it is
        pipeline = StableDiffusionXLPipeline.from_pretrained(tmp_path / "xl", dtype=torch.float32)
        ends = [getattr(module, "eos_token_id", None) for module in pipeline.text_encoder_2.modules()]
        assert load_model(pipeline).conditions(prompts).digest() == wanted.digest()
        assert ends == [getattr(module, "eos_token_id", None) for module in pipeline.text_encoder_2.modules()]
    path.write_text(now)
    with torch.no_grad():  # closed form: the text at the first end, times the projection
        pipe = _pipeline(tmp_path / "xl", embeddings)
        ids = pipe.tokenizer_2(
            pipe.maybe_convert_prompt(prompts, pipe.tokenizer_2), padding="max_length", return_tensors="pt"
        ).input_ids
        ends = (ids == pipe.tokenizer_2.eos_token_id).int().argmax(1)
        text = pipe.text_encoder_2(ids).last_hidden_state[range(3), ends] @ pipe.text_encoder_2.text_projection.weight.T
    torch.testing.assert_close(found["pooled"], text, rtol=1e-4, atol=1e-5)


def _pipeline(folder, embeddings):
    from diffusion.models import loading as load
    from diffusion.models.lora import embed

    card = read_card(str(folder))
    pipe = load._pipeline(card, load.load_parts(card, torch.float32))
    for each in embeddings or []:
        embed(pipe, each)
    return pipe
