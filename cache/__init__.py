"""Feature stores: fingerprints, blocks, ledger, readers."""
