"""The download helper against a local server that truncates, stalls, lies and refuses."""

import contextlib
import errno
import functools
import gzip
import hashlib
import io
import os
import queue
import random
import signal
import struct
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
import records
from download_octmnist import DownloadError, main

pytestmark = pytest.mark.timeout(60)

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
    send(handler, 200, b"something else")


PAGE = b"\n<!DOCTYPE html><html><head><TITLE>\nPlease  log in</TITLE></head></html>"


def page(handler):
    send(handler, 200, PAGE)


def page_by_its_type(handler):
    send(handler, 200, b"please log in", Content_Type="text/html; charset=utf-8")


def login(handler):
    """What a network does that wants a login first: every address leads to its page."""
    handler.server.script.insert(0, page)
    send(handler, 302, Location="/login")


def in_chunks(handler):
    """Without a length, twice as much as it should be."""
    handler.send_response(200)
    handler.send_header("Connection", "close")
    handler.end_headers()
    handler.wfile.write(PAYLOAD + PAYLOAD)


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
    fetch(server.url, path, timeout=0.3)
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
    with pytest.raises(DownloadError, match=f"its 14 bytes are not those .*, expected md5:{MD5} but got md5:"):
        fetch(server.url, path)
    assert list(path.parent.iterdir()) == []
    assert len(server.requests) == 1  # complete from zero: the same bytes would come again


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (page, "a web page ('Please log in') instead of the file"),
        (page_by_its_type, "a web page instead of the file"),
        (login, "a web page ('Please log in') of {origin}/login instead of the file"),
    ],
)
def test_web_page_is_called_that_and_costs_no_bytes(server, path, part, answer, words):
    part.write_bytes(PAYLOAD[:HALF])
    server.script = [answer]
    with pytest.raises(DownloadError) as caught:
        fetch(server.url, path)
    assert words.format(origin=server.origin) in str(caught.value)
    assert part.read_bytes() == PAYLOAD[:HALF]
    server.sent.clear()
    fetch(server.url, path)
    assert server.sent == [len(PAYLOAD) - HALF]
    assert_complete(path)


@pytest.mark.parametrize(
    ("answer", "size", "words"),
    [
        (good, len(PAYLOAD) - 1, r"announces 300,000 bytes, but the published file has 299,999"),
        (good, len(PAYLOAD) + 1, r"announces 300,000 bytes, but the published file has 300,001"),
        (in_chunks, len(PAYLOAD), r"sends more than the 300,000 bytes"),
        (in_chunks, None, r"its 600,000 bytes are not those"),
    ],
)
def test_file_of_another_size_than_published(server, path, answer, size, words):
    server.script = [answer]
    with pytest.raises(DownloadError, match=words):
        fetch(server.url, path, size=size)
    assert len(server.requests) == 1
    assert not path.exists()
    fetch(server.url, path, size=len(PAYLOAD))
    assert_complete(path)


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
    with pytest.raises(OSError, match=r"cannot write .*octmnist.npz \(Not a directory\).* choose another folder"):
        fetch(server.url, tmp_path / "data" / "octmnist.npz")
    assert server.requests == []


# fetch: deaths, and two at once


def killed(call):
    """The signal that ended `call` in a process of its own."""
    child = os.fork()
    if child == 0:
        with contextlib.suppress(BaseException):
            call()
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def die(*_args):
    os.kill(os.getpid(), signal.SIGKILL)


STAGES = {  # what is replaced there, and what the next run asks the server for
    "while it streams": ("download_octmnist.tqdm.update", "part"),
    "while it hashes": ("download_octmnist._hash", "nothing"),
    "before it moves": ("pathlib.Path.replace", "nothing"),
    "after it moved": ("records.Path.unlink", "nothing"),  # of the lock
}


@pytest.mark.parametrize("stage", STAGES)
def test_kill_loses_nothing(server, path, part, stage, monkeypatch):
    part.write_bytes(PAYLOAD[:HALF])
    target, missing = STAGES[stage]
    monkeypatch.setattr(target, die)
    if stage == "while it hashes":  # all of the bytes, not those of before
        monkeypatch.setattr(download_octmnist, "_matches", lambda *_: False)
    assert killed(lambda: fetch(server.url, path)) == -signal.SIGKILL
    monkeypatch.undo()
    kept = path if stage == "after it moved" else part
    assert len(PAYLOAD[:HALF]) < kept.stat().st_size
    assert PAYLOAD.startswith(kept.read_bytes())
    server.requests.clear()
    fetch(server.url, path)
    assert len(server.requests) == (missing == "part")
    assert path.read_bytes() == PAYLOAD


