"""Where the files of a name lie: in a local folder, or on the Hugging Face hub, fetched into its cache as needed."""

import contextlib
import functools
import glob
import logging
import os
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar
from urllib.parse import urlsplit
from urllib.request import getproxies

from diffusion import one_line

TOLD = ["*.json", "*.txt", "*.model", "*.jinja"]  # small, and says how to read the rest: configurations, tokenizers
CONNECT = 2.0  # seconds, for a connection to the hub
KEPT = 60  # seconds, for which we believe that there is no network
PAUSE = 1.0  # seconds, before a hub that fails is asked again
T = TypeVar("T")
SINGLE = (".safetensors", ".gguf", ".ckpt")  # files that hold a whole model


class Unreachable(OSError):
    """A name that is no folder, and that the hub does not give us; the message says why, and what would help."""


@dataclass(frozen=True)
class Source:
    """What a name stands for."""

    name: str  # hub id or folder
    folder: Path  # where its files lie, of the hub's those that were fetched
    names: tuple[str, ...]  # all the files that it has, as paths in the folder
    commit: str | None = None  # the hub's
    lost: str = ""  # why `names` are only those in the hub's cache

    def within(self, part: str) -> list[str]:
        """The names of the files in a folder of it; "": at its top."""
        head = f"{part}/" if part else ""
        inside = (name.removeprefix(head) for name in self.names if name.startswith(head))
        return [name for name in inside if "/" not in name]


def look(name: str) -> Source:
    """What a folder or hub id has; of the hub's only what `TOLD` names is fetched.

    The hub's newest commit, as this process first saw it; when it cannot be reached, the one in its cache. Raises
    Unreachable.
    """
    folder = Path(os.path.expanduser(name))
    return Source(name, folder, _listing(folder)) if folder.is_dir() else _on_hub(name)


@functools.cache
def _on_hub(name: str) -> Source:
    if "/" not in name:  # those of the hub's first years are no pipelines
        raise Unreachable("is no folder, and ids of the hub are OWNER/NAME")
    from huggingface_hub import HfApi, snapshot_download

    try:
        info = briefly(lambda: HfApi().model_info(name))
        folder = Path(briefly(lambda: snapshot_download(name, allow_patterns=TOLD, tqdm_class=_hidden_bar())))
        return Source(name, folder, tuple(sorted(file.rfilename for file in info.siblings)), folder.name)
    except Exception as error:  # of httpx, huggingface_hub and the disk
        lost = why(name, error)
        try:
            folder = Path(snapshot_download(name, local_files_only=True, allow_patterns=["-"]))  # whatever is there
        except (OSError, ValueError):
            raise Unreachable(lost) from error
        return Source(name, folder, _listing(folder), folder.name, lost)


def fetch(source: Source, names: list[str]) -> list[Path]:
    """The files of these names, fetched where they are not here yet. Raises Unreachable."""
    paths = [source.folder / name for name in names]
    if source.commit is None or all(path.is_file() for path in paths):
        return paths
    from huggingface_hub import snapshot_download

    wanted = [glob.escape(name) for name in names]
    bar = None if sys.stderr.isatty() else _hidden_bar()
    try:
        briefly(lambda: snapshot_download(source.name, revision=source.commit, allow_patterns=wanted, tqdm_class=bar))
    except Exception as error:
        raise Unreachable(why(source.name, error)) from error
    if gone := [path.name for path in paths if not path.is_file()]:
        raise Unreachable(source.lost or f"{gone[0]} is not in the hub's cache")
    return paths


def _listing(folder: Path) -> tuple[str, ...]:
    """The files in a folder, as paths in it; in folders that are links too, of which none is entered from itself."""
    depth, found = len(folder.parts), []
    for where, inside, files in os.walk(folder, followlinks=True):
        above = {os.path.realpath(each) for each in (where, *Path(where).parents)}
        inside[:] = [name for name in inside if os.path.realpath(os.path.join(where, name)) not in above]
        found += ["/".join((*Path(where).parts[depth:], file)) for file in files]
    return tuple(sorted(found))


# ---- a hub that refuses, fails or is not there ----


def briefly(call: Callable[[], T]) -> T:
    """Return what a call that asks the hub returns; the hub is asked once more where it fails (5xx).

    It ends within seconds of a hub that fails, is slow or wants fewer requests, and without a network. Raises
    Unreachable, or what the hub's answer led to. How long an answer may take is huggingface_hub's own setting:
    HF_HUB_ETAG_TIMEOUT and, for a file's contents, HF_HUB_DOWNLOAD_TIMEOUT; 10 seconds each by default.
    """
    try:
        with _without_patience():
            return call()
    except Exception as error:
        if (_status(error) or 0) < 500:
            raise
    time.sleep(PAUSE)
    with _without_patience():
        return call()


