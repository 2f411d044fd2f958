"""What the system says of processes, for tests that kill them."""

from __future__ import annotations

import time
from pathlib import Path


def _stat(pid: int) -> tuple[str, int] | None:
    """State letter and parent of a process; None where it is no more."""
    try:
        state, parent, *_ = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return state, int(parent)


def descendants(pid: int) -> list[int]:
    """The children of a process, their children, and so on, as of now."""
    parents = {int(p.name): found[1] for p in Path("/proc").glob("[0-9]*") if (found := _stat(int(p.name)))}
    family = [pid]
    for one in family:
        family += [child for child, parent in parents.items() if parent == one]
    return family[1:]


def command(pid: int) -> str:
    """The command line of a process; "" where it is no more."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
    except OSError:
        return ""


def gone(pids: list[int], within: float) -> bool:
    """Whether none of the processes runs any more, after waiting at most `within` seconds for it."""

    def running() -> bool:
        return any(found is not None and found[0] != "Z" for found in map(_stat, pids))

    end = time.monotonic() + within
    while running() and time.monotonic() < end:
        time.sleep(0.02)
    return not running()
