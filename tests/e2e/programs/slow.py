"""A program whose service takes its time: building it waits at the gate."""

from dishka import FromDishka, Provider, Scope, provide
from pydantic import BaseModel

from offloop import endpoint
from tests.support.gate import hold


class Model:
    """Stands for a large model that is read."""


class Services(Provider):
    scope = Scope.APP

    @provide
    def model(self) -> Model:
        hold("service")
        return Model()


class Text(BaseModel):
    text: str


@endpoint
def score(text: Text, model: FromDishka[Model]) -> Text:
    return text
