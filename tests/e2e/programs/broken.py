"""A program whose service cannot be built."""

from dishka import FromDishka, Provider, Scope, provide
from fastapi import FastAPI
from pydantic import BaseModel

from offloop import Offloop, endpoint
from offloop.fastapi import OffloopRouter


class Model:
    """Stands for a model whose file is missing."""


class Services(Provider):
    scope = Scope.APP

    @provide
    def model(self) -> Model:
        raise FileNotFoundError("the model's file is missing")


class Text(BaseModel):
    text: str


@endpoint(http="POST /score")
def score(text: Text, model: FromDishka[Model]) -> Text:
    return text


app = FastAPI()
app.include_router(OffloopRouter(Offloop(__name__)))
