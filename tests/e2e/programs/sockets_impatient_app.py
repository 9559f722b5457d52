"""The same app with little patience for peers that do not read."""

from offloop.fastapi.sockets import connection
from tests.e2e.programs.sockets_app import app

connection.PATIENCE = 0.3

__all__ = ["app"]
