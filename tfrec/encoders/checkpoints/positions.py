"""Position embeddings for another image size, interpolated as the reference does it.

PyTorch's bicubic interpolation takes the cubic kernel with a = -0.75; TensorFlow's resize takes -0.5, which
differs in the second digit.
"""

import numpy as np

CUBIC = -0.75


def resize_positions(table: np.ndarray, old: tuple[int, int], new: tuple[int, int]) -> np.ndarray:
    """Interpolate a table of position embeddings to another grid; the class token's row stays.

    Args:
        table: `[1 + rows * columns, D]` or with a leading 1.
        old: Rows and columns of the table's grid.
        new: Rows and columns wanted.

    Returns:
        `[1 + new rows * new columns, D]`.
    """
    table = table.reshape(-1, table.shape[-1])
    if old == new:
        return table
    grid = table[1:].reshape(*old, -1)
    grid = np.einsum("hy,wx,yxd->hwd", cubic_matrix(old[0], new[0]), cubic_matrix(old[1], new[1]), grid)
    return np.concatenate([table[:1], grid.reshape(-1, table.shape[-1])]).astype(table.dtype)


def cubic_matrix(old: int, new: int) -> np.ndarray:
    """Return the weights `[new, old]` of bicubic interpolation along one side, pixel centres aligned."""
    matrix = np.zeros((new, old))
    centres = (np.arange(new) + 0.5) * old / new - 0.5
    first = np.floor(centres).astype(int)
    for offset in (-1, 0, 1, 2):
        place = first + offset
        weight = _kernel(np.abs(centres - place))
        np.add.at(matrix, (np.arange(new), np.clip(place, 0, old - 1)), weight)
    return matrix


def _kernel(distance: np.ndarray) -> np.ndarray:
    """Return the cubic convolution kernel (Keys, 1981) at distances 0..2."""
    near = ((CUBIC + 2) * distance - (CUBIC + 3)) * distance**2 + 1
    far = CUBIC * (((distance - 5) * distance + 8) * distance - 4)
    return np.where(distance <= 1, near, far)
