"""Runs on disk: a folder of one file per image, and the `run.json` that says which options produced them."""

import contextlib
import errno
import io
import json
import math
import os
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from diffusion import InputError, one_line
from diffusion.data.catalogue import SPLITS
from diffusion.io.atomic import sha256, write_atomic
from diffusion.io.reading import check_zip
from diffusion.io.wording import count, numbers
from diffusion.paths import expanded
from diffusion.runs import archive, differences, pack
from diffusion.runs.index import Index
from diffusion.runs.index import key as index_key

if TYPE_CHECKING:  # what only reads runs does not need torch
    import torch

# Published files hold numpy scalars beside tensors, under their names in numpy 1 and 2. Nothing else is read.
_SCALAR = np.float64(0).__reduce__()[0]  # the function that makes a scalar when it is unpickled
_SCALARS: list = [
    np.dtype,
    *(type(np.dtype(kind)) for kind in ("int64", "int32", "float32", "float64")),
    (_SCALAR, "numpy.core.multiarray.scalar"),
    (_SCALAR, "numpy._core.multiarray.scalar"),
]


# The contents of run.json are a *description*: the options, and beside them the *details*, for readers.

N_LEVELS = "schedule"  # the detail that holds T, the number of noise levels; published under this name
UNSPLIT = "unsplit"  # the detail that is true if the data has no splits; its option `split` is "test" then


def n_levels(description: dict) -> int | None:
    """T, the number of noise levels of a run's model; None: run.json has none, as that of a baseline."""
    return description.get(N_LEVELS)


def open_run(folder: Path, options: dict, details: dict, images: Mapping[int, differences.Image] | None = None) -> None:
    """Create a run folder, or join the one that is there.

    `options` is everything that can change a number; `details` are whatever else readers need. They may grow or shrink:
    those of the last writer count. Raises InputError, naming every difference, if the folder was made with other
    options; `images` of the data set, by index, are named in it if they differ from those of before.
    """
    path = folder / "run.json"
    text = json.dumps({"options": options, **details}, indent=1, ensure_ascii=False) + "\n"
    run = json.loads(text)  # tuples become lists, as they will be when read
    try:
        data = text.encode()
    except UnicodeEncodeError as error:  # half a surrogate pair of JSON, or a folder's name that is not UTF-8
        before = one_line(text[max(error.start - 40, 0) : error.start])
        raise InputError(folder, f"a text that is no Unicode, after {before!r}") from None
    try:
        if max(len(os.fsencode(part)) for part in folder.parts) > 255:  # otherwise the folders above it would be made
            raise OSError(errno.ENAMETOOLONG, os.strerror(errno.ENAMETOOLONG))
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(folder, f"cannot be made ({error.strerror})") from None
    if not os.path.exists(path):
        _check_no_records(folder)
        with contextlib.suppress(FileExistsError):  # another worker was faster: join its run
            return write_atomic(path, lambda file: file.write(data), replace=False)
    there = read_run(folder)
    if there == run:
        return
    _check_same(folder, there, run, images)
    write_atomic(path, lambda file: file.write(data))


def check_run(
    folder: Path, options: dict, details: dict, images: Mapping[int, differences.Image] | None = None
) -> None:
    """Raises InputError if `open_run` would for these options; nothing is made or written.

    Fingerprints of weights that the options lack are not compared: they are made when weights are read.
    """
    if not os.path.exists(folder / "run.json"):
        if os.path.isdir(folder):
            _check_no_records(folder)
        return
    there = read_run(folder)
    run = json.loads(json.dumps({"options": options, **details}))
    compared = {}
    for key, value in there["options"].items():
        if key in run["options"] or not is_of_weights(key):
            compared[key] = value
    _check_same(folder, there | {"options": compared}, run, images)


def is_of_weights(option: str) -> bool:
    """Whether an option of run.json is a fingerprint by models.loading.check_weights."""
    return option == "configuration" or option.startswith("weights of ")


def _check_no_records(folder: Path) -> None:
    """InputError if a folder without run.json holds records."""
    if any(folder.glob("*.pt")):
        raise InputError(folder, "holds results but no run.json, so what made them is unknown; use --extra NAME")


