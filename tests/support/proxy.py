"""A TCP proxy in front of one server, with which a test cuts the wire at the moment it chooses."""

from __future__ import annotations

import contextlib
import selectors
import socket
import threading
from types import TracebackType


class Proxy:
    """Takes connections on `port` and carries them to a loopback port; one thread, ended by leaving the context."""

    def __init__(self, target: int) -> None:
        self._target = target
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._listener.setblocking(False)
        self.port: int = self._listener.getsockname()[1]
        self._selector = selectors.DefaultSelector()
        self._wake, self._waker = socket.socketpair()
        self._lock = threading.Lock()
        # Both ends of each connection, each pointing at the other; the value also says whether it is the server's end.
        self._peers: dict[socket.socket, tuple[socket.socket, bool]] = {}
        self._muted = False
        self._cutting = False
        self._ending = False
        self._thread = threading.Thread(target=self._run, name="proxy", daemon=True)

    def __enter__(self) -> Proxy:
        self._selector.register(self._listener, selectors.EVENT_READ)
        self._selector.register(self._wake, selectors.EVENT_READ)
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._lock:
            self._ending = True
        self._waker.send(b"x")
        self._thread.join(10)

    def mute(self) -> None:
        """From now on nothing that the server says reaches the clients."""
        with self._lock:
            self._muted = True

    def cut(self) -> None:
        """Closes every connection with a reset, and carries new ones again."""
        with self._lock:
            self._cutting = True
            self._muted = False
        self._waker.send(b"x")

    def _run(self) -> None:
        while True:
            ready = [key.fileobj for key, _ in self._selector.select()]
            with self._lock:
                ending, cutting, self._cutting = self._ending, self._cutting, False
            if self._wake in ready:
                self._wake.recv(64)
            if ending or cutting:
                for end in list(self._peers):
                    self._close(end)
            if ending:
                self._listener.close()
                return
            for end in ready:
                if end is self._listener:
                    self._accept()
                elif isinstance(end, socket.socket) and end in self._peers:
                    self._carry(end)

    def _accept(self) -> None:
        client, _ = self._listener.accept()
        try:
            server = socket.create_connection(("127.0.0.1", self._target), timeout=5)
        except OSError:
            client.close()
            return
        for end, peer, is_server in ((client, server, False), (server, client, True)):
            end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self._peers[end] = (peer, is_server)
            self._selector.register(end, selectors.EVENT_READ)

    def _carry(self, end: socket.socket) -> None:
        peer, from_server = self._peers[end]
        try:
            data = end.recv(65536)
            if not data:
                self._close(end)
                return
            with self._lock:
                muted = self._muted and from_server
            if not muted:
                peer.sendall(data)
        except OSError:
            self._close(end)

    def _close(self, end: socket.socket) -> None:
        if end not in self._peers:
            return
        peer, _ = self._peers[end]
        for each in (end, peer):
            del self._peers[each]
            self._selector.unregister(each)
            with contextlib.suppress(OSError):
                # A reset: what is under way is lost, as when a wire is cut and the other side reboots.
                each.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\0\0\0\0\0\0\0")
            each.close()
