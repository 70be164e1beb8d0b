"""A hub on this machine: what huggingface_hub asks for, of repositories that are folders, and what may go wrong."""

import hashlib
import json
import os
import re
import subprocess
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit

from conftest import ROOT, Result

COMMIT = "c0ffee" + "0" * 34


class Hub(ThreadingHTTPServer):
    """`repos`: id -> folder; `trouble(path, headers)` may give (status, headers) instead; `asked` are the paths."""

    daemon_threads = True

    def __init__(self, repos: dict[str, Path]):
        super().__init__(("127.0.0.1", 0), Handler)
        self.repos, self.asked, self.trouble, self.slow, self.cut = repos, [], lambda path, headers: None, 0, None
        self.url = f"http://127.0.0.1:{self.server_address[1]}"
        threading.Thread(target=self.serve_forever, daemon=True).start()

    def handle_error(self, *_):  # clients that go
        pass


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def answer(self, status: int, body: bytes = b"", **headers) -> None:
        self.send_response(status)
        for key, value in headers.items():
            self.send_header(key.replace("_", "-"), str(value))
        if "Content_Length" not in headers:
            self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def do_HEAD(self):
        self.do_GET()

    def do_POST(self):
        self.rfile.read(int(self.headers.get("Content-Length") or 0))
        self.do_GET()

    def do_GET(self):
        hub, path = self.server, unquote(urlsplit(self.path).path)
        hub.asked.append(f"{self.command} {path}")
        time.sleep(hub.slow)
        if wrong := hub.trouble(path, self.headers):
            return self.answer(wrong[0], json.dumps({"error": "trouble"}).encode(), **wrong[1])
        if m := re.fullmatch(r"/api/(models|datasets)/([^/]+/[^/]+)(?:/(revision|tree)/([^/]+))?(/.*)?", path):
            return self.about(*m.groups())
        if m := re.fullmatch(r"/(?:datasets/)?([^/]+/[^/]+)/resolve/([^/]+)/(.+)", path):
            return self.resolve(m[1], m[3])
        if m := re.fullmatch(r"/blobs/([^/]+/[^/]+)/(.+)", path):
            return self.blob(self.server.repos[m[1]] / m[2])
        self.answer(404, b"{}", X_Error_Code="EntryNotFound")

    def about(self, kind: str, repo: str, how: str | None, revision: str | None, rest: str | None) -> None:
        if repo not in self.server.repos:
            return self.answer(404, b'{"error": "Repository not found"}', X_Error_Code="RepoNotFound")
        folder = self.server.repos[repo]
        files = sorted(path for path in folder.rglob("*") if path.is_file())
        if how == "tree":
            tree = [
                {"type": "file", "path": str(path.relative_to(folder)), "size": path.stat().st_size, "oid": etag(path)}
                for path in files
            ]
            return self.answer(200, json.dumps(tree).encode(), Content_Type="application/json")
        names = [{"rfilename": str(path.relative_to(folder))} for path in files]
        info = {"id": repo, "modelId": repo, "sha": COMMIT, "siblings": names, "private": False, "gated": False}
        info |= {"tags": [], "downloads": 0, "likes": 0, "lastModified": "2026-01-01T00:00:00.000Z"}
        self.answer(200, json.dumps(info).encode(), Content_Type="application/json")

    def resolve(self, repo: str, name: str) -> None:
        """Small files at once, weights by a redirect, as the hub does."""
        if repo not in self.server.repos:
            return self.answer(404, b"", X_Error_Code="RepoNotFound")
        path = self.server.repos[repo] / name
        if not path.is_file():
            return self.answer(404, b"", X_Error_Code="EntryNotFound", X_Repo_Commit=COMMIT)
        told = {"X_Repo_Commit": COMMIT, "ETag": f'"{etag(path)}"'}
        if path.suffix in (".safetensors", ".bin", ".parquet"):
            told |= {"X_Linked_Etag": f'"{etag(path)}"', "X_Linked_Size": path.stat().st_size}
            return self.answer(
                302, b"", Location=f"http://localhost:{self.server.server_address[1]}/blobs/{repo}/{name}", **told
            )
        self.blob(path, **told)

    def blob(self, path: Path, **told) -> None:
        data, start = path.read_bytes(), 0
        if m := re.match(r"bytes=(\d+)-(\d*)", self.headers.get("Range") or ""):
            start, end = int(m[1]), int(m[2] or len(data) - 1)
            told |= {"Content_Range": f"bytes {start}-{end}/{len(data)}"}
            data = data[start : end + 1]
        told = {"ETag": f'"{etag(path)}"', "Accept_Ranges": "bytes"} | told
        if self.server.cut and self.command == "GET" and path.suffix == ".safetensors" and start == 0:
            self.server.cut -= 1
            self.answer(200, data[: len(data) // 2], Content_Length=len(data), **told)
            self.wfile.flush()
            self.close_connection = True
            self.connection.close()
            return
        self.answer(206 if start else 200, data, **told)


def etag(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def run(hub: Hub, tmp_path: Path, script: str, *args, env: dict | None = None) -> tuple[Result, float]:
    """A script in a process of its own, with this hub and a cache of its own; how many seconds it took."""
    env = {key: value for key, value in os.environ.items() if not key.startswith(("HF_", "HUGGING"))} | {
        "HF_ENDPOINT": hub.url if hub else "http://127.0.0.1:9", "HF_HOME": str(tmp_path / "hf"),
        "HF_HUB_DISABLE_XET": "1", "LOG_DIR": str(tmp_path / "data"), "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT),
    } | (env or {})  # fmt: skip
    start = time.monotonic()
    done = subprocess.run([sys.executable, ROOT / script, *map(str, args)], capture_output=True, text=True, env=env)
    return Result(done.returncode, done.stdout, done.stderr), time.monotonic() - start
