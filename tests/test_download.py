"""The download helper against a local server that truncates, stalls, lies and refuses."""

import errno
import functools
import hashlib
import io
import random
import signal
import subprocess
import sys
import threading
import time
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace

import pytest

import download_octmnist
from download_octmnist import DownloadError, main

pytestmark = pytest.mark.timeout(60)

REPOSITORY = Path(__file__).parents[1]
PAYLOAD = random.Random(0).randbytes(300_000)
HALF = 200_000  # not a multiple of the downloader's chunk, as no real break is
MD5 = hashlib.md5(PAYLOAD).hexdigest()
FEW = {"attempts": 3, "timeout": 5, "backoff": 0.5}
fetch = functools.partial(download_octmnist.fetch, known_hash=f"md5:{MD5}", **FEW)


# What the server does with one request. Each behaviour is called with the request's handler.


def send(handler, status, body=b"", length=None, **headers):
    handler.send_response(status)
    handler.send_header("Content-Length", str(len(body) if length is None else length))
    for name, value in headers.items():
        handler.send_header(name.replace("_", "-"), value)
    handler.end_headers()
    handler.server.sent.append(len(body))  # before the client can be done with it
    handler.wfile.write(body)
    handler.wfile.flush()


def good(handler):
    asked = handler.headers["Range"]
    if asked is None:
        return send(handler, 200, PAYLOAD)
    start, size = int(asked.removeprefix("bytes=").removesuffix("-")), len(PAYLOAD)
    if start >= size:
        return send(handler, 416, Content_Range=f"bytes */{size}")
    return send(handler, 206, PAYLOAD[start:], Content_Range=f"bytes {start}-{size - 1}/{size}")


def ignores_range(handler):
    send(handler, 200, PAYLOAD)


def answers_another_range(handler):
    send(handler, 206, PAYLOAD[:-1], Content_Range=f"bytes 0-{len(PAYLOAD) - 2}/{len(PAYLOAD)}")


def wrong_bytes(handler):
    send(handler, 200, b"<html>please log in</html>")


def truncates(handler):
    send(handler, 200, PAYLOAD[:HALF], length=len(PAYLOAD))


def stalls(handler):
    truncates(handler)
    if not handler.server.closing.wait(20):
        handler.server.requests.append(("the client never gave up", None))


def status(code, **headers):
    return lambda handler: send(handler, code, **headers)


class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        self.server.requests.append((self.path, self.headers["Range"]))
        behave = self.server.script.pop(0) if self.server.script else good
        with suppress(ConnectionError):  # the client may hang up first
            behave(self)

    do_CONNECT = do_GET

    def log_message(self, *args):
        pass


@pytest.fixture
def server():
    """A server whose `script` lists what it does with the next requests, and that is good afterwards."""
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.daemon_threads = True
        server.script, server.requests, server.sent, server.closing = [], [], [], threading.Event()
        server.origin = f"http://127.0.0.1:{server.server_port}"
        server.url = f"{server.origin}/octmnist.npz"
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
        thread.start()
        yield server
        server.closing.set()
        server.shutdown()
        thread.join()


@pytest.fixture(autouse=True)
def no_proxies(monkeypatch):
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)


@pytest.fixture(autouse=True)
def waits(monkeypatch):
    """The seconds that the code would have slept for."""
    seconds = []
    monkeypatch.setattr(download_octmnist, "time", SimpleNamespace(sleep=seconds.append))
    return seconds


@pytest.fixture
def path(tmp_path):
    return tmp_path / "data" / "octmnist.npz"


@pytest.fixture
def part(path):
    path.parent.mkdir()
    return path.with_name("octmnist.npz.part")


def ranges(server):
    return [asked for _, asked in server.requests]


def assert_complete(path):
    """The file is whole, and nothing else is left in its folder."""
    assert path.read_bytes() == PAYLOAD
    assert list(path.parent.iterdir()) == [path]


# fetch: what is kept, resumed and restarted


