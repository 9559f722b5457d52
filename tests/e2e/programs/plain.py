"""An app without offloop, to compare with."""

from fastapi import FastAPI

app = FastAPI()
