"""The app, with logging set up as a user would."""

import logging

from tests.e2e.programs.app import app

FORMAT = "%(levelname)s %(processName)s %(name)s: %(message)s request_id=%(request_id)s endpoint=%(endpoint)s"
handler = logging.StreamHandler()
handler.setFormatter(logging.Formatter(FORMAT, defaults={"request_id": "-", "endpoint": "-"}))
logging.basicConfig(level=logging.INFO, handlers=[handler], force=True)

__all__ = ["app"]