@pytest.mark.parametrize("algorithm", ["md5", "sha256"])
def test_good_server(server, path, algorithm, capsys):
    known_hash = f"{algorithm}:{hashlib.new(algorithm, PAYLOAD).hexdigest()}"
    assert fetch(server.url, path, known_hash=known_hash) == path
    assert_complete(path)
    assert len(server.requests) == 1
    assert capsys.readouterr() == ("", "")  # no bar where stderr is no terminal


def test_good_file_needs_no_request(server, path):
    path.parent.mkdir()
    path.write_bytes(PAYLOAD)
    fetch(server.url, path)
    assert server.requests == []


def test_corrupt_file_is_replaced(server, path):
    path.parent.mkdir()
    path.write_bytes(PAYLOAD[:-1] + b"?")
    fetch(server.url, path)
    assert_complete(path)


def test_final_name_is_absent_during_the_download(server, path):
    seen = []

    def watches(handler):
        truncates(handler)
        seen.append(path.exists())
        handler.wfile.write(PAYLOAD[HALF:])

    server.script = [watches]
    fetch(server.url, path)
    assert seen == [False]
    assert_complete(path)


def test_part_of_an_earlier_run_is_resumed(server, path, part):
    part.write_bytes(PAYLOAD[:HALF])
    fetch(server.url, path)
    assert ranges(server) == [f"bytes={HALF}-"]
    assert server.sent == [len(PAYLOAD) - HALF]
    assert_complete(path)


@pytest.mark.parametrize("breaks", [truncates, stalls])
def test_broken_body_is_resumed(server, path, waits, breaks):
    server.script = [breaks]
    fetch(server.url, path, timeout=1)
    first, second = ranges(server)
    assert first is None
    kept = int(second.removeprefix("bytes=").removesuffix("-"))
    assert HALF - download_octmnist.CHUNK < kept <= HALF
    assert server.sent == [HALF, len(PAYLOAD) - kept]
    assert waits == [0.5]
    assert_complete(path)


def test_restarts_where_range_is_ignored(server, path):
    server.script = [truncates, ignores_range]
    fetch(server.url, path)
    assert ranges(server)[1].startswith("bytes=")
    assert_complete(path)


@pytest.mark.parametrize(("length", "script"), [(400_000, []), (HALF, [answers_another_range])])
def test_restarts_where_the_range_cannot_be_had(server, path, part, waits, length, script):
    part.write_bytes(b"?" * length)
    server.script = script
    fetch(server.url, path)
    assert ranges(server) == [f"bytes={length}-", None]
    assert waits == []  # the server did answer
    assert_complete(path)


def test_wrong_part_is_dropped_and_the_download_restarts(server, path, part):
    part.write_bytes(b"?" * HALF)
    fetch(server.url, path)
    assert ranges(server) == [f"bytes={HALF}-", None]
    assert_complete(path)


# fetch: what fails


def test_wrong_bytes_leave_nothing(server, path):
    server.script = [wrong_bytes] * 9
    with pytest.raises(DownloadError, match=f"does not match the known hash: expected md5:{MD5}"):
        fetch(server.url, path)
    assert list(path.parent.iterdir()) == []
    assert len(server.requests) == 1  # complete from zero: the same bytes would come again


@pytest.mark.parametrize("code", [403, 404])
def test_refusal_fails_at_once(server, path, waits, code):
    server.script = [status(code)] * 9
    with pytest.raises(DownloadError) as caught:
        fetch(server.url, path)
    message = str(caught.value)
    for needed in (str(code), server.url, str(path), "same command again", "by hand", "HTTPS_PROXY"):
        assert needed in message
    assert "\n" not in message
    assert len(server.requests) == 1
    assert waits == []


def test_unusable_address_fails_at_once(path, waits):
    with pytest.raises(DownloadError, match="No scheme supplied"):
        fetch("octmnist.npz", path)
    assert waits == []


@pytest.mark.parametrize("code", [429, 503])
def test_busy_server_is_asked_again(server, path, waits, code):
    server.script = [status(code), status(code)]
    fetch(server.url, path)
    assert waits == [0.5, 1.0]
    assert_complete(path)


