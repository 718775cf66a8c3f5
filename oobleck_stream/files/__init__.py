"""Latents from files and pipes, audio from and to files."""
