"""Listening sockets: bound by the supervisor, handed to the workers.

A TCP address gets one socket for each worker, all bound with SO_REUSEPORT, so that the kernel
spreads connections by the hash of their addresses and no worker wakes for another's. The supervisor
keeps all of them open: if a worker dies, the connections in its accept queue wait for the next
worker instead of being reset.

SO_REUSEPORT would also allow a second gateway of the same user to bind the same address and get
half of the traffic unnoticed. So an address is first bound once *without* it, which fails if
another process listens there.

A Unix address, or a socket from the service manager, is one socket that all workers share. A stale
socket file (without a listening process) is replaced; one that answers is an error.
"""

from __future__ import annotations

import errno
import os
import socket
import stat
from contextlib import suppress

from fastgate.errors import ProcessError
from fastgate.runtime.wire.messages import Listener
from fastgate.sockaddr import address_text


class BindError(ProcessError):
    """An address could not be bound. The text says which one, why, and how to fix it."""

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint


class Bound:
    """A bound address and its sockets: one for each worker, or one for all."""

    __slots__ = ("_inode", "address", "listener", "sockets")

    def __init__(
        self,
        listener: Listener,
        sockets: list[socket.socket],
        address: str,
        *,
        inherited: bool = False,
    ) -> None:
        self.listener = listener
        self.sockets = sockets
        self.address = address
        # The file of an inherited socket belongs to the service manager.
        self._inode = None if inherited else _inode_of(_unix_path(listener.bind))

    def socket_for(self, worker: int) -> socket.socket:
        return self.sockets[worker] if len(self.sockets) > 1 else self.sockets[0]

    def close(self, *, remove: bool) -> None:
        """Close the sockets; with `remove`, also remove a Unix socket's file, if still ours."""
        for sock in self.sockets:
            sock.close()
        path = _unix_path(self.listener.bind)
        if remove and path and self._inode and _inode_of(path) == self._inode:
            with suppress(OSError):
                os.unlink(path)
            self._inode = None


def bind(
    listener: Listener, workers: int, inherited: list[tuple[str, socket.socket]] | None = None
) -> Bound:
    """Bind an address. Raises BindError.

    inherited: sockets from the service manager; one with this address (or, otherwise, with this
    listener's name) is removed from the list and used.
    """
    path = _unix_path(listener.bind)
    sock = _take_inherited(listener, path, inherited) if inherited else None
    if sock is not None:
        sock.listen(listener.backlog)
        return Bound(listener, [sock], _address_of(sock), inherited=True)
    if path:
        return Bound(listener, [_bind_unix(listener, path)], listener.bind)
    return _bind_tcp(listener, 1 if listener.private else workers)


def split_address(text: str) -> tuple[str, int]:
    """`host:port`, `[v6]:port`, `:port` (every IPv4 address). Raises BindError."""
    host, colon, port = text.rpartition(":")
    if not colon or not port.isdecimal() or int(port) > 65535:
        raise BindError(
            f"{text!r} is not an address to listen on",
            'Write host:port, as in "127.0.0.1:8080" or "[::]:8080", or unix:/path.',
        )
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
    return host or "0.0.0.0", int(port)


def _bind_tcp(listener: Listener, count: int) -> Bound:
    host, port = split_address(listener.bind)
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except OSError as error:
        raise BindError(
            f"listener {listener.name}: the host of {listener.bind} is unknown ({error})",
            "Use an IP address of this machine, or 0.0.0.0 for all of them.",
        ) from error
    family, _, _, _, sockaddr = found[0]
    sockets: list[socket.socket] = []
    try:
        if port:
            with _tcp_socket(family) as probe:
                probe.bind(sockaddr)
                probe.listen(1)
        for _ in range(count):
            sock = _tcp_socket(family)
            sockets.append(sock)
            if count > 1:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            sock.bind(sockaddr)
            sockaddr = sock.getsockname()  # port 0: the others use the port of the first
        for sock in sockets:
            sock.listen(listener.backlog)
    except OSError as error:
        for sock in sockets:
            sock.close()
        raise _explain(listener, error, host, port) from error
    return Bound(listener, sockets, _address_of(sockets[0]))


