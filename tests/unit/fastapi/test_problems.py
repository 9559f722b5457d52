import json

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient

from offloop import errors
from offloop.fastapi import exception_handlers
from offloop.fastapi.problems import answer, document

LABEL = b"the-label"


class TooManyPages(errors.Problem):
    status, title = 422, "The document has too many pages"


def told(error: errors.OffloopError) -> tuple[int, dict[str, str], dict]:
    status, headers, body = answer(error, LABEL)
    return status, {name.decode(): value.decode() for name, value in headers}, json.loads(body)


def test_a_failure_is_a_problem_document_with_every_member_of_the_contract():
    error = errors.EndpointBusy(endpoint="read", started=False, retry_safe=True, retry_after=7)
    status, headers, body = told(error)
    instance = body.pop("instance")
    assert status == 429
    assert instance.startswith("urn:uuid:")
    assert body == {
        "type": "urn:offloop:problem:endpoint-busy",
        "title": "The endpoint is busy",
        "status": 429,
        "detail": "As many callers as this endpoint allows are waiting already.",
        "reason": "endpoint-busy",
        "request_id": "the-label",
        "endpoint": "read",
        "started": False,
        "retry_safe": True,
    }
    assert headers["content-type"] == "application/problem+json"
    assert headers["cache-control"] == "no-store"
    assert headers["x-request-id"] == "the-label"
    assert headers["retry-after"] == "7"


def test_every_occurrence_has_an_instance_of_its_own():
    error = errors.NodeFailed()
    assert document(error, "a")["instance"] != document(error, "a")["instance"]


@pytest.mark.parametrize("error", [kind for kind in errors.BY_REASON.values() if kind is not errors.InvalidPayload])
def test_retry_after_is_on_every_429_and_503_and_on_nothing_else(error):
    for started in (False, True):
        status, headers, _ = told(error(started=started))
        assert ("retry-after" in headers) == (status in (429, 503))


def test_a_problem_that_answers_503_has_a_retry_after_too():
    class Upstream(errors.Problem):
        status, title = 503, "Upstream is down"

    assert told(Upstream())[1]["retry-after"] == "1"


def test_draining_closes_the_connection():
    assert told(errors.Draining())[1]["connection"] == "close"
    assert "connection" not in told(errors.QueueFull())[1]


def test_a_payload_that_does_not_validate_answers_in_fastapis_shape():
    faults = [{"type": "missing", "loc": ["body", "text"], "msg": "Field required", "input": {}}]
    status, headers, body = told(errors.InvalidPayload(faults))
    assert status == 422
    assert headers["content-type"] == "application/json"
    assert headers["x-request-id"] == "the-label"
    assert body == {"detail": faults}


def test_a_problems_fields_are_members_and_it_is_never_safe_to_retry():
    problem = TooManyPages(pages=900)
    problem.retry_safe = True
    status, _, body = told(problem)
    assert status == 422
    assert (body["reason"], body["pages"], body["retry_safe"]) == ("too-many-pages", 900, False)
    assert body["detail"] == "The document has too many pages"


def test_a_problems_fields_cannot_replace_what_offloop_says():
    problem = TooManyPages()
    problem.members = {"status": 200, "reason": "ok", "pages": 1}
    _, _, body = told(problem)
    assert (body["status"], body["reason"], body["pages"]) == (422, "too-many-pages", 1)


def test_a_number_that_json_has_not_is_null():
    assert told(TooManyPages(share=float("nan")))[2]["share"] is None


def test_the_traceback_is_told_only_where_there_is_one():
    assert "debug" not in told(errors.NodeFailed())[2]
    assert told(errors.NodeFailed(debug="Traceback…"))[2]["debug"] == "Traceback…"


# ---- own routes


def client_of(error: Exception, handlers: dict) -> TestClient:
    app = FastAPI(exception_handlers=handlers)

    @app.get("/own")
    async def own() -> None:
        raise error

    return TestClient(app, raise_server_exceptions=False)


def test_an_own_route_answers_as_offloops_do():
    response = client_of(errors.QueueFull(retry_after=3), exception_handlers).get(
        "/own", headers={"X-Request-ID": "a-1"}
    )
    assert response.status_code == 503
    assert response.headers["content-type"] == "application/problem+json"
    assert response.headers["retry-after"] == "3"
    assert response.headers["x-request-id"] == response.json()["request_id"] == "a-1"


def test_a_label_given_to_ask_comes_before_the_headers():
    error = errors.QueueFull(request_id="asked")
    assert (
        client_of(error, exception_handlers).get("/own", headers={"X-Request-ID": "a"}).json()["request_id"] == "asked"
    )


def test_not_started_is_a_503_that_says_nothing_of_the_apps_insides():
    response = client_of(errors.NotStarted("include OffloopRouter(off)"), exception_handlers).get("/own")
    assert response.status_code == 503
    assert response.json()["reason"] == "backend-unavailable"
    assert "OffloopRouter" not in response.text


def test_wrong_use_is_raised_on_and_never_told_to_a_caller():
    response = client_of(errors.UsageError("secret advice"), exception_handlers).get("/own")
    assert response.status_code == 500
    assert "secret" not in response.text
    with pytest.raises(errors.UsageError, match="secret advice"):
        TestClient(client_of(errors.UsageError("secret advice"), exception_handlers).app).get("/own")


def test_an_apps_own_handler_wins():
    async def mine(request, error):
        from fastapi.responses import PlainTextResponse

        return PlainTextResponse("mine", 418)

    handlers = {**exception_handlers, errors.OffloopError: mine}
    assert client_of(errors.QueueFull(), handlers).get("/own").text == "mine"
