"""Download OCTMNIST, another 2-D MedMNIST set, or MNIST, and check the published MD5.

    python download_octmnist.py                      # data/octmnist.npz, 54.9 MB
    python download_octmnist.py --size 64            # data/octmnist_64.npz
    python download_octmnist.py --dataset bloodmnist --root elsewhere
    python download_octmnist.py --dataset mnist      # data/MNIST/raw/*.gz, 11.6 MB

Addresses, MD5s and licences come from the packages medmnist and torchvision. A broken download is resumed, a good
file is kept, and nothing stands under the final name until its hash matches. Two downloads of one file at once: the
second waits for the first. Proxies: HTTP(S)_PROXY, NO_PROXY.
Exit codes: 0 the data are there and good, 2 wrong flags or a failed download, 130 interrupted.
"""

from __future__ import annotations

import command_line  # first, for Ctrl-C during the others

# isort: split

import hashlib
import itertools
import re
import shlex
import sys
import time
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import requests
from tqdm import tqdm

import records
from command_line import flag

CHUNK = 64 * 1024  # bytes; a broken connection costs less than one of them
MAX_RETRY_AFTER = 60  # seconds; a server that asks for more is for the user to come back to
MEND = (
    "Run the same command again to resume; or download {url} by hand and put it at {path}; "
    "behind a firewall set HTTPS_PROXY."
)


class DownloadError(OSError):
    """A download failed: one line that says what happened and what mends it."""


# --- one file ----------------------------------------------------------------------------------------


def fetch(
    url: str,
    path: str | Path,
    known_hash: str,
    *,
    size: int | None = None,
    attempts: int = 5,
    timeout: float = 30.0,
    backoff: float = 1.0,
) -> Path:
    """Download `url` to `path` unless a file with `known_hash` ("md5:…", "sha256:…") is already there.

    Bytes gather in `path`.part, which a later attempt or run resumes, and which gets its final name when its hash
    matches; so they are under one of the two names, whenever the process dies. `size`: of the file in bytes, where it
    is known. Stalls of `timeout` seconds, broken or short bodies, 408, 429 and 5xx are retried, `attempts` in all,
    after `backoff`, 2·`backoff`, 4·`backoff`… seconds or the server's Retry-After. Raises DownloadError.
    """
    path = Path(path).expanduser()
    part = path.with_name(f"{path.name}.part")
    if _matches(path, known_hash):
        return path
    with records.locked(path):
        try:
            if not _matches(path, known_hash):  # else another process downloaded it meanwhile
                if not _matches(part, known_hash):  # else a run died just before it was done
                    _gather(url, part, known_hash, size, attempts, timeout, backoff)
                part.replace(path)
        except DownloadError:
            raise
        except OSError as error:
            mend = "Free some space or choose another folder, then run the same command again to resume."
            raise DownloadError(f"could not save {path}: {error}. {mend}") from error
    return path


def _matches(path: Path, known_hash: str) -> bool:
    return path.is_file() and _hash(path, known_hash) == known_hash.lower()


def _hash(path: Path, known_hash: str) -> str:
    """The hash of a file in the form and by the algorithm of `known_hash`."""
    algorithm = known_hash.partition(":")[0]
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, lambda: hashlib.new(algorithm, usedforsecurity=False))
    return f"{algorithm}:{digest.hexdigest()}"


def _gather(
    url: str, part: Path, known_hash: str, size: int | None, attempts: int, timeout: float, backoff: float
) -> None:
    """Stream into `part` until its hash matches. Raises DownloadError."""
    for attempt in itertools.count(1):
        try:
            resumed = _stream(url, part, size, timeout)
            found, length = _hash(part, known_hash), part.stat().st_size
            if found == known_hash.lower():
                return
            part.unlink()
            failure: Exception = ValueError(
                f"its {length:,} bytes are not those that were published, expected {known_hash} but got {found}"
            )
            retry = resumed  # from zero; only if the fault may lie in the old bytes
        except requests.RequestException as error:  # before ValueError and OSError: it can be either
            failure, retry = error, _is_transient(error)
        except ValueError as error:  # not the file
            failure, retry = error, False
        if not retry or attempt >= attempts:
            problem = f"could not download {url}: {failure} (attempt {attempt} of {attempts})."
            raise DownloadError(f"{problem} {MEND.format(url=url, path=part.with_suffix(''))}") from failure
        wait = max(backoff * 2 ** (attempt - 1), _seconds_asked(failure))
        print(f"{failure}; attempt {attempt + 1} of {attempts} in {wait:g} s", file=sys.stderr)
        time.sleep(wait)


def _stream(url: str, part: Path, size: int | None, timeout: float, afresh: bool = False) -> bool:
    """Append to `part` what it lacks; or write it `afresh`, which a server may make necessary.

    Returns whether it goes on with bytes of an earlier attempt. Raises requests.RequestException, and ValueError for
    an answer that is not the file, with `part` as it was.
    """
    have = part.stat().st_size if part.exists() and not afresh else 0
    # uncompressed, because a Range counts the bytes as sent while the file holds them as decoded
    headers = {"Accept-Encoding": "identity"} | ({"Range": f"bytes={have}-"} if have else {})
    with requests.get(url, headers=headers, stream=True, timeout=timeout) as response:
        content_range = response.headers.get("Content-Range", "")
        resumed = response.status_code == 206 and content_range.startswith(f"bytes {have}-")
        if have and not resumed and response.status_code in (206, 416):
            # `part` is longer than the file itself, or the answer is another range
            return _stream(url, part, size, timeout, afresh=True)
        response.raise_for_status()
        _save(response, part, have if resumed else 0, size)
    return resumed