def test_retry_after_is_honoured_within_reason(server, path, waits):
    server.script = [status(503, Retry_After="7"), status(429, Retry_After="86400")]
    fetch(server.url, path)
    assert waits == [7, download_octmnist.MAX_RETRY_AFTER]


def test_gives_up_after_attempts(server, path, waits, capsys):
    server.script = [status(503)] * 9
    with pytest.raises(DownloadError, match=r"503 .*\(attempt 4 of 4\)"):
        fetch(server.url, path, attempts=4)
    assert len(server.requests) == 4
    assert waits == [0.5, 1, 2]
    lines = capsys.readouterr().err.splitlines()
    assert [line.split("; attempt ")[1] for line in lines] == [
        "2 of 4 in 0.5 s",
        "3 of 4 in 1 s",
        "4 of 4 in 2 s",
    ]


def test_part_is_kept_for_the_next_run(server, path):
    server.script = [truncates]
    with pytest.raises(DownloadError):
        fetch(server.url, path, attempts=1)
    (part,) = path.parent.iterdir()
    assert part.name == "octmnist.npz.part"
    assert PAYLOAD.startswith(part.read_bytes())


def test_no_server_is_retried(server, path, waits):
    server.shutdown()
    server.server_close()
    with pytest.raises(DownloadError, match="refused"):
        fetch(server.url, path)
    assert len(waits) == 2


def test_full_disk(server, path, monkeypatch):
    class FullDisk(io.FileIO):
        def write(self, data):
            if self.tell():
                raise OSError(errno.ENOSPC, "No space left on device")
            return super().write(data)

    monkeypatch.setattr(Path, "open", lambda part, mode: FullDisk(part, mode))
    with pytest.raises(DownloadError, match=r"could not save .*octmnist.npz.*No space left on device"):
        fetch(server.url, path)
    assert [file.name for file in path.parent.iterdir()] == ["octmnist.npz.part"]  # resumes from there


def test_folder_that_is_a_file(server, tmp_path):
    (tmp_path / "data").write_text("in the way")
    with pytest.raises(DownloadError, match="choose another folder"):
        fetch(server.url, tmp_path / "data" / "octmnist.npz")
    assert server.requests == []


# fetch: proxies, and the progress bar


def test_http_proxy_is_honoured(server, path, monkeypatch):
    monkeypatch.setenv("HTTP_PROXY", server.origin)
    fetch("http://made-up.invalid/octmnist.npz", path)
    assert server.requests == [("http://made-up.invalid/octmnist.npz", None)]
    assert_complete(path)


def test_https_proxy_is_honoured(server, path, monkeypatch):
    monkeypatch.setenv("HTTPS_PROXY", server.origin)
    server.script = [status(403)]
    with pytest.raises(DownloadError, match="Tunnel connection failed: 403"):
        fetch("https://made-up.invalid/octmnist.npz", path, attempts=1)
    assert server.requests == [("made-up.invalid:443", None)]


def test_no_proxy_is_honoured(server, path, monkeypatch):
    monkeypatch.setenv("HTTP_PROXY", "http://made-up.invalid:9")
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    fetch(server.url, path)
    assert_complete(path)


def test_progress_starts_where_the_download_resumes(server, path, part, monkeypatch):
    terminal = io.StringIO()
    terminal.isatty = lambda: True
    monkeypatch.setattr(sys, "stderr", terminal)
    part.write_bytes(PAYLOAD[:HALF])
    fetch(server.url, path)
    frames = terminal.getvalue().strip().split("\r")
    assert "octmnist.npz" in frames[0]
    assert "200k/300k" in frames[0]
    assert "300k/300k" in frames[-1]


# main


@pytest.fixture
def published(server, monkeypatch):
    """MedMNIST's list, with this server as the place where OCTMNIST is published."""
    from medmnist import INFO

    entry = INFO["octmnist"]
    for suffix in ("", "_64"):
        monkeypatch.setitem(entry, f"url{suffix}", f"{server.origin}/octmnist{suffix}.npz?download=1")
        monkeypatch.setitem(entry, f"MD5{suffix}", MD5)
    return server


