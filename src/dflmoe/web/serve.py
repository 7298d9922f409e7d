"""Serve the page: in this process until it ends, or in a thread beside a node."""

import asyncio
import socket
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace

import uvicorn

from dflmoe.errors import PageError
from dflmoe.node.home import Home
from dflmoe.web.app import application
from dflmoe.web.door import Address, Door

FAREWELL_S = 2


@contextmanager
def served(home: Home, at: str) -> Iterator[Door]:
    """Serve the page of a site from a thread, until the block ends.

    Args:
        home: The site's folder.
        at: ``host:port``; port 0 takes any that is free.

    Raises:
        PageError: The address is malformed, taken, or none of this machine.
        KeyFileError: The token cannot be read, or may be read by others.
    """
    listening, address = _bound(Address.of(at))
    door = Door.at(address, home.folder)
    app = application(home, door)
    server = uvicorn.Server(
        uvicorn.Config(
            app,
            log_config=None,
            access_log=False,
            lifespan="off",
            timeout_graceful_shutdown=FAREWELL_S,
            server_header=False,
        )
    )
    server.install_signal_handlers = lambda: None  # type: ignore[attr-defined]  # the node's own
    thread = threading.Thread(
        target=lambda: asyncio.run(server.serve([listening])), name="page", daemon=True
    )
    thread.start()
    try:
        yield door
    finally:
        app.state.ends.set()
        server.should_exit = True
        thread.join(FAREWELL_S + 1)
        listening.close()


def _bound(address: Address) -> tuple[socket.socket, Address]:
    """Return a socket that listens there, and where that is."""
    try:
        family, kind, protocol, _, where = socket.getaddrinfo(
            address.host, address.port, type=socket.SOCK_STREAM
        )[0]
        with ExitStack() as undone:
            listening = undone.enter_context(socket.socket(family, kind, protocol))
            listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listening.bind(where)
            listening.listen()
            undone.pop_all()
    except OSError as error:
        raise PageError(
            f"the page cannot be served at {address.host}:{address.port}: "
            f"{error.strerror or error}; choose another address or port"
        ) from error
    return listening, replace(address, port=listening.getsockname()[1])


def address_of(door: Door) -> str:
    """Return what people open: with the token, where one is needed."""
    url = door.address.url
    return url if door.token is None else f"{url}?token={door.token}"
