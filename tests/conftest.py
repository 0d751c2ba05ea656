"""What all tests share: one thread for each process, so that workers do not wait for each other's threads."""

import os

# before PyTorch is imported, here and in what the tests start: steps as small as theirs only lose by a second thread
os.environ["OMP_NUM_THREADS"] = "1"
