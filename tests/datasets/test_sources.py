import hashlib
import http.server
import threading

import pytest

from quickstudy.datasets.archives import ArchiveError
from quickstudy.datasets.sources import entries, fetch, find

CONTENT = bytes(range(256)) * 500


class Handler(http.server.BaseHTTPRequestHandler):
    """Serves CONTENT: complete, incomplete, or not at all."""

    def do_GET(self):
        if "missing" in self.path:
            self.send_error(404)
            return
        self.send_response(200)
        self.send_header("Content-Length", str(len(CONTENT)))
        self.end_headers()
        self.wfile.write(CONTENT[: 1000 if "cut" in self.path else None])

    def log_message(self, *args):
        pass


@pytest.fixture(scope="module")
def server():
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as running:
        threading.Thread(target=running.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{running.server_address[1]}"
        running.shutdown()


@pytest.mark.parametrize("kind", ["sha256", "md5"])
def test_a_download_is_verified_and_kept(server, tmp_path, kind):
    known = f"{kind}:{hashlib.new(kind, CONTENT).hexdigest()}"
    path = fetch(f"{server}/data.zip?raw=true", tmp_path, known)
    assert path == tmp_path / "data.zip"
    assert path.read_bytes() == CONTENT


def test_a_wrong_checksum_leaves_no_file(server, tmp_path):
    with pytest.raises(
        ArchiveError, match=r"data\.zip: the downloaded file has the wrong checksum.*put it at"
    ):
        fetch(f"{server}/data.zip", tmp_path, "sha256:" + 64 * "0")
    assert list(tmp_path.iterdir()) == []


def test_an_incomplete_download_leaves_no_file(server, tmp_path):
    known = f"sha256:{hashlib.sha256(CONTENT).hexdigest()}"
    with pytest.raises((OSError, ArchiveError), match=r"cut\.zip: .*manually"):
        fetch(f"{server}/cut.zip", tmp_path, known)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("address", ["{}/missing.zip", "http://127.0.0.1:9/data.zip"])
def test_an_unreachable_server_is_named_with_the_remedy(server, tmp_path, address):
    with pytest.raises(OSError, match=r"Check the network.*put it at"):
        fetch(address.format(server), tmp_path, "sha256:" + 64 * "0")
    assert list(tmp_path.iterdir()) == []


def test_find_prefers_names_over_folders(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    (tmp_path / "a" / "x.zip").touch()
    (tmp_path / "b" / "x").mkdir()
    folders = [tmp_path / "a", tmp_path / "b"]
    assert find(folders, ["x", "x.zip"]) == tmp_path / "b" / "x"
    assert find(folders, ["y"]) is None


def test_entries_of_a_folder_are_named_as_in_its_archive(tmp_path):
    (tmp_path / "data" / "b").mkdir(parents=True)
    (tmp_path / "data" / "b" / "2.txt").write_text("two")
    (tmp_path / "data" / "a.txt").write_text("one")
    found = list(entries(tmp_path / "data", lambda name: name.endswith(".txt")))
    assert found == [("data/a.txt", b"one"), ("data/b/2.txt", b"two")]
