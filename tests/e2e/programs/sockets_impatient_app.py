"""The same app with little patience for peers that do not read."""

from offloop.fastapi import patience
from offloop.fastapi.sockets import connection
from tests.e2e.programs.sockets_app import app

patience.PATIENCE = connection.CLOSE_WITHIN = 0.3

__all__ = ["app"]
