"""Text that can be written: names of files and folders need not be UTF-8, as old archives unpack them."""


def printable(text: object) -> str:
    """`text` with `\\\\udcNN` for what no UTF-8 file can hold: Python reads a byte 0xNN that is none as such a surrogate."""
    return str(text).encode("utf-8", "backslashreplace").decode("utf-8")