def _check_same(folder: Path, there: dict, run: dict, images: Mapping[int, differences.Image] | None) -> None:
    """InputError, naming every difference, if two run.json have other options; arguments as in open_run."""
    if not differences.changed(there, run):
        return
    earlier = images_of(finished(folder).values())
    found = differences.options_in_words(there, run, earlier, images or {})
    separate = "Give this one its own folder with --extra NAME"
    raise InputError(folder, f"holds a run with other options: {'; '.join(found)}. {separate}")


_SPAN = r"\d{1,9}(-\d{1,9})?"
_TYPES: dict[str, type] = {  # keys of a run.json, or of its options, that are read again -> type
    **dict.fromkeys(["images", "img_size", N_LEVELS], int),
    **dict.fromkeys(["arms", "n_samples"], list),
    **dict.fromkeys(["dataset", "split"], str),
    "examples": dict,
}
_PATTERNS = {  # the same -> pattern of the text
    **dict.fromkeys(["all_arms", "indices"], f"{_SPAN}( {_SPAN})*"),
    "loss": r"[\w.+-]+",  # one of core.constants.LOSSES, of a baseline, or of a caller; records name those they have
    "interpolation": "bilinear|bicubic|lanczos|adm",
}


def read_run(folder: str | Path) -> dict:
    """The contents of run.json. Raises InputError if it is missing or damaged, or if no script writes such contents."""
    folder = expanded(folder)
    path = folder / "run.json"
    try:
        run = json.loads(_run_json(folder))
        _check_run(run)
        return run
    except InputError:
        raise
    except FileNotFoundError:
        raise InputError(folder, "no run.json there, so it is no run folder") from None
    except OSError as error:
        raise InputError(path, f"cannot be read ({error.strerror})") from None
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise InputError(path, f"damaged: {one_line(error)}") from None


def _run_json(folder: Path) -> str:
    """The text of run.json."""
    if pack.is_pack(folder):
        return pack.opened(folder).files["run.json"]
    return (folder / "run.json").read_text()


def _check_run(run: dict) -> None:
    """Raises ValueError, or what Python raises for a wrong type, unless this is the contents of a run.json."""
    values = run | run["options"]
    missing = {"images", "arms"} - run.keys()
    if missing:
        raise ValueError(f"no {' and no '.join(sorted(missing))}")
    for key, kind in _TYPES.items():
        value = values.get(key)  # None: an option that is not set
        if value is not None and not isinstance(value, kind):
            raise ValueError(f"{key} is {value!r:.60}, wanted {kind.__name__}")
    for key, pattern in _PATTERNS.items():
        value = values.get(key)
        if value is not None and not re.fullmatch(pattern, value):
            raise ValueError(f"{key} is {value!r:.60}, wanted {pattern}")
    for arm in run["arms"]:
        condition, name, class_id = arm
        is_id = isinstance(class_id, int) and 0 <= class_id < 2**63
        if not (isinstance(condition, str | int) and isinstance(name, str) and is_id):
            raise ValueError(f"an arm is {arm!r:.60}, wanted a prompt or an id, a class's name and a class id")


def need(folder: Path, run: dict, *keys: str) -> None:
    """Raises InputError if a run lacks one of these keys."""
    for key in keys:
        if not (run | run["options"]).get(key):
            raise InputError(f"{folder / 'run.json'}", f"no {key} there")


def is_run(folder: str | Path) -> bool:
    """Whether a folder holds a run.json, or is a file, which stands for a packed run (see pack.py)."""
    folder = expanded(folder)
    return pack.is_pack(folder) or os.path.exists(folder / "run.json")  # Path.exists raises for some names


def find_run(path: str | Path) -> Path:
    """The folder itself, or the only folder in it that has a split's name and holds a run, as runs of a DiT are stored.

    InputError if there are runs of several splits.
    """
    path = expanded(path)
    if is_run(path):
        return path
    inside = [path / split for split in SPLITS if os.path.exists(path / split / "run.json")]
    if len(inside) > 1:
        raise InputError(path, f"holds runs of {len(inside)} splits, wanted one of {', '.join(map(str, inside))}")
    if not inside:
        return path
    return inside[0]


