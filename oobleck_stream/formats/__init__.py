"""File formats and atomic writing. Nothing in this package depends on models or audio."""
