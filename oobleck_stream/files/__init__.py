"""Reads and writes files of latents and of audio. Latents are also read from pipes."""
