"""Names and paths to files. The Hub is a small server on this machine that answers as the real one does."""

from __future__ import annotations

import logging
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import huggingface_hub
import pytest
from huggingface_hub import constants

from quintet.hub import SHIPPED, Source

COMMIT = "0123456789abcdef0123456789abcdef01234567"
FILES = {"config.json": b"{}", "sub/config.json": b'{"sub": 1}', "model.safetensors": b"weights"}


@dataclass
class Hub:
    """What the server was asked for, and the cache that its files go to."""

    cache: Path
    requests: list[tuple[str, str, str | None]] = field(default_factory=list)

    def source(self, name: str = "org/model", **options: object) -> Source:
        return Source(name, cache_dir=self.cache, **options)  # type: ignore[arg-type]

    def paths(self) -> list[str]:
        return [path for _, path, _ in self.requests]


def answer(repository: str, revision: str, filename: str) -> tuple[int, str | None, bytes]:
    """Status, error code and content, as the Hub would answer."""
    if repository == "org/gated":
        return 403, "GatedRepo", b""
    if repository == "org/down":
        return 503, None, b""
    if repository not in ("org/model", "model"):
        return 401, "RepoNotFound", b""
    if revision not in ("main", "v2", COMMIT):
        return 404, "RevisionNotFound", b""
    if filename not in FILES:
        return 404, "EntryNotFound", b""
    return 200, None, FILES[filename]


@pytest.fixture
def hub(tmp_path, monkeypatch) -> Iterator[Hub]:
    """A Hub that answers."""
    record = Hub(tmp_path / "cache")

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            record.requests.append((self.command, self.path, self.headers["Authorization"]))
            repository, _, place = self.path[1:].partition("/resolve/")
            revision, _, filename = place.partition("/")
            status, code, content = answer(repository, revision, filename)
            self.send_response(status)
            self.send_header("Content-Length", str(len(content)))
            self.send_header("ETag", f'"{hash(content)}"')
            if code != "RepoNotFound":
                self.send_header("X-Repo-Commit", COMMIT)
            if code:
                self.send_header("X-Error-Code", code)
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(content)

        do_HEAD = do_GET

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    point_at(monkeypatch, server.server_port)
    yield record
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def no_network(tmp_path, monkeypatch) -> Hub:
    """A Hub that nobody answers for."""
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        port = unused.getsockname()[1]
    point_at(monkeypatch, port)
    return Hub(tmp_path / "cache")


def point_at(monkeypatch: pytest.MonkeyPatch, port: int) -> None:
    def url(repo_id: str, filename: str, *, revision: str, **_: object) -> str:
        return f"http://127.0.0.1:{port}/{repo_id}/resolve/{revision}/{filename}"

    monkeypatch.setattr(huggingface_hub.file_download, "hf_hub_url", url)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    for name in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "HF_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setattr(time, "sleep", lambda _: None)  # huggingface_hub's, between its attempts


def fill(cache: Path, files: dict[str, bytes], absent: tuple[str, ...] = ()) -> None:
    """The cache as huggingface_hub leaves it after downloading `files` of org/model at main."""
    repository = cache / "models--org--model"
    for folder, name, content in (
        ("refs", "main", COMMIT.encode()),
        *((f"snapshots/{COMMIT}", name, content) for name, content in files.items()),
        *((f".no_exist/{COMMIT}", name, b"") for name in absent),
    ):
        path = repository / folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)


# Folders


def test_files_of_a_folder(tmp_path):
    (tmp_path / "sub").mkdir()
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "sub" / "config.json").write_text("{}")
    for source in (Source(tmp_path), Source(str(tmp_path)), Source(f"{tmp_path}/")):
        assert source.is_local
        assert source.find("config.json") == tmp_path / "config.json"
        assert source.find("model.safetensors") is None
        assert source.find("sub") is None, "a folder is no file"
    assert Source(tmp_path, subfolder="sub").file("config.json") == tmp_path / "sub" / "config.json"


def test_a_relative_folder_comes_before_a_repository_of_its_name(tmp_path, monkeypatch):
    (tmp_path / "org" / "model").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    assert Source("org/model").find("config.json") is None


def test_missing_in_a_folder(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"the folder .* does not hold config\.json\. It is empty"):
        Source(tmp_path).file("config.json")
    for i in range(30):
        (tmp_path / f"{i:02}").touch()
    with pytest.raises(FileNotFoundError, match=r"It holds: 00, 01, .*, 19, \.\.\.\."):
        Source(tmp_path).file("config.json")
    with pytest.raises(FileNotFoundError, match="There is no such folder: check `subfolder`"):
        Source(tmp_path, subfolder="elsewhere").file("config.json")


