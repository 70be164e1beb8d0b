"""A hub on this machine: what huggingface_hub asks for, of repositories that are folders, and what may go wrong."""

import hashlib
import json
import re
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, unquote, urlsplit

import pytest

COMMIT = "c0ffee" + "0" * 34
STORED = (".safetensors", ".bin", ".parquet")  # behind a redirect, to another host


class Hub(ThreadingHTTPServer):
    """`repos`: id -> folder; `trouble(path, headers)` may give (status, headers) instead; `asked`: "GET /path", ..."""

    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.port = self.server_address[1]
        self.url = f"http://127.0.0.1:{self.port}"
        self.reset()
        threading.Thread(target=self.serve_forever, args=(0.02,), daemon=True).start()

    def reset(self) -> None:
        self.repos: dict[str, Path] = {}
        self.asked: list[str] = []
        self.trouble = lambda path, headers: None
        self.slow = 0.0  # seconds before each answer
        self.cut = 0  # so many answers with weights break off

    def handle_error(self, *_):  # clients that go
        pass

    def fetched(self) -> list[str]:
        """The files that were fetched from behind a redirect: "owner/name/file"."""
        return [asked.removeprefix("GET /blobs/") for asked in self.asked if asked.startswith("GET /blobs/")]


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def answer(self, status: int, body: bytes = b"", **headers) -> None:
        self.send_response(status)
        for key, value in ({"Content_Length": len(body)} | headers).items():
            self.send_header(key.replace("_", "-"), str(value))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def do_HEAD(self):
        self.do_GET()

    def do_POST(self):
        self.body = self.rfile.read(int(self.headers.get("Content-Length") or 0)).decode()
        self.do_GET()

    def do_GET(self):
        hub, url = self.server, urlsplit(self.path)
        path = unquote(url.path)
        hub.asked.append(f"{self.command} {path}" + f" {self.headers.get('Range', '')}".rstrip())
        time.sleep(hub.slow)
        if wrong := hub.trouble(path, self.headers):
            return self.answer(wrong[0], json.dumps({"error": "trouble"}).encode(), **wrong[1])
        if m := re.fullmatch(r"/api/(?:models|datasets)/([^/]+/[^/]+)(?:/([\w-]+)(?:/[^/]+)?)?(?:/(.+))?", path):
            return self.about(*m.groups(), "recursive=true" in url.query.lower())
        if m := re.fullmatch(r"/(?:datasets/)?([^/]+/[^/]+)/resolve/[^/]+/(.+)", path):
            return self.resolve(*m.groups())
        if m := re.fullmatch(r"/blobs/([^/]+/[^/]+)/(.+)", path):
            return self.blob(self.server.repos[m[1]] / m[2])
        self.answer(404, b"{}", X_Error_Code="EntryNotFound")

    def about(self, repo: str, how: str | None, below: str | None, deep: bool) -> None:
        if repo not in self.server.repos:
            return self.answer(404, b'{"error": "Repository not found"}', X_Error_Code="RepoNotFound")
        folder = self.server.repos[repo]
        if how == "tree":
            at = folder / (below or "")
            said = [entry(folder, path) for path in sorted(at.rglob("*") if deep else at.glob("*"))]
        elif how == "paths-info":
            asked = parse_qs(self.body).get("paths") or json.loads(self.body)["paths"]
            said = [entry(folder, folder / name) for name in asked if (folder / name).exists()]
        else:
            files = sorted(path for path in folder.rglob("*") if path.is_file())
            said = {"id": repo, "modelId": repo, "sha": COMMIT, "private": False, "gated": False, "tags": []}
            said |= {"siblings": [{"rfilename": path.relative_to(folder).as_posix()} for path in files]}
            said |= {"lastModified": "2026-01-01T00:00:00.000Z", "downloads": 0, "likes": 0}
        self.answer(200, json.dumps(said).encode(), Content_Type="application/json")

    def resolve(self, repo: str, name: str) -> None:
        """Small files at once, weights by a redirect, as the hub does."""
        if repo not in self.server.repos:
            return self.answer(404, b"", X_Error_Code="RepoNotFound")
        path = self.server.repos[repo] / name
        if not path.is_file():
            return self.answer(404, b"", X_Error_Code="EntryNotFound", X_Repo_Commit=COMMIT)
        told = {"X_Repo_Commit": COMMIT, "ETag": f'"{etag(path)}"'}
        if path.suffix not in STORED:
            return self.blob(path, **told)
        told |= {"X_Linked_Etag": f'"{etag(path)}"', "X_Linked_Size": path.stat().st_size}
        self.answer(302, b"", Location=f"http://localhost:{self.server.port}/blobs/{repo}/{name}", **told)

    def blob(self, path: Path, **told) -> None:
        data, start = path.read_bytes(), 0
        if m := re.match(r"bytes=(\d+)-(\d*)", self.headers.get("Range") or ""):
            start, end = int(m[1]), int(m[2] or len(data) - 1)
            told |= {"Content_Range": f"bytes {start}-{end}/{len(data)}"}
            data = data[start : end + 1]
        told = {"ETag": f'"{etag(path)}"', "Accept_Ranges": "bytes"} | told
        if self.server.cut and self.command == "GET" and path.suffix == ".safetensors":
            self.server.cut -= 1
            self.answer(206 if start else 200, data[: len(data) // 2], **told | {"Content_Length": len(data)})
            self.close_connection = True
            return
        self.answer(206 if start else 200, data, **told)


def entry(folder: Path, path: Path) -> dict:
    """A file or a folder as the list of a repository has it."""
    name = path.relative_to(folder).as_posix()
    if path.is_dir():
        return {"type": "directory", "path": name, "oid": "0" * 40}
    return {"type": "file", "path": name, "size": path.stat().st_size, "oid": etag(path)}


def etag(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def point_to(patch: pytest.MonkeyPatch, url: str, cache: Path) -> None:
    """Let the libraries of this process, which read their environment once, take this hub and this cache."""
    import huggingface_hub
    from huggingface_hub import constants, file_download
    from huggingface_hub.utils import _http

    for name, value in {
        "ENDPOINT": url, "HUGGINGFACE_CO_URL_TEMPLATE": url + "/{repo_id}/resolve/{revision}/{filename}",
        "HF_HUB_OFFLINE": False, "HF_HUB_CACHE": str(cache / "hub"), "HF_TOKEN_PATH": str(cache / "token"),
    }.items():  # fmt: skip
        patch.setattr(constants, name, value)
    patch.setattr(_http, "_HUB_ORIGINS", frozenset({_http._url_origin(url)}))
    patch.setenv("HF_ENDPOINT", url)
    patch.delenv("HF_HUB_OFFLINE", raising=False)
    patch.delenv("HF_TOKEN", raising=False)
    file_download._are_symlinks_supported_in_dir.clear()
    huggingface_hub.close_session()
    try:
        from datasets import config
    except ImportError:
        return
    for name, value in {
        "HF_ENDPOINT": url, "HUB_DATASETS_URL": url + "/datasets/{repo_id}/resolve/{revision}/{path}",
        "HF_HUB_OFFLINE": False, "USE_PARQUET_EXPORT": False,  # another server's
        "HF_DATASETS_CACHE": cache / "datasets", "HF_MODULES_CACHE": cache / "modules",
        "DOWNLOADED_DATASETS_PATH": cache / "datasets/downloads",
        "EXTRACTED_DATASETS_PATH": cache / "datasets/downloads/extracted",
    }.items():  # fmt: skip
        patch.setattr(config, name, value)
