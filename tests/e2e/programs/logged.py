"""The app, with logging set up as a user would."""

import logging

from tests.e2e.programs.app import app

logging.basicConfig(
    level=logging.INFO, format="%(message)s request_id=%(request_id)s endpoint=%(endpoint)s", force=True
)

__all__ = ["app"]
