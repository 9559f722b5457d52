import json
from typing import Any

import pytest
from fastapi import FastAPI
from pydantic import BaseModel

from offloop import Offloop, errors
from offloop.fastapi import OffloopRouter, exception_handlers, problem_responses
from offloop.fastapi.schemas import schema_of
from tests.unit.fastapi import program

PROBLEM = "application/problem+json"
EVENTS = "text/event-stream"
ROWS = {
    "408": ["upload-timeout"],
    "413": ["payload-too-large"],
    "415": ["unsupported-media-type"],
    "429": ["endpoint-busy"],
    "500": ["node-failed", "no-reply"],
    "502": ["worker-lost"],
    "503": ["draining", "backend-unavailable", "queue-full", "expired-in-queue", "drain-cut"],
    "504": ["deadline-exceeded", "drain-cut"],
}
"""Every row of the table but 422, which has a shape of its own, and 499, which is never sent."""


@pytest.fixture(scope="module")
def off() -> Offloop:
    return Offloop("tests.unit.fastapi.program")


@pytest.fixture(scope="module")
def document(off) -> dict[str, Any]:
    app = FastAPI(exception_handlers=exception_handlers)
    app.include_router(OffloopRouter(off))
    return app.openapi()


def operation(document: dict[str, Any], method: str, path: str) -> dict[str, Any]:
    return document["paths"][path][method]


def every_operation(document: dict[str, Any]) -> list[dict[str, Any]]:
    return [operation for path in document["paths"].values() for operation in path.values()]


def test_every_endpoint_with_http_is_in_the_document_with_an_id_of_its_own(document, off):
    operations = every_operation(document)
    assert len(operations) == sum(endpoint.http is not None for endpoint in off.program.endpoints.values())
    assert len({operation["operationId"] for operation in operations}) == len(operations)
    assert operation(document, "post", "/texts")["operationId"] == "count_texts_post"


def test_every_row_of_the_table_is_in_every_endpoint_with_an_example(document):
    for described in every_operation(document):
        for status, reasons in ROWS.items():
            examples = described["responses"][status]["content"][PROBLEM]["examples"]
            assert set(reasons) <= set(examples), status
            for reason in reasons:
                value = examples[reason]["value"]
                assert value["reason"] == reason
                assert value["type"] == f"urn:offloop:problem:{reason}"
                assert value["status"] == int(status)
                assert described["operationId"].startswith(value["endpoint"])
        assert "499" not in described["responses"]


def test_the_rows_here_are_all_there_are():
    known = {reason for reasons in ROWS.values() for reason in reasons}
    assert known | {"invalid-payload", "cancelled"} == set(errors.BY_REASON)


def test_every_example_fits_the_schema_it_stands_beside(document):
    from jsonschema_rs import Draft202012Validator

    components = {"$defs": document["components"]["schemas"]}
    text = json.dumps(document["components"]["schemas"]).replace("#/components/schemas/", "#/$defs/")
    components = {"$defs": json.loads(text)}
    for described in every_operation(document):
        for response in described["responses"].values():
            for media in response.get("content", {}).values():
                values = [example["value"] for example in media.get("examples", {}).values()]
                values += [media["example"]] if "example" in media else []
                schema = json.loads(json.dumps(media["schema"]).replace("#/components/schemas/", "#/$defs/"))
                for value in values:
                    Draft202012Validator({**schema, **components}).validate(value)


def test_a_payload_that_does_not_validate_has_fastapis_shape(document):
    for described in every_operation(document):
        schema = described["responses"]["422"]["content"]["application/json"]["schema"]
        assert schema == {"$ref": "#/components/schemas/HTTPValidationError"}
    assert set(document["components"]["schemas"]["ValidationError"]["required"]) == {"loc", "msg", "type"}


