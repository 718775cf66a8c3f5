"""Latents in files and pipes, sound in files."""
