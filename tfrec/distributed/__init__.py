"""Several processes on one job: training workers, and Ray's for encoding, retrieval and training."""
