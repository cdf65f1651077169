"""A warm process that has loaded the readers once and forks a child for each file: milliseconds instead of a second.

`python -m ingest.nursery` is that process: it reads no file itself, runs no thread, and ends with the process that it
serves. It sets no limits: the child limits itself, as one that is started anew does, and what can't be forked is
started anew (`ingest.reader_process.start_module`). Only Linux has what it needs: a fork without threads, and
children that end with their parent.
"""

from __future__ import annotations

import atexit
import contextlib
import gc
import importlib
import json
import os
import selectors
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, NoReturn

from rag.children import end_with

MODULES = ("ingest.reader_process", "ingest.page_image")
"""What it forks: modules of this program whose `main` reads `sys.argv` and ends by `os._exit`."""
IDLE_S = 60.0
"""It ends after so long without a child: the next file starts it anew."""

_LOADED_FIRST = ("ingest.reader_process", "ingest.read_pdf")
_LOADED_IN_SPARE_TIME = (
    *("pypdf.filters", "pypdf._codecs._codecs", "encodings.utf_16_le", "resource"),  # which reading a PDF loads itself
    *("ingest.page_image", "ingest.read_docx", "ingest.read_html", "ingest.read_markdown", "ingest.read_text"),
)
_ANSWER_S = 30.0
"""A nursery that hasn't answered by then is given up, and the file gets a process started anew."""
_KILL = b"k"
_PID = struct.Struct("q")
_CODE = struct.Struct("i")
_MOST_REQUEST_BYTES = 128 * 2**10


