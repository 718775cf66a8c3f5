"""Bytes on disk: file formats and atomic writing, without any knowledge of models or audio."""
