"""What an extraction, or its plan, came to, in words for a person."""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING

from fsar_cache.console import say, warn

if TYPE_CHECKING:
    from extract.config import ExtractConfig
    from extract.plan import Plan
    from extract.run import Summary


def say_plan(name: str, config: ExtractConfig, made: Plan) -> None:
    """What is to do, what it costs and where it goes."""
    word = "rows" if config.views else "clips"
    size = f"{made.bytes / 1e6:.1f} MB to write ({made.free / 1e9:.1f} GB free)"
    say(f"extract {name}: {made.todo} of {made.clips} {word} to do, {size}")
    if made.estimate:
        each = made.estimate
        if each.failed:
            warn(f"{each.failed} of {each.tried} clips tried can't be decoded")
        if each.failed < each.tried:
            cost = f"{1000 * (each.decode + each.compute):.0f} ms per clip, about {each.seconds:.0f} s in all"
            say(f"  tried {each.tried}: {cost}")
    if made.absent:
        stops = "; the extraction would stop for them: --skip-missing goes on without" if made.refused else ""
        warn(f"{len(made.absent)} files are not there, e.g. {made.absent[0]}{stops}")
    say(f"  into {made.path}")


def say_made(name: str, config: ExtractConfig, made: Summary) -> None:
    """What a run did, where it is, and how to go on with a part."""
    word, failed = "rows" if config.views else "clips", len(made.failed)
    without = f", {failed} without features" if failed else ""
    if made.made:
        rate = f"{made.made} {word} in {made.seconds:.1f} s ({made.videos_per_second:.1f} {word}/s)"
        say(f"extract {name}: {rate} into {made.path}{without}")
    elif config.part != (1, 1) and made.ok + failed == 0:
        say(
            f"extract {name}: nothing to do, the store has too few blocks for part {config.part[0]} of {config.part[1]}"
        )
        say("  smaller blocks divide better: --block-rows 64 (for all parts alike, before the first is made)")
    else:
        say(f"extract {name}: nothing to do, {made.path} holds {made.ok} of {made.ok + failed} clips{without}")
    if config.part != (1, 1):
        whole = shlex.quote(str(made.path).rpartition(".part-")[0])
        command = f"fsar-cache store merge {whole}.part-* {whole}"
        say(f"  this is part {config.part[0]} of {config.part[1]}; when all are done: {command}")


def warn_of_failures(made: Summary) -> None:
    """Name the clips that failed, and those whose files are damaged."""
    failed = [
        (clip, reason) for clip, reason in made.failed if not reason.endswith(": no such file")
    ]  # those were told
    for clip, reason in failed[:20]:
        warn(f"failed: {clip}: {reason}")
    if len(failed) > 20:
        warn(f"and {len(failed) - 20} more failed clips: fsar-cache store info {made.path}")
    if made.damaged:
        names = ", ".join(f"{d.id} ({d.decoded} of {d.claimed} frames, {d.corrupt} corrupt)" for d in made.damaged[:3])
        more = ", ..." if len(made.damaged) > 3 else ""
        warn(f"{len(made.damaged)} clips have features from damaged files: {names}{more}")