def record_path(folder: Path, total: int, index: int) -> Path:
    """The file of image `index` in a data set of `total`: zero-padded to the width of the last index."""
    return folder / f"{index:0{len(str(total - 1))}d}.pt"


def _names(folder: Path) -> list[str]:
    """The names of a folder's files, or of the records in a packed run. InputError if it cannot be listed."""
    if pack.is_pack(folder):
        return [f"{index}.pt" for index in pack.opened(folder).place]
    try:
        return os.listdir(folder)
    except OSError as error:
        raise InputError(folder, f"cannot be listed ({error.strerror})") from None


def _numbered(folder: Path, names: list[str], suffix: str) -> dict[int, Path]:
    """Dataset index -> path, ascending, of the files of a folder that are named INDEX.suffix."""
    found = {}
    for name in sorted(names):
        match = re.fullmatch(rf"(\d+)\.{suffix}", name)
        if match:
            found[int(match[1])] = folder / name
    return dict(sorted(found.items()))


def finished(folder: str | Path) -> dict[int, Path]:
    """Dataset index -> path of its record, ascending, from one listing of the folder. InputError if there is none."""
    folder = expanded(folder)
    return _numbered(folder, _names(folder), "pt")


def indices_of(description: dict) -> set[int] | None:
    """The images that the last command of a run chose, from its run.json; None if it does not list them."""
    if "indices" not in description:
        return None
    return set(numbers(description["indices"].split()))


def chosen(folder: Path, description: dict) -> dict[int, Path]:
    """`finished`, limited to `indices_of` this run.json, if it lists them."""
    done, wanted = finished(folder), indices_of(description)
    if wanted is None:
        return done
    return {index: path for index, path in done.items() if index in wanted}


def images_of(paths: Iterable[str | Path]) -> dict[int, differences.Image]:
    """Dataset index -> file and label, from records; what is no record is left out."""
    found = {}
    for path in paths:
        with contextlib.suppress(InputError, FileNotFoundError):
            record = load_record(path)
            if "index" in record:
                found[record["index"]] = (record.get("file"), record["label"])
    return found


def failed(folder: str | Path) -> dict[int, Path]:
    """Dataset index -> the note `failed/INDEX.txt`: the reason why there is no record."""
    folder = expanded(folder)
    notes = folder / "failed"
    names: list[str] = []
    if pack.is_pack(folder):
        names = list(pack.opened(folder).files["failed"])
    elif os.path.isdir(notes):
        names = _names(notes)
    return _numbered(notes, names, "txt")


def check_notes(folder: Path) -> None:
    """Raises InputError if `failed` in a run's folder is something else than a folder for notes."""
    notes = folder / "failed"
    if os.path.lexists(notes) and not os.path.isdir(notes):
        raise InputError(notes, "is no folder, wanted one, or nothing, for notes of images that cannot be read")


def note_failure(path: Path, why: str) -> None:
    """Write a note about the image of a missing record; `forget_failure` removes it. InputError: cannot be written."""
    notes = path.parent / "failed"
    try:
        notes.mkdir(exist_ok=True)
    except OSError as error:
        raise InputError(notes, f"cannot be made ({error.strerror})") from None
    write_atomic(notes / f"{path.stem}.txt", lambda file: file.write(f"{why}\n".encode(errors="backslashreplace")))


def read_note(note: Path) -> str:
    """The text of a note, or the reason why it cannot be read."""
    folder = note.parent.parent
    if pack.is_pack(folder):
        return pack.opened(folder).files["failed"][note.name]
    try:
        return note.read_text(errors="replace").strip()
    except OSError as error:
        return f"{note}: cannot be read ({error.strerror})"


def forget_failure(note: Path) -> None:
    """Remove the note of an image that now has a record. If it cannot be removed it stays, and is not counted."""
    with contextlib.suppress(OSError):
        note.unlink()
        note.parent.rmdir()  # unless others are there


