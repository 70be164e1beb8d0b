"""Data sets as they are downloaded, each with a few small pictures."""

import json
import pickle
import struct

import numpy as np
import torchvision.datasets as tv
from PIL import Image

RED, GREEN, BLUE = (255, 0, 0), (0, 255, 0), (0, 0, 255)


def picture(path, colour=RED, size=(24, 16)):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, colour).save(path)


def write(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    if isinstance(content, bytes):
        path.write_bytes(content)
    else:
        path.write_text(content if isinstance(content, str) else json.dumps(content))


def unsigned(patch, cls, *lists):
    """Miniatures cannot have the md5 of the real files, so torchvision is told not to ask for one."""
    for name in lists:
        patch.setattr(cls, name, [[file, None] for file, _ in getattr(cls, name)])


def pets(at, patch):
    at /= "oxford-iiit-pet"
    write(at / "annotations/trainval.txt", "Abyssinian_1 1 1 1\namerican_bulldog_2 2 2 1\n")
    write(at / "annotations/test.txt", "american_bulldog_3 2 2 1\nAbyssinian_4 1 1 1\n")
    for name, colour in (("american_bulldog_3", RED), ("Abyssinian_4", BLUE)):
        picture(at / f"images/{name}.jpg", colour)
    return [1, 0], ["Abyssinian", "American Bulldog"], [RED, BLUE]


def flowers(at, patch):
    from scipy.io import savemat

    at /= "flowers-102"
    for k, colour in enumerate((RED, GREEN, BLUE), 1):
        picture(at / f"jpg/image_{k:05d}.jpg", colour)
    savemat(at / "imagelabels.mat", {"labels": np.array([[77, 1, 102]])})
    savemat(at / "setid.mat", {"trnid": np.array([[1, 2]]), "valid": np.array([[2, 1]]), "tstid": np.array([[3, 1]])})
    patch.setattr(tv.Flowers102, "_file_dict", {k: (f, None) for k, (f, _) in tv.Flowers102._file_dict.items()})
    return [101, 76], (102, 76, "passion flower"), [BLUE, RED]


def stl10(at, patch):
    at /= "stl10_binary"
    unsigned(patch, tv.STL10, "train_list", "test_list")
    image = np.zeros((2, 3, 96, 96), np.uint8)  # stored as channel, column, row
    image[0, 0], image[1, 2] = 255, 255
    image[0, :, :10, 50:] = 128  # ten columns on the left, from row 50 down
    for name in ("train_X", "test_X", "unlabeled_X"):
        write(at / f"{name}.bin", image.tobytes())
    for name in ("train_y", "test_y"):
        write(at / f"{name}.bin", bytes([10, 3]))  # 1-based
    names = ["airplane", "bird", "car", "cat", "deer", "dog", "horse", "monkey", "ship", "truck"]
    write(at / "class_names.txt", "\n".join(names) + "\n")
    return [9, 2], names, [RED, BLUE]


def idx(at, patch):
    for part in ("train", "t10k"):
        images = np.full((3, 28, 28), 200, np.uint8)
        write(at / f"raw/{part}-images-idx3-ubyte", struct.pack(">4I", 0x803, 3, 28, 28) + images.tobytes())
        write(at / f"raw/{part}-labels-idx1-ubyte", struct.pack(">2I", 0x801, 3) + bytes([7, 0, 9]))
    return [7, 0, 9]


def mnist(at, patch):
    return idx(at / "MNIST", patch), (10, 7, "7 - seven"), [(200, 200, 200)] * 3


def fashion_mnist(at, patch):
    return idx(at / "FashionMNIST", patch), (10, 9, "Ankle boot"), [(200, 200, 200)] * 3


def cifar(at, patch, cls, key, meta):
    at /= cls.base_folder
    unsigned(patch, cls, "train_list", "test_list")
    patch.setattr(cls, "meta", cls.meta | {"md5": None})
    data = np.zeros((2, 3, 1024), np.uint8)
    data[0, 0], data[1, 2] = 255, 255
    for file, _ in cls.train_list + cls.test_list:
        write(at / file, pickle.dumps({"data": data.reshape(2, -1), key: [1, 0]}))
    write(at / cls.meta["filename"], pickle.dumps({meta: ["apple", "fish"]}))
    return [1, 0], ["apple", "fish"], [RED, BLUE]


def cifar10(at, patch):
    return cifar(at, patch, tv.CIFAR10, "labels", "label_names")


def cifar100(at, patch):
    return cifar(at, patch, tv.CIFAR100, "fine_labels", "fine_label_names")


def food(at, patch):
    at /= "food-101"
    for part in ("train", "test"):
        write(at / f"meta/{part}.json", {"sushi": ["sushi/12"], "apple_pie": ["apple_pie/3"]})
    picture(at / "images/sushi/12.jpg", RED)
    picture(at / "images/apple_pie/3.jpg", BLUE)
    return [1, 0], ["apple_pie", "sushi"], [RED, BLUE]


def aircraft(at, patch):
    at /= "fgvc-aircraft-2013b/data"
    write(at / "variants.txt", "707-320\nA340-600\nF/A-18\n")
    for part in ("trainval", "test"):
        write(at / f"images_variant_{part}.txt", "0034309 F/A-18\n0034958 707-320\n")
    picture(at / "images/0034309.jpg", RED)
    picture(at / "images/0034958.jpg", BLUE)
    return [2, 0], ["707-320", "A340-600", "F/A-18"], [RED, BLUE]


def caltech101(at, patch):
    at /= "caltech101/101_ObjectCategories"
    picture(at / "BACKGROUND_Google/image_0001.jpg", GREEN)
    picture(at / "Faces/image_0001.jpg", RED)
    picture(at / "accordion/image_0001.jpg", BLUE)
    write(at / "accordion/.DS_Store", b"")
    return [0, 1], ["Faces", "accordion"], [RED, BLUE]


def eurosat(at, patch):
    picture(at / "eurosat/2750/SeaLake/SeaLake_1.jpg", BLUE)
    picture(at / "eurosat/2750/Forest/Forest_1.jpg", GREEN)
    return [0, 1], ["Forest", "SeaLake"], [GREEN, BLUE]


def imagenet(at, patch):
    for part in ("train", "val"):
        picture(at / part / "n15075141/ILSVRC2012_val_00000006.JPEG", RED)
        picture(at / part / "n01443537/ILSVRC2012_val_00000236.JPEG", BLUE)
    return [1, 999], (1000, 1, "goldfish"), [BLUE, RED]


def imagenetv2(at, patch):
    at /= "imagenetv2-matched-frequency-format-val"
    picture(at / "10/0.jpeg", RED)
    picture(at / "2/1.jpeg", BLUE)
    return [2, 10], (1000, 2, "great white shark"), [BLUE, RED]


def imagenet_a(at, patch):
    write(at / "imagenet-a/README.txt", "")
    picture(at / "imagenet-a/n01498041/0.000_x.jpg", RED)
    return [6], (1000, 6, "stingray"), [RED]


def objectnet(at, patch):
    at /= "objectnet-1.0"
    folders = {"air_freshener": "Air freshener", "alarm_clock": "Alarm clock", "t_shirt": "T-shirt", "ruler": "Ruler"}
    write(at / "mappings/folder_to_objectnet_label.json", folders)
    shared = {"T-shirt": "jersey, T-shirt", "Alarm clock": "analog clock; digital clock", "Ruler": "rule, ruler"}
    write(at / "mappings/objectnet_to_imagenet_1k.json", shared)
    write(
        at / "mappings/imagenet_to_label_2012_v2", "rule, ruler\ndigital clock\njersey, T-shirt\nkite\nanalog clock\n"
    )
    write(at / "mappings/pytorch_to_imagenet_2012_id.json", {"21": 3, "409": 4, "530": 1, "610": 2, "769": 0})
    for folder, colour in (("air_freshener", GREEN), ("t_shirt", BLUE), ("alarm_clock", (9, 9, 9))):
        image = Image.new("RGB", (14, 12), RED)
        image.paste(colour, (2, 2, 12, 10))
        path = at / f"images/{folder}/ab12.png"
        path.parent.mkdir(parents=True)
        image.save(path)
    return [0, 2], ["Alarm clock", "Ruler", "T-shirt"], [(9, 9, 9), BLUE]


LAYOUTS = {
    "pets": pets,
    "flowers": flowers,
    "stl10": stl10,
    "mnist": mnist,
    "fashion-mnist": fashion_mnist,
    "cifar10": cifar10,
    "cifar100": cifar100,
    "food": food,
    "aircraft": aircraft,
    "caltech101": caltech101,
    "eurosat": eurosat,
    "imagenet": imagenet,
    "imagenetv2": imagenetv2,
    "imagenetA": imagenet_a,
    "objectnet": objectnet,
}
