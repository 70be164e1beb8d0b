"""Each adapter on a miniature of its data set's real layout; image modes; crops; prompts."""

import io
import sys
from importlib import resources

import numpy as np
import pytest
import torch
from helpers import ROOT
from layouts import BLUE, GREEN, LAYOUTS, RED, imagenet, objectnet, picture, stl10, write
from PIL import Image

from diffusion import InputError
from diffusion.data import digits
from diffusion.data.datasets import TABLE, class_arms, load_dataset, objectnet_imagenet_ids
from diffusion.data.images import adm_crop, centre_crop, open_rgb, to_rgb
from diffusion.data.prompts import Prompts, duplicates, read_prompts

# ---- the real layouts, small: each writes its files and says what is to be read back ----


def check(data, labels, classes, colours):
    assert len(data) == len(labels)
    assert data.labels == labels and all(type(label) is int for label in data.labels)
    if isinstance(classes, tuple):  # how many, and one of them
        count, k, name = classes
        assert len(data.classes) == count and data.classes[k] == name
    else:
        assert data.classes == classes
    for k, colour in enumerate(colours):
        image = data.open(k)
        assert image.mode == "RGB"
        assert np.abs(np.array(image)[0, -1] - np.array(colour, float)).max() <= 3, f"image {k}"  # JPEG's tolerance


def refusal(call, *args):
    """The message of the InputError that the call must end in: always one line."""
    with pytest.raises(InputError) as caught:
        call(*args)
    message = str(caught.value)
    assert message and "\n" not in message
    return message


def test_every_name_has_a_miniature():
    assert {name for name in TABLE if not name.startswith("digits")} == set(LAYOUTS)


@pytest.mark.parametrize("name", LAYOUTS)
def test_layout(name, tmp_path, monkeypatch):
    expected = LAYOUTS[name](tmp_path / name, monkeypatch)
    check(load_dataset(name, "test", tmp_path), *expected)
    check(load_dataset(name, "test", tmp_path / name), *expected)  # the root may be the data set's own folder
    for split in TABLE[name].splits:
        assert load_dataset(name, split, tmp_path).split == split


@pytest.mark.parametrize("name", LAYOUTS)
def test_missing(name, tmp_path):
    message = refusal(load_dataset, name, "test", tmp_path)
    assert name in message and str(tmp_path / name) in message
    assert not any(tmp_path.iterdir())  # looking makes no folders


@pytest.mark.parametrize("name", LAYOUTS)
def test_damaged(name, tmp_path):
    """The folder is there with nothing in it."""
    source = TABLE[name]
    folder = tmp_path / name / source.folder.format(source.splits["test"])
    folder.mkdir(parents=True)
    assert str(folder) in refusal(load_dataset, name, "test", tmp_path)


def test_stl10_is_not_transposed(tmp_path, monkeypatch):
    stl10(tmp_path, monkeypatch)
    image = np.array(load_dataset("stl10", root=tmp_path).open(0))
    assert (image[50:, :10] == 128).all() and (image[:50] == RED).all() and (image[:, 10:] == RED).all()


def test_one_bad_image_costs_one_image(tmp_path):
    imagenet(tmp_path, None)
    bad = tmp_path / "val/n01443537/ILSVRC2012_val_00000236.JPEG"
    bad.write_bytes(bad.read_bytes()[:200])
    data = load_dataset("imagenet", root=tmp_path)
    with pytest.raises(OSError, match=r"00000236\.JPEG"):
        data.open(0)
    assert data.open(1).size == (24, 16)


def test_objectnet_has_no_border(tmp_path):
    objectnet(tmp_path, None)
    image = load_dataset("objectnet", root=tmp_path).open(1)
    assert image.size == (10, 8) and image.getcolors() == [(80, BLUE)]


def test_objectnet_imagenet_ids(tmp_path):
    objectnet(tmp_path, None)
    assert objectnet_imagenet_ids(tmp_path) == [[409, 530], [769], [610]]
    (tmp_path / "objectnet-1.0/mappings/imagenet_to_label_2012_v2").unlink()
    assert "imagenet_to_label_2012_v2" in refusal(objectnet_imagenet_ids, tmp_path)


@pytest.mark.parametrize("name, count", [("imagenet", 1000), ("imagenetv2", 1000), ("digits", 10), ("my/folder", 7)])
def test_class_arms(name, count):
    """A model's class ids are the data's."""
    arms = class_arms(name, count)
    assert list(arms.items()) == [(k, k) for k in range(count)]


