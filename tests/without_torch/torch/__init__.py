"""Stands before PyTorch on the path of the programs that tests start: they run as users have them, without it."""

raise ImportError("tfrec does without PyTorch; only tests that compare with it import it, in their own process")