def _save(response: requests.Response, part: Path, have: int, size: int | None) -> None:
    chunks = response.iter_content(CHUNK)  # urllib3 2 raises when the body ends too soon
    first = next(chunks, b"")
    if not have and _is_page(response, first):
        title = re.search(rb"<title[^>]*>(.*?)</title>", first, re.IGNORECASE | re.DOTALL)
        title = f" ({' '.join(title[1].decode(errors='replace').split())[:80]!r})" if title else ""
        place = f" of {response.url}" if response.history else ""
        raise ValueError(
            f"the answer is a web page{title}{place} instead of the file; perhaps the network asks to log in"
        )
    length = response.headers.get("Content-Length", "")
    total = have + int(length) if length.isdecimal() else None
    if size and total not in (size, None):
        raise ValueError(f"the server announces {total:,} bytes, but the published file has {size:,}")
    # disable=None: no bar where stderr is not a terminal
    bar = tqdm(desc=part.stem, total=total or size, initial=have, unit="B", unit_scale=True, disable=None)
    with bar, part.open("ab" if have else "wb") as file:
        for chunk in itertools.chain([first], chunks):
            have += len(chunk)
            if size and have > size:
                raise ValueError(f"the server sends more than the {size:,} bytes of the published file")
            file.write(chunk)
            bar.update(len(chunk))


def _is_page(response: requests.Response, first: bytes) -> bool:
    """Whether the body, which starts with `first`, is a web page: of an error, or of a network that asks to log in."""
    return "html" in response.headers.get("Content-Type", "") or first.lstrip()[:1] == b"<"


def _is_transient(error: requests.RequestException) -> bool:
    if isinstance(error, requests.HTTPError):
        return error.response.status_code in (408, 429) or error.response.status_code >= 500
    broken = requests.ConnectionError, requests.Timeout, requests.exceptions.ChunkedEncodingError
    return isinstance(error, broken)


def _seconds_asked(error: Exception) -> int:
    response = getattr(error, "response", None)
    asked = "" if response is None else response.headers.get("Retry-After", "")
    return min(int(asked), MAX_RETRY_AFTER) if asked.isdecimal() else 0


# --- the data sets -----------------------------------------------------------------------------------


class DataSet(NamedTuple):
    """What there is to download, and what to say before and after."""

    about: str
    files: list[tuple[str, str, str]]  # address, path below the root, MD5
    usable: bool = True  # by hw2-q2.py


def mnist(size: int) -> DataSet:
    """MNIST's four files, where torchvision looks for them. Raises ValueError for another size than 28."""
    from torchvision.datasets import MNIST

    if size != 28:
        raise ValueError(f"--size is {size}, but MNIST has images of 28 pixels only")
    about = "mnist, 28x28: licence CC BY-SA 3.0, described at http://yann.lecun.com/exdb/mnist"
    return DataSet(about, [(f"{MNIST.mirrors[0]}{name}", f"MNIST/raw/{name}", md5) for name, md5 in MNIST.resources])


def medmnist(name: str, size: int) -> DataSet:
    """A 2-D set of MedMNIST. Raises ValueError for another name."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that it can't make a folder of its own in the user's home
        from medmnist import HOMEPAGE, INFO

    names = [name for name in INFO if not name.endswith("3d")]
    if name not in names:
        raise ValueError(f"--dataset is {name!r}, but must be one of mnist, {', '.join(names)}")
    info, suffix = INFO[name], "" if size == 28 else f"_{size}"
    about = f"{name}, {size}x{size}: licence {info['license']}, described at {HOMEPAGE}"
    files = [(info[f"url{suffix}"], f"{name}{suffix}.npz", info[f"MD5{suffix}"])]
    return DataSet(about, files, usable="multi-label" not in info["task"])


def download(dataset: str, size: int, root: Path) -> None:
    """Download a data set, and say where it is and what to do with it."""
    data = mnist(size) if dataset == "mnist" else medmnist(dataset, size)
    print(data.about)
    try:
        for url, name, md5 in data.files:
            path = fetch(url, root / name, f"md5:{md5}")
            print(f"{path}: {path.stat().st_size / 1e6:.1f} MB, MD5 {md5} as published")
    except DownloadError as error:
        raise DownloadError(f"{error} Offline, without it: python hw2-q2.py --dataset synthetic-oct") from error
    if data.usable:
        name = dataset if size == 28 else f"{dataset}_{size}"
        flags = (("--dataset", name, "octmnist"), ("--data_root", str(root), "data"))
        given = [word for flag, value, default in flags if value != default for word in (flag, value)]
        print(f"next: {shlex.join(['python', 'hw2-q2.py', *given])}")


@dataclass(frozen=True)
class Config:
    """The flags."""

    dataset: str = flag("octmnist", "octmnist, another 2-D set of MedMNIST, or mnist")
    size: int = flag(28, "pixels a side: 28, 64, 128 or 224", choices=(28, 64, 128, 224))
    root: Path = flag(Path("data"), "folder for the file")


@command_line.entry_point
def main(argv: list[str] | None = None) -> None:
    config = command_line.parse(Config, argv, "Download a 2-D MedMNIST data set, or MNIST, and check its MD5.")
    download(config.dataset, config.size, config.root)


if __name__ == "__main__":
    sys.exit(main())
