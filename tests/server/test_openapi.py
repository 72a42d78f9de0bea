"""The OpenAPI document, and the server beside it: schemathesis sends what it allows, and what it does not."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import httpx
import hypothesis
import pytest
import schemathesis
from schemathesis import GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    negative_data_rejection,
    response_schema_conformance,
    status_code_conformance,
)
from server_kit import configured, listening

from mlmon.server.app import build_server
from mlmon.server.web.routes import POSTS

if TYPE_CHECKING:
    from collections.abc import Iterator

    from mlmon.server.model import LoadedModel

#: Not `positive_data_acceptance`: a text without a mask is one as far as a schema can tell, and is refused.
CHECKS = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_schema_conformance,
    negative_data_rejection,
]
#: Those that look at the form of an answer alone.
FORMS = [status_code_conformance, content_type_conformance, response_schema_conformance]


@pytest.fixture(scope="module")
def url(bert: LoadedModel) -> Iterator[str]:
    """A server whose model has a name that schemathesis finds."""
    server = build_server(bert, configured(name="m", version="1", limits={"request_tokens": 3000}))
    with listening(server) as url:
        yield url


def send(client: httpx.Client, case: Any) -> httpx.Response:
    """Send a case as it is; schemathesis's own transport does not go with every urllib3 there is."""
    told = case.as_transport_kwargs(base_url=str(client.base_url))
    content = json.dumps(told["json"]).encode() if "json" in told else told.get("data")
    return client.request(
        told["method"],
        told["url"],
        headers=told.get("headers"),
        params=told.get("params"),
        content=content.encode() if isinstance(content, str) else content,
    )


# the server's threads draw random numbers too, which looks to Hypothesis as if the strategy did
@pytest.mark.filterwarnings(
    "ignore:Do not use the `random` module:hypothesis.errors.HypothesisDeprecationWarning"
)
@pytest.mark.parametrize("mode", list(GenerationMode))
def test_every_route_is_as_the_document_says(url: str, mode: GenerationMode) -> None:
    with httpx.Client(base_url=url, timeout=60) as client:
        schema = schemathesis.openapi.from_dict(client.get("/openapi.json").json())
        operations = [result.ok() for result in schema.get_all_operations()]
        assert len(operations) == len(POSTS) + 11
        statuses = set()
        for operation in operations:
            if mode is GenerationMode.NEGATIVE and operation.method == "get":
                continue  # there is nothing that could be wrong

            @hypothesis.given(case=operation.as_strategy(generation_mode=mode))
            @hypothesis.settings(
                # of a route without a body there is little to try
                max_examples=8 if operation.method == "post" else 2,
                deadline=None,
                database=None,
                derandomize=True,
                suppress_health_check=list(hypothesis.HealthCheck),
            )
            def call(case: Any) -> None:
                answer = send(client, case)
                statuses.add(answer.status_code)
                # 504 is what a timeout of next to nothing asks for
                checks = [check for check in CHECKS if answer.status_code != 504 or check in FORMS]
                case.validate_response(answer, checks=checks)

            call()
    if mode is GenerationMode.POSITIVE:
        assert {200, 404, 422} <= statuses
    else:
        assert 422 in statuses


def test_the_document_names_every_route_that_there_is(url: str) -> None:
    with httpx.Client(base_url=url, timeout=60) as client:
        paths = client.get("/openapi.json").json()["paths"]
        for path, operations in paths.items():
            concrete = path.replace("{model}", "m").replace("{version}", "1")
            assert client.request("OPTIONS", concrete).status_code == 405
            for method in operations:
                assert client.request(method, concrete, json={}).status_code in (200, 422)