def _tcp_socket(family: int) -> socket.socket:
    sock = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
    sock.setblocking(False)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    # Accepted sockets inherit it, which saves a system call for each connection.
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    if family == socket.AF_INET6:
        # "[::]" is IPv6 only, regardless of the machine's default, so that a document means the
        # same everywhere; IPv4 needs a separate listener.
        sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
    return sock


def _bind_unix(listener: Listener, path: str) -> socket.socket:
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
    sock.setblocking(False)
    try:
        if path[0] == "@":
            path = "\0" + path[1:]  # an abstract address: no file, no mode
        else:
            _clear_stale(path)
        # The umask sets the mode at once, so that no client can connect before chmod.
        previous = os.umask(0o777 & ~listener.mode)
        try:
            sock.bind(path)
        finally:
            os.umask(previous)
        sock.listen(listener.backlog)
    except OSError as error:
        sock.close()
        raise _explain(listener, error, path, 0) from error
    return sock


def _clear_stale(path: str) -> None:
    """Remove a socket file without a listening process. Otherwise raises OSError(EADDRINUSE)."""
    try:
        if not stat.S_ISSOCK(os.lstat(path).st_mode):
            raise OSError(errno.EEXIST, "there is a file that is not a socket")
    except FileNotFoundError:
        return
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.setblocking(False)
        try:
            probe.connect(path)
        except ConnectionRefusedError:
            os.unlink(path)
            return
        except BlockingIOError:
            pass  # its queue is full, so it has a listening process
    raise OSError(errno.EADDRINUSE, "in use")


def _explain(listener: Listener, error: OSError, host: str, port: int) -> BindError:
    where = f"listener {listener.name}: {listener.bind}"
    if error.errno == errno.EADDRINUSE:
        if port:
            hint = (
                "Another program or gateway listens there; "
                f"`ss -ltnp 'sport = :{port}'` names it. Stop it, or choose another port."
            )
        else:
            hint = "Another program answers on this socket; stop it, or choose another path."
        return BindError(f"{where} is already in use", hint)
    if error.errno in (errno.EACCES, errno.EPERM):
        if port and port < 1024:
            hint = (
                "Ports below 1024 need the capability CAP_NET_BIND_SERVICE "
                "(systemd: AmbientCapabilities=CAP_NET_BIND_SERVICE), or choose a higher port."
            )
        else:
            hint = "This user may not create the socket there; check the directory's permissions."
        return BindError(f"{where}: permission denied", hint)
    if error.errno == errno.EADDRNOTAVAIL:
        return BindError(
            f"{where}: this machine has no address {host}",
            "`ip address` lists its addresses; 0.0.0.0 means all of them.",
        )
    if error.errno == errno.ENOENT:
        return BindError(f"{where}: the directory does not exist", "Create it first.")
    return BindError(f"{where}: {error.strerror or error}")


def _take_inherited(
    listener: Listener, path: str, inherited: list[tuple[str, socket.socket]]
) -> socket.socket | None:
    if path:
        wanted = path
    else:
        host, port = split_address(listener.bind)
        wanted = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    addresses = [(_address_of(sock).removeprefix("unix:"), name) for name, sock in inherited]
    by_address = [i for i, (address, _) in enumerate(addresses) if address == wanted]
    by_name = [i for i, (_, name) in enumerate(addresses) if name and name == listener.name]
    for i in by_address or by_name:
        return inherited.pop(i)[1]
    return None


def _address_of(sock: socket.socket) -> str:
    return address_text(sock.family, sock.getsockname())


def _unix_path(bind: str) -> str:
    return bind[5:] if bind.startswith("unix:") else ""


def _inode_of(path: str) -> tuple[int, int] | None:
    if not path or path[0] == "@":
        return None
    try:
        found = os.lstat(path)
    except OSError:
        return None
    return found.st_dev, found.st_ino
