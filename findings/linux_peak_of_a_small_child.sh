#!/bin/bash
# Linux: the peak memory (ru_maxrss) of a finished process is at least that of the process that started it.
#
# The guess: `os.wait4(pid)` and `resource.getrusage(RUSAGE_CHILDREN)` give the largest memory that the child had, so
# that a program may start others and compare what they need.
# What is so: before exec a child has its parent's memory, and exec keeps that peak: the least that a small child can
# show is what its parent held. A small process in between, which starts the child, gives the child's own peak.
#
# Versions: Linux 6.18, Python 3.11. Source: exec_mmap in fs/exec.c, which hands the old memory's high-water mark to
# signal->maxrss; wait4(2), getrusage(2).
# Needs python3 and 0.5 GB of memory; installs nothing.
set -eu
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 - <<'END'
import os
import platform
import subprocess
import sys

BETWEEN = """
import os, subprocess, sys
child = subprocess.Popen([sys.executable, "-S", "-c", "pass"])
print(os.wait4(child.pid, 0)[2].ru_maxrss)
"""
held = bytearray(400_000_000)
child = subprocess.Popen([sys.executable, "-S", "-c", "pass"])
direct = os.wait4(child.pid, 0)[2].ru_maxrss / 1024
between = subprocess.run([sys.executable, "-S", "-c", BETWEEN], capture_output=True, text=True, check=True)
own = int(between.stdout) / 1024
print(f"version: Linux {platform.release()}, Python {platform.python_version()}")
print("guess: an empty Python program peaks at some 10 MiB, whoever starts it")
print(f"seen: started by a process that holds 400 MB: {direct:,.0f} MiB; by a small process: {own:,.0f} MiB")
if not (direct > 350 and own < 60 and len(held)):
    sys.exit("CHANGED: wanted more than 350 MiB and less than 60")
print("behaviour as described: the peak of a child begins with its parent's")
END
