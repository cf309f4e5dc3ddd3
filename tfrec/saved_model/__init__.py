"""What is inside a SavedModel: the towers as ops of the graph, its signatures, its warmup, and loading it."""