def test_declared_problems_stand_beside_the_rows_of_their_status(document):
    responses = operation(document, "post", "/texts")["responses"]
    assert set(responses["422"]["content"]) == {"application/json", PROBLEM}
    assert responses["422"]["content"][PROBLEM]["examples"]["too-short"]["value"]["title"] == "The text is too short"
    assert set(responses["429"]["content"][PROBLEM]["examples"]) == {"endpoint-busy", "tired"}


def test_an_idempotent_endpoint_may_always_be_tried_again(document):
    def lost(path: str) -> bool:
        examples = operation(document, "post", path)["responses"]["502"]["content"][PROBLEM]["examples"]
        return examples["worker-lost"]["value"]["retry_safe"]

    assert lost("/texts")
    assert not lost("/points")


def test_headers_of_answers_are_documented(document):
    for described in every_operation(document):
        for status, response in described["responses"].items():
            assert "X-Request-ID" in response["headers"]
            assert ("Retry-After" in response["headers"]) == (status in ("429", "503"))


def test_headers_of_requests_are_documented(document):
    for described in every_operation(document):
        label, timeout = [parameter for parameter in described["parameters"] if parameter["in"] == "header"]
        assert (label["name"], label["required"], label["schema"]["type"]) == ("X-Request-ID", False, "string")
        assert (timeout["name"], timeout["required"], timeout["schema"]["type"]) == (
            "X-Request-Timeout",
            False,
            "number",
        )


def test_the_docstring_is_summary_and_description(document):
    described = operation(document, "post", "/texts")
    assert described["summary"] == "Count the words"
    assert described["description"] == "All of them, *every* time."
    bare = operation(document, "put", "/people/{id}")
    assert bare["summary"] == "Save"
    assert "description" not in bare


def test_a_json_body_and_a_reply_are_components_by_name(document):
    described = operation(document, "post", "/texts")
    assert described["requestBody"]["required"]
    assert described["requestBody"]["content"]["application/json"]["schema"]["$ref"].endswith("/Text")
    assert described["responses"]["201"]["content"]["application/json"]["schema"]["$ref"].endswith("/Count")
    assert "200" not in described["responses"]


def test_a_reply_of_none_has_a_204_without_content(document):
    assert "content" not in operation(document, "put", "/people/{id}")["responses"]["204"]


def test_fields_of_the_path_are_parameters_and_no_part_of_the_body(document):
    described = operation(document, "put", "/people/{id}")
    path = described["parameters"][0]
    assert (path["name"], path["in"], path["required"], path["description"]) == ("id", "path", True, "Which one")
    assert path["schema"]["type"] == "integer"
    body = described["requestBody"]["content"]["application/json"]["schema"]
    assert set(body["properties"]) == {"name", "friends"}
    assert (body["required"], body["title"]) == (["name"], "Person")


def test_the_rest_of_a_get_is_in_the_query_with_its_constraints_and_defaults(document):
    described = operation(document, "get", "/shelves/{shelf}/books")
    parameters = {parameter["name"]: parameter for parameter in described["parameters"]}
    assert parameters["shelf"]["in"] == "path"
    words, limit = parameters["words"], parameters["limit"]
    assert (words["in"], words["required"], words["schema"]["type"]) == ("query", True, "array")
    assert (limit["required"], limit["description"]) == (False, "At most so many")
    assert (limit["schema"]["minimum"], limit["schema"]["maximum"], limit["schema"]["default"]) == (1, 100, 10)
    assert "requestBody" not in described


def test_a_model_with_a_blob_is_a_raw_body_with_a_query_or_a_form(document):
    described = operation(document, "post", "/letters")
    content = described["requestBody"]["content"]
    assert set(content) == {"application/pdf", "multipart/form-data"}
    assert content["application/pdf"]["schema"] == {"type": "string", "format": "binary"}
    form = content["multipart/form-data"]["schema"]
    assert form["properties"]["page"]["format"] == "binary"
    assert form["required"] == ["to", "page"]
    query = {parameter["name"]: parameter for parameter in described["parameters"] if parameter["in"] == "query"}
    assert set(query) == {"to", "stamp"}
    assert not query["to"]["required"]


