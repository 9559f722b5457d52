"""offloop meets FastAPI: routers, exception handlers and responses for OpenAPI. Nothing but names is owned here."""

from offloop.fastapi.operator import OperatorRouter
from offloop.fastapi.problems import exception_handlers
from offloop.fastapi.responses import problem_responses
from offloop.fastapi.router import OffloopRouter

__all__ = ["OffloopRouter", "OperatorRouter", "exception_handlers", "problem_responses"]
