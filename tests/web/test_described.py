"""The described API, asked at random: every answer is one that /openapi.json announces, and none is a 5xx.

schemathesis makes the requests, those that fit the description and those that do not. What comes back is held against
the statuses, headers, content types and schemas of the description.
"""

from __future__ import annotations

from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, assume, given, settings
from hypothesis import strategies as st
from schemathesis.checks import not_a_server_error
from schemathesis.generation import GenerationMode
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    negative_data_rejection,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from server.domain.keys import license_id
from server.web.operations import OPERATIONS
from tests.conftest import OWNER_KEY, SECRET, Clock, sale_ping
from tests.signed_answers import SEED
from tests.tills import shop_of_three

KEPT = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
]
SOME = st.sampled_from(["given", "key", "id"])


class Api:
    """A shop with a license in it, and the description of its API."""

    def __init__(self, folder: Any) -> None:
        self.shop = shop_of_three(folder, Clock(), jvzoo_keygen="on", signing_key=(SEED,))
        self.key = self.shop.sale(product="G-TEAM==")
        self.shop.ping(sale_ping("s2", "ann@example.com", "G-OTHER=="))
        self.described = schemathesis.openapi.from_wsgi("/openapi.json", self.shop.app)

    def ask(self, case: Any, named: str) -> None:
        """What fits the description, with a proof, and with a license that exists where it names one."""
        name = {"key": self.key, "id": license_id(self.key)}.get(named)
        if name and "license" in (case.path_parameters or {}):
            case.path_parameters["license"] = name
        if name and isinstance(case.body, dict) and "license_key" in case.body:
            case.body["license_key"] = self.key
        if case.path.endswith("gumroad"):
            case.query["secret"] = SECRET
        self.send(case, KEPT)

    def ask_wrongly(self, case: Any) -> None:
        """What does not fit it; but an empty parameter is none."""
        assume(all(case.query.values()))
        self.send(case, [*KEPT, negative_data_rejection])

    def send(self, case: Any, checks: list[Any]) -> None:
        headers = {"Authorization": f"Bearer {OWNER_KEY}"} if "Authorization" not in (case.headers or {}) else {}
        case.call_and_validate(headers=headers, checks=checks)


@pytest.fixture(scope="module")
def api(tmp_path_factory):
    return Api(tmp_path_factory.mktemp("described") / "data")


def bounded(examples: int) -> settings:
    return settings(
        max_examples=examples,
        deadline=None,
        derandomize=True,
        database=None,
        phases=[Phase.explicit, Phase.generate, Phase.shrink],
        suppress_health_check=list(HealthCheck),
    )


def asked_at_random(api: Api, method: str, path: str, examples: int) -> None:
    operation = api.described[path][method.upper()]
    fitting = operation.as_strategy(generation_mode=GenerationMode.POSITIVE)
    bounded(examples)(given(case=fitting, named=SOME)(api.ask))()
    if operation.body or any((*operation.path_parameters, *operation.query)):
        bounded(examples)(given(case=operation.as_strategy(generation_mode=GenerationMode.NEGATIVE))(api.ask_wrongly))()


@pytest.mark.parametrize(("method", "path"), OPERATIONS)
def test_every_answer_is_as_described(api, method, path):
    asked_at_random(api, method, path, examples=10)


@pytest.mark.slow
@pytest.mark.parametrize(("method", "path"), OPERATIONS)
def test_every_answer_is_as_described_at_length(api, method, path):
    asked_at_random(api, method, path, examples=200)
