"""`fsar-cache synth`: render the synthetic world as real video files, with its truth beside them.

    <folder>/<domain>/clips/<id>.<mp4|webm|avi>   the videos
    <folder>/<domain>/truth.jsonl                 one line per clip, see synth_motion.Clip
    <folder>/<domain>/info.json                   the settings; written last, so where it is the domain is complete

A clip's id is a hash of everything its frames depend on, so a file that is there is right: an interrupted run goes on where it
stopped, and other settings never mix with these.
"""

from __future__ import annotations

import fcntl
import io
import json
import multiprocessing
import os
import signal
import time
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, cast

import av
import cv2

from fsar_cache.errors import IntegrityError, Interrupted, MissingError, SpaceError, UsageError, unknown
from fsar_cache.files import read_json, space_guard, whole_file, write_json
from splits.synth import read_truth
from splits.synth_draw import LOOKS, draw
from splits.synth_motion import CLASSES, WORLD, Clip, clips

DOMAINS = tuple(LOOKS)
_CHUNK = 4  # clips per task of a rendering process


@dataclass(frozen=True)
class DomainReport:
    """What was done for one domain: its folder, clips in all, clips rendered now; `why` in words."""

    domain: str
    folder: Path
    clips: int
    rendered: int
    why: str


@dataclass(frozen=True)
class Report:
    """What `render` did, domain by domain, and the seconds it took."""

    domains: tuple[DomainReport, ...]
    seconds: float

    @property
    def rendered(self) -> int:
        """Clips rendered now; 0 means that there was nothing to do."""
        return sum(each.rendered for each in self.domains)


