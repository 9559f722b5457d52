"""offloop: blocking work behind FastAPI, in loops of its own."""
