"""Write a finished run as one file, which every script takes in place of the folder. The folder stays as it is.

python scripts/pack.py data/digits/vdigits_1trials_race_3z_500samples --out digits.parquet
"""

from diffusion.evaluate import options


@options.answered_early
def parser() -> options.Parser:
    p = options.reader(__doc__, "folder of a finished run", loss=None)
    options.add(p, "--out FILE", "the file to write; default FOLDER.parquet")
    return p


import os

from diffusion import InputError, tables
from diffusion.io.wording import count
from diffusion.runs import index, pack, records, results
from diffusion.runs.results import Run


def other_files(run: Run) -> dict:
    """All of a run that is no record."""
    calibration = run.folder / "calibration.json"
    wanted = records.indices_of(run.description)
    notes = records.failed(run.folder)
    return {
        "run.json": (run.folder / "run.json").read_text(),
        "calibration.json": calibration.read_text() if os.path.exists(calibration) else None,
        "failed": {note.name: records.read_note(note) for k, note in notes.items() if wanted is None or k in wanted},
        "name": tables.name_of(run),
        "records": len(run.done),
        "checked": index.key(run.wanted.digest),  # each record was, for this
    }


def check_finished(run: Run) -> None:
    """InputError if an image of the run has neither a record nor a note of its failure."""
    wanted = records.indices_of(run.description)
    images = run.description["images"] if wanted is None else len(wanted)
    done = len(run.done) + len(results.failures(run.folder, run.description))
    if done < images:
        raise InputError(run.folder, f"is not finished: {done} of {count(images, 'image')} done or failed")


def main(argv: list[str]) -> int:
    args = parser().parse_args(argv)
    run = results.read(args.folder, answers=False)
    if pack.is_pack(run.folder):
        raise InputError(run.folder, "is a packed run already")
    path = args.out or run.folder.with_name(f"{run.folder.name}.parquet")
    if not os.path.isdir(path.parent) or os.path.isdir(path):
        raise InputError(f"--out {path}", "wanted a file in a folder that exists")
    check_finished(run)
    each = ((record, records.load_record(record, run.wanted)) for record in run.done.values())
    pack.write(path, each, other_files(run))
    before = sum(record.stat().st_size for record in run.done.values())
    after = path.stat().st_size
    print(f"{'records':<15} {len(run.done):,}")
    print(f"{'folder':<15} {before / 1e6:,.2f} MB")
    print(f"{'packed':<15} {after / 1e6:,.2f} MB, {after / before:.0%}: {path}")
    return 0


if __name__ == "__main__":
    options.run(main)
