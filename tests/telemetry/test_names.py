"""Our names are those of OpenTelemetry, whose package of constants asm does not require."""

from __future__ import annotations

from types import ModuleType

import pytest
from opentelemetry.semconv._incubating.attributes import db_attributes as db_in_development
from opentelemetry.semconv._incubating.attributes import gen_ai_attributes
from opentelemetry.semconv._incubating.metrics import db_metrics as db_metrics_in_development
from opentelemetry.semconv.attributes import db_attributes, error_attributes, server_attributes
from opentelemetry.semconv.metrics import db_metrics
from opentelemetry.semconv.schemas import Schemas

from asm.telemetry import names

OURS = {value for name, value in vars(names).items() if name.isupper() and isinstance(value, str)}


def constants(*modules: ModuleType) -> set[str]:
    return {value for module in modules for value in vars(module).values() if isinstance(value, str)}


STABLE = constants(db_attributes, db_metrics, error_attributes, server_attributes)


@pytest.mark.parametrize(
    ("prefixes", "conventions"),
    [
        (("error.", "server.", "db.system", "db.namespace", "db.collection", "db.operation"), STABLE),
        (("db.query", "db.response", "db.client.operation"), STABLE),
        (("db.client.connection.",), constants(db_in_development, db_metrics_in_development)),
        (("gen_ai.",), constants(gen_ai_attributes)),
    ],
    ids=["databases", "statements", "connections", "generative AI"],
)
def test_each_name_is_one_of_the_conventions(prefixes: tuple[str, ...], conventions: set[str]) -> None:
    ours = {name for name in OURS if name.startswith(prefixes)}
    assert ours
    assert ours <= conventions


def test_a_name_that_is_not_of_the_conventions_begins_with_asm() -> None:
    conventions = ("db.", "error.", "server.", "gen_ai.")
    others = {name for name in OURS - {names.SCHEMA_URL} if "." in name and not name.startswith(conventions)}
    assert {name.partition(".")[0] for name in others} == {"asm"}


def test_the_schema_is_the_first_one_in_which_the_conventions_for_databases_are_stable() -> None:
    assert Schemas.V1_33_0.value == names.SCHEMA_URL


def test_the_well_known_values_are_those_of_the_conventions() -> None:
    systems = {each.value for each in db_attributes.DbSystemNameValues}
    systems |= {each.value for each in db_in_development.DbSystemNameValues}
    assert {"postgresql", "sqlite"} <= systems
    operations = {each.value for each in gen_ai_attributes.GenAiOperationNameValues}
    assert {names.INVOKE_AGENT, names.EXECUTE_TOOL} <= operations
    states = {each.value for each in db_in_development.DbClientConnectionStateValues}
    assert states == {"idle", "used"}
