"""Where the files of a name lie: in a local folder, or on the Hugging Face hub, fetched into its cache as needed."""

import glob
import os
import sys
from dataclasses import dataclass
from pathlib import Path

from diffusion import one_line

TOLD = ["*.json", "*.txt", "*.model"]  # what is small, and says how to read the rest: configurations, tokenizers
SECONDS = 10  # for the hub's first answer


class Unreachable(OSError):
    """A name that is no folder, and that the hub does not give us; the message says why, and what would help."""


@dataclass(frozen=True)
class Source:
    """What a name stands for."""

    name: str  # hub id or folder
    folder: Path  # where its files lie, of the hub's those that were fetched
    names: tuple[str, ...]  # all the files that it has, as paths in the folder
    commit: str | None = None  # the hub's

    def within(self, part: str) -> list[str]:
        """The names of the files in a folder of it; "": at its top."""
        head = f"{part}/" if part else ""
        inside = (name.removeprefix(head) for name in self.names if name.startswith(head))
        return [name for name in inside if "/" not in name]


def look(name: str) -> Source:
    """What a folder or hub id has; of the hub's only what `TOLD` names is fetched.

    The hub's newest commit; when it cannot be reached, the one in its cache. Raises Unreachable.
    """
    folder = Path(os.path.expanduser(name))
    if folder.is_dir():
        return Source(name, folder, _listing(folder))
    from huggingface_hub import HfApi, snapshot_download
    from huggingface_hub.utils import disable_progress_bars, logging

    disable_progress_bars()  # of what is small
    logging.set_verbosity_error()
    try:
        info = HfApi().model_info(name, timeout=SECONDS)
        names = [file.rfilename for file in info.siblings]
        _ask(name, next((file for file in names if file.endswith(".json")), None), info.sha)
        folder = Path(snapshot_download(name, allow_patterns=TOLD))
        return Source(name, folder, tuple(sorted(names)), folder.name)
    except Exception as error:  # of httpx, huggingface_hub and the disk
        try:
            folder = Path(snapshot_download(name, local_files_only=True, allow_patterns=["-"]))  # whatever is there
        except (OSError, ValueError):
            raise Unreachable(why(name, error)) from error
        return Source(name, folder, _listing(folder), folder.name)


def fetch(source: Source, names: list[str]) -> list[Path]:
    """The files of these names, fetched where they are not here yet. Raises Unreachable."""
    paths = [source.folder / name for name in names]
    if source.commit is None or all(path.is_file() for path in paths):
        return paths
    from huggingface_hub import snapshot_download
    from huggingface_hub.utils import enable_progress_bars

    if sys.stderr.isatty():
        enable_progress_bars()
    try:
        _ask(source.name, names[0], source.commit)
        snapshot_download(source.name, revision=source.commit, allow_patterns=[glob.escape(name) for name in names])
    except Exception as error:
        raise Unreachable(why(source.name, error)) from error
    return paths


def _ask(name: str, file: str | None, commit: str | None) -> None:
    """Ask for one file once, since downloads ask five times more, for 25 seconds, where they are refused."""
    from huggingface_hub import get_hf_file_metadata, hf_hub_url

    if file is not None:
        get_hf_file_metadata(hf_hub_url(name, file, revision=commit), timeout=SECONDS)


def _listing(folder: Path) -> tuple[str, ...]:
    depth = len(folder.parts)
    inside = (Path(where, file) for where, _, files in os.walk(folder) for file in files)
    return tuple(sorted("/".join(path.parts[depth:]) for path in inside))


def why(name: str, error: Exception) -> str:
    """What went wrong between us and the hub, and what would help."""
    from huggingface_hub.errors import (
        GatedRepoError,
        HFValidationError,
        LocalEntryNotFoundError,
        OfflineModeIsEnabled,
        RepositoryNotFoundError,
    )

    origin = error
    while isinstance(origin, LocalEntryNotFoundError) and origin.__cause__ is not None:
        origin = origin.__cause__
    status = getattr(getattr(origin, "response", None), "status_code", None)
    site = os.environ.get("HF_ENDPOINT", "https://huggingface.co")
    if isinstance(origin, HFValidationError):
        return "is no folder, and can be no hub id"
    if isinstance(origin, OfflineModeIsEnabled | LocalEntryNotFoundError):
        return "is no folder and not in the hub's cache, and we are offline (HF_HUB_OFFLINE)"
    if isinstance(origin, GatedRepoError) or status == 403:
        return f"is gated: ask for access at {site}/{name}, then log in with `hf auth login` or set HF_TOKEN"
    if isinstance(origin, RepositoryNotFoundError) or status in (401, 404):
        return f"the hub has no such repository, or a private one that needs `hf auth login` or HF_TOKEN ({status})"
    if status == 429:
        return "the hub has had too many requests from here (429): wait, or log in with `hf auth login`"
    if status is not None:
        return f"the hub failed ({status}): try again later"
    if getattr(origin, "errno", None):  # of the disk
        return f"cannot be kept in the hub's cache; HF_HOME says where that is ({one_line(origin)})"
    return f"the hub at {site} cannot be reached, or breaks off ({type(origin).__name__}: {one_line(origin, 80)})"
