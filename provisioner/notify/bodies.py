"""Build a notice's body, and the headers that identify its sender and repeated deliveries. Pure."""

import hashlib
import hmac
import json
from collections.abc import Mapping
from datetime import datetime
from typing import Any, Final
from urllib.parse import urlsplit

from provisioner.core.notices import Delivery, Notice
from provisioner.core.secret import Secret

ID: Final = "Provisioner-Notice"
EVENT: Final = "Provisioner-Event"
SIGNATURE: Final = "Provisioner-Signature"
_SLACK: Final = ("hooks.slack.com", "hooks.slack-gov.com")
_SIGNS: Final = {"batch_finished": "✓", "needs_attention": "!", "recovered": "✓"}


def format_of(url: str) -> str:
    """Return the format that a URL's host implies."""
    return "slack" if urlsplit(url).hostname in _SLACK else "json"


def body_of(delivery: Delivery, form: str) -> bytes:
    """Return the body of a notice, which is the same for each try."""
    notice = delivery.notice
    content = _slack(notice) if form == "slack" else _json(delivery.id, notice, delivery.noticed_at)
    return json.dumps(content, ensure_ascii=False, separators=(",", ":")).encode()


def headers_of(delivery: Delivery, body: bytes, key: Secret | None) -> dict[str, str]:
    """Return the headers of a notice. The signature is the HMAC-SHA256 of the body, in hexadecimal digits."""
    headers = {"Content-Type": "application/json", ID: delivery.id, EVENT: delivery.notice.event.value}
    if key is not None:
        headers[SIGNATURE] = f"sha256={hmac.new(key.reveal().encode(), body, hashlib.sha256).hexdigest()}"
    return headers


def _json(id_: str, notice: Notice, at: datetime) -> Mapping[str, Any]:
    content: dict[str, Any] = {
        "id": id_,
        "event": notice.event.value,
        "at": at.isoformat(timespec="seconds"),
        "text": notice.text,
    }
    if notice.batch is not None:
        content["batch"] = notice.batch
    if notice.concern is not None:
        content["concern"] = notice.concern
    return content


def _slack(notice: Notice) -> Mapping[str, str]:
    # Slack's three special characters; the rest cannot mention anybody or hide an address behind a word.
    text = notice.text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    sign = _SIGNS.get(notice.event.value, "")
    return {"text": f"{sign} {text}".strip()}
