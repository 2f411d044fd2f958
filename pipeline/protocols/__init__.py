"""Protocols that ship with the package: one TOML for each family of them."""
