"""Few-shot heads: one file per method, encode then match."""