def clean(folder: Path, indices) -> dict[int, Path]:
    """Remove the temporary files that killed writers of these images left; a living writer makes its file again.

    Returns `finished` from the same listing. Files that cannot be removed stay: no reader opens them.
    """
    mine, names = set(indices), _names(folder)
    for name in names:
        m = re.match(r"\.(\d+)\.pt\.|\.run\.json\.", name)
        if m and (m[1] is None or int(m[1]) in mine):
            with contextlib.suppress(OSError):
                (folder / name).unlink()
    return _numbered(folder, names, "pt")


# ---- records ----


def fingerprint(options: dict) -> str:
    """Digest of the options of a run, which its records hold: model, data, prompts, all that can change a number.

    An option that is None counts as missing, as in `open_run`.
    """
    as_read = json.loads(json.dumps(options))  # keys become texts, as in run.json
    present = {key: value for key, value in as_read.items() if value is not None}
    return sha256(json.dumps(present, sort_keys=True))


@dataclass(frozen=True)
class Expected:
    """What every record of a run must agree with."""

    run: str  # fingerprint of its options
    loss: str | None  # the one that decides, which must be stored; None: any
    n_arms: int | None  # their number; None: images differ
    class_ids: frozenset[int] | None  # the possible answers; None: images differ
    n_levels: int | None  # of the noise schedule; None: run.json has no such number

    @property
    def digest(self) -> str:
        """Digest of all fields."""
        class_ids = None if self.class_ids is None else sorted(self.class_ids)
        return sha256(json.dumps([self.run, self.loss, self.n_arms, class_ids, self.n_levels]))


def expected(run: dict, loss: str | None = None) -> Expected:
    """From the contents of run.json; the deciding loss is `loss`, by default the run's."""
    options, arms = run["options"], run["arms"]
    n_arms: int | None = None
    class_ids: frozenset[int] | None = None
    if arms and "examples" not in run:  # of a run of examples, the captions of an image are its arms
        n_arms = len(arms)
        class_ids = frozenset(class_id for *_, class_id in arms)
    return Expected(fingerprint(options), loss or options.get("loss"), n_arms, class_ids, n_levels(run))


def save_record(path: Path, record: dict, run: "str | Expected | None" = None) -> None:
    """Save a dict of ints, strings, lists of strings and tensors as a record of a run, if one is named.

    `run` is the `fingerprint` of the run's options, or all that its records must agree with: then the record also gets
    a line in the run's index, if it passes the checks of a reader.
    """
    import torch

    stamp = run.run if isinstance(run, Expected) else run
    stamped = dict(record)
    if stamp is not None:
        stamped["run"] = stamp
    file = io.BytesIO()
    torch.save(stamped, file)
    data = file.getvalue()
    write_atomic(path, lambda file: file.write(data))
    if isinstance(run, Expected):
        with contextlib.suppress(*WRONG):  # readers report it
            _check(path, archive.to_arrays(stamped), run)
            index = Index(path.parent, run.digest, read=False)
            index.add(sha256(data), brief(stamped))
            index.flush()


# ---- the fields of a record that tables need ----

PAIRS = ["between_pairs", "within_pairs"]
ROW = ["index", "file", "group", "label", "pred", "decided", "margin", "nfe", "first_nfe", "candidates", *PAIRS]
CHANGED = ["scores", "rank", "votes"]  # added by results.decider


def brief(record: dict) -> dict:
    """The fields of a record that tables need; published files have no index and no NFE, few have `candidates`."""
    return {key: record[key] for key in [*ROW, *CHANGED] if key in record}


# ---- reading ----

NONE = np.zeros(0)  # in place of a tensor that a record need not have

# What the values of a foreign file raise.
WRONG = (ValueError, TypeError, AttributeError, LookupError, RuntimeError)


def one_point(errors: "torch.Tensor", loss: str, among: "torch.Tensor | None" = None, **fields) -> dict:
    """The record of an image for a model that answers at once: errors [arms], each at a single point.

    With `among` [arms] bool, only these compete. `fields` are what else the record holds.
    """
    import torch

    point = torch.zeros(1, dtype=torch.int64)
    measured = torch.ones(len(errors), dtype=torch.bool)
    if among is not None:
        measured = among
    return fields | {
        "nfe": 1, "losses": [loss], "levels": point, "noise": point.clone(),
        "counts": measured.long(), "errors": errors[measured, None],
    }  # fmt: skip


