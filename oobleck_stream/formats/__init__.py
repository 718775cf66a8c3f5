"""Bytes on disk, without any knowledge of sound or models. Imports nothing from the package."""
