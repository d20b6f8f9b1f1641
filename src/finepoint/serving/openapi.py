"""The endpoint's OpenAPI description, and a page that shows it without anything from elsewhere."""

from __future__ import annotations

import html
import json
from collections.abc import Mapping
from typing import Any

import finepoint
from finepoint.models.answers import IMAGE_TYPES, MAX_IMAGES

_BASE64 = {"type": "string", "description": "an image file, in base64; a data: address will do"}
_PREDICTION = {
    "type": "object",
    "required": ["label", "probability", "probabilities"],
    "properties": {
        "label": {"type": "string"},
        "probability": {"type": "number", "minimum": 0, "maximum": 1},
        "probabilities": {"type": "object", "additionalProperties": {"type": "number"}},
        "unknown": {"type": "boolean", "description": "whether the image seems to be of none of the classes"},
        "unknown_score": {"type": "number"},
        "unknown_threshold": {"type": "number"},
        "embedding": {"type": "array", "items": {"type": "number"}},
        "similar": {"type": "array", "items": {"type": "object"}},
        "explanation": {
            "type": "object",
            "properties": {
                "label": {"type": "string"},
                "share": {"type": "number", "minimum": 0, "maximum": 1},
                "image": {"type": "string", "description": "a data: address of a PNG"},
            },
        },
        "model_version": {"type": "string"},
    },
}
_ERROR = {
    "type": "object",
    "properties": {
        "error": {
            "type": "object",
            "properties": {"code": {"type": "integer"}, "message": {"type": "string"}},
        }
    },
}
_QUERY = [
    {
        "name": "top",
        "in": "query",
        "schema": {"type": "integer", "minimum": 1, "maximum": 999_999},
        "description": "the likeliest classes",
    },
    {"name": "embedding", "in": "query", "schema": {"type": "boolean"}, "description": "with the feature vector"},
    {
        "name": "explain",
        "in": "query",
        "schema": {"type": "boolean"},
        "description": "a heat map of what speaks for the class: a PNG, or within a JSON answer",
    },
    {
        "name": "similar",
        "in": "query",
        "schema": {"type": "boolean"},
        "description": "with the training images most like it, where the package has pictures of them",
    },
    {"name": "class", "in": "query", "schema": {"type": "string"}, "description": "the class to explain"},
]
_REFUSALS = {
    "400": "no image, not JSON, damaged, too many pixels, or it brought its decoder down",
    "401": "the endpoint's token is not shown",
    "403": "a browser sent it for a page from elsewhere",
    "406": "none of the forms of an answer is acceptable",
    "408": "the body took too long to arrive",
    "413": "the body is too large",
    "415": "the type is not understood",
    "421": "asked by another name than an address or localhost, where no token is asked",
    "503": "too much load, or still loading; `Retry-After` says when to come back",
    "504": "no answer in time",
}


def openapi(name: str) -> dict[str, Any]:
    """Return the OpenAPI 3.1 description of an endpoint."""
    image = {"schema": {"type": "string", "format": "binary"}}
    one_or_more = {
        "schema": {
            "oneOf": [
                {"type": "object", "required": ["image"], "properties": {"image": _BASE64}},
                {
                    "type": "object",
                    "required": ["images"],
                    "properties": {
                        "images": {"type": "array", "items": _BASE64, "minItems": 1, "maxItems": MAX_IMAGES}
                    },
                },
            ]
        }
    }
    bodies = {**dict.fromkeys(sorted(IMAGE_TYPES), image), "application/json": one_or_more, "application/x-npy": image}
    many = {
        "application/jsonlines": {"schema": {"type": "string"}},
        "multipart/form-data": {"schema": {"type": "object", "additionalProperties": image["schema"]}},
    }
    answers = {
        "application/json": {"schema": _PREDICTION},
        "application/jsonlines": {"schema": {"type": "string"}},
        "text/csv": {"schema": {"type": "string"}},
        "application/x-npy": image,
        "image/png": image,
    }
    lines = {
        "application/jsonlines": {"schema": {"type": "string"}},
        "application/json": {"schema": {"type": "object"}},
    }
    return {
        "openapi": "3.1.0",
        "info": {"title": f"finepoint endpoint {name}", "version": finepoint.__version__},
        "paths": {
            "/ping": {"get": _operation("Say whether the model can answer.", {"application/json": {}}, ("421", "503"))},
            "/invocations": {"post": _operation("Classify images.", answers, tuple(_REFUSALS), bodies)},
            "/invocations/batch": {
                "post": _operation("Classify many images, each answered for itself.", lines, tuple(_REFUSALS), many)
            },
            "/metadata": {"get": _operation("Say what is served.", {"application/json": {}}, ("401", "421"))},
            "/metrics": {"get": _operation("Say how it goes.", {"application/openmetrics-text": {}}, ("401", "421"))},
        },
    }


def reference_page(description: Mapping[str, Any]) -> bytes:
    """Return the description as a page."""
    parts = []
    for path, operations in description["paths"].items():
        for method, operation in operations.items():
            parts.append(_section(path, method, operation))
    title = html.escape(description["info"]["title"])
    return (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width">'
        f"<title>{title}</title><style>body{{font:1rem/1.5 system-ui,sans-serif;max-width:46rem;margin:2rem auto;"
        f"padding:0 1rem}}code{{font-size:.95em}}table{{border-collapse:collapse}}td{{padding:.15rem .8rem .15rem 0;"
        f"vertical-align:top}}</style><h1>{title}</h1><p>The same as <a href='openapi.json'>OpenAPI</a>.</p>"
        f"{''.join(parts)}"
    ).encode()


def _operation(
    summary: str, answers: Mapping[str, Any], refusals: tuple[str, ...], bodies: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    responses: dict[str, Any] = {"200": {"description": "the answer", "content": dict(answers)}}
    for status in refusals:
        content = {"application/json": {"schema": _ERROR}}
        responses[status] = {"description": _REFUSALS[status], "content": content}
    made: dict[str, Any] = {"summary": summary, "responses": responses}
    if bodies:
        made["parameters"] = _QUERY
        made["requestBody"] = {"required": True, "content": dict(bodies)}
    return made


def _section(path: str, method: str, operation: Mapping[str, Any]) -> str:
    rows = "".join(
        f"<tr><td>{status}<td>{html.escape(value['description'])}"
        + (f"<br><code>{html.escape(', '.join(value['content']))}</code>" if status == "200" else "")
        for status, value in operation["responses"].items()
    )
    body = operation.get("requestBody", {}).get("content", {})
    takes = f"<p>Body: <code>{html.escape(', '.join(body))}</code></p>" if body else ""
    schema = body.get("application/json")
    shown = f"<pre>{html.escape(json.dumps(schema['schema'], indent=1)[:2000])}</pre>" if schema else ""
    query = "".join(
        f"<li><code>?{item['name']}=</code> {html.escape(item['description'])}"
        for item in operation.get("parameters", ())
    )
    heading = f"<h2><code>{method.upper()} {html.escape(path)}</code></h2><p>{html.escape(operation['summary'])}</p>"
    return f"{heading}{takes}{f'<ul>{query}</ul>' if query else ''}{shown}<table>{rows}</table>"
