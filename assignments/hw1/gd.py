"""Homework 1's gradient descent under the other name that the sheet has for it: see sgd.py."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent.parent))  # the repository, before this folder

from assignments.hw1.sgd import forward_and_return_activation, gradient_descent, main, normalize_and_jitter, save_img

__all__ = ["forward_and_return_activation", "gradient_descent", "main", "normalize_and_jitter", "save_img"]

if __name__ == "__main__":
    sys.exit(main())
