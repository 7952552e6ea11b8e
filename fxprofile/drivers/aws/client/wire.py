"""
The wire protocols of AWS services: botocore's models, serializers, parsers and endpoint rules.
"""

from __future__ import annotations

import base64
import functools
import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from botocore.awsrequest import HeadersDict, prepare_request_dict
from botocore.endpoint_provider import EndpointProvider
from botocore.exceptions import BotoCoreError
from botocore.loaders import Loader
from botocore.model import ListShape, MapShape, ServiceModel, Shape, StructureShape
from botocore.parsers import create_parser
from botocore.serialize import create_serializer

from fxprofile.drivers.aws.client.errors import AwsError, AwsMalformed

#: The parameters or the result of an operation, by AWS's names: structures of botocore, which
#: is untyped.
Members = Mapping[str, Any]

#: The API versions in use.  Without one, botocore's loader searches the folders of some four
#: hundred services for the newest.
VERSIONS: Final = {"s3": "2006-03-01", "sqs": "2012-11-05"}

#: The types of a shape's values in JSON.
_JSON_TYPES: Final = {"structure": dict, "map": dict, "list": list, "string": str}

#: S3 may report an error in the body of a response with status 200.
_ERROR_IN_SUCCESS = re.compile(rb"\s*(?:<\?xml[^>]*\?>\s*)?<Error[\s>]")


@dataclass(frozen=True)
class Endpoint:
    """The base URL of requests, and what they are signed for."""

    url: str
    signing_name: str
    signing_region: str


@dataclass
class AwsRequest:
    """A request before it is sent.  botocore's costs several times as much, with each use."""

    method: str
    url: str
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b""


class WireProtocol:
    """
    How one service is called over HTTP.

    :param name: of the service.
    :param description: botocore's ``service-2``.
    :param rules: botocore's ``endpoint-rule-set-1``.
    :param partitions: botocore's ``partitions``.
    """

    def __init__(
        self, name: str, description: Members, rules: Members, partitions: Members
    ) -> None:
        self._name = name
        self._model = ServiceModel(description, name)
        self._protocol: str = description["metadata"]["protocol"]
        self._serializer = create_serializer(self._protocol)
        self._parser = create_parser(self._protocol)
        self._endpoints = EndpointProvider(rules, partitions)

    def endpoint(
        self, *, region: str, url: str | None, bucket: str | None, path_style: bool
    ) -> Endpoint:
        """
        Return where to send a request.

        :param url: in place of AWS's own endpoint.
        :param bucket: of the request, if the service is S3.
        :param path_style: whether the bucket is in the path and not in the host.
        :raises AwsError: if there is no such endpoint.
        """
        parameters: dict[str, object] = {"Region": region}
        if url is not None:
            parameters["Endpoint"] = url
        if self._name == "s3":
            parameters["ForcePathStyle"] = path_style
            if bucket is not None:
                parameters["Bucket"] = bucket
        try:
            found = self._endpoints.resolve_endpoint(**parameters)
        except BotoCoreError as error:
            raise AwsError(f"{self._name}: {error}", code="NoEndpoint") from None
        scheme: Members = (found.properties.get("authSchemes") or [{}])[0]
        return Endpoint(
            url=found.url,
            signing_name=scheme.get("signingName") or self._model.signing_name,
            signing_region=scheme.get("signingRegion") or region,
        )

    def request(
        self, operation: str, parameters: Members, endpoint: Endpoint, user_agent: str
    ) -> AwsRequest:
        """
        Serialize a request.

        :raises botocore.exceptions.ParamValidationError: if the parameters do not fit the
            operation.
        """
        model = self._model.operation_model(operation)
        request = self._serializer.serialize_to_request(parameters, model)
        if self._name == "s3" and "Bucket" in parameters:
            # The endpoint already contains the bucket, in its host or its path.
            request["url_path"] = request["url_path"].removeprefix(f"/{parameters['Bucket']}")
        if model.http_checksum.get("requestChecksumRequired"):
            digest = hashlib.md5(request["body"], usedforsecurity=False).digest()
            request["headers"]["Content-MD5"] = base64.b64encode(digest).decode()
        prepare_request_dict(request, endpoint.url, user_agent=user_agent)
        return AwsRequest(request["method"], request["url"], request["headers"], request["body"])

    def parse(
        self, operation: str, status: int, headers: Mapping[str, str], body: bytes
    ) -> tuple[int, Members]:
        """
        Parse a response.

        :param headers: with names in lower case.
        :param body: empty if the response is streamed.
        :returns: the status, corrected if a success contains an error, and the result, which is
            empty if the body of a success is.
        :raises AwsMalformed: if a success is not a response of the operation.
        """
        if status < 300 and self._protocol == "rest-xml" and _ERROR_IN_SUCCESS.match(body):
            status = 500
        if status < 300 and not body:
            # For headers, botocore's parser takes longer than for most bodies.
            return status, {}
        shape = self._model.operation_model(operation).output_shape
        try:
            if status < 300 and self._protocol == "json":
                # botocore's parser turns invalid JSON into an empty result.
                return status, _checked(json.loads(body), shape)
            parsed = self._parser.parse(
                {"status_code": status, "headers": HeadersDict(headers), "body": body}, shape
            )
            if not isinstance(parsed, dict):
                raise TypeError("not a structure")
        except Exception as error:
            if status >= 300:
                # The status of an error is enough.
                return status, {}
            raise AwsMalformed(f"{type(error).__name__}: {error}") from error
        return status, parsed


def _checked(value: Any, shape: Shape | None) -> Any:
    """
    Return a value of a JSON result without the members that its shape lacks, or that are null.

    :raises TypeError: if it has another type.
    """
    kind = shape.type_name if shape is not None else "structure"
    expected = _JSON_TYPES.get(kind)
    if expected is not None and not isinstance(value, expected):
        raise TypeError(f"not a {kind}")
    if isinstance(shape, StructureShape):
        members = shape.members
        return {
            name: _checked(member, members[name])
            for name, member in value.items()
            if member is not None and name in members
        }
    if isinstance(shape, ListShape):
        return [_checked(member, shape.member) for member in value]
    if isinstance(shape, MapShape):
        return {name: _checked(member, shape.value) for name, member in value.items()}
    return value


@functools.cache
def load_protocol(name: str) -> WireProtocol:
    """
    Read the description of a service, once per process; this blocks for some 100 ms.

    :raises KeyError: if the service is not one of :data:`VERSIONS`.
    """
    loader = Loader()
    folder = f"{name}/{VERSIONS[name]}"
    return WireProtocol(
        name,
        loader.load_data(f"{folder}/service-2"),
        loader.load_data(f"{folder}/endpoint-rule-set-1"),
        loader.load_data("partitions"),
    )
