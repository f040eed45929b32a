"""Machines as others have them: what is usually there is missing or read-only.

The functions that take something away from their own process are what `tests.support.forking` prepares a command with.
"""

from __future__ import annotations

import ctypes
import os
import resource
import shlex
import shutil
import subprocess
import tempfile
from functools import cache
from pathlib import Path

WRITABLE = ("/tmp", "/var/tmp", "/usr/tmp", "/dev/shm")  # noqa: S108  # what a program takes for temporary files


@cache
def namespace() -> tuple[str, ...] | None:
    """Return what starts a command where mounts are its own; nothing where the system forbids it."""
    for prefix in (("unshare", "-m"), ("unshare", "-U", "-r", "-m")):
        try:
            done = subprocess.run([*prefix, "mount", "--bind", "/tmp", "/tmp"], capture_output=True, check=False)  # noqa: S603, S108  # ours
        except OSError:
            return None
        if done.returncode == 0:
            return prefix
    return None


def read_only(command: list[str], *, but: tuple[str, ...] = ()) -> list[str]:
    """Return what runs a command where nothing can be written but in the directories `but`."""
    prefix = namespace()
    if prefix is None:
        raise RuntimeError("mounts of one's own are forbidden here")
    flags = "remount,bind,ro" + (",nosuid,nodev" if os.geteuid() else "")  # what a user may not take off again
    steps = ["set -e"]
    for place in WRITABLE:
        if Path(place).is_dir():
            steps += [f"mount --bind {place} {place}", f"mount -o {flags} {place}"]
    # What is a mount of its own below the root stays as it is; none of these is where temporary files go.
    steps.append("mount -o remount,bind,ro / 2>/dev/null || mount -o remount,bind,ro,nosuid,nodev /")
    steps += [f"mount -t tmpfs -o size=64m tmpfs {place}" for place in but]
    steps.append(f"cd / && exec {shlex.join(command)}")
    return [*prefix, "sh", "-c", "\n".join(steps)]


def without_account() -> None:
    """Be a user whom no file knows, as a container with a number for a user has it."""
    libc = ctypes.CDLL(None, use_errno=True)
    inside, outside = 54321, os.geteuid()
    if libc.unshare(0x10000000):  # CLONE_NEWUSER
        os._exit(77)  # forbidden here
    Path("/proc/self/setgroups").write_text("deny")
    Path("/proc/self/uid_map").write_text(f"{inside} {outside} 1")


def gone() -> None:
    """Be in a directory that is not there any more."""
    place = tempfile.mkdtemp()
    os.chdir(place)
    shutil.rmtree(place)


def strict() -> None:
    """Make files that nobody may read, oneself included."""
    os.umask(0o777)


def few_files(room: int = 4) -> None:
    """Have room for hardly more files than are open."""
    number = os.dup(2)  # the lowest that is free
    os.close(number)
    resource.setrlimit(resource.RLIMIT_NOFILE, (number + room, number + room))


def little_room(most: int) -> None:
    """Write no file of more bytes than these: what a full disk does, without a disk."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (most, most))


def little_memory(more: int) -> None:
    """Have no directory for temporary files, and only so many bytes more than are in use."""
    tempfile.tempdir = "/nowhere"
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + more,) * 2)
