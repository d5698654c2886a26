"""Ends a process group when this process ends in a way that leaves it no time to do so itself, such as SIGKILL.

A shell of one line holds the read end of a pipe whose only write end is here. The kernel closes that end with this process,
however it dies; the shell reads the end of the file then, kills the group and removes its shared memory. (A parent-death signal
would be sent when the *thread* ends that started the child, and removes nothing.)
"""

from __future__ import annotations

import subprocess

# A line means that there is nothing left to do; the end of the file without one means that nobody was left to write it.
_SCRIPT = 'read -r _ || { kill -s KILL -- "-$1"; rm -f -- "/dev/shm/$2"*; }'


class Lifeline:
    """Watches over the process group `group` and the regions in /dev/shm whose names begin with `shared_memory_prefix`."""

    def __init__(self, group: int, shared_memory_prefix: str) -> None:
        self._watcher = subprocess.Popen(
            ["/bin/sh", "-c", _SCRIPT, "lifeline", str(group), shared_memory_prefix],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,  # a Ctrl-C in the terminal must not end it before this process
        )

    def cut(self) -> None:
        """The group has ended: nothing is to be killed any more. Idempotent."""
        if self._watcher.poll() is None:
            self._watcher.communicate(b"\n")
