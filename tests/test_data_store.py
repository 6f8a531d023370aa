import gc
import gzip
import hashlib
import http.server
import re
import socket
import subprocess
import sys
import threading
import time
import warnings
from pathlib import Path

import numpy as np
import pooch
import pytest

from lvm_jax.data import published, store
from lvm_jax.data.published import Collection, PublishedFile

CONTENT = np.random.default_rng(0).bytes(3 << 20)  # three pieces of a download, no zip shrinks it
SERVED = gzip.compress(CONTENT, 1, mtime=0)
KILLED = """
import sys, pooch
from lvm_jax.data import store
from lvm_jax.data.published import Collection, PublishedFile
folder, url, served = sys.argv[1:]
pooch.os_cache = lambda name: folder
file = PublishedFile("pixels", url, served, "")
store.find(Collection("tiny", (file,)), file)
"""


def md5(content):
    return f"md5:{hashlib.md5(content).hexdigest()}"


class Answers(http.server.BaseHTTPRequestHandler):
    """The file under /good/, and under the other paths what can go wrong with it."""

    def do_GET(self):
        kind = self.path.split("/")[1]
        self.server.asked.append(kind)
        if kind == "slow":
            self.server.slow.wait(60)
            return None
        if kind == "missing":
            return self.send_error(404)
        self.send_response(200)
        self.send_header("Content-Length", str(len(SERVED)))
        self.end_headers()
        half = len(SERVED) // 2
        first, rest = SERVED[:half], SERVED[half:]
        if kind == "wrong":
            rest = bytes(len(rest))
        self.wfile.write(first)
        if kind == "stalled":
            self.server.release.wait(60)
        elif kind != "truncated":
            self.wfile.write(rest)
        return None

    def log_message(self, *args):
        pass


@pytest.fixture(scope="module")
def server():
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Answers) as server:
        server.asked, server.release, server.slow = [], threading.Event(), threading.Event()
        server.address = f"http://127.0.0.1:{server.server_port}"
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        yield server
        server.release.set()
        server.slow.set()
        server.shutdown()
        thread.join()


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """An empty cache, no folder of one's own, and no proxy between here and the server."""
    monkeypatch.delenv(store.VARIABLE, raising=False)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setattr(pooch, "os_cache", lambda name: tmp_path / "cache" / name)
    return tmp_path / "cache" / "lvm_jax" / "tiny"


def tiny(url, **others):
    file = PublishedFile("pixels", f"{url}/pixels.gz", md5(SERVED), md5(CONTENT))
    return Collection("tiny", (file, file._replace(name="classes")), **others), file


def put(path, content=b"x"):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


def test_files_are_searched_in_the_users_cache_and_system_folders(tmp_path, cache, monkeypatch):
    collection, file = tiny("http://127.0.0.1:9", system=(tmp_path / "system",))
    (tmp_path / "mine").mkdir()
    monkeypatch.setenv(store.VARIABLE, str(tmp_path / "mine"))
    for path in [
        tmp_path / "system" / "pixels",
        tmp_path / "system" / "pixels.gz",
        cache / "pixels",
        cache / "pixels.gz",
        tmp_path / "mine" / "tiny" / "pixels",
        tmp_path / "mine" / "tiny" / "pixels.gz",
    ]:  # each is preferred to all that came before
        put(path)
        assert store.find(collection, file) == path
    monkeypatch.delenv(store.VARIABLE)
    assert store.find(collection, file) == cache / "pixels.gz"


def test_the_cache_folder_and_the_system_folder_of_fashion_mnist(monkeypatch):
    monkeypatch.delenv(store.VARIABLE, raising=False)
    assert store.folders(published.FASHION_MNIST) == [
        Path(pooch.os_cache("lvm_jax")) / "fashion_mnist",
        Path("/usr/share/datasets/fashion-mnist"),
    ]


def test_empty_variables_and_folders_are_not_files(tmp_path, cache, monkeypatch):
    collection, file = tiny("http://127.0.0.1:9", system=(tmp_path / "system",))
    monkeypatch.setenv(store.VARIABLE, "")
    assert store.folders(collection) == [cache, tmp_path / "system"]
    assert "($LVM_JAX_DATA is not set)" in refusal(*tiny(unreachable()))
    (cache / "pixels.gz").mkdir(parents=True)
    path = put(tmp_path / "system" / "pixels")
    assert store.find(collection, file) == path


