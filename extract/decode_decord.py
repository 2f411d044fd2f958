"""Decoding with decord, for the kinds of file on which it was found exact; it can't tell damaged frames."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from extract.decode_pyav import decode_pyav
from extract.decoders import DECODERS, Choose, Decoded, Span, chosen, usable
from extract.probe import DecodeError, doubts, probe

AUTO_HINT = "use --decoder auto"
CODECS = ("h264", "hevc", "vp9", "mpeg4")
"""Codecs on which it was found exact."""
NO_REPEATS = 1e-9
"""The share of the frames that decord may silently replace by their neighbours before it raises an error."""


@DECODERS.add("decord")
def decode_decord(path: Path, choose: Choose, span: Span) -> Decoded:
    """Decode with decord; refuses (DecodeError) files on which it isn't known to be exact."""
    seen = probe(path)
    why = list(doubts(seen, CODECS))
    if why:
        raise DecodeError(f"{path.name}: decord is not exact on this file: {'; '.join(why)}", hint=AUTO_HINT)
    decord = _decord()
    picked = chosen(choose, span.positions(seen.times, path.name))
    try:
        reader = decord.VideoReader(str(path), num_threads=1, fault_tol=NO_REPEATS)
        if len(reader) != len(seen.pts):
            raise DecodeError(f"{path.name}: decord finds {len(reader)} frames, the file shows {len(seen.pts)}")
        first, *frames = reader.get_batch([0, *picked]).asnumpy()
    except (decord.DECORDError, decord.DECORDLimitReachedError, RuntimeError, AssertionError, StopIteration) as error:
        line = (str(error).splitlines() or [type(error).__name__])[0]
        raise DecodeError(f"{path.name}: decord gave up: {line.rpartition(': ')[2]}") from error
    if not np.array_equal(first, decode_pyav(path, lambda n: np.zeros(1, np.int64), Span()).frames[0]):
        raise DecodeError(f"{path.name}: decord is not exact on this file: its first picture differs", hint=AUTO_HINT)
    return Decoded(np.stack(frames), len(seen.pts), seen.claimed, 0, seen.duration)


def _decord() -> Any:
    usable("decord")
    import decord

    decord.logging.set_level(decord.logging.QUIET)
    return decord
