"""offloop: blocking work behind FastAPI, in loops of its own."""

from offloop import errors
from offloop.app import Offloop
from offloop.errors import Problem
from offloop.graph.endpoint import Endpoint, endpoint
from offloop.graph.job import Job
from offloop.graph.node import node
from offloop.messages import Blob
from offloop.settings import Settings

__all__ = ["Blob", "Endpoint", "Job", "Offloop", "Problem", "Settings", "endpoint", "errors", "node"]
