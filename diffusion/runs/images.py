"""The images of a run, to be looked at: those that were measured, and no others."""

from diffusion import InputError
from diffusion.data import catalogue
from diffusion.data.dataset import Dataset
from diffusion.data.datasets import dataset_of
from diffusion.runs import newer, records
from diffusion.runs.differences import data_in_words
from diffusion.runs.results import Run


def dataset_of_run(run: Run) -> Dataset:
    """The data set of a run, read again. Warns of images that are newer than their records.

    InputError as load_dataset; or a user's data has other files or labels than when it was measured, so that an index
    may be another image.
    """
    dataset = dataset_of(run.description, catalogue.DATASET_ROOT)
    found = run.options.get("data")
    if dataset.path and found != dataset.fingerprint:
        other = data_in_words(found, dataset.fingerprint, records.images_of(run.done.values()), dataset.named_images)
        raise InputError(f"{run.folder}, dataset {dataset.path}", f"has other images than those measured: {other}")
    newer.warn(dataset.located, run.done)
    return dataset
