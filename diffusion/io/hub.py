"""Local folders and repositories of the Hugging Face hub, whose files are fetched into its cache as needed.

All requests go through huggingface_hub's public functions and the process's own client (`get_session`). Timeouts are
its settings; a request that fails is made once more.
"""

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

CONFIGURATION = ["*.json", "*.txt", "*.model", "*.jinja"]  # small files: configurations and tokenizers
CONNECT = 2.0  # seconds, for a connection to the hub
KEPT = 60  # seconds, for which a failed connection is not tried again
PAUSE = 1.0  # seconds, before the second try
T = TypeVar("T")
SINGLE = (".safetensors", ".gguf", ".ckpt")  # files that hold a whole model


class Unreachable(OSError):
    """A name that is no folder, and that the hub does not provide; the message says why, and what would help."""


@dataclass(frozen=True)
class Source:
    """A local folder, or a repository of the hub at one commit."""

    name: str  # hub id or folder
    folder: Path  # holds the files; for a repository, those that were fetched
    names: tuple[str, ...]  # all files, as paths within the folder, fetched or not
    commit: str | None = None  # the hub's; None for a local folder
    lost: str = ""  # why `names` lists the cached files alone; "" if it is complete

    def within(self, part: str) -> list[str]:
        """The names of the files in one of its folders, without those below; "" for the top."""
        files = []
        for name in self.names:
            folder, _, file = name.rpartition("/")
            if folder == part:
                files.append(file)
        return files


def look(name: str) -> Source:
    """List the files of a folder or hub id. From the hub only the files of `CONFIGURATION` are fetched.

    A repository is read at its newest commit when this process first looked, or at the cached commit if the hub cannot
    be reached. Raises Unreachable.
    """
    folder = Path(os.path.expanduser(name))
    if folder.is_dir():
        return Source(name, folder, _listing(folder))
    return _on_hub(name)


@functools.cache
def _on_hub(name: str) -> Source:
    if "/" not in name:  # un-namespaced ids are legacy and never pipelines
        raise Unreachable("is no folder, and ids of the hub are OWNER/NAME")
    from huggingface_hub import HfApi, snapshot_download

    try:
        info = briefly(lambda: HfApi().model_info(name))
        folder = Path(briefly(lambda: snapshot_download(name, allow_patterns=CONFIGURATION, tqdm_class=_hidden_bar())))
    except Exception as error:  # httpx, huggingface_hub and the disk raise classes without a common base
        lost = why(name, error)
        try:
            folder = Path(snapshot_download(name, local_files_only=True, allow_patterns=["-"]))  # fetches nothing
        except (OSError, ValueError):
            raise Unreachable(lost) from error
        return Source(name, folder, _listing(folder), folder.name, lost)
    names = sorted(file.rfilename for file in info.siblings)
    return Source(name, folder, tuple(names), folder.name)


def fetch(source: Source, names: list[str]) -> list[Path]:
    """The paths of files of these names, which are fetched if they are not here yet. Raises Unreachable."""
    paths = [source.folder / name for name in names]
    if source.commit is None or all(map(Path.is_file, paths)):
        return paths
    from huggingface_hub import snapshot_download

    wanted = list(map(glob.escape, names))
    bar = None if sys.stderr.isatty() else _hidden_bar()
    try:
        briefly(lambda: snapshot_download(source.name, revision=source.commit, allow_patterns=wanted, tqdm_class=bar))
    except Exception as error:  # as in _on_hub
        raise Unreachable(why(source.name, error)) from error
    gone = [path.name for path in paths if not path.is_file()]
    if gone:
        raise Unreachable(source.lost or f"{gone[0]} is not in the hub's cache")
    return paths


def _listing(folder: Path) -> tuple[str, ...]:
    """The files in a folder, as paths within it. Links to folders are followed, but never into a folder above."""
    depth = len(folder.parts)
    found = []
    for place, inside, files in os.walk(folder, followlinks=True):
        above = set(map(os.path.realpath, (place, *Path(place).parents)))
        inside[:] = [name for name in inside if os.path.realpath(os.path.join(place, name)) not in above]
        found += ["/".join((*Path(place).parts[depth:], file)) for file in files]
    return tuple(sorted(found))


# ---- a hub that refuses, fails or is not there ----