def test_class_arms_of_imagenet_a():
    """The 200 whose synsets it has folders for, under their ids among the 1000; the same that it has prompts for."""
    from timm.data import ImageNetInfo

    arms = class_arms("imagenetA", 1000)
    ids = {synset: k for k, synset in enumerate(ImageNetInfo("imagenet-1k").label_names())}
    synsets = (resources.files("timm") / "data/_info/imagenet_a_synsets.txt").read_text().split()
    assert sorted(arms) == sorted(ids[synset] for synset in synsets) and len(arms) == 200
    assert all(arm == class_id for arm, class_id in arms.items())
    assert set(arms) == set(read_prompts(ROOT / "prompts/imagenetA_prompts.csv").classes)


def test_class_arms_of_objectnet(tmp_path):
    """Two of ImageNet's are one of its classes; a class without an image is an arm all the same."""
    objectnet(tmp_path, None)
    assert class_arms("objectnet", 1000, tmp_path) == {409: 0, 530: 0, 769: 1, 610: 2}
    assert "objectnet-1.0" in refusal(class_arms, "objectnet", 1000, tmp_path / "elsewhere")


def test_missing_package(tmp_path, monkeypatch):
    imagenet(tmp_path, monkeypatch)
    monkeypatch.setitem(sys.modules, "timm.data", None)
    assert "timm" in refusal(load_dataset, "imagenet", "test", tmp_path)


# ---- own data ----


def test_own_folder(tmp_path):
    for name in ("dog/b.png", "dog/.hidden.png", "cat/a.PNG", ".cache/x.png"):
        picture(tmp_path / name, BLUE if "dog" in name else RED)
    write(tmp_path / "cat/notes.txt", "")
    check(load_dataset(str(tmp_path)), [0, 1], ["cat", "dog"], [RED, BLUE])
    assert "'train'" in refusal(load_dataset, str(tmp_path), "train")


def test_own_folder_of_splits(tmp_path):
    picture(tmp_path / "train/cat/a.png")
    picture(tmp_path / "val/10/b.png")
    picture(tmp_path / "val/9/b.png", BLUE)
    check(load_dataset(str(tmp_path), "train"), [0], ["cat"], [RED])
    check(load_dataset(str(tmp_path), "val"), [9, 10], [], [BLUE, RED])  # numbers are class ids already
    assert "train, val" in refusal(load_dataset, str(tmp_path), "test")


def test_own_csv(tmp_path):
    picture(tmp_path / "images/a, 1.png")
    picture(tmp_path / "b.png", BLUE)
    table = tmp_path / "own.csv"
    table.write_text(f'label,note,path\nNoon,,"images/a, 1.png"\n\nNan,,{tmp_path / "b.png"}\n')
    check(load_dataset(str(table)), [1, 0], ["Nan", "Noon"], [RED, BLUE])
    table.write_text("path,label\nb.png,10\nb.png,2\n")
    check(load_dataset(str(table)), [10, 2], [], [BLUE, BLUE])


# ---- the hub's library, offline ----


def encoded(colour):
    file = io.BytesIO()
    Image.new("RGB", (5, 4), colour).save(file, "png")
    return {"bytes": file.getvalue(), "path": None}


def parquet(hub, folder, label, values, feature, other=None):
    images = [encoded(RED), {"bytes": b"not an image", "path": None}, encoded(BLUE)]
    columns = {"img": images, label: values, "thumbnail": images}
    features = hub.Features({"img": hub.Image(), label: feature, "thumbnail": hub.Image()})
    folder.mkdir()
    hub.Dataset.from_dict(columns, features=features).to_parquet(folder / "test-00000-of-00001.parquet")
    return f"hf:{folder}"


def test_hub_parquet(hub, tmp_path):
    name = parquet(hub, tmp_path / "data", "kind", [1, 0, 1], hub.ClassLabel(names=["cat", "dog"]))
    data = load_dataset(name)
    check(data, [1, 0, 1], ["cat", "dog"], [RED])
    check(data, [1, 0, 1], ["cat", "dog"], [])
    with pytest.raises(OSError, match="1 of hf:"):
        data.open(1)
    assert data.open(2).getpixel((0, 0)) == BLUE
    assert "train" in refusal(load_dataset, name, "train")