def render(
    folder: Path,
    *,
    seed: int = 0,
    clips_per_class: int = 20,
    domains: tuple[str, ...] = DOMAINS,
    workers: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> Report:
    """Render `domains` under `folder` with `workers` processes (0: one per core); clips that are there already are kept.

    The frames depend on seed, domain, class and number within the class alone, the bytes of a file also on the machine's encoder.
    `progress` is called with (clips done, clips to render). Raises UsageError for impossible settings, MissingError where an encoder
    is missing, IntegrityError where the list of clips that is there is damaged, SpaceError, and Interrupted on Ctrl-C.
    """
    if clips_per_class < 1 or seed < 0 or workers < 0:
        raise UsageError("synth: clips per class must be at least 1, seed and workers at least 0")
    for domain in domains:
        if domain not in LOOKS:
            raise unknown("synthetic domain", domain, LOOKS)
        _need_encoder(LOOKS[domain].codec)
    began = time.monotonic()
    plans = {d: list(clips(seed, d, clips_per_class, fps=LOOKS[d].fps, suffix=LOOKS[d].suffix)) for d in domains}
    wanted = {d: [c for c in plan if not (folder / d / c.path).is_file()] for d, plan in plans.items()}
    settings = {d: _settings(seed, d, clips_per_class, plan) for d, plan in plans.items()}
    unfinished = [d for d in domains if wanted[d] or not _is_complete(folder / d, settings[d])]
    with ExitStack() as locks:
        old = {d: locks.enter_context(_begun(folder / d)) for d in unfinished}
        _render_all(folder, seed, [(d, c) for d in domains for c in wanted[d]], workers, progress)
        for domain in unfinished:
            _finish(folder / domain, plans[domain], old[domain], settings[domain])
    reports = (
        DomainReport(d, folder / d, len(plans[d]), len(wanted[d]), _why(len(plans[d]), len(wanted[d]), settings[d]))
        for d in domains
    )
    return Report(tuple(reports), time.monotonic() - began)


@contextmanager
def _begun(folder: Path) -> Iterator[list[str]]:
    """Have a domain's folder alone, rid of what killed runs left; gives the paths of the clips its list names, all below clips/.

    Raises UsageError where another run is at work there, IntegrityError where the list is damaged.
    """
    with space_guard(folder):
        (folder / "clips").mkdir(parents=True, exist_ok=True)
    handle = os.open(folder, os.O_RDONLY)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise UsageError(
                f"another run is rendering into {folder}", hint="wait until it ends, or stop it"
            ) from error
        old = _listed(folder)
        (folder / "info.json").unlink(missing_ok=True)
        for aside in (*folder.glob(".*.partial"), *folder.glob("clips/.*.partial")):
            aside.unlink()
        yield old
    finally:
        os.close(handle)


def _listed(folder: Path) -> list[str]:
    """The paths in the domain's list of clips, none where there is no list."""
    if not (folder / "truth.jsonl").exists():
        return []
    paths = []
    for line in read_truth(folder):
        path = line.get("path")
        if not isinstance(path, str) or PurePosixPath(path).parts != ("clips", PurePosixPath(path).name):
            raise IntegrityError(
                f"{folder / 'truth.jsonl'} is damaged: {path!r} is no clip of it",
                hint=f"remove {folder}, then run: fsar-cache synth",
            )
        paths.append(path)
    return paths


def _settings(seed: int, domain: str, clips_per_class: int, plan: list[Clip]) -> dict[str, Any]:
    return {
        "world": WORLD,
        "domain": domain,
        "seed": seed,
        "clips_per_class": clips_per_class,
        "clips": len(plan),
        "classes": {part: list(names) for part, names in CLASSES[domain].items()},
    }


def _is_complete(folder: Path, settings: dict[str, Any]) -> bool:
    """Whether a finished run with the same settings wrote this folder; a damaged info.json counts as no."""
    try:
        info = read_json(folder / "info.json")
    except (MissingError, IntegrityError):
        return False
    return (folder / "truth.jsonl").is_file() and isinstance(info, dict) and info.get("settings") == settings


def _why(total: int, rendered: int, settings: dict[str, Any]) -> str:
    of = f"{total} clips of seed {settings['seed']}, {settings['clips_per_class']} per class"
    if not rendered:
        return f"nothing to do: all {of}, are there"
    kept = total - rendered
    return f"rendered {rendered} of {of}" + (f"; {kept} were there" if kept else "")


def _need_encoder(codec: str) -> None:
    try:
        av.Codec(codec, "w")
    except ValueError as error:
        raise MissingError(
            f"the installed PyAV {av.__version__} has no encoder {codec}", hint="pip install --force-reinstall av"
        ) from error


def _render_all(
    folder: Path,
    seed: int,
    work: list[tuple[str, Clip]],
    workers: int,
    progress: Callable[[int, int], None] | None,
) -> None:
    """Render `work`, in this process if it is little or one worker is wanted."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    chunks = [work[i : i + _CHUNK] for i in range(0, len(work), _CHUNK)]
    workers = min(workers or cores, len(chunks))
    ended = _in_processes(folder, seed, chunks, workers) if workers > 1 else _in_turn(folder, seed, chunks)
    done = 0
    try:
        with closing(ended):
            for count in ended:
                done += count
                if progress:
                    progress(done, len(work))
    except KeyboardInterrupt:
        raise Interrupted(
            f"rendering stopped after {done} of {len(work)} clips",
            hint="repeat the command; it keeps the clips that are there",
        ) from None


def _in_turn(folder: Path, seed: int, chunks: list[list[tuple[str, Clip]]]) -> Generator[int, None, None]:
    for chunk in chunks:
        yield _render_some(folder, seed, chunk)


def _in_processes(
    folder: Path, seed: int, chunks: list[list[tuple[str, Clip]]], workers: int
) -> Generator[int, None, None]:
    """Sizes of the chunks as they are done; the processes are spawned, since a fork would copy the caller's threads' locks."""
    pool = ProcessPoolExecutor(workers, multiprocessing.get_context("spawn"), initializer=_start_worker)
    try:
        for future in as_completed([pool.submit(_render_some, folder, seed, chunk) for chunk in chunks]):
            yield future.result()
    except BrokenProcessPool as error:
        raise SpaceError(
            "a rendering process was killed, most likely for want of memory",
            hint="repeat the command; it keeps the clips that are there",
        ) from error
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _start_worker() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the parent, which lets clips in hand end
    cv2.setNumThreads(1)


def _render_some(folder: Path, seed: int, work: list[tuple[str, Clip]]) -> int:
    for domain, clip in work:
        with whole_file(folder / domain / clip.path) as file:
            file.write(encode(seed, domain, clip))
    return len(work)


def encode(seed: int, domain: str, clip: Clip) -> bytes:
    """The video file of a clip; the same bytes every time on one machine."""
    look = LOOKS[domain]
    target = io.BytesIO()
    with av.open(target, "w", format=look.suffix.removeprefix("."), options={"fflags": "+bitexact"}) as container:
        stream = cast("av.VideoStream", container.add_stream(look.codec, rate=look.fps, options=dict(look.options)))
        stream.width, stream.height, stream.pix_fmt = look.width, look.height, "yuv420p"
        stream.codec_context.thread_count = 1
        stream.codec_context.flags |= av.codec.context.Flags.bitexact
        for i, pixels in enumerate(draw(seed, domain, clip)):
            frame = av.VideoFrame.from_ndarray(pixels, format="rgb24")
            frame.pts = i
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return target.getvalue()


def _finish(folder: Path, plan: list[Clip], old: list[str], settings: dict[str, Any]) -> None:
    """Write the truth, remove the clips (`old`) of the truth it replaces, then say that the domain is complete."""
    with whole_file(folder / "truth.jsonl") as file:
        file.writelines((json.dumps(clip.line()) + "\n").encode() for clip in plan)
    for path in set(old) - {clip.path for clip in plan}:
        (folder / path).unlink(missing_ok=True)
    look = LOOKS[settings["domain"]]
    made = {"width": look.width, "height": look.height, "fps": look.fps, "codec": look.codec, "pyav": av.__version__}
    write_json(folder / "info.json", {"settings": settings, "made": made})
