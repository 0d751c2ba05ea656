"""What flags say about speech before anything heavy is imported."""

from __future__ import annotations

import os
from pathlib import Path

HOP_MS = 16.0  # milliseconds between frames of a spectrogram


def corpus_name(root: str | Path) -> str:
    """The name of its folder, also where that is given as `.` or by way of `..`."""
    return Path(os.path.abspath(root)).name  # noqa: PTH100, resolve() would follow links