def test_hub_labels(hub, tmp_path):
    text = parquet(hub, tmp_path / "text", "labels", ["b", "a", "b"], hub.Value("string"))
    check(load_dataset(text), [1, 0, 1], ["a", "b"], [RED])
    number = parquet(hub, tmp_path / "number", "fine_label", [5, 0, 5], hub.Value("int64"))
    check(load_dataset(number), [5, 0, 5], [], [RED])
    hidden = parquet(hub, tmp_path / "hidden", "label", [-1, -1, -1], hub.Value("int64"))
    assert "-1" in refusal(load_dataset, hidden)
    assert "label column" in refusal(
        load_dataset, parquet(hub, tmp_path / "none", "size", [1, 2, 3], hub.Value("int64"))
    )
    assert "gone" in refusal(load_dataset, f"hf:{tmp_path / 'gone'}")


def test_hub_image_folder(hub, tmp_path):
    picture(tmp_path / "data/test/cat/a.png", RED)
    picture(tmp_path / "data/test/dog/b.png", BLUE)
    check(load_dataset(f"hf:{tmp_path / 'data'}"), [0, 1], ["cat", "dog"], [RED, BLUE])


# ---- the embedded digits ----


@pytest.mark.parametrize(
    "name, classes", [("digits", 10), ("digits-colour", 60), ("digits-unseen", 60), ("digits-two", 3600)]
)
@pytest.mark.parametrize("split", ["train", "test"])
def test_digits(name, classes, split):
    data = load_dataset(name, split, "/nowhere")
    assert len(data.classes) == classes
    alone = load_dataset(name, split).open(7)  # without the six before it
    assert [data.open(k).size for k in range(8)] == [(32, 32)] * 8
    assert np.array_equal(data.open(7), alone) and np.array(alone).max() > 150


