"""Search for the largest dot products: exact, screened in bfloat16, and by ScaNN, and the choice between their settings."""
