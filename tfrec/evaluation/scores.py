"""The score of "nothing", where a list of recommendations has fewer items than were asked for."""

import numpy as np

LOWEST = float(np.finfo(np.float32).min)  # finite, so that it is legal JSON, and sorts last
