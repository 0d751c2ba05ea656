"""Download Multi30k's English, German and French sentences (Elliott et al. 2016), and check their SHA-256.

    python download_multi30k.py                  # data/multi30k: 2 MB
    python download_multi30k.py --root elsewhere

Captions of Flickr30k and their translations, for research (github.com/multi30k/dataset). A broken download is resumed,
a good file is kept, and nothing stands under its final name until its hash matches. Proxies: HTTP(S)_PROXY, NO_PROXY.
Exit codes: 0 the data are there and good, 2 wrong flags or a failed download, 130 interrupted.
"""

from __future__ import annotations

import command_line  # first, for Ctrl-C during the others

# isort: split

import sys
from dataclasses import dataclass
from pathlib import Path

from command_line import flag
from download_octmnist import fetch

FOLDER = "multi30k"
URL = "https://raw.githubusercontent.com/multi30k/dataset/master/data/task1/raw"
SHA256 = {
    "train.en.gz": "d79cfa999dd4c51d2cb42499b6796d5a882c3a8a961923c25a898c90f8bbd56f",
    "train.de.gz": "726e39b2fa9eb9ffb6dc763fb35a179f80fae06ffc5d28b6ace5faa883de28a6",
    "train.fr.gz": "622e75069e9f4c577425c4f277116ce66e63a2401c0a2312d90073cb12379a3c",
    "val.en.gz": "14f7d25ddd868909a9213e361768460edcacdd6ab9d1e77b92560dc10c10dc28",
    "val.de.gz": "f0cba2f995189cf5770f29a8a9a537a3ad3f51657ad873405082ff6863a5e75a",
    "val.fr.gz": "ca3106f1a72390591d25f6c45cb4cd39dec4cd3f123e099748a3ce5256c160e9",
    "test_2016_flickr.en.gz": "611d361c6334bc7246101d48097c13cf5c4413c5befc793cc629934359d532d9",
    "test_2016_flickr.de.gz": "9204244e408ccb38d2a55cfcd344df15005fc42a07a6e55ca6c52b6ababb8cc8",
    "test_2016_flickr.fr.gz": "6d326e188d259fb1d04ac19eae3af956559b3a0b93d7635e56c90987c40c8b90",
}


def download(root: str | Path, url: str = URL) -> Path:
    """Fetch what is not there yet into `root`/multi30k, and return that folder. Raises DownloadError."""
    folder = Path(root) / FOLDER
    for name, sha256 in SHA256.items():
        fetch(f"{url}/{name}", folder / name, f"sha256:{sha256}")
    return folder


@dataclass(frozen=True)
class Config:
    """The flags."""

    root: Path = flag(Path("data"), "folder for the data")
    url: str = flag(URL, "where the files are, if a mirror is nearer")


@command_line.entry_point
def main(argv: list[str] | None = None) -> None:
    config = command_line.parse(Config, argv, "Download Multi30k and check its SHA-256.")
    print(f"{download(config.root, config.url)}: {len(SHA256)} files, SHA-256 as recorded here")
    print("next: python lab3/translate.py --dataset multi30k")


if __name__ == "__main__":
    sys.exit(main())
