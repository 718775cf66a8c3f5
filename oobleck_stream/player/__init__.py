"""Playing latents live: tracks -> producer thread -> ring -> the sound card's callback."""
