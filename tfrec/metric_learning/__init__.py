"""Vectors of labelled photos in which pictures of one thing lie together: losses, miners, several views, protocol."""
