"""What the records of July 2026 say otherwise about older entries: those are right, see test_server_vectors.py."""

from typing import Any

__all__ = ["SUPERSEDED", "corrected"]

USED_UP = {"message": "Failed to authorize: token usage limit reached"}
CLOSED = {"headers": {"connection": "close", "keep-alive": None}}
KEY_REFUSED = "Unable to validate connection: invalid API key or insufficient permissions"
STATUS = {"emailConfigured": True, "auditLogStorageDisabled": False, "maxIdentityAccessTokenTTL": 7_776_000}

CORRECTIONS: dict[str, dict[str, Any]] = {
    # Dead tokens have sentences of their own.
    "auth/auth.revoked": {"body": {"message": "Failed to authorize: token has been revoked"}},
    "auth/renew.revoked": {"body": {"message": "Cannot renew: token has been revoked"}},
    "auth/auth.numuses_limit2.call3": {"body": USED_UP},
    "auth/auth.numuses_limit2.call4": {"body": USED_UP},
    "connections/numuses3.call4": {"body": USED_UP},
    "connections/numuses3.call5": {"body": USED_UP},
    "connections/numuses3.after_parallel": {"body": USED_UP},
    "auth/auth.service_token_unknown": {
        "body": {"message": "Service token with ID '00000000-0000-4000-8000-000000000000' not found"}
    },
    # `organizationSlug` is no unknown field any more.
    "auth/login.extra_fields": {
        "status": 404,
        "body": {
            "reqId": "*",
            "statusCode": 404,
            "message": "Sub organization with name x not found",
            "error": "NotFound",
        },
        "whole": True,
    },
    "auth/status": {"body": STATUS},
    "cloud/ratelimit.status_route": {"body": STATUS},
    # A body that cannot be parsed ends the connection.
    "auth/login.empty_body_json_ct": CLOSED,
    "connections/create.malformed_json": CLOSED,
    "connections/create.project_id_empty": {
        "status": 400,
        "body": {
            "statusCode": 400,
            "message": "The selected GitHub App no longer exists. Please try again.",
            "error": "BadRequest",
        },
    },
    # OpenRouter's 429 is not tried again.
    "connections/create.upstream_once429": {
        "status": 401,
        "body": {"reqId": "*", "statusCode": 401, "message": KEY_REFUSED, "error": "UnauthorizedError"},
        "whole": True,
    },
}

SUPERSEDED = {
    "auth/renew.past_max_ttl": "renewing with the default times is granted now: cmp.renew.ok",
    "auth/auth.after_failed_renew": "renewing is granted now, and kills nothing: cmp.renew.again",
    "connections/create.edge.unknown_fields": "`gatewayPoolId` is looked at now: cmp.create.gatewaypool",
}


def corrected(entry: dict[str, Any]) -> dict[str, Any]:
    """Return an older entry as the server answers now."""
    response = {**entry["response"], "body": _renewed(entry["response"]["body"])}
    change = CORRECTIONS.get(entry["name"], {})
    response["status"] = change.get("status", response["status"])
    response["headers"] = {**response["headers"], **change.get("headers", {})}
    if "body" in change:
        response["body"] = change["body"] if change.get("whole") else {**response["body"], **change["body"]}
    return {**entry, "response": response}


def _renewed(part: Any) -> Any:
    """Return a body with the version that connections begin with, and with the complaints about unsupported fields."""
    if isinstance(part, list):
        return [_renewed(item) for item in part]
    if not isinstance(part, dict):
        return part
    renewed = {name: _renewed(item) for name, item in part.items()}
    if "credentialsHash" in renewed:
        renewed["version"] = 2
    if renewed.get("expected") in {"undefined", "null"}:
        renewed["message"] = "Not supported for OpenRouter Connections"
    return renewed