def test_digits_pairs():
    plain, coloured, unseen = (load_dataset(name) for name in ("digits", "digits-colour", "digits-unseen"))
    handwritten = digits.handwriting("test")[1].tolist()
    pairs = [divmod(label, 10) for label in coloured.labels]
    assert plain.labels == [digit for _, digit in pairs] == handwritten
    assert set(pairs) == set(digits.SEEN)  # all of the seen, none of the unseen
    assert {divmod(label, 10) for label in unseen.labels} == set(digits.UNSEEN)
    assert [label % 10 for label in unseen.labels] == [d for d in handwritten if d not in (0, 6)]
    assert coloured.classes == unseen.classes and coloured.classes[3] == "red three"
    for k in range(20):
        assert np.array_equal(plain.open(k), coloured.open(k))
        for data in (coloured, unseen):  # the brightest pixel has the colour that the label says
            image = np.array(data.open(k), float).reshape(-1, 3)
            colour = np.array(list(digits.COLOURS.values())[data.labels[k] // 10], float)
            brightest = image[image.sum(1).argmax()]
            assert np.abs(brightest / brightest.max() - colour / colour.max()).max() < 0.02


@pytest.mark.parametrize("split", ["train", "test"])
def test_digits_two(split):
    """The label is what is to be seen: on the left the digit of that index, on the right another, in seen colours."""
    data = load_dataset("digits-two", split)
    ink, handwritten = digits.handwriting(split)
    sides = np.array([(*divmod(label // 60, 10), *divmod(label % 60, 10)) for label in data.labels])  # c, d, c, d
    assert sides[:, 1].tolist() == handwritten.tolist()
    assert {(c, d) for c, d in sides[:, :2]} == set(digits.SEEN)
    assert {(c, d) for c, d in sides[:, 2:]} <= set(digits.SEEN)
    for label in (0, 61, 60 * 59 + 3):
        left, right = (f"{digits.NAMES[k // 10]} {digits.WORDS[k % 10]}" for k in divmod(label, 60))
        assert data.classes[label] == f"{left} to the left of a {right}"
    means = np.stack([ink[handwritten == d].numpy().mean(0) for d in range(10)]).reshape(10, -1)
    seen = []
    for k in range(0, len(data), 7):
        canvas = np.array(data.open(k), float)
        for side, c in ((canvas[:, :13], sides[k, 0]), (canvas[:, 19:], sides[k, 2])):  # they may touch between
            brightest = side.reshape(-1, 3)[side.sum(-1).argmax()]
            colour = np.array(list(digits.COLOURS.values())[c], float)
            assert np.abs(brightest / brightest.max() - colour / colour.max()).max() < 0.02
        for side, d in ((canvas[8:24, :16], sides[k, 1]), (canvas[8:24, 16:], sides[k, 3])):
            small = side.max(-1).reshape(8, 2, 8, 2).mean((1, 3)).ravel()  # 16 x 16 pixels to the ink's 8 x 8
            cosine = means @ small / np.linalg.norm(means, axis=1)
            seen.append(cosine.argmax() == d)
    assert np.mean(seen) > 0.6  # by chance one in ten


# ---- image modes ----


def paletted(alpha=None):
    image = Image.new("P", (2, 2), 1)
    image.putpalette([0, 0, 0, *BLUE])
    if alpha is not None:
        image.info["transparency"] = bytes([255, alpha])
    return image


@pytest.mark.parametrize(
    "image, colour",
    [
        (Image.new("RGB", (2, 2), BLUE), BLUE),
        (Image.new("1", (2, 2), 1), (255, 255, 255)),
        (Image.new("L", (2, 2), 77), (77, 77, 77)),
        (Image.new("LA", (2, 2), (77, 255)), (77, 77, 77)),
        (Image.new("LA", (2, 2), (0, 102)), (153, 153, 153)),
        (Image.new("RGBA", (2, 2), (*RED, 255)), RED),
        (Image.new("RGBA", (2, 2), (*RED, 0)), (255, 255, 255)),
        (Image.new("RGBA", (2, 2), (*RED, 51)), (255, 204, 204)),
        (paletted(), BLUE),
        (paletted(alpha=0), (255, 255, 255)),
        (paletted(alpha=51), (204, 204, 255)),
        (Image.new("CMYK", (2, 2), (0, 255, 255, 0)), RED),
        (Image.new("YCbCr", (2, 2), (76, 85, 255)), (254, 0, 0)),
        (Image.new("HSV", (2, 2), (85, 255, 255)), (0, 255, 0)),
        (Image.new("I;16", (2, 2), 128 * 257), (128, 128, 128)),
        (Image.new("F", (2, 2), 0.8), (204, 204, 204)),
    ],
    ids=lambda value: getattr(value, "mode", str(value)),
)
def test_modes(image, colour):
    rgb = to_rgb(image)
    assert rgb.mode == "RGB" and rgb.getcolors() == [(4, colour)]


@pytest.mark.parametrize("extension", ["png", "tiff", "pgm"])
def test_16_bits_keep_their_tones(extension, tmp_path):
    ramp = np.linspace(0, 65535, 256).round().astype(np.uint16)
    Image.fromarray(np.tile(ramp, (4, 1))).save(tmp_path / f"ramp.{extension}")
    image = np.array(open_rgb(tmp_path / f"ramp.{extension}"))
    assert np.array_equal(image, np.tile(np.arange(256)[None, :, None], (4, 1, 3)))


def test_jpegs(tmp_path):
    Image.new("CMYK", (8, 8), (0, 255, 255, 0)).save(tmp_path / "cmyk.jpg", quality=100)
    assert np.abs(np.array(open_rgb(tmp_path / "cmyk.jpg"), float) - RED).max() <= 3
    image = Image.new("RGB", (32, 16), RED)
    image.paste(BLUE, (16, 0, 32, 16))
    exif = Image.Exif()
    exif[0x0112] = 6  # turn a quarter clockwise to see it upright
    image.save(tmp_path / "turned.jpg", exif=exif, quality=100)
    upright = open_rgb(tmp_path / "turned.jpg")
    assert upright.size == (16, 32)
    assert upright.getpixel((8, 4))[0] > 240 and upright.getpixel((8, 28))[2] > 240


def test_palette_is_expanded_before_it_is_resized():
    """Resizing indices would give colour 1 between 0 and 2; resizing colours gives a mix of 0 and 2."""
    image = Image.new("P", (64, 64), 0)
    image.putpalette([*RED, *GREEN, *BLUE])
    image.paste(2, (32, 0, 64, 64))
    green = centre_crop(to_rgb(image), 16, "bilinear")[1]
    assert green.max() == -1


@pytest.mark.parametrize("content", [b"", b"\x89PNG\r\n\x1a\n", b"GIF89a", b"text"])
def test_unreadable(content, tmp_path):
    (tmp_path / "bad.png").write_bytes(content)
    with pytest.raises(OSError, match=r"bad\.png"):
        open_rgb(tmp_path / "bad.png")


def test_truncated_and_oversized(tmp_path, monkeypatch):
    path = tmp_path / "noise.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)).save(path)
    with monkeypatch.context() as patch, pytest.raises(OSError, match=r"noise\.png.*DecompressionBomb"):
        patch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
        open_rgb(path)
    path.write_bytes(path.read_bytes()[:5000])
    with pytest.raises(OSError, match=r"noise\.png"):
        open_rgb(path)
    with pytest.raises(OSError, match="row 3"):
        open_rgb(io.BytesIO(b"bad"), "row 3")


# ---- crops ----

SHAPES = [(32, 32), (33, 47), (64, 64), (200, 131), (129, 500), (20, 31)]


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic", "lanczos", "adm"])
def test_crop_of_flat_image_is_flat(shape, interpolation):
    image = Image.new("RGB", shape, (0, 51, 255))
    x = adm_crop(image, 32) if interpolation == "adm" else centre_crop(image, 32, interpolation)
    assert x.shape == (3, 32, 32) and x.dtype == torch.float32
    assert torch.allclose(x, torch.tensor([-1, -0.6, 1])[:, None, None].expand_as(x))


@pytest.mark.parametrize("size", [(60, 30), (30, 60)])
def test_centre_crop_takes_the_middle(size):
    """Three bands with the middle one a square: it alone is left, at its own size or enlarged."""
    image = Image.new("RGB", size, RED)
    image.paste(BLUE, tuple((n - 30) // 2 for n in size) + tuple((n + 30) // 2 for n in size))
    assert torch.equal(centre_crop(image, 30), torch.tensor([-1.0, -1, 1])[:, None, None].expand(3, 30, 30))
    assert torch.equal(adm_crop(image, 30), centre_crop(image, 30))


def halved(x, axis):
    """The mean of each pair along `axis`, rounded to a whole number, halves up."""
    even, odd = (np.take(x, range(start, x.shape[axis], 2), axis).astype(int) for start in (0, 1))
    return ((even + odd + 1) // 2).astype(np.uint8)


@pytest.mark.parametrize("width, height, halvings", [(20, 31, 0), (33, 47, 0), (63, 90, 0), (64, 64, 1), (200, 132, 2)])
def test_adm_crop_against_arrays(width, height, halvings):
    pixels = np.random.default_rng(1).integers(0, 256, (height, width, 3), np.uint8)
    x = adm_crop(Image.fromarray(pixels), 32)
    for _ in range(halvings):
        pixels = halved(halved(pixels, 1), 0)
    short = min(pixels.shape[:2])
    size = round(pixels.shape[1] * 32 / short), round(pixels.shape[0] * 32 / short)
    pixels = np.asarray(Image.fromarray(pixels).resize(size, Image.BICUBIC), np.float64)
    top, left = (pixels.shape[0] - 32) // 2, (pixels.shape[1] - 32) // 2
    reference = pixels[top : top + 32, left : left + 32].transpose(2, 0, 1) / 127.5 - 1
    assert x.shape == (3, 32, 32) and x.min() >= -1 and x.max() <= 1
    assert np.abs(x.numpy() - reference).max() < 1e-6


# ---- prompts ----


def test_prompts(tmp_path):
    path = tmp_path / "p.csv"
    rows = ['0,"a cat, a pet.",cat,0', "1,a nan.,nan,2", "", "2,a None.,None,1", "3,a puss.,cat,0"]
    path.write_text("\n".join(["\ufeff,prompt,classname,classidx", *rows]))  # as spreadsheets write it
    expected = Prompts(["a cat, a pet.", "a nan.", "a None.", "a puss."], ["cat", "nan", "None", "cat"], [0, 2, 1, 0])
    assert read_prompts(path) == expected and duplicates(expected) == []


def test_duplicates():
    texts = ["a missile.", "a cat.", "a missile.", "a cat.", "a crane.", "a crane."]
    prompts = Prompts(texts, ["missile", "cat", "projectile", "cat", "crane", "crane"], [744, 1, 657, 1, 134, 517])
    assert duplicates(prompts) == [("a missile.", ["missile", "projectile"]), ("a crane.", ["crane", "crane"])]


def test_imagenet_as_downloaded_is_told_how_to_sort(tmp_path):
    """In one line; torchvision's own code sorts it, which wants the folder not to be there."""
    write(tmp_path / "imagenet" / "val" / "ILSVRC2012_val_00000001.JPEG", b"")
    said = refusal(load_dataset, "imagenet", "test", tmp_path)
    assert "ILSVRC2012_devkit_t12.tar.gz and ILSVRC2012_img_val.tar" in said and "\n" not in said
    assert f"torchvision.datasets.ImageNet('{tmp_path / 'imagenet'}', 'val')" in said
    picture(tmp_path / "imagenet" / "val" / "n01440764" / "a.JPEG")
    assert load_dataset("imagenet", "test", tmp_path).labels == [0]
