"""Live video as a source: clips are decoded when an episode asks for them; training draws a fresh view each time."""

from __future__ import annotations

from torch import Tensor

from cache.spec import FeatureSpec
from extract.live import live_clips
from extract.pool import DecodePool
from fsar_cache.draws import U64
from fsar_cache.errors import MissingError
from pipeline.recipe import Features
from pipeline.sources import Beside
from splits.datasets import missing
from splits.types import Ints, Part, Split


class LiveSource:
    """Pixels uint8 [n, T, size, size, 3] of clips decoded when fetched: what a store of the cut "frames" holds, but fresh in training.

    In training, frame choice, crop and flip of a clip are drawn from its key by the train_* rules; in evaluation they are the fixed ones,
    so the pixels equal a frames store's. Files that aren't there are excluded; one that turns out bad ends the fetch with MissingError.
    """

    ahead = 2

    def __init__(
        self,
        split: Split,
        part: Part,
        features: Features,
        spec: FeatureSpec,
        pool: DecodePool,
        beside: Beside | None = None,
    ) -> None:
        self.part = part
        self.beside = beside or Beside()
        self.spec = spec
        own = frozenset(part.ids)
        self.excluded = frozenset(video.id for video in missing(split) if video.id in own)
        self._root = split.root
        self._features = features
        self._pool = pool
        self._flip = split.flips if features.flip == "auto" else features.flip == "on"

    def fetch(self, positions: Ints, *, training: bool, keys: U64) -> Tensor:
        """Decode, choose frames and transform the clips at `positions`; see `FeatureSource.fetch`."""
        f = self._features
        try:
            return live_clips(
                self._pool,
                self._root,
                [self.part.videos[i] for i in positions.tolist()],
                sampling=f.train_sampling if training else f.sampling,
                frames=f.frames,
                transform=f.train_transform if training else f.transform,
                size=f.size,
                keys=[(key,) for key in keys.tolist()] if training else None,
                flip=self._flip,
                decoder=f.decoder,
            )
        except MissingError as error:
            hint = (
                "mend the file, or leave the clip out in a new run: --set 'source.exclude=[\"ID\"]' or target.exclude"
            )
            raise MissingError(error.message, hint=hint) from error
