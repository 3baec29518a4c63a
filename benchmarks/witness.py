"""A command, and the processor time and largest memory of all it starts, as JSON in the last line.

A program of its own, since a process begins with the peak memory of the one that starts it (Linux): this one
is small.
"""

import ctypes
import json
import os
import resource
import subprocess
import sys
from contextlib import suppress


def main() -> None:
    # Who loses its parent becomes ours, as does the process that forks the workers of a run.
    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(36, 1, 0, 0, 0)  # PR_SET_CHILD_SUBREAPER, Linux
    status = subprocess.call(sys.argv[1:])
    with suppress(ChildProcessError):
        while True:
            os.wait()
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    print(json.dumps([status, used.ru_utime + used.ru_stime, used.ru_maxrss]))


if __name__ == "__main__":
    main()
