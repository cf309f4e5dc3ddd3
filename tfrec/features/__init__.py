"""The memory-mapped store of frozen encoders' outputs: its blocks, its writer, and a model that reads it."""
