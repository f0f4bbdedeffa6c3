"""Calls the functions of an OpenLambda worker."""

from ._calls import JSON
from ._errors import BadAnswer, HTTPError, NotSupported, OpenLambdaError, Unreachable
from ._plain import OpenLambda
from ._with_async import AsyncOpenLambda

__all__ = [
    "JSON",
    "AsyncOpenLambda",
    "BadAnswer",
    "HTTPError",
    "NotSupported",
    "OpenLambda",
    "OpenLambdaError",
    "Unreachable",
]
