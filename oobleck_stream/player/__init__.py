"""Playing latents live: tracks -> producer thread -> ring -> the audio device's callback."""