def test_a_blob_is_binary_on_both_ways(document):
    described = operation(document, "post", "/brief")
    assert described["requestBody"]["content"] == {"*/*": {"schema": {"type": "string", "format": "binary"}}}
    assert described["responses"]["200"]["content"] == {"*/*": {"schema": {"type": "string", "format": "binary"}}}


def test_structs_of_msgspec_are_described_in_place(document):
    described = operation(document, "post", "/points")
    body = described["requestBody"]["content"]["application/json"]["schema"]
    assert (body["title"], body["required"]) == ("Point", ["x"])
    reply = described["responses"]["200"]["content"]["application/json"]["schema"]
    assert reply["properties"]["y"]["type"] == "integer"


def test_a_union_of_classes_is_any_of_them(document):
    schema = operation(document, "post", "/union")["responses"]["200"]["content"]["application/json"]["schema"]
    assert [part["$ref"].rpartition("/")[2] for part in schema["anyOf"]] == ["Size", "Count"]


def test_what_streams_is_events_beside_its_reply_and_nothing_else_is(document):
    app = FastAPI()
    app.include_router(OffloopRouter(Offloop("tests.e2e.programs.events")))
    streams = app.openapi()

    def content(method: str, path: str) -> dict[str, Any]:
        return operation(streams, method, path)["responses"]["200"]["content"]

    assert set(content("post", "/tables")) == set(content("get", "/tables")) == {"application/json", EVENTS}
    assert set(content("post", "/pieces")) == {"*/*", EVENTS}
    assert content("post", "/tables")[EVENTS]["schema"]["type"] == "string"
    assert content("post", "/tables")["application/json"]["schema"] == {"$ref": "#/components/schemas/Table"}
    assert EVENTS not in json.dumps(document)


def test_no_reference_leads_nowhere(document):
    text = json.dumps(document)
    for name in [part.partition('"')[0] for part in text.split('"#/components/schemas/')[1:]]:
        assert name in document["components"]["schemas"], name
    assert "$defs" not in text


def test_a_router_included_twice_documents_both_places(off):
    app, router = FastAPI(), OffloopRouter(off, program.count)
    app.include_router(router, prefix="/a")
    app.include_router(router, prefix="/b", include_in_schema=False)
    app.include_router(router, prefix="/c")
    document = app.openapi()
    assert list(document["paths"]) == ["/a/texts", "/c/texts"]
    assert "OffloopProblem" in document["components"]["schemas"]


# ---- own routes


def test_an_own_route_documents_what_ask_may_raise(off):
    app = FastAPI()

    class Body(BaseModel):
        text: str

    @app.post("/own", responses=problem_responses(program.count))
    async def own(body: Body) -> program.Count: ...

    @app.post("/plain", responses=problem_responses(program.union))
    async def plain(body: Body) -> program.Count: ...

    document = app.openapi()
    responses = operation(document, "post", "/own")["responses"]
    assert set(ROWS) - {"408", "415"} <= set(responses)
    assert not {"408", "415"} & set(responses)
    assert set(responses["422"]["content"]) == {"application/json", PROBLEM}
    assert responses["503"]["content"][PROBLEM]["schema"]["properties"]["reason"]["type"] == "string"
    assert list(operation(document, "post", "/plain")["responses"]["422"]["content"]) == ["application/json"]
    test_no_reference_leads_nowhere(document)


def test_what_is_no_endpoint_has_no_problems():
    with pytest.raises(errors.UsageError, match="no Endpoint"):
        problem_responses(schema_of)


# ---- schemas


def test_a_schema_is_whole_in_itself_and_cut_where_it_would_never_end():
    schema = schema_of(program.Person)
    assert "$ref" not in json.dumps(schema)
    assert schema["properties"]["friends"]["items"] == {}
    assert schema_of(list[program.Point])["items"]["title"] == "Point"
