"""Machines as others have them: a namespace of mounts in which what is usually there is missing or read-only."""

from __future__ import annotations

import os
import shlex
import subprocess
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