class ForkedChild:
    """A child of the nursery, as `subprocess.Popen` would show it.

    The nursery alone knows whether the pid is still that child's, and so it is the one that strikes.
    """

    def __init__(self, pid: int, stdout: IO[bytes], control: socket.socket) -> None:
        self.pid = pid
        self.stdout: IO[bytes] | None = stdout
        self.returncode: int | None = None
        self._control = control

    def kill(self) -> None:
        """End it with SIGKILL, unless it has ended."""
        with contextlib.suppress(OSError):
            self._control.send(_KILL)

    def poll(self) -> int | None:
        """Its exit status, negative for a signal; None while it runs."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.wait(0.0)
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        """Its exit status, once it has ended. Raises subprocess.TimeoutExpired after `timeout` seconds."""
        if self.returncode is None:
            try:
                self._control.settimeout(timeout)
                told = self._control.recv(_CODE.size)
            except (BlockingIOError, TimeoutError):
                raise subprocess.TimeoutExpired("child of the nursery", timeout or 0.0) from None
            except OSError:
                told = b""
            # A nursery that was killed takes its children along, and can't tell.
            self.returncode = _CODE.unpack(told)[0] if len(told) == _CODE.size else -signal.SIGKILL
            self._control.close()
        return self.returncode


class Nursery:
    """The parent's side: it starts the nursery at the first child, and again when it is gone. Safe from all threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._door: socket.socket | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._owner = os.getpid()

    @property
    def pid(self) -> int | None:
        """Of the nursery, if it was started and has not been seen to end."""
        return self._process.pid if self._process is not None and self._process.poll() is None else None

    def fork(self, module: str, arguments: Sequence[str], environment: Mapping[str, str]) -> ForkedChild | None:
        """Run one of `MODULES` in a child with these arguments and this environment; None where that can't be done."""
        if sys.platform != "linux" or module not in MODULES:
            return None
        request = json.dumps([module, list(arguments), dict(environment)]).encode()
        if len(request) > _MOST_REQUEST_BYTES:
            return None
        for _ in range(2):  # the first one may have been killed, or have ended for want of work
            try:
                return self._ask(request, environment)
            except TimeoutError:
                return None  # a busy machine: it is left to those whose children it runs
            except OSError:
                continue
        return None

    def end(self) -> None:
        """End the nursery and what it has forked; it starts again when it is needed."""
        with self._lock:
            self._end()

    def _ask(self, request: bytes, environment: Mapping[str, str]) -> ForkedChild:
        output, its_output = os.pipe()
        control, its_control = socket.socketpair()
        door = None
        try:
            try:
                with self._lock:
                    door = self._open(environment)
                    socket.send_fds(door, [request], [its_output, its_control.fileno()])
            finally:
                os.close(its_output)
                its_control.close()
            control.settimeout(_ANSWER_S)
            answer = control.recv(_PID.size)
            if len(answer) < _PID.size:
                raise ConnectionResetError
        except BaseException as error:
            os.close(output)
            control.close()
            with self._lock:
                if door is self._door and not isinstance(error, TimeoutError):  # no other thread's newer one
                    self._end()
            raise
        return ForkedChild(_PID.unpack(answer)[0], os.fdopen(output, "rb"), control)

    def _open(self, environment: Mapping[str, str]) -> socket.socket:
        if self._owner != os.getpid():  # this process was forked: the nursery is its parent's
            self._forget()
        if self._door is None:
            here, there = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            here.settimeout(_ANSWER_S)
            with there:
                self._process = subprocess.Popen(
                    [sys.executable, "-P", "-m", "ingest.nursery"],
                    stdin=there.fileno(),
                    stdout=subprocess.DEVNULL,
                    stderr=subprocess.DEVNULL,
                    # Threads would not be safe to fork, and nothing that is read needs linear algebra.
                    env={**environment, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"},
                )
            self._door = here
        return self._door

    def _end(self) -> None:
        if self._owner != os.getpid():
            self._forget()
        if self._door is not None:
            self._door.close()
            self._door = None
        if self._process is not None:
            try:
                self._process.wait(5)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
            self._process = None

    def _forget(self) -> None:
        if self._door is not None:
            self._door.close()
            self._door = None
        if self._process is not None:
            self._process.returncode = 0  # not this process's child: nothing to wait for
            self._process = None
        self._owner = os.getpid()


NURSERY = Nursery()
"""The one of this process."""

atexit.register(NURSERY.end)
if hasattr(os, "register_at_fork"):
    # What this process forks must not keep the nursery's door open, nor a lock that no thread will give back.
    def _after_fork() -> None:
        NURSERY._lock = threading.Lock()
        NURSERY._forget()

    os.register_at_fork(after_in_child=_after_fork)


# The nursery itself


@dataclass(slots=True)
class _Cradle:
    door: socket.socket
    waker: tuple[int, int]
    selector: selectors.BaseSelector
    children: dict[int, socket.socket] = field(default_factory=dict)
    """The control sockets by process id, until the child is reaped."""

    def receive(self) -> bool:
        """Fork what is asked for. False where nobody is left to ask."""
        try:
            request, files, _, _ = socket.recv_fds(self.door, 2 * _MOST_REQUEST_BYTES, 2)
        except ConnectionError:
            return False
        if not request or len(files) != 2:
            return False
        output, control = files[0], socket.socket(fileno=files[1])
        nursery = os.getpid()
        pid = os.fork()
        if pid == 0:
            self._become_child(request, output, control, nursery)
        os.close(output)
        self.children[pid] = control
        self.selector.register(control, selectors.EVENT_READ, pid)
        with contextlib.suppress(OSError):
            control.send(_PID.pack(pid))
        return True

    def obey(self, pid: int) -> None:
        """Kill a child: its parent has said so, or is gone."""
        control = self.children[pid]
        order = b""
        with contextlib.suppress(OSError):
            order = control.recv(1)
        os.kill(pid, signal.SIGKILL)  # not reaped yet, so that the number is still its own
        if not order:
            self.selector.unregister(control)

    def reap(self) -> None:
        """Tell the exit status of the children that have ended."""
        with contextlib.suppress(BlockingIOError):
            os.read(self.waker[0], 4096)
        with contextlib.suppress(ChildProcessError):
            while (ended := os.waitpid(-1, os.WNOHANG))[0]:
                pid, status = ended
                control = self.children.pop(pid)
                with contextlib.suppress(OSError):
                    control.send(_CODE.pack(os.waitstatus_to_exitcode(status)))
                with contextlib.suppress(KeyError):
                    self.selector.unregister(control)
                control.close()

    def _become_child(self, request: bytes, output: int, control: socket.socket, nursery: int) -> NoReturn:
        try:
            signal.set_wakeup_fd(-1)
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            signal.signal(signal.SIGINT, signal.default_int_handler)
            end_with(nursery)
            self.selector.close()
            for ours in (self.door, control, *self.children.values()):
                ours.close()
            for waker in self.waker:
                os.close(waker)
            os.dup2(output, 1)
            os.close(output)
            module, arguments, environment = json.loads(request)
            os.environ.clear()
            os.environ.update(environment)
            sys.argv = [module, *arguments]
            importlib.import_module(module).main()
        finally:
            os._exit(1)


def main() -> None:
    """Fork a child for each request that comes through standard input, until that is closed."""
    door = socket.socket(fileno=os.dup(0))
    with Path(os.devnull).open("rb") as nothing:
        os.dup2(nothing.fileno(), 0)
    os.chdir("/")  # it keeps no folder in use
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent decides, and closes the door
    signal.signal(signal.SIGCHLD, lambda *_: None)
    waker = os.pipe()
    for end in waker:
        os.set_blocking(end, False)
    signal.set_wakeup_fd(waker[1])
    selector = selectors.DefaultSelector()
    cradle = _Cradle(door, waker, selector)
    selector.register(door, selectors.EVENT_READ, None)
    selector.register(waker[0], selectors.EVENT_READ, None)
    for module in _LOADED_FIRST:
        importlib.import_module(module)
    to_load = list(_LOADED_IN_SPARE_TIME)
    gc.freeze()  # a collection in the child would copy every page that it touches
    used = time.monotonic()
    while True:
        ready = selector.select(0.0 if to_load else IDLE_S)
        if not ready and to_load:
            importlib.import_module(to_load.pop(0))
            gc.freeze()
        if cradle.children or ready:
            used = time.monotonic()
        elif not to_load and time.monotonic() - used >= IDLE_S:
            return
        for key, _ in ready:
            if key.fileobj is door:
                if not cradle.receive():
                    return  # the children end with this process
            elif key.fileobj == waker[0]:
                cradle.reap()
            elif key.data in cradle.children:
                cradle.obey(key.data)


if __name__ == "__main__":
    main()
