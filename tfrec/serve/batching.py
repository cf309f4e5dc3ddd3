"""Request batching without a timer: while one batch runs, requests gather, and the next batch takes them all.

Under little load a request waits for nobody; under much load batches grow until the model is at its most
efficient. The requests under way are bounded: further ones are refused at once, so that those within are answered in
time.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

from pipelines.processor import cores
from tfrec.serve.errors import Code, ServeError
from tfrec.serve.merging import MAX_SPREAD, MAX_SPREAD_BYTES, may_join, merge, part, spread_bytes, width
from tfrec.serve.servable import Servable
from tfrec.serve.signatures import Arrays

LOG = logging.getLogger("tfrec.serve")


@dataclass(eq=False)
class Pending:
    """A request in the queue, with its version held."""

    servable: Servable
    signature: str
    inputs: Arrays
    rows: int
    loop: asyncio.AbstractEventLoop
    future: asyncio.Future[Arrays]
    bytes: int
    answered: bool = field(default=False)

    def joins(self, other: Pending) -> bool:
        """Whether another request can be answered in one batch with this one."""
        same = other.servable is self.servable and other.signature == self.signature
        return same and other.rows > 0 and may_join(self.inputs, other.inputs)

    def finish(self, answer: Arrays | BaseException) -> None:
        """Hand the answer to the event loop, and let go of the version; only the first answer counts."""
        finish([self], [answer])

    def resolve(self, answer: Arrays | BaseException) -> None:
        """Wake who waits for the answer; for the event loop's thread."""
        if self.future.done():  # the client has gone
            return
        if isinstance(answer, BaseException):
            self.future.set_exception(answer)
        else:
            self.future.set_result(answer)


def finish(batch: list[Pending], answers: Sequence[Arrays | BaseException]) -> None:
    """`Pending.finish` for a whole batch: its event loop is woken once, not once a request."""
    fresh = [(request, answer) for request, answer in zip(batch, answers, strict=True) if not request.answered]

    def resolve() -> None:
        for request, answer in fresh:
            request.resolve(answer)

    for request, _ in fresh:
        request.answered = True
        request.servable.release()
    if fresh:
        batch[0].loop.call_soon_threadsafe(resolve)


def too_many(most: int) -> ServeError:
    """What a request is told that comes while `most` are under way."""
    return ServeError(Code.RESOURCE_EXHAUSTED, f"{most} requests are under way; try again later")