def _check_origin(record: dict, wanted: Expected) -> None:
    """Raises ValueError if a record is of another run.

    A record without the field `run` is accepted if everything else agrees.
    """
    if record.get("run", wanted.run) != wanted.run:
        raise ValueError("it is of a run with other options")
    if wanted.n_arms not in (None, len(record["counts"])):
        raise ValueError(f"counts of {count(len(record['counts']), 'arm')}, the run has {wanted.n_arms}")
    if wanted.loss not in (None, *record["losses"]):
        raise ValueError(f"no loss {wanted.loss}, it has {', '.join(record['losses'])}")
    answers = set(record.get("candidates", []))
    if "pred" in record:
        answers.add(record["pred"])
    if wanted.class_ids and not answers <= wanted.class_ids:
        raise ValueError(f"class {min(answers - wanted.class_ids)} is none of the run's")
    levels = record["levels"]
    if wanted.n_levels and not (levels.min() >= 0 and levels.max() < wanted.n_levels):
        raise ValueError(f"levels from {levels.min()} to {levels.max()}, the run has 0 to {wanted.n_levels - 1}")


def _check_numbers(record: dict) -> None:
    """Raises ValueError, or what numpy raises, unless the numbers are as core.image.Measured.record has them."""
    missing = {"index", "nfe", "losses", "levels", "noise", "counts", "errors"} - record.keys()
    if missing:
        raise ValueError(f"no {' and no '.join(sorted(missing))}")
    for key in ("nfe", "first_nfe"):
        nfe = record.get(key, 1)
        if not (isinstance(nfe, int) and nfe > 0):
            raise ValueError(f"{key} is {nfe!r:.60}, wanted int, at least 1")
    for key in ("between_pairs", "within_pairs"):
        square = record.get(key, 0.0)
        if not (isinstance(square, float) and 0 <= square < math.inf):
            raise ValueError(f"{key} is {square!r:.60}, wanted a number, at least 0")
    candidates = record.get("candidates", [])
    if not (isinstance(candidates, list) and all(isinstance(c, int) for c in candidates)):
        raise ValueError(f"candidates is {candidates!r:.60}, wanted a list of class ids")
    losses = record["losses"]
    for key in ("levels", "noise", "counts", "errors", "signs", "weights"):
        if not isinstance(record.get(key, NONE), np.ndarray):
            raise ValueError(f"{key} is {record[key]!r:.60}, wanted a tensor")
    levels, noise, counts, errors = (record[key] for key in ("levels", "noise", "counts", "errors"))
    if counts.min() < 0 or not 1 <= counts.max() == len(levels) == len(noise):
        points = f"{count(len(levels), 'level')} and {count(len(noise), 'noise')}"
        raise ValueError(f"counts from {counts.min()} to {counts.max()}, of {points}")
    if errors.shape != (counts.sum(), len(losses)):
        raise ValueError(f"errors {list(errors.shape)}, wanted {[int(counts.sum()), len(losses)]}")
    if not np.isfinite(errors).all():
        raise ValueError("errors that are not all finite")
    if "signs" in record:
        signs = record["signs"]
        if signs.shape != levels.shape or not (np.abs(signs) == 1).all():
            raise ValueError(f"signs {list(signs.shape)}, wanted {list(levels.shape)}, each 1 or -1")
    if "weights" in record:
        weights = record["weights"]
        if weights.shape != levels.shape or not (weights >= 0).all() or not np.isfinite(weights).all():
            raise ValueError(f"weights {list(weights.shape)}, wanted {list(levels.shape)}, numbers from 0 up")


def _parse(data: bytes, checked: bool = False) -> dict:
    """The data in a file of torch.save, with arrays in place of tensors.

    ValueError, or what torch raises, if it is damaged or holds code.

    `checked`: these bytes were compared with their checksums before.
    """
    record = archive.parse(data)
    if record is not None:
        return record
    if data.startswith(b"PK") and not checked:  # a published file of an older torch has no checksum
        check_zip(io.BytesIO(data))

    import torch

    with torch.serialization.safe_globals(_SCALARS):
        return archive.to_arrays(torch.load(io.BytesIO(data), weights_only=True))


