"""What all tests share: one thread for each process, or workers would wait for each other's threads; and Ctrl-C."""

import os
import signal

# before PyTorch is imported, here and in what the tests start: steps as small as theirs only lose by a second thread
os.environ["OMP_NUM_THREADS"] = "1"
# a shell's background job, as CI may be, would hand down Ctrl-C as ignored to all that the tests start
signal.signal(signal.SIGINT, signal.default_int_handler)