def test_second_download_of_a_file_waits_for_the_first(server, path, monkeypatch):
    go_on, said = threading.Event(), queue.Queue()
    monkeypatch.setattr(records, "print", lambda line, file: said.put(line), raising=False)

    def slow(handler):
        go_on.wait(20)
        good(handler)

    server.script = [slow]
    both = [threading.Thread(target=fetch, args=(server.url, path)) for _ in range(2)]
    for thread in both:
        thread.start()
    line = said.get(timeout=20)
    go_on.set()
    for thread in both:
        thread.join()
    assert said.empty()
    assert line.startswith(f"waiting for process {os.getpid()} on ")
    assert line.endswith(f"at work on {path}")
    assert len(server.requests) == 1
    assert_complete(path)


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
    assert f"next: python hw2-q2.py --dataset octmnist_64 --data_root {tmp_path / 'd'}\n" in capsys.readouterr().out


def test_mnist_is_laid_out_as_torchvision_expects(server, tmp_path, monkeypatch, capsys):
    from torchvision.datasets import MNIST

    images, labels = (
        struct.pack(">4I", 2051, 3, 28, 28) + bytes(3 * 28 * 28),
        struct.pack(">2I", 2049, 3) + bytes([7, 1, 9]),
    )
    bodies = [gzip.compress(images if "images" in name else labels) for name, _ in MNIST.resources]
    published = [(name, hashlib.md5(body).hexdigest()) for (name, _), body in zip(MNIST.resources, bodies, strict=True)]
    monkeypatch.setattr(MNIST, "mirrors", [f"{server.origin}/mnist/"])
    monkeypatch.setattr(MNIST, "resources", published)
    server.script = [lambda handler, body=body: send(handler, 200, body) for body in bodies]
    assert main(["--dataset", "mnist", "--root", str(tmp_path)]) == 0
    assert [asked for asked, _ in server.requests] == [f"/mnist/{name}" for name, _ in published]
    for train in (True, False):
        assert MNIST(tmp_path, train=train, download=True).targets.tolist() == [7, 1, 9]
    assert len(server.requests) == 4  # torchvision found all of them
    assert "CC BY-SA 3.0" in (out := capsys.readouterr().out)
    assert f"next: python hw2-q2.py --dataset mnist --data_root {tmp_path}\n" in out
    assert main(["--dataset", "mnist", "--size", "64"]) == 2
    assert "MNIST has images of 28 pixels only" in capsys.readouterr().err


def test_failure_is_one_line_and_exit_code_2(published, tmp_path, capsys):
    published.script = [status(404)]
    assert main(["--root", str(tmp_path)]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    path, offline = tmp_path / "octmnist.npz", "python hw2-q2.py --dataset synthetic-oct"
    for needed in ("404", f"{published.origin}/octmnist.npz?download=1", str(path), offline):
        assert needed in line


@pytest.mark.parametrize("name", ["octmist", "organmnist3d"])
def test_unknown_dataset_is_one_line_and_exit_code_2(name, capsys):
    assert main(["--dataset", name]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert f"'{name}'" in line
    assert "mnist, pathmnist" in line
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


def test_scripts_and_synthetic_data_do_not_wait_for_torch():
    modules = "download_octmnist, download_ljspeech, synthetic.scans, synthetic.speech"
    code = f"import sys, {modules}; print({{'torch', 'matplotlib', 'medmnist'}} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], cwd=records.ROOT, capture_output=True, text=True, timeout=60)
    assert done.stdout == "set()\n"


def test_ctrl_c_leaves_a_part_to_resume(published, path, part, monkeypatch, capsys):
    def interrupts(handler):
        truncates(handler)
        while not (part.exists() and part.stat().st_size):
            time.sleep(0.01)
        signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)
        handler.server.closing.wait(20)

    ours = signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background job would ignore it
    try:
        published.script = [interrupts]
        assert main(["--root", str(path.parent)]) == 130
    finally:
        signal.signal(signal.SIGINT, ours)
    (line,) = capsys.readouterr().err.splitlines()
    assert "interrupted; the same command goes on where it was" in line
    assert list(path.parent.iterdir()) == [part]

    kept = part.stat().st_size
    assert main(["--root", str(path.parent)]) == 0
    assert ranges(published) == [None, f"bytes={kept}-"]
    assert_complete(path)
