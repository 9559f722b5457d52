"""The demo's server process: `python -m offloop.demo.server PORT...`.

Owns the one process that serves the demo: it binds the first free of the ports it is given (0: any), prints which, and
serves until SIGTERM, or until whoever started it is gone. Nothing of the client side may enter.
"""

import errno
import os
import signal
import socket
import sys
import threading

import uvicorn

HOST = "127.0.0.1"
KEEP_ALIVE = 300
LARGEST = 32 * 2**20
"""Bytes of a frame: as much as the endpoints take over HTTP."""
DRAIN = 30
"""Seconds for connections to end once the drain has ended; nothing of the demo's takes so long."""


def listen(ports: list[int]) -> socket.socket:
    """Bind the first port that is free.

    Raises:
        OSError: none is; the error of the last one.
    """
    for port in ports:
        try:
            return socket.create_server((HOST, port))
        except OSError as error:
            if error.errno != errno.EADDRINUSE or port == ports[-1]:
                raise
    raise ValueError("no port to listen on")


def end_with_parent() -> None:
    """Begin the drain when standard input ends: its other end is the parent's, and closes however the parent ends."""
    # Below `sys.stdin`, whose lock a thread that reads for ever would hold into the interpreter's end.
    while os.read(0, 1024):
        pass
    os.kill(os.getpid(), signal.SIGTERM)


def main(ports: list[int]) -> int:
    """Serve. Returns the exit code: 0; 1 without a port; 3 where the application did not start."""
    try:
        listener = listen(ports)
    except OSError as error:
        print(f"cannot listen on port {ports[-1]}: {os.strerror(error.errno or 0)}", file=sys.stderr)
        return 1
    print(listener.getsockname()[1], flush=True)
    threading.Thread(target=end_with_parent, name="end-with-parent", daemon=True).start()
    config = uvicorn.Config(
        "offloop.demo.app:app",
        log_level="warning",
        access_log=False,
        lifespan="on",
        # Longer than the show: a kept connection that closes just as it is used again would look like a failure.
        timeout_keep_alive=KEEP_ALIVE,
        timeout_graceful_shutdown=DRAIN,
        ws_max_size=LARGEST,
    )
    server = uvicorn.Server(config)
    server.run(sockets=[listener])
    return 0 if server.started else 3


if __name__ == "__main__":
    sys.exit(main([int(port) for port in sys.argv[1:]]))