def _check(path: Path, record: dict, wanted: Expected | None) -> None:
    """Raises one of WRONG unless a record is that of the image which its file is named after, and of the run wanted."""
    record["label"] = int(record["label"])
    if "pred" in record:
        record["pred"] = int(record["pred"])
    if wanted:
        _check_numbers(record)
        _check_origin(record, wanted)
    if "index" in record and path.stem.isdecimal() and record["index"] != int(path.stem):
        raise ValueError(f"it is of image {record['index']}")


def _read(path: Path) -> bytes:
    """The bytes of a file. InputError: cannot be read; FileNotFoundError: there is none."""
    try:
        return path.read_bytes()
    except FileNotFoundError:
        raise
    except OSError as error:
        raise InputError(path, f"cannot be read ({error.strerror})") from None


def _decode(path: Path, data: bytes, wanted: Expected | None, checked: bool = False) -> dict:
    """The record in the bytes of a file, checked as in `load_record`, with arrays in place of tensors.

    `checked`: its checksums were compared before.
    """
    try:
        record = _parse(data, checked)
    except Exception as error:  # torch raises many kinds for a foreign or truncated file
        raise InputError(path, f"no record: {one_line(error)}") from None
    try:
        _check(path, record, None if checked else wanted)
        return record
    except WRONG as error:
        raise InputError(path, f"no record: {one_line(error)}") from None


def load_record(path: str | Path, wanted: Expected | None = None) -> dict:
    """Load a record, ours or a published one, as plain ints, strings and tensors; never by unpickling code.

    Every record is read whole and compared with its checksums. With `wanted` it must be a record of that run with valid
    numbers; a published one is not. Raises InputError, naming the file, if it is not such a record, or is another
    image's; FileNotFoundError if there is no file.
    """
    path = expanded(path)
    if pack.is_pack(path.parent):
        return archive.to_tensors(_packed(path, wanted))
    return archive.to_tensors(_decode(path, _read(path), wanted))


def _packed(path: Path, wanted: Expected | None) -> dict:
    """`load_record` from a packed run, in which each record has a checksum, with arrays in place of tensors."""
    record = pack.opened(path.parent).record(int(path.stem))
    try:
        _check(path, record, wanted)
        return record
    except WRONG as error:
        raise InputError(path, f"no record: {one_line(error)}") from None


class Reader:
    """Reads the records of a run, and keeps its index (see index.py).

    `change` makes another dict of a record, in which arrays stand for tensors. `how` is a text on which its fields
    depend, beside the record; without `how` they are not kept.
    """

    def __init__(
        self, folder: Path, wanted: Expected, change: Callable[[dict], dict] | None = None, how: str | None = None
    ):
        self._wanted = wanted
        self._change = change
        self._checked = Index(folder, wanted.digest)
        self._changed = None if how is None else Index(folder, wanted.digest, how)

    def row(self, path: Path) -> dict:
        """`brief` of a record, changed if it is to be; raises as `load_record`."""
        if pack.is_pack(path.parent):
            packed = pack.opened(path.parent)
            checked = packed.files["checked"] == index_key(self._wanted.digest)
            if not checked:
                record = _packed(path, self._wanted)
            elif self._change is None:
                return brief(packed.fields(int(path.stem)))
            else:
                record = packed.record(int(path.stem))
            if self._change is not None:
                record = self._change(record)
            return brief(record)
        data = _read(path)
        digest = sha256(data)
        index = self._checked if self._change is None else self._changed
        if index is not None:
            row = index.find(digest, path)
            if row is not None:
                return row
        checked = self._checked.find(digest, path) is not None
        record = _decode(path, data, self._wanted, checked)
        if not checked:
            self._checked.add(digest, brief(record))
        if self._change is None:
            return brief(record)
        row = brief(self._change(record))
        if index is not None:
            index.add(digest, row)
        return row

    def close(self) -> None:
        """Write the new lines of the index."""
        for index in (self._checked, self._changed):
            if index is not None:
                index.flush()