def test_a_file_is_not_a_folder(tmp_path):
    path = tmp_path / "model.safetensors"
    path.touch()
    with pytest.raises(NotADirectoryError, match="is a file: give the folder"):
        Source(path).find("config.json")


@pytest.mark.parametrize("name", ["/no/such/folder", "./model", "../model", "a/b/c", "a model", "", "-a", "x" * 100])
def test_neither_a_folder_nor_a_name(name):
    message = r"neither an existing folder nor a possible repository name.*\"namespace/name\" or \"name\""
    with pytest.raises(OSError, match=message):
        Source(name).find("config.json")


# The model in the package


@pytest.fixture
def shipped(tmp_path, monkeypatch) -> Path:
    """A folder in the place of the package's, with a model that is only names."""
    folder = tmp_path / "package"
    (folder / "sub").mkdir(parents=True)
    for name in ("config.json", "model.safetensors", "sub/config.json"):
        (folder / name).touch()
    monkeypatch.setattr("quintet.hub.SHIPPED_FOLDER", folder)
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", None)
    monkeypatch.chdir(tmp_path)
    return folder


def test_the_model_in_the_package_needs_no_hub(shipped):
    for name in (SHIPPED, Path(SHIPPED)):
        source = Source(name)
        assert source.is_local
        assert source.find("config.json") == shipped / "config.json"
        assert source.find("spiece.model") is None
    assert Source(SHIPPED, subfolder="sub").file("config.json") == shipped / "sub" / "config.json"
    with pytest.raises(FileNotFoundError, match=r"the folder .*package does not hold spiece.model\. It holds: config"):
        Source(SHIPPED).file("spiece.model")
    assert not Source(f"org/{SHIPPED}").is_local


def test_a_folder_comes_before_the_model_in_the_package(shipped):
    (shipped.parent / SHIPPED).mkdir()
    (shipped.parent / SHIPPED / "config.json").touch()
    assert Source(SHIPPED).find("config.json") == Path(SHIPPED, "config.json")


def test_a_package_built_without_its_model(shipped):
    (shipped / "model.safetensors").unlink()
    for looked_for in ("config.json", "README.md"):
        with pytest.raises(FileNotFoundError, match=r"'quintet-mini' is missing .* without its weights: install"):
            Source(SHIPPED).find(looked_for)


# The Hub


def test_download_then_cache(hub):
    path = hub.source().find("config.json")
    assert path is not None
    assert path.read_bytes() == b"{}"
    assert hub.cache in path.parents
    downloads = [request for request in hub.requests if request[0] == "GET"]
    assert len(downloads) == 1
    assert hub.source().find("config.json") == path
    assert [request for request in hub.requests if request[0] == "GET"] == downloads, "the second time it is cached"
    assert hub.source(force_download=True).find("config.json") == path
    assert len([request for request in hub.requests if request[0] == "GET"]) == 2


def test_what_is_asked_for(hub):
    assert hub.source(subfolder="sub").file("config.json").read_bytes() == b'{"sub": 1}'
    assert hub.source(revision="v2", token="hf_secret").file("config.json").read_bytes() == b"{}"
    assert hub.source("model").file("config.json").read_bytes() == b"{}"
    assert hub.requests[0] == ("HEAD", "/org/model/resolve/main/sub/config.json", None)
    assert ("HEAD", "/org/model/resolve/v2/config.json", "Bearer hf_secret") in hub.requests
    assert hub.requests[-1][1].startswith("/model/resolve/main")


def test_a_file_that_the_repository_lacks(hub):
    assert hub.source().find("spiece.model") is None
    with pytest.raises(FileNotFoundError, match="repository 'org/model' at revision 'main' does not hold spiece"):
        hub.source().file("spiece.model")
    error = hub.source(subfolder="sub").missing("a", "b")
    assert str(error).startswith("the folder 'sub' of the repository 'org/model' at revision 'main' does not hold any")
    assert str(error).endswith("of a, b. The files it has: https://huggingface.co/org/model/tree/main")


def test_absence_at_a_commit_is_remembered(hub):
    pinned = hub.source(revision=COMMIT)
    assert pinned.find("spiece.model") is None
    asked = len(hub.requests)
    assert pinned.find("spiece.model") is None
    assert len(hub.requests) == asked
    assert hub.source().find("spiece.model") is None
    assert len(hub.requests) == asked + 1, "a branch may have gained the file"


