"""Plays latents live: tracks -> producer thread -> ring -> callback of the audio device."""
