"""What the tests leave alone, and which refusals of data that fits the contract are right (docs/08, "Contract tests")."""

import os
import re
import uuid

import schemathesis
from schemathesis.openapi.checks import EnsureResourceAvailability, RejectedPositiveData

VERSION_OF_IDS = 7
IDEMPOTENCY_KEY = "Idempotency-Key"
GOOD_KEY = re.compile("[!-~]{1,255}")
KEPT = set(os.environ["HTTVPS_ST_KEPT"].split(","))
CODES_BEYOND_SCHEMAS = {"UNKNOWN", "TOO_LONG", "MISSING"}
FIELDS_BEYOND_SCHEMAS = {
    "access_key",
    "cursor",
    "host",
    "identifier",
    "internal_ip",
    "method",
    "names",
    "password",
    "path",
    "period_days",
    "public_ip",
    "resolvers",
    "sni",
    "tls_pin",
}
DETAILS_BEYOND_SCHEMAS = (
    "must be after `starts_at`",
    "must not be empty",
    "must not contain control characters",
)
NO_INTEGER = ("invalid type: floating point", "data did not match any variant")


@schemathesis.hook
def before_load_schema(context, raw_schema):
    split_nullable_formats(raw_schema)


def split_nullable_formats(value):
    if isinstance(value, list):
        for item in value:
            split_nullable_formats(item)
    elif isinstance(value, dict):
        if value.get("type") == ["string", "null"] and "format" in value:
            del value["type"]
            value["anyOf"] = [{"type": "string", "format": value.pop("format")}, {"type": "null"}]
        for item in list(value.values()):
            split_nullable_formats(item)


@schemathesis.hook
def before_call(context, case, kwargs):
    asked = str(case.path_parameters.get("id"))
    if asked == "None" or (asked in KEPT and case.method != "GET"):
        case.path_parameters["id"] = str(uuid.uuid4())
    if GOOD_KEY.fullmatch(str((case.headers or {}).get(IDEMPOTENCY_KEY, ""))):
        case.headers[IDEMPOTENCY_KEY] = str(uuid.uuid4())


@schemathesis.hook
def filter_failure(context, failure, case, response):
    if isinstance(failure, EnsureResourceAvailability):
        return uuid.UUID(case.path_parameters["id"]).version == VERSION_OF_IDS
    if isinstance(failure, RejectedPositiveData) and response.status_code == 422:
        problem = response.json()
        return not (is_float_for_integer(case.body, problem) or is_beyond_schemas(problem))
    return True


def is_float_for_integer(body, problem):
    return problem.get("detail", "").startswith(NO_INTEGER) and has_whole_float(body)


def has_whole_float(value):
    if isinstance(value, dict):
        return any(map(has_whole_float, value.values()))
    if isinstance(value, list):
        return any(map(has_whole_float, value))
    return isinstance(value, float) and value.is_integer()


def is_beyond_schemas(problem):
    if problem.get("detail", "").startswith(DETAILS_BEYOND_SCHEMAS):
        return True
    errors = problem.get("errors", [])
    return bool(errors) and all(
        error["code"] in CODES_BEYOND_SCHEMAS
        or (error["code"] == "INVALID" and error["field"].split(".")[0].split("[")[0] in FIELDS_BEYOND_SCHEMAS)
        for error in errors
    )
