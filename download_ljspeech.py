"""Download LJ Speech 1.1 (Ito and Johnson, 2017; public domain), check its SHA-256 and unpack it.

    python download_ljspeech.py                   # data/LJSpeech-1.1: 3.8 GB, from an archive of 2.7 GB
    python download_ljspeech.py --root elsewhere
    python download_ljspeech.py --url MIRROR      # the archive's SHA-256 is checked all the same

A broken download is resumed, a complete corpus is kept, and nothing stands under the final name until all of it
is there. Two downloads with one --root at once: the second waits for the first. Proxies: HTTP(S)_PROXY, NO_PROXY.
Exit codes: 0 the corpus is there, 2 wrong flags, a failed download, a full disk or an unusable archive,
130 interrupted.
"""

from __future__ import annotations

import command_line  # first, for Ctrl-C during the others

# isort: split

import bz2
import shutil
import sys
import tarfile
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from tqdm import tqdm

import records
from command_line import flag
from download_octmnist import fetch

NAME = "LJSpeech-1.1"  # of the folder, also inside the archive
URL = f"https://data.keithito.com/data/speech/{NAME}.tar.bz2"


class Corpus(NamedTuple):
    """What a complete archive and a complete folder are known by."""

    sha256: str  # of the archive
    clips: int
    archive_bytes: int
    unpacked_bytes: int  # as the disk counts them, in whole blocks


LJSPEECH = Corpus(
    sha256="be1a30453f28eb8dd26af4101ae40cbf2c50413b1bb21936cbcdc6fae3de8aa5",  # as in torchaudio.datasets.LJSPEECH
    clips=13_100,
    archive_bytes=2_748_572_632,
    unpacked_bytes=3_900_000_000,
)


def download(root: str | Path, url: str = URL, corpus: Corpus = LJSPEECH, *, keep_archive: bool = False) -> Path:
    """Download and unpack the corpus into `root`/LJSpeech-1.1, unless it is there, and return that folder.

    The folder holds metadata.csv, README and wavs/*.wav (22,050 Hz, 16-bit, mono). The archive is deleted once it
    is unpacked, unless `keep_archive`. Raises DownloadError; OSError for a disk that is or becomes too full and
    for a damaged or unsafe archive; ValueError for an incomplete folder under the final name or in the archive.
    """
    root = Path(root).expanduser()
    folder, archive = root / NAME, root / f"{NAME}.tar.bz2"
    if is_complete(folder, corpus.clips):
        return folder
    with records.locked(folder):
        if not is_complete(folder, corpus.clips):  # else another process made it meanwhile
            _download(url, archive, folder, corpus)
            if not keep_archive:
                archive.unlink()
    return folder


def _download(url: str, archive: Path, folder: Path, corpus: Corpus) -> None:
    if folder.exists():  # it may be somebody's selection of clips, so it is not for this script to replace
        found = count_clips(folder)
        raise ValueError(
            f"{folder} is incomplete: it needs metadata.csv and {corpus.clips} clips in wavs, and {found} are there. "
            "Move it away or choose another --root"
        )
    shutil.rmtree(_unfinished(folder), ignore_errors=True)  # of a run that was killed
    check_space(archive, corpus)
    fetch(url, archive, f"sha256:{corpus.sha256}", size=corpus.archive_bytes)
    unpack(archive, folder, corpus.clips)


def is_complete(folder: Path, clips: int) -> bool:
    """Whether `folder` holds the transcripts and as many clips as the corpus has."""
    return (folder / "metadata.csv").is_file() and count_clips(folder) == clips


def count_clips(folder: Path) -> int:
    return sum(1 for _ in folder.glob("wavs/*.wav"))


def check_space(archive: Path, corpus: Corpus) -> None:
    """Raise OSError unless the disk of `archive` has room for the rest of the download and the unpacked corpus."""
    downloads = archive, archive.with_name(archive.name + ".part")  # whole, or to be resumed by `fetch`
    have = sum(path.stat().st_size for path in downloads if path.exists())
    needed = max(corpus.archive_bytes - have, 0) + corpus.unpacked_bytes
    free = shutil.disk_usage(archive.parent).free
    if free < needed:
        raise OSError(
            f"{NAME} needs {needed / 1e9:.2f} GB more on the disk of {archive.parent}, and "
            f"{free / 1e9:.2f} GB are free. Make room or choose another --root"
        )


def unpack(archive: Path, folder: Path, clips: int) -> None:
    """Unpack `archive` to `folder` in one piece: its name never holds half of the corpus, whatever stops this."""
    unfinished, size = _unfinished(folder), archive.stat().st_size
    try:
        with (
            archive.open("rb") as file,
            # disable=None: no bar where stderr is not a terminal
            tqdm.wrapattr(file, "read", total=size, desc=f"unpacking {archive.name}", disable=None) as watched,
            bz2.open(watched) as stream,
            tarfile.open(fileobj=stream, mode="r|") as tar,  # a stream, because to seek is to decompress again
        ):
            tar.extractall(unfinished, filter="data")  # refuses what would land outside of the folder
        if not is_complete(unfinished / folder.name, clips):
            found = count_clips(unfinished / folder.name)
            raise ValueError(
                f"{archive} does not hold {folder.name} with metadata.csv and {clips} clips, but {found} clips. "
                "Delete it and run the same command again"
            )
        (unfinished / folder.name).rename(folder)
    except (OSError, EOFError, tarfile.TarError) as error:
        mend = "Make room, or delete the archive if the fault is in it, then run the same command again"
        raise OSError(f"could not unpack {archive}: {error}. {mend}") from error
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)


def _unfinished(folder: Path) -> Path:
    return folder.with_name(f"{folder.name}.part")  # on the same disk, so that a rename is all that is left to do


@dataclass(frozen=True)
class Config:
    """The flags."""

    root: Path = flag(Path("data"), "folder for the corpus")
    url: str = flag(URL, "where the archive is, if a mirror is nearer")
    keep_archive: bool = flag(False, "do not delete the archive in the end")


@command_line.entry_point
def main(argv: list[str] | None = None) -> None:
    config = command_line.parse(Config, argv, "Download LJ Speech 1.1, check its SHA-256 and unpack it.")
    folder = download(config.root, config.url, LJSPEECH, keep_archive=config.keep_archive)
    print(f"{folder}: {LJSPEECH.clips:,} clips with their transcripts, in the public domain")


if __name__ == "__main__":
    sys.exit(main())
