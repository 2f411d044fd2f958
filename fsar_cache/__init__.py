"""fsar-cache: few-shot action recognition from cached features. What everyone may import, and the lazy public names."""

from __future__ import annotations

__version__ = "0.1.0"
