"""A lock that threads get in turns: with `threading.Lock` one that asks again at once would always win."""

from collections import deque
from threading import Lock


class TurnLock:
    """Held as a context. Threads get it in the order in which they asked; it is not reentrant."""

    def __init__(self) -> None:
        self._guard = Lock()  # of the two below, never held for long
        self._is_held = False
        self._gates: deque[Lock] = deque()  # of the threads that wait; the first one's opens next

    @property
    def num_waiting(self) -> int:
        """Threads that wait for it."""
        return len(self._gates)

    def __enter__(self) -> None:
        with self._guard:
            if not self._is_held:
                self._is_held = True
                return
            gate = Lock()
            gate.acquire()
            self._gates.append(gate)
        try:
            gate.acquire()  # opened by the thread that hands the lock over
        except BaseException:  # interrupted
            with self._guard:
                is_waiting = gate in self._gates
                if is_waiting:
                    self._gates.remove(gate)
            if not is_waiting:
                self.__exit__()
            raise

    def __exit__(self, *_: object) -> None:
        with self._guard:
            if self._gates:
                self._gates.popleft().release()
            else:
                self._is_held = False