def test_main_downloads_to_data(published, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main([]) == 0
    assert_complete(Path("data/octmnist.npz"))
    out = capsys.readouterr().out
    for needed in ("CC BY 4.0", "data/octmnist.npz", "0.3 MB", MD5, "next: python hw2-q2.py\n"):
        assert needed in out
    assert main([]) == 0  # the second time, it is there
    assert len(published.requests) == 1


@pytest.mark.parametrize("dash", ["-", "--"])
def test_flags_with_one_dash_or_two(published, tmp_path, dash, capsys):
    assert main([f"{dash}dataset", "octmnist", f"{dash}size", "64", f"{dash}root", str(tmp_path / "d")]) == 0
    assert_complete(tmp_path / "d" / "octmnist_64.npz")
    assert f'medmnist.OCTMNIST("train", root="{tmp_path / "d"}", size=64)' in capsys.readouterr().out


def test_failure_is_one_line_and_exit_code_1(published, tmp_path, capsys):
    published.script = [status(404)]
    assert main(["--root", str(tmp_path)]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    path, offline = tmp_path / "octmnist.npz", "python hw2-q2.py --dataset synthetic-oct"
    for needed in ("404", f"{published.origin}/octmnist.npz?download=1", str(path), offline):
        assert needed in line


@pytest.mark.parametrize("name", ["octmist", "organmnist3d"])
def test_unknown_dataset_is_one_line_and_exit_code_2(name, capsys):
    assert main(["--dataset", name]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert f"'{name}'" in line
    assert "octmnist, pneumoniamnist" in line
    assert "nodulemnist3d" not in line


def test_unknown_size_is_exit_code_2(capsys):
    with pytest.raises(SystemExit, match="2"):
        main(["--size", "32"])
    assert "28, 64, 128, 224" in capsys.readouterr().err


def test_every_choice_is_published():
    from medmnist import INFO

    for name in (name for name in INFO if not name.endswith("3d")):
        for suffix in ("", "_64", "_128", "_224"):
            assert f"/{name}{suffix}.npz" in INFO[name][f"url{suffix}"]
            assert len(INFO[name][f"MD5{suffix}"]) == 32


def test_help_does_not_wait_for_torch():
    code = "import sys, download_octmnist as d\ntry: d.main(['--help'])\nfinally: print(sorted(sys.modules))"
    result = subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True, text=True)
    assert result.returncode == 0
    assert "--root" in result.stdout
    assert "'requests'" in result.stdout
    assert "'torch'" not in result.stdout
    assert "'medmnist'" not in result.stdout


CHILD = """
import signal, sys, types
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background job would ignore it
url, md5, root = sys.argv[1:]
octmnist = {"url": url, "MD5": md5, "license": "CC BY 4.0", "python_class": "OCTMNIST"}
# a stand-in, because the real package imports torch
sys.modules["medmnist"] = types.SimpleNamespace(INFO={"octmnist": octmnist}, HOMEPAGE="")
import download_octmnist
sys.exit(download_octmnist.main(["--root", root]))
"""


def test_ctrl_c_leaves_a_part_to_resume(server, path, part):
    server.script = [stalls]
    child = subprocess.Popen(
        [sys.executable, "-c", CHILD, server.url, MD5, str(path.parent)],
        cwd=REPOSITORY,
        stderr=subprocess.PIPE,
        text=True,
    )
    with child:
        try:
            while child.poll() is None and not (part.exists() and part.stat().st_size):
                time.sleep(0.01)
            child.send_signal(signal.SIGINT)
            _, stderr = child.communicate(timeout=30)
        finally:
            child.kill()
    assert (child.returncode, stderr) == (130, "interrupted: run the same command again to resume\n")
    assert list(path.parent.iterdir()) == [part]

    kept = part.stat().st_size
    fetch(server.url, path)
    assert ranges(server) == [None, f"bytes={kept}-"]
    assert_complete(path)