def briefly(call: Callable[[], T]) -> T:
    """Return the result of a call that makes requests to the hub; make it once more if the hub fails (5xx).

    It ends within seconds if the hub fails, is slow or wants fewer requests, and without a network. Raises Unreachable,
    or huggingface_hub's own error. How long an answer may take is huggingface_hub's setting: HF_HUB_ETAG_TIMEOUT and,
    for a file's contents, HF_HUB_DOWNLOAD_TIMEOUT; 10 seconds each by default.
    """
    try:
        with _without_patience():
            return call()
    except Exception as error:  # the status is read off the error, which is raised unless it is the hub's failure
        if (_status(error) or 0) < 500:
            raise
    time.sleep(PAUSE)
    with _without_patience():
        return call()


@contextlib.contextmanager
def _without_patience() -> Iterator[None]:
    """Let huggingface_hub's client raise at the first refusal, and log errors alone; both are restored at the end.

    huggingface_hub (2.4.0, `http_backoff`) makes five more requests after a 5xx or a timeout, sleeps as long as a 429
    asks for, and has no option for that; `HfApi.model_info` and the listing of files have no timeout at all by default.
    The client is shared with the caller, whose own hooks and settings stay in it.
    """
    from huggingface_hub import get_session

    client, logger = get_session(), logging.getLogger("huggingface_hub")
    limits = _Limits()
    hooks: dict[str, Callable] = {"request": limits.before_request, "response": limits.after_response}
    level = logger.level
    client.event_hooks = {event: [*others, hooks[event]] for event, others in client.event_hooks.items()}
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)
        kept = {}
        for event, others in client.event_hooks.items():  # others may have come or gone meanwhile
            kept[event] = [hook for hook in others if hook != hooks[event]]
        client.event_hooks = kept


class _Limits:
    """Hooks of an httpx client, which end requests that would otherwise be repeated or waited for."""

    def __init__(self) -> None:
        self.first_made: dict[str, float] = {}  # unanswered request -> time of the first try, in seconds

    def before_request(self, request) -> None:
        on_hub = str(request.url).startswith(site())
        if on_hub:
            reason = _no_connection(site(), time.monotonic() // KEPT)
            if reason:
                raise Unreachable(reason)
        seconds = _seconds_to_answer(on_hub)
        now = time.monotonic()
        first = self.first_made.setdefault(_key(request), now)
        if now - first > seconds:
            raise Unreachable(f"the hub at {site()} does not answer within {seconds:g} s (HF_HUB_ETAG_TIMEOUT)")
        request.extensions["timeout"] = request.extensions.get("timeout", {}) | {"read": seconds}

    def after_response(self, response) -> None:
        from huggingface_hub.utils import hf_raise_for_status

        self.first_made.pop(_key(response.request), None)
        if response.status_code == 429 or response.status_code >= 500:
            response.read()
            hf_raise_for_status(response)


def _key(request) -> str:
    return f"{request.method} {request.url}"


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
    """The status of the hub's response, from an error or the error that caused it; None without a response."""
    while error is not None and not hasattr(error, "response"):
        error = error.__cause__
    return None if error is None else error.response.status_code


def site() -> str:
    return os.environ.get("HF_ENDPOINT", "https://huggingface.co")


@functools.cache
def _no_connection(site: str, when: float) -> str:
    """Why the hub cannot be connected to; "" if it can. Tried in a thread: name servers and firewalls may take minutes.

    The result is cached for each value of `when`.
    """
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
    """Forget which repositories were seen, and whether there is a connection."""
    _on_hub.cache_clear()
    _no_connection.cache_clear()


def why(name: str, error: Exception) -> str:
    """The reason of a failed request to the hub, and what would help."""
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
    """The reason why the `datasets` library could not read a name. It hides the hub's error, so the hub is asked."""
    unread = f"{type(error).__name__}: {one_line(error, None)}"
    if os.path.exists(os.path.expanduser(name)):
        return unread
    from huggingface_hub import HfApi

    try:
        if not isinstance(error, Unreachable):
            briefly(lambda: HfApi().auth_check(name, repo_type="dataset"))
            return unread
    except Exception as origin:  # as in _on_hub
        error = origin
    reason = why(f"datasets/{name}", error)
    if "offline" in reason:
        reason += (
            f"; if it is gated, accept its terms at {site()}/datasets/{name}, then fetch it once with HF_TOKEN set"
        )
    return reason