def test_a_server_that_does_not_answer_is_given_up(server, cache, monkeypatch):
    monkeypatch.setattr(store, "TIMEOUT", (5, 0.2))
    message = refusal(*tiny(f"{server.address}/slow"))
    server.slow.set()
    assert "Read timed out. (read timeout=0.2)" in message


def test_the_refusal_names_the_folder_that_was_chosen(tmp_path, cache, monkeypatch):
    monkeypatch.setenv(store.VARIABLE, str(tmp_path))
    message = refusal(*tiny(unreachable()))
    assert f"zipped or not, in {tmp_path / 'tiny'}, {cache}, and the download" in message


def test_a_folder_variable_that_points_nowhere_is_refused(cache, monkeypatch):
    monkeypatch.setenv(store.VARIABLE, "/nowhere/data")
    with pytest.raises(ValueError, match=r"LVM_JAX_DATA: expected an existing folder, got '/nowh"):
        store.find(*tiny("http://127.0.0.1:9"))


def test_a_file_that_is_nowhere_is_downloaded_once_into_the_cache(server, cache):
    collection, file = tiny(f"{server.address}/good")
    before = len(server.asked)
    path = store.find(collection, file)
    assert path == cache / "pixels.gz" == store.find(collection, file)
    assert path.read_bytes() == SERVED
    assert server.asked[before:] == ["good"]
    assert list(cache.iterdir()) == [path]


def refusal(collection, file):
    with pytest.raises(FileNotFoundError) as caught:
        store.find(collection, file)
    return str(caught.value)


def unreachable():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{free.getsockname()[1]}"


@pytest.mark.parametrize(
    "kind, reason",
    [
        ("wrong", "MD5 hash of downloaded file .* does not match the known hash: expected"),
        ("truncated", r"IncompleteRead|more expected"),
        ("missing", "404 Client Error"),
        ("unreachable", "Connection refused"),
    ],
)
def test_a_failed_download_names_the_file_and_the_folder(server, cache, kind, reason):
    address = unreachable() if kind == "unreachable" else server.address
    collection, file = tiny(f"{address}/{kind}", package="apt install tiny")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)  # pooch leaves the socket of a 404 open
        message = refusal(collection, file)
        gc.collect()
    assert re.search(reason, message)
    assert message.startswith(
        f"tiny: no file pixels, zipped or not, in {cache} ($LVM_JAX_DATA is not set), and the "
        f"download of {address}/{kind}/pixels.gz failed: "
    )
    assert message.endswith(
        f"To do without the internet, put pixels, classes (each with or without .gz) into {cache} "
        "or $LVM_JAX_DATA/tiny, or run 'apt install tiny'. The data set 'digits' needs no files."
    )
    assert list(cache.iterdir()) == []


def test_a_cache_that_cannot_be_written_to_is_named(server, cache):
    put(cache.parent)  # a file where the folder should be
    with pytest.raises(FileNotFoundError, match=rf"failed: \w+Error: .*{cache.parent}"):
        store.find(*tiny(f"{server.address}/good"))


def test_a_killed_download_leaves_no_file_that_is_then_trusted(server, cache):
    url = f"{server.address}/stalled/pixels.gz"
    command = [sys.executable, "-c", KILLED, str(cache.parent), url, md5(SERVED)]
    with subprocess.Popen(command, cwd=Path(__file__).parents[1]) as process:
        deadline = time.monotonic() + 60
        while not any(path.stat().st_size for path in cache.glob("*")):  # half of it is on disk
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.02)
        process.kill()
    assert not (cache / "pixels.gz").exists()
    server.release.set()
    path = store.find(*tiny(f"{server.address}/good"))
    assert (path, path.read_bytes()) == (cache / "pixels.gz", SERVED)


def test_content_other_than_the_published_is_refused_by_its_path(tmp_path):
    _, file = tiny("http://example.org")
    store.check_content(CONTENT, file, tmp_path)
    sha1 = file._replace(content=f"sha1:{hashlib.sha1(CONTENT).hexdigest()}")
    store.check_content(CONTENT, sha1, tmp_path)
    flipped = CONTENT[:-1] + bytes([CONTENT[-1] ^ 1])
    digest = hashlib.md5(flipped).hexdigest()
    with pytest.raises(
        ValueError, match=rf"^/a/pixels: expected the published pixels, .* got {digest}: .* Remove"
    ):
        store.check_content(flipped, file, Path("/a/pixels"))
