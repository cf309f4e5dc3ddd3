"""Rating prediction: the two towers with a rating head beside their retrieval."""
