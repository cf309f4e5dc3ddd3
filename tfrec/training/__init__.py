"""Training: the loop, its step, and what every training prepares and leaves behind."""
