"""The peak memory of this process."""

import resource
import sys


def peak_of_process() -> int:
    """The most memory that this program has held, in bytes.

    On Linux that is VmHWM. ru_maxrss of getrusage would be at least the peak of the process that started this one.
    """
    if sys.platform != "linux":
        unit = 1 if sys.platform == "darwin" else 1024
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit

    with open("/proc/self/status") as file:
        (line,) = [line for line in file if line.startswith("VmHWM:")]
    return int(line.split()[1]) * 1024  # "VmHWM:    123 kB"
