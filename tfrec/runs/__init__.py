"""A run's folder: what is in it, who may write to it, and whether its data are still those it was trained on."""
