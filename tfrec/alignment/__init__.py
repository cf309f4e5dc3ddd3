"""Attributes and photos in one space by InfoNCE: the system behind `--recipe kfashion`."""