class Batcher:
    """Runs requests in worker threads.

    Args:
        workers: batches at a time; where None, half of `cores`: the event loop wants one, and batches that run one after the
            other are larger.
        max_rows: of a batch; a larger request runs alone.
        max_pending: requests that may be under way.
        timeout: seconds that a request may wait until it runs.
        observe: told the rows and the requests of every batch that ran.
    """

    def __init__(
        self,
        *,
        workers: int | None = None,
        max_rows: int,
        max_pending: int,
        timeout: float,
        observe: Callable[[str, str, int, int], object] = lambda *batch: None,
    ):
        self.max_rows, self.max_pending, self.timeout, self._observe = max_rows, max_pending, timeout, observe
        self._queue: deque[Pending] = deque()
        self._under_way = 0
        self._changed = threading.Condition()
        self._stopped = False
        count = workers or max(1, cores() // 2)
        self._workers = [threading.Thread(target=self._work, name=f"batch-{n}", daemon=True) for n in range(count)]
        for worker in self._workers:
            worker.start()

    @property
    def pending(self) -> int:
        """Requests that wait."""
        return len(self._queue)

    def check_room(self) -> None:
        """Refuse a request where as many as may be are under way; cheap, so that it can be asked before a body is read.

        Raises:
            ServeError: RESOURCE_EXHAUSTED.
        """
        if self._under_way >= self.max_pending:
            raise too_many(self.max_pending)

    @contextmanager
    def admitted(self) -> Iterator[None]:
        """Count a request as under way, from when its body is there until its answer is handed over to be written.

        It is not the queue that is counted: where the event loop is what cannot keep up, requests wait for it, before
        and after the queue. For the event loop's thread alone.

        Raises:
            ServeError: RESOURCE_EXHAUSTED.
        """
        self.check_room()
        self._under_way += 1
        try:
            yield
        finally:
            self._under_way -= 1

    async def run(self, servable: Servable, signature: str, inputs: Arrays, rows: int) -> Arrays:
        """Run a request and wait for its answer. Who no longer waits for it, takes it out of the queue again.

        Args:
            servable: the version, held by the caller.
            signature: its name.
            inputs: complete inputs (`Signature.complete`).
            rows: how many rows they have.

        Raises:
            ServeError: the request waited too long, or the model refuses it.
        """
        loop = asyncio.get_running_loop()
        servable.share()  # until it has run, even if who waits for the answer goes away
        request = Pending(servable, signature, inputs, rows, loop, loop.create_future(), spread_bytes(inputs, rows))
        with self._changed:
            self._queue.append(request)
            self._changed.notify()
        timer = loop.call_later(self.timeout, self._give_up, request)
        try:
            return await request.future
        finally:
            timer.cancel()
            if not request.answered:  # as on a client's deadline: it would be run for nobody
                self._take_back(request)

    def _give_up(self, request: Pending) -> None:
        """Answer a request that has waited for too long; one that runs is waited for."""
        if self._take_back(request):
            late = f"the request waited longer than {self.timeout} s; try again later"
            request.resolve(ServeError(Code.DEADLINE_EXCEEDED, late))

    def _take_back(self, request: Pending) -> bool:
        """Take a request out of the queue, and let go of its version; False where a worker has it."""
        with self._changed:
            if request not in self._queue:
                return False
            self._queue.remove(request)
        request.answered = True
        request.servable.release()
        return True

    def close(self) -> None:
        """Stop once the queue is empty."""
        with self._changed:
            self._stopped = True
            self._changed.notify_all()
        for worker in self._workers:
            worker.join()

    def _work(self) -> None:
        while batch := self._next_batch():
            try:
                self._run(batch)
            except Exception:  # a worker that dies would leave its requests without an answer
                LOG.exception("a batch failed")
                for request in batch:
                    request.finish(ServeError(Code.INTERNAL, "the server failed; its log says how"))

    def _next_batch(self) -> list[Pending]:
        """The oldest request, and those that can join it; empty when the batcher has stopped."""
        with self._changed:
            self._changed.wait_for(lambda: self._queue or self._stopped)
            if not self._queue:
                return []
            batch = [self._queue.popleft()]
            first, rows, others = batch[0], batch[0].rows, deque[Pending]()
            columns, size = width(first.inputs), first.bytes
            while self._queue and rows < self.max_rows:
                request = self._queue.popleft()
                together, widest = rows + request.rows, max(columns, width(request.inputs))
                fits = together <= self.max_rows and together * widest <= MAX_SPREAD
                if fits and size + request.bytes <= MAX_SPREAD_BYTES and first.joins(request):
                    batch.append(request)
                    rows, columns, size = together, widest, size + request.bytes
                else:
                    others.append(request)
            self._queue.extendleft(reversed(others))
            return batch

    def _run(self, batch: list[Pending]) -> None:
        """Run a batch. Where the model refuses it, one of its requests is at fault: halves of it are run until that one is
        alone, so that one in 64 costs twelve further runs and not 64."""
        requests, alone = [(request.inputs, request.rows) for request in batch], len(batch) == 1
        first = batch[0]
        try:
            outputs = first.servable.run(first.signature, first.inputs if alone else merge(requests))
        except ServeError as error:
            if alone:
                first.finish(error)
                return
            half = len(batch) // 2
            self._run(batch[:half])
            self._run(batch[half:])
            return
        self._told(batch)
        finish(batch, [outputs] if alone else part(outputs, requests))

    def _told(self, batch: list[Pending]) -> None:
        first = batch[0]
        self._observe(first.servable.name, first.signature, sum(request.rows for request in batch), len(batch))
