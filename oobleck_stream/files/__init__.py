"""Reads latents from files and pipes and writes them to files; reads and writes audio files."""
