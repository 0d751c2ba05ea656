"""Download OCTMNIST (or another 2-D MedMNIST set), checked against its published MD5.

    python download_octmnist.py                      # data/octmnist.npz, 54.9 MB
    python download_octmnist.py --size 64            # data/octmnist_64.npz
    python download_octmnist.py --dataset bloodmnist --root elsewhere

Address, MD5 and licence come from the medmnist package. A broken download is resumed, a good file is
kept, and nothing stands under the final name until its hash matches. Proxies: HTTP(S)_PROXY, NO_PROXY.
Exit codes: 0 the file is there and good, 1 the download failed, 2 bad usage, 130 interrupted.
"""

import argparse
import itertools
import sys
import time
from pathlib import Path

import pooch
import requests
from tqdm import tqdm

CHUNK = 64 * 1024  # bytes; a broken connection costs less than one of them
MAX_RETRY_AFTER = 60  # seconds; a server that asks for more is for the user to come back to
MEND = (
    "Run the same command again to resume; or download {url} by hand and put it at {path}; "
    "behind a firewall set HTTPS_PROXY."
)


class DownloadError(RuntimeError):
    """A download failed: one line that says what happened and what mends it."""


class ResumingDownloader:
    """A downloader for pooch that streams into ``part`` and goes on from what is already there.

    pooch's own HTTPDownloader writes into a temporary file that dies with the attempt. After a call,
    ``resumed`` says whether bytes of an earlier attempt are in the file.
    """

    def __init__(self, part: Path, timeout: float):
        self.part, self.timeout, self.resumed = part, timeout, False

    def __call__(self, url, output_file, _pooch):
        have = self.part.stat().st_size if self.part.exists() else 0
        # uncompressed, because a Range counts the bytes as sent while the file holds them as decoded
        headers = {"Accept-Encoding": "identity"} | ({"Range": f"bytes={have}-"} if have else {})
        with requests.get(url, headers=headers, stream=True, timeout=self.timeout) as response:
            content_range = response.headers.get("Content-Range", "")
            self.resumed = response.status_code == 206 and content_range.startswith(f"bytes {have}-")
            if have and not self.resumed and response.status_code in (206, 416):
                self.part.unlink()  # longer than the file itself, or answered with another range
                return self(url, output_file, _pooch)
            response.raise_for_status()
            self._save(response, have if self.resumed else 0)
        self.part.replace(output_file)  # pooch hashes it there and deletes it if it is wrong

    def _save(self, response, have):
        length = response.headers.get("Content-Length")
        total = have + int(length) if length else None
        # disable=None: no bar where stderr is not a terminal
        bar = tqdm(desc=self.part.stem, total=total, initial=have, unit="B", unit_scale=True, disable=None)
        with bar, self.part.open("ab" if have else "wb") as file:
            for chunk in response.iter_content(CHUNK):  # urllib3 2 raises when the body ends too soon
                file.write(chunk)
                bar.update(len(chunk))


def _is_transient(error: requests.RequestException) -> bool:
    if isinstance(error, requests.HTTPError):
        return error.response.status_code in (408, 429) or error.response.status_code >= 500
    broken = requests.ConnectionError, requests.Timeout, requests.exceptions.ChunkedEncodingError
    return isinstance(error, broken)


def _seconds_asked(error: Exception) -> int:
    response = getattr(error, "response", None)
    asked = "" if response is None else response.headers.get("Retry-After", "")
    return min(int(asked), MAX_RETRY_AFTER) if asked.isdecimal() else 0


def fetch(url, path, known_hash, *, attempts=5, timeout=30.0, backoff=1.0) -> Path:
    """Download `url` to `path` unless a file with `known_hash` ("md5:…", "sha256:…") is already there.

    Bytes gather in `path`.part, which a later attempt or run resumes. Stalls of `timeout` seconds, broken
    or short bodies, 408, 429 and 5xx are retried, `attempts` in all, after `backoff`, 2·`backoff`,
    4·`backoff`… seconds or the server's Retry-After. Raises DownloadError; Ctrl-C leaves the .part.
    """
    path = Path(path).expanduser()
    downloader = ResumingDownloader(path.with_name(path.name + ".part"), timeout)
    pooch.get_logger().setLevel("WARNING")
    # The loop is here because pooch.retrieve has none, and the one in pooch.Pooch retries a 404 as well.
    for attempt in itertools.count(1):
        try:
            pooch.retrieve(url, known_hash, fname=path.name, path=path.parent, downloader=downloader)
            return path
        except requests.RequestException as error:  # before ValueError and OSError: it can be either
            failure, retry = error, _is_transient(error)
        except ValueError as error:  # wrong hash; from zero only if the fault may lie in the old bytes
            failure, retry = error, downloader.resumed
        except OSError as error:
            mend = "Free some space or choose another folder, then run the same command again to resume."
            raise DownloadError(f"could not save {path}: {error}. {mend}") from error
        if not retry or attempt >= attempts:
            problem = f"could not download {url}: {failure} (attempt {attempt} of {attempts})."
            raise DownloadError(f"{problem} {MEND.format(url=url, path=path)}") from failure
        wait = max(backoff * 2 ** (attempt - 1), _seconds_asked(failure))
        print(f"{failure}; attempt {attempt + 1} of {attempts} in {wait:g} s", file=sys.stderr)
        time.sleep(wait)


def parse_args(argv):
    parser = argparse.ArgumentParser(
        description="Download a 2-D MedMNIST data set and check its MD5.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    flag = parser.add_argument
    flag("-dataset", "--dataset", default="octmnist", help="its name in MedMNIST")
    flag("-size", "--size", type=int, choices=[28, 64, 128, 224], default=28, help="pixels a side")
    flag("-root", "--root", type=Path, default=Path("data"), help="folder for the file")
    return parser.parse_args(argv)


def run(args) -> int:
    from medmnist import HOMEPAGE, INFO  # here, because it imports torch: --help and `fetch` need not wait

    names = [name for name in INFO if not name.endswith("3d")]
    if args.dataset not in names:
        print(f"error: no data set {args.dataset!r}; choose from {', '.join(names)}", file=sys.stderr)
        return 2
    info, suffix = INFO[args.dataset], "" if args.size == 28 else f"_{args.size}"
    print(f"{args.dataset}, {args.size}x{args.size}: licence {info['license']}, described at {HOMEPAGE}")
    url, md5 = info[f"url{suffix}"], info[f"MD5{suffix}"]
    path = fetch(url, args.root / f"{args.dataset}{suffix}.npz", f"md5:{md5}")
    print(f"{path}: {path.stat().st_size / 1e6:.1f} MB, MD5 {md5} as published")
    if path == Path("data/octmnist.npz"):
        print("next: python hw2-q2.py")
    else:
        print(f'next: medmnist.{info["python_class"]}("train", root="{path.parent}", size={args.size})')
    return 0


def main(argv=None) -> int:
    args = parse_args(argv)
    try:
        return run(args)
    except DownloadError as error:
        offline = "Offline, without it: python hw2-q2.py --dataset synthetic-oct"
        print(f"error: {error} {offline}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("interrupted: run the same command again to resume", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(main())
