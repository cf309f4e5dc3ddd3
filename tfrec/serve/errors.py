"""Errors as clients see them: one set of codes, with their numbers in HTTP and in gRPC."""

from __future__ import annotations

from enum import Enum


class Code(Enum):
    """A canonical status code: its HTTP status and its gRPC number (`grpc.StatusCode`)."""

    INVALID_ARGUMENT = (400, 3)
    UNAUTHENTICATED = (401, 16)
    NOT_FOUND = (404, 5)
    RESOURCE_EXHAUSTED = (429, 8)
    INTERNAL = (500, 13)
    UNAVAILABLE = (503, 14)
    DEADLINE_EXCEEDED = (504, 4)

    @property
    def http(self) -> int:
        """The HTTP status."""
        return self.value[0]


class ServeError(Exception):
    """A request that is not answered.

    Attributes:
        code: why.
        message: what was wrong, and what would be right; shown to the client.
    """

    def __init__(self, code: Code, message: str):
        super().__init__(message)
        self.code, self.message = code, message


class ServeConfigError(ValueError):
    """Options or model folders that no server can be started with."""


class LoadStoppedError(Exception):
    """A version is no longer to be loaded: the server stops."""


def invalid(message: str) -> ServeError:
    """A request that is wrong in itself."""
    return ServeError(Code.INVALID_ARGUMENT, message)


def shown(value: object) -> str:
    """A value as an error message shows it: never longer than a line."""
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."