def test_one_load_reads_one_commit(hub):
    source = hub.source()
    source.find("config.json")
    assert source.find("spiece.model") is None
    hub.requests.clear()
    assert source.find("config.json")
    assert source.find("spiece.model") is None
    assert hub.requests == [], "what is known of this commit is not asked for again"
    source.find("model.safetensors")
    assert set(hub.paths()) == {f"/org/model/resolve/{COMMIT}/model.safetensors"}
    assert source == hub.source()
    assert hash(source) == hash(hub.source())


@pytest.mark.parametrize(
    ("name", "revision", "message"),
    [
        ("org/gated", None, "'org/gated': its owner asks for consent: accept the conditions at https://"),
        ("org/absent", None, "'org/absent': there is no folder of that name, and no repository that you may see"),
        ("org/model", "v9", "'org/model': it has no revision 'v9'"),
        ("org/down", None, "'org/down': the Hub cannot be reached, and it is not in the local cache"),
    ],
)
def test_refusals_of_the_hub(hub, name, revision, message):
    with pytest.raises(OSError, match=f"Cannot get config.json of {message}"):
        hub.source(name, revision=revision).find("config.json")


def test_any_other_failure_names_the_repository(hub, monkeypatch):
    def full(*_: object, **__: object) -> str:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", full)
    with pytest.raises(OSError, match=r"Cannot get config\.json of 'org/model': .*No space left on device"):
        hub.source().find("config.json")


# Without a network


def test_no_network_and_nothing_cached(no_network):
    with pytest.raises(OSError, match="'org/model': the Hub cannot be reached, and it is not in the local cache"):
        no_network.source().find("config.json")


def test_no_network_to_force_a_download(no_network):
    fill(no_network.cache, {"config.json": b"{}"})
    with pytest.raises(OSError, match=r"Cannot get config\.json of 'org/model': Force download failed"):
        no_network.source(force_download=True).find("config.json")


def test_no_network_but_cached(no_network, caplog):
    fill(no_network.cache, {"config.json": b"{}"})
    assert no_network.source().file("config.json").read_bytes() == b"{}"
    with caplog.at_level(logging.WARNING, logger="quintet.hub"):
        assert no_network.source().find("spiece.model") is None
    assert "spiece.model counts as absent from the cached org/model" in caplog.text


def test_a_hub_that_does_not_answer_is_asked_once(no_network, monkeypatch):
    fill(no_network.cache, {"model.safetensors": b"weights"})
    source = no_network.source()
    assert source.find("config.json") is None
    monkeypatch.setattr(huggingface_hub.file_download, "get_hf_file_metadata", None)  # what asks
    assert source.find("generation_config.json") is None
    assert source.file("model.safetensors").read_bytes() == b"weights"


OFFLINE = ["argument", "HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "huggingface_hub"]


@pytest.mark.parametrize("how", OFFLINE)
def test_offline(hub, monkeypatch, how):
    """Off means that nothing is asked, from the moment it is set, however it is set."""
    assert hub.source().find("config.json")
    asked = len(hub.requests)
    if how == "huggingface_hub":
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    elif how != "argument":
        monkeypatch.setenv(how, "1")
    options = {"local_files_only": True} if how == "argument" else {}
    assert hub.source(**options).file("config.json").read_bytes() == b"{}"
    assert hub.source(**options).find("model.safetensors") is None
    with pytest.raises(FileNotFoundError, match="Only the local cache was searched"):
        hub.source(**options).file("model.safetensors")
    with pytest.raises(OSError, match="'org/other': it is not in the local cache, and downloads are off"):
        hub.source("org/other", **options).find("config.json")
    with pytest.raises(OSError, match="'org/model': it is not in the local cache"):
        hub.source(revision="v2", **options).find("config.json")
    with pytest.raises(ValueError, match="force_download=True needs the network"):
        hub.source(force_download=True, **options).find("config.json")
    assert len(hub.requests) == asked


@pytest.mark.parametrize("value", ["", "0", "no"])
def test_not_offline(hub, monkeypatch, value):
    monkeypatch.setenv("HF_HUB_OFFLINE", value)
    assert hub.source().find("config.json")


def test_importing_the_module_loads_nothing_heavy():
    code = "import sys, quintet.hub; print([m for m in ('torch', 'huggingface_hub', 'requests') if m in sys.modules])"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    result = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"
