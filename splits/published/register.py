"""The six datasets and the published splits of them, registered by name."""

from __future__ import annotations

from splits.datasets import DATASETS, Dataset
from splits.official.catalog import official, official_names
from splits.published.known import known, known_names
from splits.published.make import open_published

for _name in known_names():
    DATASETS.add(_name)(
        Dataset(open_published, f"{known(_name).title}{', from its list' * (known(_name).rule == 'list')}")
    )
for _name in official_names():
    if _name not in known_names():
        _default = " or ".join(official(_name).default)
        DATASETS.add(_name)(
            Dataset(open_published, f"{official(_name).title}: stands for {_default} (fsar-cache split show {_name})")
        )