@contextlib.contextmanager
def _without_patience() -> Iterator[None]:
    """Let the client of huggingface_hub raise at the first refusal, and print errors alone; it is restored at the end.

    huggingface_hub (2.4.0, `http_backoff`) asks five times more after a 5xx or a timeout, sleeps as long as a 429 asks
    for, and has no option for that; `HfApi.model_info` and the listing of files have no timeout at all by default. The
    client is shared with the caller, whose own hooks and settings stay in it.
    """
    from huggingface_hub import get_session

    first_asked: dict[str, float] = {}  # request -> when; without those that were answered

    def before_request(request) -> None:
        on_hub = str(request.url).startswith(site())
        if on_hub and (reason := _no_connection(site(), time.monotonic() // KEPT)):
            raise Unreachable(reason)
        seconds = _seconds_to_answer(on_hub)
        key, now = f"{request.method} {request.url}", time.monotonic()
        if now - first_asked.setdefault(key, now) > seconds:
            raise Unreachable(f"the hub at {site()} does not answer within {seconds:g} s (HF_HUB_ETAG_TIMEOUT)")
        request.extensions["timeout"] = request.extensions.get("timeout", {}) | {"read": seconds}

    def after_response(response) -> None:
        from huggingface_hub.utils import hf_raise_for_status

        first_asked.pop(f"{response.request.method} {response.request.url}", None)
        if response.status_code == 429 or response.status_code >= 500:
            response.read()
            hf_raise_for_status(response)

    client, logger = get_session(), logging.getLogger("huggingface_hub")
    ours = {"request": before_request, "response": after_response}
    level = logger.level
    client.event_hooks = {event: [*hooks, ours[event]] for event, hooks in client.event_hooks.items()}
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)
        kept = client.event_hooks.items()  # others may have come or gone meanwhile
        client.event_hooks = {event: [hook for hook in hooks if hook is not ours[event]] for event, hooks in kept}


def _seconds_to_answer(on_hub: bool) -> float:
    from huggingface_hub import constants

    return constants.HF_HUB_ETAG_TIMEOUT if on_hub else constants.HF_HUB_DOWNLOAD_TIMEOUT


@functools.cache
def _hidden_bar() -> type:
    """A progress bar that is not shown, for huggingface_hub."""
    from huggingface_hub.utils import tqdm

    class HiddenBar(tqdm):
        def __init__(self, *args, **kwargs):
            super().__init__(*args, **kwargs | {"disable": True})

    return HiddenBar


def _status(error: BaseException | None) -> int | None:
    """Of the hub's answer, of which an error, or what caused it, tells."""
    while error is not None and not hasattr(error, "response"):
        error = error.__cause__
    return error and error.response.status_code


def site() -> str:
    return os.environ.get("HF_ENDPOINT", "https://huggingface.co")


@functools.cache
def _no_connection(site: str, when: float) -> str:
    """Why the hub cannot be connected to, if so, kept for a while; no name server or a firewall may take minutes."""
    place = urlsplit(site)
    if place.scheme in getproxies():
        return ""
    failed = [f"no connection within {CONNECT:g} s"]

    def connect() -> None:
        try:
            port = place.port or {"http": 80}.get(place.scheme, 443)
            socket.create_connection((place.hostname, port), CONNECT).close()
            failed.clear()
        except OSError as error:
            failed[:] = [one_line(error, 80)]

    waiting = threading.Thread(target=connect, daemon=True)
    waiting.start()
    waiting.join(CONNECT)
    return f"the hub at {site} cannot be reached: {failed[0]}; is there a network?" if failed else ""


def forget() -> None:
    """Ask the hub anew for what it has."""
    _on_hub.cache_clear()
    _no_connection.cache_clear()


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
    status = _status(origin)
    if isinstance(origin, Unreachable):
        return str(origin)
    if isinstance(origin, HFValidationError):
        return "is no folder, and can be no hub id"
    if isinstance(origin, OfflineModeIsEnabled | LocalEntryNotFoundError):
        return "is no folder and not in the hub's cache, and we are offline (HF_HUB_OFFLINE)"
    if isinstance(origin, GatedRepoError) or status == 403:
        return f"is gated: ask for access at {site()}/{name}, then log in with `hf auth login` or set HF_TOKEN"
    if isinstance(origin, RepositoryNotFoundError) or status in (401, 404):
        return f"the hub has no such repository, or a private one that needs `hf auth login` or HF_TOKEN ({status})"
    if status == 429:
        return "the hub has had too many requests from here (429): wait, or log in with `hf auth login`"
    if status is not None:
        return f"the hub failed ({status}): try again later"
    if getattr(origin, "errno", None):  # of the disk
        return f"cannot be kept in the hub's cache; HF_HOME says where that is ({one_line(origin)})"
    if "Timeout" in type(origin).__name__:
        return f"the hub at {site()} does not answer"
    return f"the hub at {site()} cannot be reached, or breaks off ({type(origin).__name__}: {one_line(origin, 80)})"


def why_no_data(name: str, error: Exception) -> str:
    """What was wrong when the `datasets` library could not read a name, whose own errors hide what the hub said."""
    said = f"{type(error).__name__}: {one_line(error, None)}"
    if os.path.exists(os.path.expanduser(name)):
        return said
    from huggingface_hub import HfApi

    try:
        if not isinstance(error, Unreachable):
            briefly(lambda: HfApi().auth_check(name, repo_type="dataset"))
            return said
    except Exception as origin:
        error = origin
    reason = why(f"datasets/{name}", error)
    if "offline" in reason:
        reason += (
            f"; if it is gated, accept its terms at {site()}/datasets/{name}, then fetch it once with HF_TOKEN set"
        )
    return reason
