"""The LJ Speech script against a local server with small archives, good, damaged, unsafe and interrupted."""

import bz2
import errno
import hashlib
import io
import os
import queue
import random
import re
import signal
import sys
import tarfile
import threading
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace

import pytest

import download_ljspeech
import download_octmnist
import records
from download_ljspeech import Corpus, download, main
from download_octmnist import DownloadError

pytestmark = pytest.mark.timeout(60)

CLIPS = 5
UNPACKED_BYTES = 700_000
NOISE = random.Random(0)  # does not compress, so that the archive has several of the downloader's chunks
FILES = {
    "LJSpeech-1.1/metadata.csv": b"LJ001-0001|Printing|Printing\r\n",
    "LJSpeech-1.1/README": b"public domain\n",
    **{f"LJSpeech-1.1/wavs/LJ001-{clip:04}.wav": NOISE.randbytes(60_000) for clip in range(1, CLIPS + 1)},
}


def tar(files, links=()) -> bytes:
    """The bytes of a tar file with `links` (name, target) before `files` {name: content}."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for name, target in links:
            member = tarfile.TarInfo(name)
            member.type, member.linkname = tarfile.SYMTYPE, target
            archive.addfile(member)
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return buffer.getvalue()


ARCHIVE = bz2.compress(tar(FILES))
BREAK = 200_000  # bytes after which a broken connection ends


def corpus_of(archive, clips=CLIPS) -> Corpus:
    return Corpus(hashlib.sha256(archive).hexdigest(), clips, len(archive), UNPACKED_BYTES)


CORPUS = corpus_of(ARCHIVE)


class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        asked, body = self.headers["Range"], self.server.body
        self.server.ranges.append(asked)
        start = int(asked.removeprefix("bytes=").removesuffix("-")) if asked else 0
        self.send_response(206 if asked else 200)
        self.send_header("Content-Length", str(len(body) - start))
        self.send_header("Content-Range", f"bytes {start}-{len(body) - 1}/{len(body)}")
        self.end_headers()
        end = BREAK if self.server.breaks else len(body)
        self.server.breaks = False
        with suppress(ConnectionError):  # the client may hang up first
            self.wfile.write(body[start:end])

    def log_message(self, *args):
        pass


@pytest.fixture
def server(monkeypatch):
    """A server that sends its `body`, the first time broken off if it `breaks`, and notes the `ranges` asked for."""
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setattr(download_octmnist, "time", SimpleNamespace(sleep=lambda seconds: None))
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.body, server.breaks, server.ranges = ARCHIVE, False, []
        server.url = f"http://127.0.0.1:{server.server_port}/LJSpeech-1.1.tar.bz2"
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@pytest.fixture
def root(tmp_path):
    return tmp_path / "new" / "data"


def names(folder):
    return sorted(path.name for path in folder.iterdir()) if folder.exists() else []


def assert_complete(root, beside=()):
    """The corpus is whole under its final name, with nothing but `beside` beside it."""
    assert names(root) == sorted(["LJSpeech-1.1", *beside])
    assert {str(path.relative_to(root)): path.read_bytes() for path in root.rglob("*/*") if path.is_file()} == FILES


def on_file(monkeypatch, number, act):
    """Call `act` when file `number` of an archive is about to be unpacked."""
    seen, makefile = [], tarfile.TarFile.makefile

    def watched(self, *args):
        seen.append(args)
        if len(seen) == number:
            act()
        return makefile(self, *args)

    monkeypatch.setattr(tarfile.TarFile, "makefile", watched)


def failing(error):
    def fail():
        raise error

    return fail


# --- what goes well ----------------------------------------------------------------------------------


def test_download(server, root, capsys):
    assert download(root, server.url, CORPUS) == root / "LJSpeech-1.1"
    assert_complete(root)
    assert server.ranges == [None]
    assert capsys.readouterr() == ("", "")  # no bar where stderr is no terminal


def test_archive_is_kept_on_demand(server, root):
    download(root, server.url, CORPUS, keep_archive=True)
    assert_complete(root, beside=["LJSpeech-1.1.tar.bz2"])
    assert (root / "LJSpeech-1.1.tar.bz2").read_bytes() == ARCHIVE


def test_second_run_asks_for_nothing(server, root, monkeypatch):
    download(root, server.url, CORPUS)
    monkeypatch.setattr("shutil.disk_usage", lambda path: SimpleNamespace(free=0))  # nor needs it any room
    download(root, server.url, CORPUS)
    assert server.ranges == [None]
    assert_complete(root)


def test_broken_download_is_resumed(server, root):
    server.breaks = True
    download(root, server.url, CORPUS)
    first, second = server.ranges
    assert first is None
    assert BREAK - download_octmnist.CHUNK < int(re.fullmatch(r"bytes=(\d+)-", second)[1]) <= BREAK
    assert_complete(root)


def test_archive_from_elsewhere_is_used(server, root):
    root.mkdir(parents=True)
    (root / "LJSpeech-1.1.tar.bz2").write_bytes(ARCHIVE)
    download(root, server.url, CORPUS)
    assert server.ranges == []
    assert_complete(root)


def test_archive_of_several_bzip2_streams(server, root):
    """As parallel compressors write it."""
    whole = tar(FILES)
    server.body = bz2.compress(whole[:100_000]) + bz2.compress(whole[100_000:])
    download(root, server.url, corpus_of(server.body))
    assert_complete(root)


def test_home_folder(server, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert download("~/data", server.url, CORPUS) == tmp_path / "data" / "LJSpeech-1.1"
    assert_complete(tmp_path / "data")


def test_progress_of_download_and_unpacking(server, root, monkeypatch):
    terminal = io.StringIO()
    terminal.isatty = lambda: True
    monkeypatch.setattr(sys, "stderr", terminal)
    download(root, server.url, CORPUS)
    frames = terminal.getvalue().split("\r")
    done = [frame for frame in frames if "100%" in frame]
    assert any(frame.startswith("LJSpeech-1.1.tar.bz2") for frame in done)
    assert any(frame.startswith("unpacking LJSpeech-1.1.tar.bz2") for frame in done)


# --- what is refused ---------------------------------------------------------------------------------


def test_wrong_hash(server, root):
    server.body = bz2.compress(tar(FILES | {"LJSpeech-1.1/README": b"another\n"}))
    with pytest.raises(DownloadError, match=f"expected sha256:{CORPUS.sha256}"):
        download(root, server.url, CORPUS._replace(archive_bytes=len(server.body)))
    assert names(root) == []
    assert len(server.ranges) == 1


@pytest.mark.parametrize(
    ("files", "links"),
    [
        ({"../evil.txt": b"evil"}, ()),
        ({"LJSpeech-1.1/wavs/../../../evil.txt": b"evil"}, ()),
        ({"LJSpeech-1.1/away/evil.txt": b"evil"}, [("LJSpeech-1.1/away", "../..")]),
        ({}, [("LJSpeech-1.1/away", "/")]),
    ],
)
def test_members_outside_of_the_folder_are_refused(server, root, files, links):
    server.body = bz2.compress(tar(FILES | files, links))
    with pytest.raises(OSError, match=r"could not unpack .*(outside the destination|absolute path)"):
        download(root, server.url, corpus_of(server.body))
    assert names(root) == ["LJSpeech-1.1.tar.bz2"]
    assert not list(root.parent.parent.rglob("evil.txt"))


def test_absolute_member_goes_nowhere(server, root, tmp_path):
    server.body = bz2.compress(tar(FILES | {f"{tmp_path}/evil.txt": b"evil"}))
    download(root, server.url, corpus_of(server.body))
    assert not list(tmp_path.rglob("evil.txt"))
    assert_complete(root)


@pytest.mark.parametrize("lost", ["LJSpeech-1.1/metadata.csv", "LJSpeech-1.1/wavs/LJ001-0005.wav"])
def test_incomplete_archive(server, root, lost):
    server.body = bz2.compress(tar({name: content for name, content in FILES.items() if name != lost}))
    with pytest.raises(ValueError, match=r"does not hold .* metadata.csv and 5 clips"):
        download(root, server.url, corpus_of(server.body))
    assert names(root) == ["LJSpeech-1.1.tar.bz2"]


@pytest.mark.parametrize("damaged", [ARCHIVE[:BREAK], bz2.compress(tar(FILES)[:200_000]), b"no archive at all"])
def test_damaged_archive(server, root, damaged):
    server.body = damaged
    with pytest.raises(OSError, match=r"could not unpack .*delete the archive"):
        download(root, server.url, corpus_of(damaged))
    assert names(root) == ["LJSpeech-1.1.tar.bz2"]


@pytest.mark.parametrize("lost", ["metadata.csv", "wavs/LJ001-0005.wav"])
def test_incomplete_folder_is_neither_used_nor_touched(server, root, lost):
    download(root, server.url, CORPUS)
    (root / "LJSpeech-1.1" / lost).unlink()
    kept = sorted(root.rglob("*"))
    with pytest.raises(ValueError, match=r"LJSpeech-1.1 is incomplete: .* 5 clips .*choose another --root"):
        download(root, server.url, CORPUS)
    assert sorted(root.rglob("*")) == kept
    assert len(server.ranges) == 1


# --- disk space --------------------------------------------------------------------------------------


@pytest.fixture
def disk(monkeypatch):
    """A disk with `free` bytes, which notes the folders that are `asked` about."""
    disk = SimpleNamespace(free=0, asked=[])

    def usage(path):
        assert Path(path).exists()
        disk.asked.append(path)
        return disk

    monkeypatch.setattr("shutil.disk_usage", usage)
    return disk


@pytest.mark.parametrize(("name", "have"), [(None, 0), (".part", BREAK), ("", len(ARCHIVE))])
def test_disk_space_is_asked_first(server, root, disk, name, have):
    """To the byte: the unpacked corpus, and what the archive lacks."""
    if name is not None:
        root.mkdir(parents=True)
        (root / f"LJSpeech-1.1.tar.bz2{name}").write_bytes(ARCHIVE[:have])
    before = names(root)
    disk.free = len(ARCHIVE) - have + UNPACKED_BYTES - 1
    with pytest.raises(OSError, match=r"needs \d\.\d\d GB .* 0\.00 GB are free. .*choose another --root"):
        download(root, server.url, CORPUS._replace(unpacked_bytes=UNPACKED_BYTES + 10**9))
    with pytest.raises(OSError, match="GB are free"):
        download(root, server.url, CORPUS)
    assert names(root) == before
    assert server.ranges == []
    disk.free += 1
    download(root, server.url, CORPUS)
    assert_complete(root)


def test_relative_root(server, tmp_path, monkeypatch, disk):
    monkeypatch.chdir(tmp_path)
    disk.free = 10**9
    Path("data").mkdir()  # it may be on another disk than the folder around it
    assert download("data", server.url, CORPUS) == Path("data/LJSpeech-1.1")
    assert download("new/data", server.url, CORPUS) == Path("new/data/LJSpeech-1.1")
    assert disk.asked == [Path("data"), Path("new/data")]


def test_disk_that_fills_up(server, root, monkeypatch):
    on_file(monkeypatch, 4, failing(OSError(errno.ENOSPC, "No space left on device")))
    with pytest.raises(OSError, match=r"could not unpack .*No space left on device.* Make room"):
        download(root, server.url, CORPUS)
    assert names(root) == ["LJSpeech-1.1.tar.bz2"]


# --- interruptions -----------------------------------------------------------------------------------


def test_final_name_is_absent_until_all_is_unpacked(server, root, monkeypatch):
    seen = []
    on_file(monkeypatch, len(FILES), lambda: seen.append(names(root)))
    download(root, server.url, CORPUS)
    assert seen == [[".LJSpeech-1.1.lock", "LJSpeech-1.1.part", "LJSpeech-1.1.tar.bz2"]]


def test_interrupted_unpacking_leaves_the_archive_alone(server, root, monkeypatch):
    on_file(monkeypatch, 4, failing(KeyboardInterrupt()))
    with pytest.raises(KeyboardInterrupt):
        download(root, server.url, CORPUS)
    assert names(root) == ["LJSpeech-1.1.tar.bz2"]
    download(root, server.url, CORPUS)
    assert len(server.ranges) == 1
    assert_complete(root)


def test_killed_unpacking_leaves_nothing_under_the_final_name(server, root, monkeypatch):
    on_file(monkeypatch, 4, lambda: os.kill(os.getpid(), signal.SIGKILL))
    child = os.fork()
    if child == 0:
        with suppress(BaseException):
            download(root, server.url, CORPUS)
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
    monkeypatch.undo()
    assert names(root) == [".LJSpeech-1.1.lock", "LJSpeech-1.1.part", "LJSpeech-1.1.tar.bz2"]
    (root / "LJSpeech-1.1.part" / "LJSpeech-1.1" / "wavs" / "stale.wav").touch()  # not to be mixed in
    download(root, server.url, CORPUS)
    assert len(server.ranges) == 1
    assert_complete(root)


def test_two_at_once_download_and_unpack_once(server, root, monkeypatch):
    second, said = threading.Thread(target=download, args=(root, server.url, CORPUS)), queue.Queue()
    monkeypatch.setattr(records, "print", lambda line, file: said.put(line), raising=False)

    def start_second():
        second.start()
        assert f"waiting for process {os.getpid()} on " in said.get(timeout=20)

    on_file(monkeypatch, 2, start_second)
    download(root, server.url, CORPUS)
    second.join()
    assert len(server.ranges) == 1
    assert_complete(root)


# --- main --------------------------------------------------------------------------------------------


@pytest.fixture
def published(server, monkeypatch):
    """The small archive in the place of the published one."""
    monkeypatch.setattr(download_ljspeech, "LJSPEECH", CORPUS)
    return server


def one_line(capsys):
    (line,) = capsys.readouterr().err.splitlines()
    return line


@pytest.mark.parametrize("dash", ["-", "--"])
def test_main(published, tmp_path, monkeypatch, capsys, dash):
    monkeypatch.chdir(tmp_path)
    assert main([f"{dash}url", published.url]) == 0
    assert_complete(Path("data"))
    assert "data/LJSpeech-1.1: 5 clips" in capsys.readouterr().out
    assert main([f"{dash}root", "other", f"{dash}url", published.url, f"{dash}keep_archive"]) == 0
    assert_complete(Path("other"), beside=["LJSpeech-1.1.tar.bz2"])


def test_main_failed_download_is_2(published, root, capsys):
    published.body = b"<html>please log in</html>"
    assert main(["--root", str(root), "--url", published.url]) == 2
    line = one_line(capsys)
    for needed in ("error: could not download", published.url, "a web page instead", str(root)):
        assert needed in line


def test_main_full_disk_is_2(published, root, disk, capsys):
    assert main(["--root", str(root), "--url", published.url]) == 2
    assert re.search(r"error: LJSpeech-1.1 needs .* 0.00 GB are free", one_line(capsys))


def test_main_incomplete_folder_is_2(published, root, capsys):
    (root / "LJSpeech-1.1").mkdir(parents=True)
    assert main(["--root", str(root), "--url", published.url]) == 2
    assert "0 are there. Move it away" in one_line(capsys)


def test_main_interrupted_is_130(published, root, monkeypatch, capsys):
    on_file(monkeypatch, 2, failing(KeyboardInterrupt()))
    assert main(["--root", str(root), "--url", published.url]) == 130
    assert "interrupted; the same command goes on where it was" in one_line(capsys)


def test_wrong_flag_is_2(capsys):
    with pytest.raises(SystemExit, match="2"):
        main(["--size", "28"])
    assert "unrecognized arguments: --size" in capsys.readouterr().err


def test_published_archive_is_the_one_torchaudio_knows():
    from torchaudio.datasets import ljspeech

    known = ljspeech._RELEASE_CONFIGS["release1"]
    assert (download_ljspeech.URL, download_ljspeech.LJSPEECH.sha256) == (known["url"], known["checksum"])
