"""A model server with TensorFlow Serving's REST and gRPC interfaces, and a shop window to look at what it serves."""
